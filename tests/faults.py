"""Planted faults: each is a small error that somebody could make in the specification, and each must turn a property red.

A fault is an edit of the source of one or more functions. `plant` compiles the edited function in its module's namespace and puts
it in the place of the right one in every module that has it, for all libraries: an op loses its native versions.

`python -m tests.faults [numpy|torch]` runs every property under every fault and prints, as JSON, which of them fail.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests.conftest import COMMON  # first, so that jaxtyping's hook is there before the specification is imported


@dataclass(frozen=True)
class Edit:
    """In the function "module:name" of the package, `old` becomes `new`, wherever it occurs: `times` times, or the table is stale."""

    function: str
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True)
class Fault:
    """The edits, and the properties ("test module:number"), each of which must fail."""

    edits: tuple[Edit, ...]
    killers: tuple[str, ...]


def iwsa(old: str, new: str, times: int = 1) -> Edit:
    return Edit("attention:iwsa", old, new, times)


def ssa(old: str, new: str, times: int = 1) -> Edit:
    return Edit("attention:ssa", old, new, times)


def block(old: str, new: str) -> Edit:
    return Edit("network:block", old, new)


def layer_norm(old: str, new: str) -> Edit:
    return Edit("ops:layer_norm", old, new)


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
    'z = rearrange(rearrange(z, "b gh gw ... -> b (gw gh) ..."), "b (gh gw) ... -> b gh gw ...", gh=x.shape[1] // window_size)\n    '
)
NORM_1, NORM_2 = ('layer_norm(x, **p["norm1"], eps=norm_eps)', 'layer_norm(x, **p["norm2"], eps=norm_eps)')
GELU_OF_NORM = 'gelu(layer_norm(y, **p["norm_act.0"], eps=SSA_NORM_EPS))'
SSA_SCALE = '(head_dim * c_ratio if scale == "scaled" else head_dim) ** -0.5'

FAULTS = {
    "tanh GELU": Fault((gelu("(2 / 3.141592653589793) ** 0.5 * (magnitude + 0.044715 * magnitude**3)"),), ()),
    "sigmoid GELU": Fault((gelu("0.851 * magnitude"),), ()),
    "eps 1e-5 everywhere": Fault((layer_norm("(variance + eps) ** 0.5", "(variance + 1e-5) ** 0.5"),), ()),
    "SSA eps 1e-6": Fault((ssa("eps=SSA_NORM_EPS", "eps=1e-6"),), ()),
    "unbiased variance": Fault((layer_norm('variance = reduce(x * x, "... c -> ... 1", "mean")',
        'variance = reduce(x * x, "... c -> ... 1", "sum") / (x.shape[-1] - 1)'),), ()),
    "eps outside the root": Fault((layer_norm("(variance + eps) ** 0.5", "(variance**0.5 + eps)"),), ()),
    "flipped kernel": Fault((Edit("ops:conv2d", "kernel[i, j, ...]", "kernel[kh - 1 - i, kw - 1 - j, ...]"),), ()),
    "interleaved heads, whole": Fault((iwsa("(heads d)", "(d heads)", 2), ssa("(heads d)", "(d heads)", 2)), ()),
    "interleaved heads, half": Fault((
        iwsa('"b (gh ph) (gw pw) (heads d) ->', "f\"b (gh ph) (gw pw) ({'heads d' if i == 2 else 'd heads'}) ->"),
        ssa('"b h w (heads d) ->', "f\"b h w ({'heads d' if t is v else 'd heads'}) ->"),
    ), ()),
    "q/k/v order": Fault((iwsa("q, k, v = (", "k, q, v = ("), ssa("k, v = _halves(", "v, k = _halves(", 2)), ()),
    "window grid instead of tiles": Fault((iwsa("(gh ph) (gw pw)", "(ph gh) (pw gw)", 2),), ()),
    "merged windows swapped": Fault((iwsa("z = rearrange(z,", WINDOWS_BY_COLUMN + "z = rearrange(z,"),), ()),
    "transposed inside a window": Fault((iwsa("heads (ph pw) d -> b (gh ph)", "heads (pw ph) d -> b (gh ph)"),), ()),
    "LIM on x": Fault((iwsa(LIM, LIM.replace("qkv[2, ...]", "x")),), ()),
    "LIM per window": Fault((iwsa(LIM, WINDOWS_AS_BATCH),), ()),
    "LIM as residual": Fault((iwsa(f"z + {LIM}", f"z + qkv[2, ...] + {LIM}"),), ()),
    "LIM after proj": Fault((iwsa(f"z = z + {LIM}", f"lim = {LIM}"),
                             iwsa('**p["proj"])', '**p["proj"]) + lim[:, :h, :w, :]')), ()),
    "no LIM": Fault((iwsa(f"z = z + {LIM}", ""),), ()),
    "scale by c": Fault((iwsa("(c / num_heads) ** -0.5", "c**-0.5"), ssa("head_dim = c / num_heads", "head_dim = c")), ()),
    "SSA act before norm": Fault((ssa(GELU_OF_NORM, 'layer_norm(gelu(y), **p["norm_act.0"], eps=SSA_NORM_EPS)'),), ()),
    "SSA without act": Fault((ssa(GELU_OF_NORM, GELU_OF_NORM.removeprefix("gelu(").removesuffix(")")),), ()),
    "SSA scale by d": Fault((ssa(SSA_SCALE, "head_dim**-0.5"),), ()),
    "no scale": Fault((iwsa("(c / num_heads) ** -0.5", "1.0"), ssa(SSA_SCALE, "1.0")), ()),
    "PEG without identity": Fault((Edit("network:peg", "return x + conv2d", "return conv2d"),), ()),
    "PEG after block 2": Fault((Edit("network:stage_features", "if i == 0:", "if i == 1:"),), ()),
    "post-norm": Fault((
        block(f'y = tap("norm1", {NORM_1})', "y = x"),
        block('x = x + tap("attn", y)', 'x = x + tap("attn", y)\n    x = tap("norm1", ' + NORM_1 + ")"),
        block(f'y = tap("norm2", {NORM_2})', "y = x"),
        block('return x + tap("mlp", mlp(y, p["mlp"]))', 'x = x + tap("mlp", mlp(y, p["mlp"]))\n    return tap("norm2", ' + NORM_2 + ")"),
    ), ()),
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
    """The function with its source edited, undecorated, in the namespace of its module. AssertionError for an edit that is stale."""
    plain = inspect.unwrap(function)
    source = inspect.getsource(plain)
    for edit in edits:
        assert source.count(edit.old) == edit.times, f"{edit.function} has {source.count(edit.old)} × {edit.old!r}, not {edit.times}"
        source = source.replace(edit.old, edit.new)
    namespace: dict[str, Any] = {}
    exec(compile(source, "<fault>", "exec"), plain.__globals__, namespace)
    faulty: Any = namespace[plain.__name__]
    faulty = getattr(faulty, "definition", faulty)
    faulty.definition = faulty  # as an op has it
    return faulty  # type: ignore[no-any-return]


class Outcomes:
    """A pytest plugin: runs the properties on one library only and keeps the names of those that fail."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.ran: dict[str, bool] = {}
        """Property to whether it passed: "module:function", parameters aside."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.wants(getattr(getattr(item, "callspec", None), "params", {}))]

    def wants(self, params: dict[str, Any]) -> bool:
        return all(params.get(fixture, self.library) == self.library for fixture in ("xp", "backend"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        path, _, function = report.nodeid.partition("::")
        name = f"{path.rpartition('/')[2].removesuffix('.py')}:{function.partition('[')[0]}"
        self.ran[name] = self.ran.get(name, True) and not report.failed


def quick_profile(max_examples: int) -> None:
    """Of properties imported from here on: the same few examples every time, and no time spent on shrinking."""
    common = COMMON | {"database": None, "derandomize": True, "report_multiple_bugs": False, "phases": [Phase.generate]}
    settings.register_profile("faults", max_examples=max_examples, **common)
    settings.load_profile("faults")


def outcomes(library: str) -> dict[str, bool]:
    """Run every property on this library, with whatever is planted: "module:function" to whether it passed."""
    plugin = Outcomes(library)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main(["tests/properties", "-q", "--tb=line", "-p", "no:cacheprovider"], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(output.getvalue())
    return plugin.ran


def kill_matrix(library: str) -> dict[str, list[str]]:
    """Each fault with the properties that fail under it. AssertionError if a property fails without any fault."""
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
    """The faults that one property alone kills, by property number and statement as the table has them."""
    alone: dict[str, list[str]] = {}
    for fault, killers in matrix.items():
        if len({number(name) for name in killers}) == 1:
            alone.setdefault(number(killers[0]), []).append(fault)
    return alone


def number(name: str) -> str:
    """`11` of "test_iwsa:test_11_…"."""
    return name.partition(":")[2].split("_")[1]


def main(libraries: list[str], max_examples: int = 8) -> None:
    """Print {library: {"killed by": {fault: [properties]}, "killed alone": {number: [faults]}}}."""
    quick_profile(max_examples)
    matrices = {library: kill_matrix(library) for library in libraries}
    report = {library: {"killed by": matrix, "killed alone": sole_killers(matrix)} for library, matrix in matrices.items()}
    sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["numpy", "torch"])
