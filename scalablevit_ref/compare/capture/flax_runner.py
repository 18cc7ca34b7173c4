"""Flax modules as a `Runner`: linen's through `intercept_methods`, nnx's through the `__call__` of its classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx, traverse_util

from scalablevit_ref.compare.capture.jax_forward import Calls, Forward
from scalablevit_ref.compare.capture.jax_graph import JaxRunner, canonical
from scalablevit_ref.compare.capture.own_code import own_code
from scalablevit_ref.errors import CaptureError

ModulePath = tuple[Any, ...]

EVALUATION = {"train": False, "training": False, "is_training": False, "deterministic": True}
"""Arguments by which modules learn that nothing is to be dropped."""


PATH = "_path_in_the_candidate"
"""Attribute of a copy's modules. It stays where a transformation, as nnx.jit, takes a module apart and makes another of it."""


def flax_runner(module: linen.Module | nnx.Module, dtype: str | None = None) -> JaxRunner:
    """A copy of a module, in evaluation mode. Raises CaptureError for one without parameters, or that is not bound to them."""
    with own_code("copying the candidate"):
        forward = linen_forward(module, dtype) if isinstance(module, linen.Module) else nnx_forward(module, dtype)
    if not forward.own:
        raise CaptureError("the candidate holds no parameters: give a function of the images instead")
    unreal = [name for name, value in forward.own.items() if not isinstance(value, jax.Array | np.ndarray)]
    if unreal:
        raise CaptureError(f"the candidate's {unreal[0]} has a shape and no values: initialise it, or load its weights")
    return JaxRunner(forward, dtype)


def linen_forward(module: linen.Module, dtype: str | None) -> Forward:
    if module.scope is None:
        raise CaptureError("the linen module is not bound to its variables: give module.bind(variables)")
    tree: Any = traverse_util  # untyped
    inner, variables = module.unbind()
    flat = tree.flatten_dict(linen.meta.unbox(variables))
    floating = sorted(filter(lambda path: _is_floating(flat[path]), flat), key=lambda path: path[0] != "params")
    names = _canonical_names({path: path[1:] for path in floating})

    paths = {name: _dotted(path[1:]) for path, name in names.items()}
    rngs = {"params": jax.random.key(0)}  # for dropout that is always on, so that it can be told

    def run(state: Mapping[str, Any], x: Any, calls: Calls) -> Any:
        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            _compute_in(context.module, dtype)
            if context.method_name == "__call__" and context.module.path:
                return calls.call(_noted(context.module.path, paths), call, args, kwargs)
            return call(*args, **kwargs)

        variables = tree.unflatten_dict({**flat, **{path: state[name] for path, name in names.items()}})
        with linen.intercept_methods(keep):
            return inner.apply(variables, x, rngs=rngs, **_evaluation(inner))

    return Forward("linen module", {names[path]: flat[path] for path in floating}, run, ("b h w c", "b c h w"), paths)


def nnx_forward(module: nnx.Module, dtype: str | None) -> Forward:
    split: Any = nnx.split(module)
    graph, state = split
    flat = dict(nnx.to_flat_state(state))
    order = {path: (not isinstance(value, nnx.Param), _place(module, path)) for path, value in flat.items()}
    floating = sorted((path for path, value in flat.items() if _is_floating(_array(value))), key=order.__getitem__)
    names = _canonical_names({path: path for path in floating})

    paths = {name: _dotted(path) for path, name in names.items()}

    def run(state: Mapping[str, Any], x: Any, calls: Calls) -> Any:
        new = {path: _copied(value, state[names[path]] if path in names else _array(value)) for path, value in flat.items()}
        copy = nnx.merge(graph, nnx.from_flat_state(new))
        copy.eval()
        parts = list(nnx.iter_modules(copy))
        for path, part in parts:
            _compute_in(part, dtype)
            if path and callable(part):
                setattr(part, PATH, _noted(path, paths))
        with _calls_reported({type(part) for _, part in parts}, calls):
            return copy(x, **_evaluation(copy))

    return Forward("nnx module", {names[path]: _array(flat[path]) for path in floating}, run, ("b c h w", "b h w c"), paths)


@contextmanager
def _calls_reported(classes: set[type], calls: Calls) -> Iterator[None]:
    """While open, each call of an instance that has a path goes through `calls`."""

    def reporting(call: Any) -> Any:
        @wraps(call)
        def reported(self: Any, *args: Any, **kwargs: Any) -> Any:
            if PATH not in vars(self):
                return call(self, *args, **kwargs)
            return calls.call(vars(self)[PATH], lambda *given, **settings: call(self, *given, **settings), args, kwargs)

        return reported

    defining = {c: vars(c)["__call__"] for kind in classes for c in kind.__mro__ if "__call__" in vars(c)}
    try:
        for c, call in defining.items():
            c.__call__ = reporting(call)  # type: ignore[method-assign]
        yield
    finally:
        for c, call in defining.items():
            c.__call__ = call  # type: ignore[method-assign]


def _noted(path: ModulePath, paths: dict[str, str]) -> str:
    """The canonical name of a module, for which `paths` learns its own."""
    name = canonical(path)
    paths[name] = _dotted(path)
    return name


def _dotted(path: ModulePath) -> str:
    return ".".join(map(str, path))


def _canonical_names(paths: Mapping[ModulePath, ModulePath]) -> dict[ModulePath, str]:
    """A name for each path; those that would have the same keep their own."""
    names = {path: canonical(local) for path, local in paths.items()}
    several = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {path: _dotted(path) if name in several else name for path, name in names.items()}


def _place(module: Any, path: ModulePath) -> tuple[int, ...]:
    """Where a path is declared: the place of each of its steps among the attributes there."""
    places = []
    for step in path:
        names = list(getattr(module, "__dict__", ()))
        places.append(names.index(str(step)) if str(step) in names else step if isinstance(step, int) else len(names))
        try:
            module = module[step] if isinstance(step, int) else getattr(module, step)
        except (AttributeError, LookupError, TypeError):
            break
    return tuple(places)


def _array(value: Any) -> Any:
    return value.get_value() if isinstance(value, nnx.Variable) else value


def _copied(value: Any, new: Any) -> Any:
    return value.copy(new) if isinstance(value, nnx.Variable) else new


def _is_floating(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def _compute_in(module: Any, dtype: str | None) -> None:
    """Let a copy's module that has a dtype compute in this one."""
    if dtype is not None and getattr(module, "dtype", None) is not None:
        object.__setattr__(module, "dtype", jnp.dtype(dtype))


def _evaluation(module: Any) -> dict[str, Any]:
    return {name: EVALUATION[name] for name in inspect.signature(type(module).__call__).parameters if name in EVALUATION}
