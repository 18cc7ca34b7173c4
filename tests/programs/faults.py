"""Planted faults: each is a small error that somebody could make in the specification, and each must turn a property red.

A fault is an edit of the source of one or more functions. `plant` compiles the edited function in its module's namespace and puts
it in the place of the right one in every module that has it, for all libraries: an op loses its native versions.

`python -m tests.programs.faults [numpy|torch]` runs every property under every fault and prints, as JSON, which of them fail.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings

import tests.support.shape_checks  # noqa: F401  (before the package is imported)
from tests.support.profiles import COMMON

PROPERTIES = Path(__file__).resolve().parents[1] / "properties"


@dataclass(frozen=True)
class Edit:
    """In the function "module:name" of the package, `old` becomes `new`, `times` times, or the table is stale."""

    function: str
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True)
class Fault:
    """The edits, and the properties each of which must fail: "iwsa:08" is `test_08_…` of `tests/properties/test_iwsa.py`."""

    edits: tuple[Edit, ...]
    killers: tuple[str, ...]


iwsa, ssa = partial(Edit, "attention:iwsa"), partial(Edit, "attention:ssa")
block, layer_norm = partial(Edit, "network:block"), partial(Edit, "ops:layer_norm")


def gelu(tanh_of: str) -> Edit:
    """x/2 · (1 + tanh(…)) in place of the error function; tanh through exp(−2|…|), which never overflows."""
    tanh = f"(lambda e: (1 - e) / (1 + e))(backend(x).exp(-2.0 * ({tanh_of})))"
    return Edit("ops:gelu", "erf(magnitude * 0.5**0.5)", tanh)


LIM = 'conv2d(qkv[2, ...], **p["lim_func"], padding=1, groups=c)'
WINDOWS_AS_BATCH = (
    'rearrange(conv2d(rearrange(qkv[2, ...], "b (gh ph) (gw pw) c -> (b gh gw) ph pw c", ph=window_size, pw=window_size), '
    '**p["lim_func"], padding=1, groups=c), "(b gh gw) ph pw c -> b (gh ph) (gw pw) c", '
    "gh=x.shape[1] // window_size, gw=x.shape[2] // window_size)"
)
WINDOWS_BY_COLUMN = (
    'z = rearrange(z, "b gh gw ... -> b (gw gh) ...")\n    '
    'z = rearrange(z, "b (gh gw) ... -> b gh gw ...", gh=x.shape[1] // window_size)\n    '
)
NORM_1, NORM_2 = ('layer_norm(x, **p["norm1"], eps=norm_eps)', 'layer_norm(x, **p["norm2"], eps=norm_eps)')
GELU_OF_NORM = 'gelu(layer_norm(y, **p["norm_act.0"], eps=SSA_NORM_EPS))'
SSA_SCALE = '(head_dim * c_ratio if scale == "scaled" else head_dim) ** -0.5'

FAULTS = {
    "tanh GELU": Fault((gelu("(2 / 3.141592653589793) ** 0.5 * (magnitude + 0.044715 * magnitude**3)"),), ("ops:01_gelu",)),
    "sigmoid GELU": Fault((gelu("0.851 * magnitude"),), ("ops:01_gelu",)),
    "eps 1e-5 everywhere": Fault((layer_norm("(variance + eps) ** 0.5", "(variance + 1e-5) ** 0.5"),), ("ops:23",)),
    "SSA eps 1e-6": Fault((ssa("eps=SSA_NORM_EPS", "eps=1e-6"),), ("ssa:20",)),
    "unbiased variance": Fault((layer_norm('variance = reduce(x * x, "... c -> ... 1", "mean")',
        'variance = reduce(x * x, "... c -> ... 1", "sum") / (x.shape[-1] - 1)'),), ("ops:23",)),
    "eps outside the root": Fault((layer_norm("(variance + eps) ** 0.5", "(variance**0.5 + eps)"),), ("ops:23",)),
    "flipped kernel": Fault((Edit("ops:conv2d", "kernel[i, j, ...]", "kernel[kh - 1 - i, kw - 1 - j, ...]"),), ("ops:02_linear",)),
    "interleaved heads, whole": Fault((iwsa("(heads d)", "(d heads)", 2), ssa("(heads d)", "(d heads)", 2)), ("iwsa:08", "ssa:19")),
    "interleaved heads, half": Fault((
        iwsa('"b (gh ph) (gw pw) (heads d) ->', "f\"b (gh ph) (gw pw) ({'heads d' if i == 2 else 'd heads'}) ->"),
        ssa('"b h w (heads d) ->', "f\"b h w ({'heads d' if t is v else 'd heads'}) ->"),
    ), ("iwsa:17", "ssa:17")),
    "q/k/v order": Fault((iwsa("q, k, v = (", "k, q, v = ("), ssa("k, v = _halves(", "v, k = _halves(", 2)), ("iwsa:14", "ssa:14")),
    "window grid instead of tiles": Fault((iwsa("(gh ph) (gw pw)", "(ph gh) (pw gw)", 2),), ("iwsa:12",)),
    "merged windows swapped": Fault((iwsa("z = rearrange(z,", WINDOWS_BY_COLUMN + "z = rearrange(z,"),), ("iwsa:12",)),
    "transposed inside a window": Fault((iwsa("heads (ph pw) d -> b (gh ph)", "heads (pw ph) d -> b (gh ph)"),), ("iwsa:10",)),
    "LIM on x": Fault((iwsa(LIM, LIM.replace("qkv[2, ...]", "x")),), ("iwsa:11",)),
    "LIM per window": Fault((iwsa(LIM, WINDOWS_AS_BATCH),), ("iwsa:12",)),
    "LIM as residual": Fault((iwsa(f"z + {LIM}", f"z + qkv[2, ...] + {LIM}"),), ("iwsa:08",)),
    "LIM after proj": Fault((iwsa(f"z = z + {LIM}", f"lim = {LIM}"),
                             iwsa('**p["proj"])', '**p["proj"]) + lim[:, :h, :w, :]')), ("iwsa:11",)),
    "no LIM": Fault((iwsa(f"z = z + {LIM}", ""),), ("iwsa:11",)),
    "scale by c": Fault((iwsa("(c / num_heads) ** -0.5", "c**-0.5"), ssa("head_dim = c / num_heads", "head_dim = c")),
                        ("iwsa:08", "ssa:19")),
    "SSA act before norm": Fault((ssa(GELU_OF_NORM, 'layer_norm(gelu(y), **p["norm_act.0"], eps=SSA_NORM_EPS)'),), ("ssa:20",)),
    "SSA without act": Fault((ssa(GELU_OF_NORM, GELU_OF_NORM.removeprefix("gelu(").removesuffix(")")),), ("ssa:20",)),
    "SSA scale by d": Fault((ssa(SSA_SCALE, "head_dim**-0.5"),), ("ssa:20",)),
    "no scale": Fault((iwsa("(c / num_heads) ** -0.5", "1.0"), ssa(SSA_SCALE, "1.0")), ("iwsa:08", "ssa:19")),
    "PEG without identity": Fault((Edit("network:peg", "return x + conv2d", "return conv2d"),), ("block:25",)),
    "PEG after block 2": Fault((Edit("network:stage_features", "if i == 0:", "if i == 1:"),), ("network:01_every",)),
    "post-norm": Fault((
        block(f'y = tap("norm1", {NORM_1})', "y = x"),
        block('x = x + tap("attn", y)', 'x = x + tap("attn", y)\n    x = tap("norm1", ' + NORM_1 + ")"),
        block(f'y = tap("norm2", {NORM_2})', "y = x"),
        block('return x + tap("mlp", mlp(y, p["mlp"]))',
              'x = x + tap("mlp", mlp(y, p["mlp"]))\n    return tap("norm2", ' + NORM_2 + ")"),
    ), ("block:24",)),
}  # fmt: skip


def plant(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Switch the fault on until the monkeypatch is undone."""
    for function in dict.fromkeys(edit.function for edit in FAULTS[name].edits):
        module_name, _, attribute = function.partition(":")
        module = importlib.import_module(f"scalablevit_ref.{module_name}")
        right = getattr(module, attribute)
        faulty = edited(right, [edit for edit in FAULTS[name].edits if edit.function == function])
        for holder in [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").startswith("scalablevit_ref")]:
            for held in [key for key, value in vars(holder).items() if value is right]:
                monkeypatch.setattr(holder, held, faulty)


def edited(function: Callable[..., Any], edits: list[Edit]) -> Callable[..., Any]:
    """The function with its source edited, undecorated, in its module's namespace. AssertionError for an edit that is stale."""
    plain = inspect.unwrap(function)
    source = inspect.getsource(plain)
    for edit in edits:
        assert source.count(edit.old) == edit.times, (
            f"{edit.function} has {source.count(edit.old)} × {edit.old!r}, not {edit.times}"
        )
        source = source.replace(edit.old, edit.new)
    namespace: dict[str, Any] = {}
    exec(compile(source, "<fault>", "exec"), plain.__globals__, namespace)
    faulty: Any = namespace[plain.__name__]
    faulty = getattr(faulty, "definition", faulty)
    faulty.definition = faulty  # as an op has it
    return faulty  # type: ignore[no-any-return]


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
    for killer in FAULTS[fault].killers:
        module, _, start = killer.partition(":")
        tests = vars(quick_properties(f"test_{module}"))
        names = [name for name in tests if name.startswith(f"test_{start}_") and "xp" in inspect.signature(tests[name]).parameters]
        assert len(names) == 1, f"{fault}: {killer} should be one property, not {names}"
        found[killer] = tests[names[0]]
    return found


def outcomes(library: str) -> dict[str, bool]:
    """Run every property on this library, with whatever is planted: "module:function" to whether it passed."""
    plugin = Outcomes(library)
    with contextlib.redirect_stdout(io.StringIO()) as output:
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
    for fault in FAULTS:
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
