"""Flax modules of both kinds as one: parameters, submodules, and a forward pass that tells what each of these gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jax.numpy as jnp
from flax import linen, nnx, traverse_util

from scalablevit_ref.compare.capture.captured import CaptureError

Path = tuple[Any, ...]
Ended = Callable[[Path, Any], None]
"""Is told each submodule's path and output as it ends."""

EVALUATION = {"train": False, "training": False, "is_training": False, "deterministic": True}
"""Arguments by which modules are told that nothing is to be dropped."""


@dataclass(frozen=True)
class FlaxModel:
    """kind: "linen module" or "nnx module". state: parameters by path. paths: of the submodules that hold some.

    run: a forward pass with such parameters, which leaves the module as it is. layouts: of its images, the likelier first.
    """

    kind: str
    state: Mapping[Path, Any]
    paths: frozenset[Path]
    run: Callable[[Mapping[Path, Any], Any, Ended], Any]
    layouts: tuple[str, ...]


def linen_model(module: linen.Module, dtype: str | None) -> FlaxModel:
    if module.scope is None:
        raise CaptureError("the linen module is not bound to its variables: give module.bind(variables)")
    tree: Any = traverse_util  # untyped
    inner, variables = module.unbind()
    flat = tree.flatten_dict(linen.meta.unbox(variables))
    params = {path[1:]: value for path, value in flat.items() if path[0] == "params"}
    others = {path: value for path, value in flat.items() if path[0] != "params"}

    def run(state: Mapping[Path, Any], x: Any, ended: Ended) -> Any:
        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            _compute_in(context.module, dtype)
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path:
                ended(context.module.path, out)
            return out

        own = tree.unflatten_dict({**others, **{("params", *path): value for path, value in state.items()}})
        with linen.intercept_methods(keep):
            return inner.apply(own, x, **_evaluation(inner))

    return FlaxModel("linen module", params, frozenset(_owners(params)), run, ("b h w c", "b c h w"))


def nnx_model(module: nnx.Module, dtype: str | None) -> FlaxModel:
    split: Any = nnx.split(module, nnx.Param, ...)
    graph, params, others = split
    flat = dict(nnx.to_flat_state(params))

    def run(state: Mapping[Path, Any], x: Any, ended: Ended) -> Any:
        new = nnx.from_flat_state({path: flat[path].copy(value) for path, value in state.items()})
        copy = nnx.merge(graph, new, others)
        copy.eval()
        paths = {}
        for path, part in nnx.iter_modules(copy):
            _compute_in(part, dtype)
            if path:
                paths[id(part)] = path
        with _told_calls({type(part) for _, part in nnx.iter_modules(copy)}, paths, ended):
            return copy(x, **_evaluation(copy))

    return FlaxModel(
        "nnx module", {path: p[...] for path, p in flat.items()}, frozenset(_owners(flat)), run, ("b c h w", "b h w c")
    )


@contextmanager
def _told_calls(classes: set[type], paths: Mapping[int, Path], ended: Ended) -> Iterator[None]:
    """While open, each call of an instance in `paths`, by id, is told when it ends."""

    def telling(call: Any) -> Any:
        @wraps(call)
        def told(self: Any, *args: Any, **kwargs: Any) -> Any:
            out = call(self, *args, **kwargs)
            if id(self) in paths:
                ended(paths[id(self)], out)
            return out

        return told

    defining = {c: vars(c)["__call__"] for kind in classes for c in kind.__mro__ if "__call__" in vars(c)}
    try:
        for c, call in defining.items():
            c.__call__ = telling(call)  # type: ignore[method-assign]
        yield
    finally:
        for c, call in defining.items():
            c.__call__ = call  # type: ignore[method-assign]


def _compute_in(module: Any, dtype: str | None) -> None:
    """A module that is told what to compute in: in this. It is a copy's."""
    if dtype is not None and getattr(module, "dtype", None) is not None:
        object.__setattr__(module, "dtype", jnp.dtype(dtype))


def _evaluation(module: Any) -> dict[str, Any]:
    return {name: EVALUATION[name] for name in inspect.signature(type(module).__call__).parameters if name in EVALUATION}


def _owners(paths: Iterable[Path]) -> set[Path]:
    """The modules that hold these parameters, and those that hold them."""
    return {path[:end] for path in paths for end in range(1, len(path))}
