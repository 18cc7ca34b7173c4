"""Shapes in signatures are checked at every call: jaxtyping's hook goes in before the specification is first imported.

`HYPOTHESIS_PROFILE` chooses how many examples a property gets: dev (default), ci (the same examples every time) or nightly.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import HealthCheck, Phase, settings

import tests.support.typecheck  # noqa: F401  (the hook names it, but does not import it)

collect_ignore = ["programs/fuzz_checkpoints.py"]  # a program of its own, on atheris
if not find_spec("jax"):
    collect_ignore += ["support/jitted.py", "backends/test_jax.py"]

SPECIFICATION = [f"scalablevit_ref.{part}" for part in ("ops", "attention", "blocks", "network", "dialects")]

with jaxtyping.install_import_hook(SPECIFICATION, "tests.support.typecheck.check"):
    import scalablevit_ref as sv

from scalablevit_ref.testing.arrays import Comparison, assert_agrees  # noqa: E402  (after the hook)

if find_spec("array_api_strict"):
    from tests.support import array_api  # noqa: F401  (registers it)

COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    "report_multiple_bugs": False,  # a failing property raises the one AssertionError, not a group of several
}
settings.register_profile("mutation", max_examples=6, derandomize=True, database=None, phases=[Phase.generate], **COMMON)
settings.register_profile("dev", max_examples=8, **COMMON)
settings.register_profile("ci", max_examples=25, derandomize=True, database=None, print_blob=True, **COMMON)
settings.register_profile("nightly", max_examples=500, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


class Library:
    """A library that the properties run on: how arrays get there and back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, arrays: Any, dtype: str = "float64") -> Any:
        """Arrays of this library; NumPy's are read-only, so that whoever writes into an input is found out."""
        moved = sv.to_backend(arrays, self.name, dtype)
        if self.name == "numpy":
            for x in moved.values() if isinstance(moved, dict) else [moved]:
                x.flags.writeable = False
        return moved


def cuda_is_there() -> bool:
    """CuPy is installed and sees a GPU; it is not imported where there is no driver, so that its stand-in can take its name."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    if not find_spec("cupy"):
        return False
    import cupy

    return bool(cupy.cuda.is_available())


CUDA = cuda_is_there()
LIBRARIES: list[Any] = [name for name in ("numpy", "torch", "array_api_strict", "jax") if find_spec(name)]
LIBRARIES.append(pytest.param("cupy", marks=pytest.mark.gpu) if CUDA else "cupy")

EXAMPLES = {"jax": 0.125} | ({} if CUDA else {"cupy": 0.25})
"""The share of the profile's examples that a property gets: on JAX, which compiles each anew, and on CuPy's stand-in."""


@pytest.fixture(params=LIBRARIES)
def xp(request: pytest.FixtureRequest) -> Iterator[Library]:
    """Each library that is installed; array-api-strict, where the definitions alone run, with its optional features off."""
    with prepared(request.param):
        yield Library(request.param)


@contextmanager
def prepared(library: str) -> Iterator[None]:
    """What a library needs to run the properties."""
    if library == "array_api_strict":
        import array_api_strict

        with array_api_strict.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
            yield
    elif library == "jax":
        from tests.support.jitted import jitted_specification

        with jitted_specification():
            yield
    elif library == "cupy" and not CUDA:
        from tests.support.cupy_stand_in import cupy_stand_in

        with cupy_stand_in():
            yield
    else:
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fewer examples where `EXAMPLES` says so."""
    test: Any = getattr(item, "obj", None)
    params = getattr(getattr(item, "callspec", None), "params", {})
    library = params.get("xp", params.get("library"))
    profile = getattr(test, "_hypothesis_internal_use_settings", None)
    if profile is None or library not in EXAMPLES:
        return (yield)
    test._hypothesis_internal_use_settings = settings(profile, max_examples=max(2, round(profile.max_examples * EXAMPLES[library])))
    try:
        return (yield)
    finally:
        test._hypothesis_internal_use_settings = profile


class Agree:
    """`assert_agrees` that keeps the worst error it allowed, for the table of the proof."""

    def __init__(self) -> None:
        self.worst = 0.0

    def __call__(self, actual: Any, reference: Any, **options: Any) -> Comparison:
        comparison = assert_agrees(actual, reference, **options)
        self.worst = max(self.worst, comparison.error)
        return comparison

    def exactly(self, actual: Any, reference: Any) -> None:
        """Bit for bit the same numbers."""
        self(actual, reference, tolerance=0)


@pytest.fixture
def agree(request: pytest.FixtureRequest) -> Iterator[Agree]:
    """Compare with `agree(actual, reference)`: 64 eps unless told otherwise."""
    recorder = Agree()
    yield recorder
    request.node.user_properties.append(("worst_eps", recorder.worst))


@pytest.fixture(params=["numpy", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each library with native ops."""
    name: str = request.param
    return name


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Without the run-time shape checks, which users do not have: for tests of what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--worst-errors", default=None, metavar="FILE", help="Write each test's worst allowed error in eps, as JSON.")


class WorstErrors:
    """Collects what `agree` recorded, from all workers."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[tuple[str, float]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            figures = [float(value) for name, value in report.user_properties if name == "worst_eps"]
            self.rows.append((report.nodeid, max(figures, default=0.0)))

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.rows), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--worst-errors")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(WorstErrors(path))
