"""Planted faults: each is a small error that somebody could make in the specification, and each must turn a property red.

`plant` puts the functions that a fault changes (`tests.support.mistakes`) in the place of the right ones in every module that has
them, for all libraries: an op loses its native versions.

`python -m tests.programs.faults [LIBRARY…]` runs every property under every fault and prints, as JSON, which of them fail.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings

import tests.support.shape_checks  # noqa: F401  (before the package is imported)
from tests.support.library import WHOLE_ON_TINYGRAD
from tests.support.mistakes import FAULTY, PLANTED
from tests.support.profiles import COMMON

PROPERTIES = Path(__file__).resolve().parents[1] / "properties"


def plant(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Switch the fault on until the monkeypatch is undone."""
    for right, faulty in FAULTY[fault].items():
        monkeypatch.setattr(faulty, "definition", faulty, raising=False)  # as an op has it
        for holder in [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").startswith("scalablevit_ref")]:
            for held, value in list(vars(holder).items()):
                if value is right:
                    monkeypatch.setattr(holder, held, faulty)
                for defaults in keyword_defaults(value):
                    for setting in [setting for setting, default in defaults.items() if default is right]:
                        monkeypatch.setitem(defaults, setting, faulty)


def keyword_defaults(value: object) -> Iterator[dict[str, Any]]:
    """Of a function and of what it wraps: `activation=gelu` holds the right function too."""
    while isinstance(value, FunctionType):
        if value.__kwdefaults__:
            yield value.__kwdefaults__
        value = getattr(value, "__wrapped__", None)


class Outcomes:
    """A pytest plugin: runs the numbered properties, on one library only, and keeps which of them pass."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.ran: dict[str, bool] = {}
        """Property to whether it passed: "module:function", parameters aside."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.wants(item)]

    def wants(self, item: pytest.Item) -> bool:
        params = getattr(getattr(item, "callspec", None), "params", {})
        named = [params[key] for key in ("xp", "library", "backend") if key in params]
        library = named[0] if named else "torch"  # what takes no library makes torch's tensors
        return library == self.library and re.match(r"test_\d\d_", item.name) is not None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        path, _, function = report.nodeid.partition("::")
        name = f"{path.rpartition('/')[2].removesuffix('.py')}:{function.partition('[')[0]}"
        self.ran[name] = self.ran.get(name, True) and not report.failed


def quick_profile(max_examples: int = 8) -> None:
    """Of properties imported from here on: the same few examples every time, and no time spent on shrinking."""
    common = COMMON | {"database": None, "derandomize": True, "report_multiple_bugs": False, "phases": [Phase.generate]}
    settings.register_profile("faults", max_examples=max_examples, **common)
    settings.load_profile("faults")


@cache
def quick_properties(module: str) -> ModuleType:
    """A copy of a module of properties under the quick profile."""
    before = settings.get_current_profile_name()
    quick_profile(max_examples=25)
    try:
        spec = spec_from_file_location(f"tests.properties.quick_{module}", PROPERTIES / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        copy = module_from_spec(spec)
        spec.loader.exec_module(copy)
    finally:
        settings.load_profile(before)
    return copy


def killers(fault: str) -> dict[str, Callable[..., None]]:
    """The properties named for this fault, quick ones, by those names; to be called with `xp` and `agree`."""
    found = {}
    for killer in PLANTED[fault].properties:
        module, _, start = killer.partition(":")
        tests = vars(quick_properties(f"test_{module}"))
        names = [name for name in tests if name.startswith(f"test_{start}_") and "xp" in inspect.signature(tests[name]).parameters]
        assert len(names) == 1, f"{fault}: {killer} should be one property, not {names}"
        found[killer] = tests[names[0]]
    return found


def outcomes(library: str) -> dict[str, bool]:
    """Run every property on this library, with whatever is planted: "module:function" to whether it passed."""
    plugin = Outcomes(library)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setenv(WHOLE_ON_TINYGRAD, "1")
        code = pytest.main([str(PROPERTIES), "--assert=plain", "--tb=line", "-p", "no:cacheprovider"], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(output.getvalue())
    return plugin.ran


def kill_matrix(library: str) -> dict[str, list[str]]:
    """Each fault with the properties that fail under it. AssertionError if a property fails without any fault."""
    quick_profile()
    sound = outcomes(library)
    assert all(sound.values()), f"fail without a fault: {[name for name, passed in sound.items() if not passed]}"
    matrix = {}
    for fault in PLANTED:
        start = time.perf_counter()
        with pytest.MonkeyPatch.context() as monkeypatch:
            plant(monkeypatch, fault)
            matrix[fault] = [name for name, passed in outcomes(library).items() if not passed]
        sys.stderr.write(f"{library}: {fault}: {len(matrix[fault])} of {len(sound)} in {time.perf_counter() - start:.1f} s\n")
    return matrix


def sole_killers(matrix: dict[str, list[str]]) -> dict[str, list[str]]:
    """The faults that one property alone kills."""
    alone: dict[str, list[str]] = {}
    for fault, names in matrix.items():
        if len(names) == 1:
            alone.setdefault(names[0], []).append(fault)
    return alone


def main(libraries: list[str]) -> None:
    """Print {library: {"killed by": {fault: [properties]}, "killed alone": {property: [faults]}}}."""
    matrices = {library: kill_matrix(library) for library in libraries}
    report = {library: {"killed by": matrix, "killed alone": sole_killers(matrix)} for library, matrix in matrices.items()}
    sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["numpy", "torch"])
