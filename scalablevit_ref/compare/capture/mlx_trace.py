"""One pass of MLX code as MLX's own primitives: `mx.export_function` tells them, and what runs meanwhile is noted beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from types import CodeType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from scalablevit_ref.compare.capture.own_code import user_line

Arrays = Sequence[mx.array]

CALLED = ("nb_func", "nb_method")
"""What MLX's functions and its arrays' methods are, in nanobind's names."""


@dataclass
class Notes:
    """What is noted while a pass is traced.

    Attributes
    ----------
    lines
        Arrays that an operation made, each with the line of the user's own code that asked for it.
    modules
        Modules that ended: the path, the arrays that each was given, and those that it returned.
    inside
        In how many transformations the pass is, whose arrays are not to leave them.
    """

    lines: list[tuple[mx.array, str]] = field(default_factory=list)
    modules: list[tuple[str, list[mx.array], list[mx.array]]] = field(default_factory=list)
    inside: int = 0


@dataclass(frozen=True)
class Traced:
    """A pass as MLX told it: `inputs`, `outputs` and the notes are names of values, by which `primitives` go."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, mx.array]
    primitives: tuple[Mapping[str, Any], ...]
    about: Mapping[str, tuple[tuple[int, ...], str]]
    lines: Mapping[str, str]
    modules: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


def traced(
    run: Callable[[mx.array], list[mx.array]],
    placed: Callable[[Arrays], AbstractContextManager[None]],
    inputs: Arrays,
    modules: Mapping[str, nn.Module],
) -> Traced:
    """Trace a pass on such inputs, parameters and then images, in which these modules run, by their paths.

    `placed` puts parameters where the candidate has its own, for as long as it is open.

    It is traced for the CPU, whose fused functions MLX writes out, and which knows float64. Raises what the pass raises.
    """
    notes, told = Notes(), list[dict[str, Any]]()
    ends: list[int] = []

    def noted(*given: mx.array) -> list[mx.array]:
        notes.lines.clear()
        notes.modules.clear()
        with placed(given[:-1]), _noting(notes, modules, run.__code__):
            out = run(given[-1])
        ends[:] = [len(out)]
        extra = [x for _, *both in notes.modules for some in both for x in some]
        return [*out, *extra, *(x for x, _ in notes.lines)]

    with mx.stream(mx.cpu):
        mx.export_function(told.append, noted, *inputs)
    whole = {one["type"]: one for one in told if one["type"] != "primitive"}
    primitives = tuple(one for one in told if one["type"] == "primitive")
    every = [x for one in primitives for x in (*one["inputs"], *one["outputs"])]
    every += [*whole["inputs"]["inputs"], *whole["outputs"]["outputs"]]
    about = {name: (tuple(shape), _dtype(dtype)) for name, shape, dtype in every}
    constants = dict(whole["constants"]["constants"])
    about |= {name: (tuple(x.shape), _dtype(x.dtype)) for name, x in constants.items()}
    names = iter([name for name, _, _ in whole["outputs"]["outputs"]])
    outputs = tuple(next(names) for _ in range(ends[0]))
    ended = tuple(
        (path, tuple(next(names) for _ in given), tuple(next(names) for _ in returned)) for path, given, returned in notes.modules
    )
    lines: dict[str, str] = {}
    for name, (_, line) in zip(names, notes.lines, strict=True):
        lines.setdefault(name, line)
    given = tuple(name for name, _, _ in whole["inputs"]["inputs"])
    return Traced(given, outputs, constants, primitives, about, lines, ended)


def _dtype(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2].rstrip("_")


@contextmanager
def _noting(notes: Notes, modules: Mapping[str, nn.Module], until: CodeType) -> Iterator[None]:
    """While open, each operation that the user's code asks for is noted, and so is the end of each module."""
    with ExitStack() as back:
        for holder in (mx, mx.fast, mx.linalg, mx.random, mx.array):
            for name, function in list(vars(holder).items()):
                if type(function).__name__ in CALLED and name not in LEFT:
                    own = PLAIN.get((getattr(holder, "__name__", ""), name), function)
                    _put(back, holder, name, function, _noted(own, notes, until))
        paths = {id(module): path for path, module in reversed([*modules.items()]) if path}
        for name in TRANSFORMATIONS:
            _put(back, mx, name, getattr(mx, name), _transforming(getattr(mx, name), notes))
        kinds = {kind for one in modules.values() for kind in type(one).__mro__ if "__call__" in vars(kind)}
        for kind in kinds:
            _put(back, kind, "__call__", vars(kind)["__call__"], _ending(vars(kind)["__call__"], notes, paths))
        yield


LEFT = frozenset(
    [
        *("__init__", "__new__", "__repr__", "__str__", "__hash__", "__len__"),
        *("__setattr__", "__getattribute__", "__delattr__", "__getattr__"),
        *("export_function", "exporter", "compile", "stream", "vmap", "grad", "value_and_grad", "checkpoint"),
    ]
)
"""Functions of MLX that make no operation, or that trace."""

TRANSFORMATIONS = ("vmap", "grad", "value_and_grad", "checkpoint")
"""Functions of MLX that run another on arrays of their own."""


def _put(back: ExitStack, holder: Any, name: str, own: Any, other: Any) -> None:
    setattr(holder, name, other)
    back.callback(setattr, holder, name, own)


def _noted(function: Callable[..., Any], notes: Notes, until: CodeType) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        made = args[:1] if out is None else out if isinstance(out, tuple | list) else (out,)
        if not notes.inside and any(isinstance(x, mx.array) for x in made):
            line = user_line(until)
            notes.lines += [(x, line) for x in made if isinstance(x, mx.array)]
        return out

    return noting


def _transforming(transformation: Callable[..., Any], notes: Notes) -> Callable[..., Any]:
    """The transformation of a function that keeps its arrays to itself."""

    def transform(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def unnoted(*given: Any, **named: Any) -> Any:
            notes.inside += 1
            try:
                return function(*given, **named)
            finally:
                notes.inside -= 1

        return transformation(unnoted, *args, **kwargs)

    return transform


def _ending(call: Callable[..., Any], notes: Notes, paths: Mapping[int, str]) -> Callable[..., Any]:
    @wraps(call)
    def ending(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(self), "")
        out = call(self, *args, **kwargs)
        if path and not notes.inside:
            notes.modules.append((path, _arrays((args, kwargs)), _arrays(out)))
        return out

    return ending


def _arrays(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    return [x for part in parts for x in _arrays(part)]


def _layer_norm(x: mx.array, weight: Any, bias: Any, eps: float, **about: Any) -> mx.array:
    """`mx.fast.layer_norm` in the dtype of `x`; MLX's own, written out, goes through float32."""
    x = x - mx.mean(x, axis=-1, keepdims=True)
    y = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(x: mx.array, weight: Any, eps: float, **about: Any) -> mx.array:
    y = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


ATTENTION = mx.fast.scaled_dot_product_attention
"""MLX's own, whatever stands in its place."""


def _attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None, **about: Any) -> mx.array:
    """`mx.fast.scaled_dot_product_attention` with the scale in the dtype of `q`; MLX's own rounds it to float32."""
    if any(x is not None for x in about.values()):
        return ATTENTION(q, k, v, scale=scale, mask=mask, **about)
    if q.shape[1] != k.shape[1]:
        k, v = (mx.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    logits = (q * scale) @ k.swapaxes(-1, -2)
    if isinstance(mask, str):
        n, m = logits.shape[-2:]
        mask = mx.array(np.tril(np.ones((n, m), bool), m - n))
    if mask is not None:
        logits = mx.where(mask, logits, -mx.inf) if mask.dtype == mx.bool_ else logits + mask
    return mx.softmax(logits, axis=-1) @ v


PLAIN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("mlx.core.fast", "layer_norm"): _layer_norm,
    ("mlx.core.fast", "rms_norm"): _rms_norm,
    ("mlx.core.fast", "scaled_dot_product_attention"): _attention,
    ("mlx.core", "contiguous"): lambda x, *_, **about: x,
    ("mlx.core", "eval"): lambda *given: None,
    ("mlx.core", "async_eval"): lambda *given: None,
}
"""What stands for functions of MLX while a pass is traced: those that MLX would write out otherwise, or cannot tell."""
