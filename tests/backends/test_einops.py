"""What the package relies on of einops, each fact by itself, so that a release that changes one says here what it changed.

The arrays that einops does not know are taken by its public module `array_api`; nothing private of it is used by the package.
"""

from __future__ import annotations

import ast
import functools
import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import einops
import numpy as np
import pytest
from einops import array_api
from scalablevit_ref.backends import dispatch, register
from scalablevit_ref.backends.einops import Lent, pack, rearrange, reduce

ROOT = Path(__file__).resolve().parents[2]


class Foreign:
    """An array of a library that nobody knows: no method, no namespace, only a shape."""

    def __init__(self, held: np.ndarray) -> None:
        self.held, self.shape, self.dtype = held, held.shape, held.dtype


class Functions:
    """The standard's functions for it, which keep how they are called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def called(x: Any, *arguments: Any, **settings: Any) -> Foreign:
            self.calls.append((name, (*arguments, *settings.items())))
            held = [part.held for part in x] if isinstance(x, list) else x.held
            return Foreign(getattr(np, name)(held, *arguments, **settings))

        return called


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Functions:
    """Foreign's backend is registered, with these as its namespace."""
    used = Functions()
    names: dict[str, Any] = dict.fromkeys(dispatch.NEEDED, lambda *arguments: None) | {"NAME": "foreign"}
    monkeypatch.setitem(dispatch.registered, "foreign", None)
    register(Foreign, SimpleNamespace(**names, namespace=lambda x: used))
    return used


X = np.random.default_rng(0).standard_normal((2, 6, 4, 3))

CASES: tuple[tuple[str, Any, Any, list[tuple[str, Any]]], ...] = (
    ("a transposition", rearrange, ("b h w c -> b c h w", {}), [("permute_dims", ((0, 3, 1, 2),))]),
    (
        "axes split, moved and merged",
        rearrange,
        ("b (g p) w c -> (b g) p (w c)", {"p": 3}),
        [("reshape", ((2, 2, 3, 4, 3),)), ("reshape", ((4, 3, 12),))],
    ),
    ("a mean", reduce, ("b h w c -> b c", "mean"), [("permute_dims", ((0, 3, 1, 2),)), ("mean", (("axis", (2, 3)),))]),
    ("a largest", reduce, ("... c -> ... 1", "max"), [("max", (("axis", (3,)),)), ("reshape", ((2, 6, 4, 1),))]),
    ("a sum", reduce, ("... c -> ... 1", "sum"), [("sum", (("axis", (3,)),)), ("reshape", ((2, 6, 4, 1),))]),
)


@pytest.mark.parametrize(("function", "settings", "called"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_einops_calls(functions: Functions, function: Any, settings: Any, called: list[tuple[str, Any]]) -> None:
    """The names and the arguments of the standard's functions, tuples where the standard has tuples; the numbers are einops'."""
    pattern, more = settings
    given, named = ((), more) if isinstance(more, dict) else ((more,), {})
    found = function(Foreign(X), pattern, *given, **named)
    assert type(found) is Foreign
    assert np.array_equal(found.held, getattr(einops, function.__name__)(X, pattern, *given, **named))
    assert functions.calls == called


def test_what_pack_calls(functions: Functions) -> None:
    parts = [X[:, :, :1, :], X, X[:, :, 2:, :]]
    found, sizes = pack([Foreign(x) for x in parts], "b h * c")
    expected, known = einops.pack(parts, "b h * c")
    assert (np.array_equal(found.held, expected), [tuple(n) for n in sizes]) == (True, [tuple(n) for n in known])
    assert functions.calls == [("reshape", ((2, 6, -1, 3),))] * 3 + [("concat", (("axis", 2),))]


def test_what_einops_asks_of_an_array() -> None:
    """Its namespace, number of axes and shape; and what is its own namespace may be asked for nothing else."""
    asked: set[str] = set()

    class Asked(Lent):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

        def _lent(self, held: Any) -> Lent:
            return Asked(held, np)

    array_api.reduce(Asked(X, np), "b (h p) w c -> (b h) c w", "mean", p=2)
    own = set(vars(Lent)) | {"held", "functions"}
    assert asked - own == {"shape", "ndim", "__class__"}
    assert asked >= {"__array_namespace__", "reshape", "permute_dims", "mean"}


def test_the_public_module_is_documented() -> None:
    """By einops itself, under these names: `einops.array_api` for any library of the standard."""
    for name in ("rearrange", "reduce", "pack"):
        assert callable(getattr(array_api, name))
        assert (
            list(inspect.signature(getattr(array_api, name)).parameters)
            == {
                "rearrange": ["tensor", "pattern", "axes_lengths"],
                "reduce": ["tensor", "pattern", "reduction", "axes_lengths"],
                "pack": ["tensors", "pattern"],
            }[name]
        )


def test_what_is_kept_for_a_shape_needs_a_hash() -> None:
    """A shape of symbols is kept as any other: why `symbolic.Size` has a hash of what it stands for, and of its graph."""

    class Symbol(int):
        __hash__ = None  # type: ignore[assignment]

    x = Lent(SimpleNamespace(shape=(Symbol(2), 3)), None)
    with pytest.raises(TypeError, match="unhashable"):
        array_api.rearrange(x, "a b -> a b")
    assert einops.rearrange(X, "b h w c -> b h w c") is not None
    assert isinstance(einops.einops._reconstruct_from_shape, functools._lru_cache_wrapper)


@pytest.mark.parametrize("name", ["standard", "sizes", "graph", "flint"])
def test_who_lends_its_arrays(name: str) -> None:
    """The four whose arrays einops does not know; every other module of the folder is of a library that it knows."""
    if name != "flint" or find_spec("flint"):
        assert callable(import_module(f"scalablevit_ref.backends.{name}").namespace)
    assert {path.stem for path in (ROOT / "backends").glob("*.py") if "def namespace(" in path.read_text()} == {
        "standard",
        "sizes",
        "graph",
        "flint",
    }


def private(source: str) -> list[str]:
    """What a module's source takes of einops that has a leading underscore."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = getattr(node, "module", None) or ""
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            found += [name for name in names if name.startswith("einops.") and "._" in name]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            found += [text for text in [ast.unparse(node)] if text.startswith("einops.")]
    return found


def test_nothing_private_of_einops_is_used() -> None:
    files = [*(ROOT / "scalablevit_ref").rglob("*.py"), *(ROOT / "backends").glob("*.py"), *(ROOT / "docs").rglob("*.py")]
    assert {str(path): taken for path in files if (taken := private(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line", ["from einops._backends import AbstractBackend", "import einops._backends", "einops._backends.get_backend(x)"]
)
def test_something_private_is_seen(line: str) -> None:
    assert private(line)


def test_what_the_stand_in_of_cupy_relies_on() -> None:
    """`tests/support/cupy_stand_in.py` lets einops forget a CuPy: einops keeps adapters by the name and by the type of arrays."""
    einops.rearrange(X, "b h w c -> b c h w")
    assert einops._backends._type2backend[np.ndarray] is einops._backends._loaded_backends["numpy"]
    assert einops._backends.CupyBackend.framework_name == "cupy"


def test_a_list_is_an_axis_more() -> None:
    """As to einops, of arrays that it knows and of others."""
    strict = pytest.importorskip("array_api_strict")
    parts = [X, X + 1.0]
    expected = einops.rearrange(parts, "n b h w c -> b n h w c")
    assert np.array_equal(rearrange(parts, "n b h w c -> b n h w c"), expected)
    found = rearrange([strict.asarray(x) for x in parts], "n b h w c -> b n h w c")
    assert np.array_equal(np.from_dlpack(found), expected)
