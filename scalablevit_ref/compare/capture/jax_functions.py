"""Functions of images that are written in JAX, as `Runner`s: the arrays that they use are their parameters."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.holders import Holder, holders
from scalablevit_ref.compare.capture.jax_forward import Calls, Forward
from scalablevit_ref.compare.capture.jax_graph import JaxRunner, canonical
from scalablevit_ref.compare.capture.traces import Function
from scalablevit_ref.errors import CaptureError


class JaxFunction(Candidate):
    """A function of images that is written in JAX and uses arrays; where it cannot be followed it is a function like others."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError where it cannot be followed and its weights are not known, besides what `followed` raises."""
        try:
            return followed(function_runner(self.function, conditions.fed, conditions.dtype), conditions)
        except CaptureError as error:
            captured = Function(self.function).capture(conditions, files)
            if conditions.drawn or conditions.weights is None:
                why = f"weights must be given for a function that is not followed inside: {error}"
                raise CaptureError(why) from error.__cause__
            return replace(captured, notes=(*captured.notes, f"it is not followed inside: {error}"))


def is_jax_function(value: Any) -> bool:
    """Whether it is a callable that uses arrays, which JAX may trace; where they come from Flax's nnx modules it may not."""
    if not callable(value) or isinstance(value, type):
        return False
    with suppress(Exception):  # its own ways to be looked at
        known = [*holders(value)]
        return not any(map(_is_nnx, known)) and any(True for _ in _leaves(known))
    return False


def function_runner(function: Callable[..., Any], images: np.ndarray, dtype: str | None = None) -> JaxRunner:
    """A function of b c h w images as a runner. Raises CaptureError if JAX cannot trace it, or if it uses no arrays of its own.

    The arrays may be in a `functools.partial`, in a callable that is a pytree, in a closure, in variables of a module or in the
    attributes of an object. There others stand in their places while it is traced; jitted functions are traced anew then. Each
    has the name that it has there. Arrays that it makes itself have numbers, and the dtype that they have.

    A function that uses an nnx module is left alone: tracing what mutates it from outside can leave it in pieces.
    """
    known = [*holders(function)]
    if any(map(_is_nnx, known)):
        raise CaptureError("it uses an nnx module: give the module itself")
    own = [leaf for leaf in _leaves(known) if leaf.holder is known[0]]
    first = _recorded(_forward(function, own, known), images, dtype)
    if isinstance(first, JaxRunner) and not first.used:
        return first
    plain = first if dtype is None else _recorded(_forward(function, own, known), images, None)
    if isinstance(plain, CaptureError):
        raise plain
    leaves, used = [*_leaves(known)], [*plain.used.values()]
    holding = [leaf.holder for leaf in leaves if leaf.holder is known[0] or _is_among(leaf.array, used)]
    every = [leaf for leaf in leaves if any(_goes_with(leaf.holder, holder) for holder in holding)]
    whole = _recorded(_forward(function, every, known), images, dtype) if len(every) > len(own) else first
    return next(runner for runner in (whole, first, plain) if isinstance(runner, JaxRunner))


def _recorded(forward: Forward, images: np.ndarray, dtype: str | None) -> JaxRunner | CaptureError:
    runner = JaxRunner(forward, dtype)
    try:
        program = runner.look(images)
    except CaptureError as error:
        return error
    if not runner.parameters:
        return CaptureError("it uses no arrays of floating point")
    if not program.follows():
        return CaptureError("what it gives does not come from the images by operations of JAX")
    return runner


# The arrays that a function uses


@dataclass(frozen=True)
class _Leaf:
    """An array of floating point in what a holder holds: its number among the leaves there, its name and its place."""

    holder: Holder
    number: int
    array: Any
    name: str
    place: tuple[int, ...]


def _is_nnx(holder: Holder) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(holder.value, nnx.Module)


def _uncompiled(value: Any) -> Any:
    while isinstance(value, jax.stages.Wrapped):
        value = value.__wrapped__  # type: ignore[attr-defined]
    return value


def _parts(value: Any) -> tuple[list[tuple[Any, Any]], Callable[[Sequence[Any]], Any]]:
    """The leaves of a pytree or of a partial's arguments, each with its path, and the way to put others in their places."""
    value = _uncompiled(value)
    bound = isinstance(value, functools.partial)
    leaves, shape = jax.tree.flatten_with_path((value.args, value.keywords) if bound else value)

    def rebuilt(given: Sequence[Any]) -> Any:
        whole = jax.tree.unflatten(shape, given)
        return functools.partial(value.func, *whole[0], **whole[1]) if bound else whole

    return leaves, rebuilt


def _leaves(known: Iterable[Holder]) -> Iterator[_Leaf]:
    """The arrays in what a function uses, in their order there; one that is in several places has one name."""
    found: list[_Leaf] = []
    for holder in known:
        if holder.put is None and holder.name:
            continue
        value = _uncompiled(holder.value)
        bound = isinstance(value, functools.partial)
        try:
            leaves, _ = _parts(value)
        except Exception:  # its own way to be flattened
            continue
        tree = (value.args, value.keywords) if bound else value
        here = [
            _Leaf(holder, i, x, _name(path[2:] if bound else path, path) or holder.name, _place(tree, path))
            for i, (path, x) in enumerate(leaves)
            if _is_floating(x)
        ]
        found += sorted(here, key=lambda leaf: leaf.place)
    first = {id(leaf.array): leaf for leaf in reversed(found)}
    ways: list[Callable[[_Leaf], str]] = [
        lambda leaf: canonical(leaf.name.split(".")),
        lambda leaf: leaf.name,
        lambda leaf: f"{leaf.holder.name}.{leaf.name}",
        lambda leaf: f"{leaf.holder.name}.{leaf.name}.{leaf.number}",
    ]
    called = next(way for way in ways if len({way(leaf) for leaf in first.values()}) == len(first) or way is ways[-1])
    for leaf in found:
        yield replace(leaf, name=called(first[id(leaf.array)]))


def _name(path: Sequence[Any], whole: Sequence[Any]) -> str:
    """A place in a pytree in PyTorch's style: "blocks.0.w"; of a bare argument, its name or number."""
    dotted = jax.tree_util.keystr(tuple(path), simple=True, separator=".").removesuffix(".value")  # that of a variable of nnx
    return dotted or jax.tree_util.keystr(tuple(whole[-1:]), simple=True)


def _place(tree: Any, path: Sequence[Any]) -> tuple[int, ...]:
    """Where a leaf stands. JAX sorts the keys of a dictionary, which was written in an order of its own."""
    places: list[int] = []
    for step in path:
        key = getattr(step, "key", None)
        if not (isinstance(tree, Mapping) and key in tree):
            places.append(getattr(step, "idx", 0))
            if len(places) < len(path):
                tree = tree[step.idx] if isinstance(tree, list | tuple) else getattr(tree, getattr(step, "name", ""), None)
            continue
        places.append([*tree].index(key))
        tree = tree[key]
    return tuple(places)


def _is_floating(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)


def _goes_with(one: Holder, other: Holder) -> bool:
    """Whether what one holds is a candidate's if what the other holds is: they are the same, or attributes of the same object."""
    return one is other or (one.owner is not None and one.owner is other.owner)


def _is_among(x: Any, some: Sequence[Any]) -> bool:
    return any(x is y for y in some) or any(x.shape == y.shape and np.array_equal(x, y, equal_nan=True) for y in some)


# A run with others


def _forward(function: Callable[..., Any], leaves: Sequence[_Leaf], known: Sequence[Holder]) -> Forward:
    """The function of these arrays and of images; other arrays that it uses stay in their places."""
    outside = [leaf for leaf in leaves if leaf.holder is not known[0]]

    def run(state: Mapping[str, Any], x: Any, calls: Calls) -> Any:
        with _in_place(outside, state), jax.disable_jit() if outside else nullcontext():
            whole = _with(known[0].value, [leaf for leaf in leaves if leaf.holder is known[0]], state)
            return whole(x)

    own = {leaf.name: leaf.array for leaf in leaves}
    return Forward("JAX function", own, run, held=lambda: ((leaf.name, leaf.array) for leaf in _leaves(known)))


def _with(value: Any, leaves: Sequence[_Leaf], state: Mapping[str, Any]) -> Any:
    if not leaves:
        return value
    parts, rebuilt = _parts(value)
    given = [x for _, x in parts]
    for leaf in leaves:
        given[leaf.number] = state[leaf.name]
    return rebuilt(given)


@contextmanager
def _in_place(leaves: Sequence[_Leaf], state: Mapping[str, Any]) -> Iterator[None]:
    """While open, the arrays of `state` stand in the places of those that the function uses from outside."""
    with ExitStack() as back:
        for holder in {id(leaf.holder): leaf.holder for leaf in leaves}.values():
            assert holder.put is not None
            back.callback(holder.put, holder.value)
            holder.put(_with(holder.value, [leaf for leaf in leaves if leaf.holder is holder], state))
        yield
