"""A candidate that JAX can trace, as a function of its parameters and images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp

from scalablevit_ref.compare.capture.jax_program import IN_MODULE, ends_of_module

IMAGE_LAYOUTS = {"b c h w": (0, 1, 2, 3), "b h w c": (0, 2, 3, 1)}
"""How a candidate may take its images, and the axes of b c h w in that order."""


class Calls:
    """The calls of modules in one tracing: each runs in a scope of its name, and what it is given and returns is marked.

    Attributes
    ----------
    ended
        How many have ended.
    """

    def __init__(self) -> None:
        self.ended = 0

    def call(self, path: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = [x for x in jax.tree.leaves((args, dict(kwargs))) if _is_plain(x)]
        with jax.named_scope(f"{IN_MODULE}{path}"):
            out = function(*args, **kwargs)
        leaves, shape = jax.tree.flatten(out, is_leaf=lambda x: not _is_opened(x))
        places = [i for i, x in enumerate(leaves) if _is_plain(x)]
        for i, x in zip(places, ends_of_module(path, given, [leaves[i] for i in places]), strict=True):
            leaves[i] = x
        self.ended += 1
        return jax.tree.unflatten(shape, leaves)


def _is_plain(x: Any) -> bool:
    """Whether it is an array of numbers, and not of keys."""
    return isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)


def _is_opened(x: Any) -> bool:
    """Whether a module's arrays may be taken out of it and put back; modules and their variables are what they are."""
    return isinstance(x, tuple | list | Mapping) or (is_dataclass(x) and not callable(x))


@dataclass(frozen=True)
class Forward:
    """A candidate as a function of its parameters and images.

    Attributes
    ----------
    kind
        "nnx module" and so on.
    own
        Its parameters, then its buffers of floating point, by their canonical names.
    run
        A forward pass with such parameters, which leaves the candidate as it is. What modules do goes through `Calls`.
    layouts
        Of its images, the likelier first.
    paths
        The candidate's own names of its parameters and modules, by the canonical ones.
    held
        Gives arrays that a function holds, and what they are called there. They become parameters where the function uses them.
    """

    kind: str
    own: Mapping[str, Any]
    run: Callable[[Mapping[str, Any], Any, Calls], Any]
    layouts: tuple[str, ...] = tuple(IMAGE_LAYOUTS)
    paths: Mapping[str, str] = field(default_factory=dict)
    held: Callable[[], Iterable[tuple[str, Any]]] | None = None
