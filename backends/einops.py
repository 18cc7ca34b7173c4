"""einops' functions for every array that the ops take.

einops knows some libraries. It takes the arrays of all others by its module `array_api`, with functions of the array API standard:
the backend of such a library says by `namespace(x)` where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import einops
from einops import array_api
from scalablevit_ref.backends.dispatch import backend


def rearrange(x: Any, pattern: str, **lengths: int) -> Any:
    """`einops.rearrange`: axes moved, merged and split as the pattern says; of a list, the first axis is that of the list."""
    first = x[0] if isinstance(x, list) else x
    namespace = _namespace(first)
    if namespace is None:
        return einops.rearrange(x, pattern, **lengths)
    lent: Any = [Lent(one, namespace(one)) for one in x] if isinstance(x, list) else Lent(x, namespace(x))
    return array_api.rearrange(lent, pattern, **lengths).held


def reduce(x: Any, pattern: str, reduction: str, **lengths: int) -> Any:
    """`einops.reduce`: the "mean", "max" or "sum" over the axes that the pattern drops."""
    namespace = _namespace(x)
    if namespace is None:
        return einops.reduce(x, pattern, reduction, **lengths)
    return array_api.reduce(Lent(x, namespace(x)), pattern, reduction, **lengths).held


def pack(arrays: Sequence[Any], pattern: str) -> tuple[Any, Any]:
    """`einops.pack`: arrays one after the other along the axis `*`, and the sizes that they had there."""
    namespace = _namespace(arrays[0])
    if namespace is None:
        return einops.pack(arrays, pattern)
    packed, sizes = array_api.pack([Lent(x, namespace(x)) for x in arrays], pattern)
    return packed.held, sizes


def _namespace(x: Any) -> Callable[[Any], Any] | None:
    return getattr(backend(x), "namespace", None)


class Lent:
    """An array as `einops.array_api` takes it, whatever its type is; it is its own namespace.

    Parameters
    ----------
    held
        The array, with a shape.
    functions
        What has the standard's `reshape` and `permute_dims`, and of `mean`, `max`, `sum`, `concat` and `stack` what is asked for.
    """

    def __init__(self, held: Any, functions: Any) -> None:
        self.held, self.functions = held, functions
        self.shape = held.shape
        self.ndim = len(self.shape)

    def __array_namespace__(self) -> Lent:
        return self

    def reshape(self, x: Lent, shape: Sequence[int]) -> Lent:
        return self._lent(self.functions.reshape(x.held, tuple(shape)))  # a tuple, as the standard has it

    def permute_dims(self, x: Lent, axes: Sequence[int]) -> Lent:
        return self._lent(self.functions.permute_dims(x.held, tuple(axes)))

    def mean(self, x: Lent, *, axis: tuple[int, ...]) -> Lent:
        return self._lent(self.functions.mean(x.held, axis=axis))

    def max(self, x: Lent, *, axis: tuple[int, ...]) -> Lent:
        return self._lent(self.functions.max(x.held, axis=axis))

    def sum(self, x: Lent, *, axis: tuple[int, ...]) -> Lent:
        return self._lent(self.functions.sum(x.held, axis=axis))

    def concat(self, arrays: Sequence[Lent], *, axis: int) -> Lent:
        return self._lent(self.functions.concat([x.held for x in arrays], axis=axis))

    def stack(self, arrays: Sequence[Lent]) -> Lent:
        return self._lent(self.functions.stack([x.held for x in arrays]))

    def _lent(self, held: Any) -> Lent:
        return Lent(held, self.functions)
