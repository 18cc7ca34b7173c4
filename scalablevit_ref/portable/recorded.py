"""Arrays whose every operator is one of ONNX's: the specification's definitions run on them once, and are then a graph.

Unlike those of `backends.graph`, which write the fewest steps that a runtime is fast at, these write what a definition says.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np

from scalablevit_ref.backends.layouts import same
from scalablevit_ref.backends.nodes import Graph


class Recorded:
    """A value of a graph, with operators and slices; of what has `__array_namespace__` the definitions alone are computed."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.graph.shapes[self.name]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.graph.dtype

    @property
    def device(self) -> None:
        """The same for all: a graph lies nowhere."""
        return

    def __array_namespace__(self) -> Functions:
        return Functions(self.graph)

    def write(self, operator: str, *others: str, shape: Sequence[int], **attributes: Any) -> Recorded:
        """What an operator gives for this value and others."""
        return Recorded(self.graph, self.graph.write(operator, self.name, *others, shape=shape, **attributes))

    def _with(self, operator: str, other: Any, *, swapped: bool = False) -> Recorded:
        number = not isinstance(other, Recorded)
        names = [self.name, self.graph.constant(float(other)) if number else other.name]
        shape = self.shape if number else _broadcast(self.shape, other.shape)
        return Recorded(self.graph, self.graph.write(operator, *(names[::-1] if swapped else names), shape=shape))

    def __abs__(self) -> Recorded:
        return self.write("Abs", shape=self.shape)

    def __add__(self, other: Any) -> Recorded:
        return self._with("Add", other)

    def __radd__(self, other: float) -> Recorded:
        return self._with("Add", other, swapped=True)

    def __sub__(self, other: Any) -> Recorded:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Recorded:
        return self._with("Sub", other, swapped=True)

    def __mul__(self, other: Any) -> Recorded:
        return self._with("Mul", other)

    def __rmul__(self, other: float) -> Recorded:
        return self._with("Mul", other, swapped=True)

    def __truediv__(self, other: Any) -> Recorded:
        return self._with("Div", other)

    def __rtruediv__(self, other: float) -> Recorded:
        return self._with("Div", other, swapped=True)

    def __pow__(self, other: float) -> Recorded:
        return self._with("Pow", other)

    def __matmul__(self, other: Recorded) -> Recorded:
        shape = (*_broadcast(self.shape[:-2], other.shape[:-2]), self.shape[-2], other.shape[-1])
        return self.write("MatMul", other.name, shape=shape)

    def __getitem__(self, key: Any) -> Recorded:
        """Cut along all axes first, then picked from those that an index is given for."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
        found = self._cut({axis: k for axis, k in enumerate(keys) if isinstance(k, slice) and k != slice(None)})
        for axis, k in reversed(list(enumerate(keys))):
            if not isinstance(k, slice):
                shape = (*found.shape[:axis], *found.shape[axis + 1 :])
                found = found.write("Gather", self.graph.constant(k, np.int64), axis=axis, shape=shape)
        return found

    def _cut(self, cuts: dict[int, slice]) -> Recorded:
        if not cuts:
            return self
        shape = list(self.shape)
        bounds = [(cut.start or 0, shape[axis] if cut.stop is None else cut.stop, cut.step or 1) for axis, cut in cuts.items()]
        for axis, (start, stop, step) in zip(cuts, bounds, strict=True):
            shape[axis] = -(-(stop - start) // step)
        starts, stops, steps = (self.graph.integers(part) for part in zip(*bounds, strict=True))
        return self.write("Slice", starts, stops, self.graph.integers(list(cuts)), steps, shape=shape)


class Functions:
    """The standard's functions that the definitions and einops ask for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def exp(self, x: Recorded) -> Recorded:
        return x.write("Exp", shape=x.shape)

    def zeros(self, shape: Sequence[int], *, dtype: Any, device: Any) -> Recorded:
        zero = np.zeros(1, dtype)
        return Recorded(self.graph, self.graph.write("ConstantOfShape", self.graph.integers(shape), value=zero, shape=shape))

    def reshape(self, x: Recorded, shape: Sequence[int]) -> Recorded:
        """One of the sizes may be −1, for what is left of all elements."""
        left = prod(n for n in shape if n != -1)
        sizes = [prod(x.shape) // left if n == -1 else n for n in shape]
        return x.write("Reshape", self.graph.integers(sizes), shape=sizes)

    def permute_dims(self, x: Recorded, axes: Sequence[int]) -> Recorded:
        return x.write("Transpose", perm=tuple(axes), shape=[x.shape[axis] for axis in axes])

    def mean(self, x: Recorded, *, axis: tuple[int, ...]) -> Recorded:
        return self._reduced("ReduceMean", x, axis)

    def max(self, x: Recorded, *, axis: tuple[int, ...]) -> Recorded:
        return self._reduced("ReduceMax", x, axis)

    def sum(self, x: Recorded, *, axis: tuple[int, ...]) -> Recorded:
        return self._reduced("ReduceSum", x, axis)

    def concat(self, arrays: Sequence[Recorded], *, axis: int) -> Recorded:
        first, *others = arrays
        size = sum((x.shape[axis] for x in others), start=first.shape[axis])
        shape = (*first.shape[:axis], size, *first.shape[axis + 1 :])
        return first.write("Concat", *(x.name for x in others), axis=axis, shape=shape)

    def _reduced(self, operator: str, x: Recorded, axes: tuple[int, ...]) -> Recorded:
        shape = [n for axis, n in enumerate(x.shape) if axis not in axes]
        return x.write(operator, self.graph.integers(axes), keepdims=0, shape=shape)


def _broadcast(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """The shape of two arrays together: of two sizes the one that is not 1."""
    pairs = zip_longest(reversed(one), reversed(other), fillvalue=1)
    return tuple(n if same([m], [1]) else m for m, n in pairs)[::-1]
