"""A function of images that is written in JAX, as a `Runner`: the arrays that it uses are its parameters."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalablevit_ref.compare.capture.jax_graph import Calls, Forward, JaxRunner, canonical
from scalablevit_ref.errors import CaptureError

LIBRARIES = frozenset({"jax", "flax", "numpy", "einops", "torch", "builtins"})
"""Packages whose functions hold no weights of a candidate's."""


def function_runner(function: Callable[..., Any], images: np.ndarray, dtype: str | None = None) -> JaxRunner | None:
    """A function of b c h w images as a runner; None if it is none that JAX can trace, or uses no arrays of its own.

    Arrays of a `functools.partial`, and those of a callable that is a pytree, are parameters that can be converted. Others that
    it uses, from its closure or its module, are parameters of their own dtype. Each has the name that it has there, or a number.

    A function that uses an nnx module is left alone: tracing what mutates it from outside can leave it in pieces.
    """
    if not callable(function) or any(_is_nnx(value) for value in _holders(function).values()):
        return None
    own, run = _applied(function)
    runner = JaxRunner(Forward("JAX function", own, run, held=lambda: _held(function)), dtype)
    try:
        runner.record(images, {})
    except CaptureError:
        return None
    runner._seen.clear()  # its dtype is known only now
    return runner if runner.parameters else None


def _applied(function: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any], Any, Calls], Any]]:
    """The arrays that a function brings as a pytree, in their order there, and the function of them and of images."""
    bound = isinstance(function, functools.partial)
    tree = (function.args, function.keywords) if bound else function
    try:
        leaves, shape = jax.tree.flatten_with_path(tree)
    except Exception:  # its own way to be flattened
        leaves, shape = [], None
    names = {i: _name(path[2:] if bound else path, path) for i, (path, x) in enumerate(leaves) if _is_floating(x)}
    if len({canonical(name.split(".")) for name in names.values()}) == len(names):
        names = {i: canonical(name.split(".")) for i, name in names.items()}
    if len(set(names.values())) < len(names) or not names:
        return {}, lambda state, x, calls: function(x)

    def run(state: Mapping[str, Any], x: Any, calls: Calls) -> Any:
        given = [state[names[i]] if i in names else leaf for i, (_, leaf) in enumerate(leaves)]
        whole = jax.tree.unflatten(shape, given)
        if not bound:
            return whole(x)
        args, keywords = whole
        return function.func(*args, x, **keywords)

    order = sorted(names, key=lambda i: _place(tree, leaves[i][0]))
    return {names[i]: leaves[i][1] for i in order}, run


def _name(path: Sequence[Any], whole: Sequence[Any]) -> str:
    """A place in a pytree in PyTorch's style: "blocks.0.w"; of a bare argument, its name or number."""
    dotted = jax.tree_util.keystr(tuple(path), simple=True, separator=".").removesuffix(".value")  # that of a variable of nnx
    return dotted or jax.tree_util.keystr(tuple(whole[-1:]), simple=True)


def _place(tree: Any, path: Sequence[Any]) -> tuple[int, ...]:
    """Where a leaf stands. JAX sorts the keys of a dictionary, which was written in an order of its own."""
    places = []
    for step in path:
        key = getattr(step, "key", None)
        if not (isinstance(tree, Mapping) and key in tree):
            places.append(getattr(step, "idx", 0))
            tree = tree[step.idx] if isinstance(tree, list | tuple) else getattr(tree, getattr(step, "name", ""), None)
            continue
        places.append([*tree].index(key))
        tree = tree[key]
    return tuple(places)


def _holders(function: Any, seen: frozenset[int] = frozenset()) -> dict[str, Any]:
    """What a function uses, by name: its closure, its module's variables, a partial's arguments, a method's object.

    The functions among them use more; their names stand behind, and those of libraries are not followed.
    """
    holders: dict[str, Any] = {}
    while hasattr(function, "__wrapped__") or isinstance(function, functools.partial):
        if isinstance(function, functools.partial):
            holders |= {**{str(i): x for i, x in enumerate(function.args)}, **function.keywords}
        function = function.func if isinstance(function, functools.partial) else function.__wrapped__
    owner = getattr(function, "__self__", function)
    holders |= {"self": owner, **getattr(owner, "__dict__", {})}
    try:
        found = inspect.getclosurevars(getattr(function, "__func__", function))
        holders |= {**found.globals, **found.nonlocals}
    except (TypeError, ValueError):  # no Python function, or a closure that is not filled yet
        pass
    deeper: dict[str, Any] = {}
    for value in holders.values():
        library = str(getattr(value, "__module__", "")).partition(".")[0] in LIBRARIES
        if callable(value) and not isinstance(value, type) and not library and value is not function and id(value) not in seen:
            deeper = _holders(value, seen | {id(value), id(function)}) | deeper
    return deeper | holders


def _is_nnx(value: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module)


def _held(function: Any) -> Iterator[tuple[str, Any]]:
    """The floating-point arrays in what a function uses, by their names there."""
    for holder, value in _holders(function).items():
        try:
            leaves = jax.tree.leaves_with_path(value)
        except Exception:  # its own way to be flattened
            continue
        for path, x in leaves:
            if _is_floating(x):
                yield canonical((_name(path, ()) or holder).split(".")), x


def _is_floating(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
