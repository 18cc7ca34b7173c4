"""Arrays whose numbers are known when a graph runs: values of the graph, each seen in another order than the one in memory.

That axes are moved, merged or split is written down where an operator needs another order, and then in one transposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, groupby
from math import prod
from typing import Any, Protocol

import numpy as np
from scalablevit_ref.backends.layouts import Layout, Place, moved_runs, same, segments, tokens
from scalablevit_ref.backends.nodes import Graph
from scalablevit_ref.backends.symbolic import Size


class Pending(Protocol):
    """A value that is written down when it is first used."""

    @property
    def name(self) -> str:
        """Of the value, which is written by now."""

    def piece(self, pieces: int, index: int) -> Pending:
        """One of so many equal parts of its last axis in memory."""


class Array:
    """A value of a graph, seen in another order than the one in which it lies in memory.

    Parameters
    ----------
    graph
        The graph that is written.
    value
        Its name, or what is to be written when it is used.
    memory
        Of each axis in memory the sizes that its own is the product of, the outermost first.
    axes
        Of each axis the factors in memory that it is merged of; one of size 1 may have none.
    """

    def __init__(
        self, graph: Graph, value: str | Pending, memory: tuple[tuple[int, ...], ...], axes: tuple[tuple[Place, ...], ...]
    ) -> None:
        self.graph, self.value, self.memory, self.axes = graph, value, memory, axes
        self.laid: dict[Layout, Array] = {}

    @property
    def name(self) -> str:
        """Of the value, which is written by now."""
        return self.value if isinstance(self.value, str) else self.value.name

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.graph.dtype

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._size(places) for places in self.axes)

    @cached_property
    def layout(self) -> Layout | None:
        """How it lies in memory, where each axis there is made of whole axes."""
        owner = {place: axis for axis, places in enumerate(self.axes) for place in places}
        runs = [[owner[i, j] for j in range(len(sizes))] for i, sizes in enumerate(self.memory)]
        layout = tuple(tuple(axis for axis, _ in groupby(run)) for run in runs)
        whole = [place for run in layout for axis in run for place in self.axes[axis]]
        return layout if whole == [(i, j) for i, sizes in enumerate(self.memory) for j in range(len(sizes))] else None

    def named(self, name: str) -> Array:
        """Another value that lies in the same order."""
        self.graph.shapes.setdefault(name, self.graph.shapes[self.name])
        return Array(self.graph, name, self.memory, self.axes)

    def lay(self, layout: Layout) -> Array:
        """The same array in this layout."""
        if layout == self.layout:
            return self
        if layout not in self.laid:
            self.laid[layout] = self._laid(layout)
        return self.laid[layout]

    def _laid(self, layout: Layout) -> Array:
        old = [[(i, j) for j in range(len(sizes))] for i, sizes in enumerate(self.memory)]
        new = [[place for axis in run for place in self.axes[axis]] for run in layout]
        name, shape = self.name, [prod(sizes) for sizes in self.memory]
        if list(chain(*old)) != list(chain(*new)):
            moved = moved_runs(old, new)
            name = self._reshape(name, shape, [self._size(run) for run in moved])
            after = list(chain(*new))
            order = sorted(range(len(moved)), key=lambda k: after.index(moved[k][0]))
            shape = [self._size(moved[k]) for k in order]
            name = self.graph.write("Transpose", name, perm=tuple(order), shape=shape)
        name = self._reshape(name, shape, [self._size(run) for run in new])
        at = {place: (i, j) for i, run in enumerate(new) for j, place in enumerate(run)}
        memory = tuple(tuple(self.memory[i][j] for i, j in run) for run in new)
        return Array(self.graph, name, memory, tuple(tuple(at[place] for place in axis) for axis in self.axes))

    def _size(self, places: Sequence[Place]) -> int:
        return prod(self.memory[i][j] for i, j in places)

    def _reshape(self, name: str, before: Sequence[int], after: Sequence[int]) -> str:
        """Unknown sizes are copied or inferred by the operator, or all computed: one of two, inferred, would fit any other."""
        if same(before, after):
            return name
        sizes = [0 if isinstance(n, Size) and i < len(before) and same([n], [before[i]]) else n for i, n in enumerate(after)]
        unknown = [i for i, n in enumerate(sizes) if isinstance(n, Size)]
        if len(unknown) == 1:
            sizes[unknown[0]] = -1
        return self.graph.write("Reshape", name, self.graph.integers(sizes), shape=after)

    def plain(self) -> Array:
        """With its own axes in memory."""
        return self.lay(tuple((i,) for i in range(len(self.shape))))

    def last(self) -> Array:
        """With its last axis as the last one in memory, and the others in their order."""
        n = len(self.shape) - 1
        if self.layout and self.layout[-1] == (n,) and [axis for run in self.layout for axis in run] == list(range(n + 1)):
            return self
        return self.lay(tokens(n + 1))

    def reshaped(self, shape: Sequence[int]) -> Array:
        """A view, where each new axis is one factor or some whole ones, or one factor becomes some of the new axes."""
        places = list(chain(*self.axes))
        runs = list(segments([self._size([place]) for place in places], shape))
        if any(len(taken) > 1 and len(made) > 1 for taken, made in runs):
            lying = self.plain()
            return array(self.graph, self._reshape(lying.name, lying.shape, shape), shape)
        cut = {places[taken[0]]: [shape[t] for t in made] for taken, made in runs if len(made) > 1}
        parts = [[cut.get((i, j), [size]) for j, size in enumerate(sizes)] for i, sizes in enumerate(self.memory)]
        first = {(i, j): sum(map(len, parts[i][:j])) for i, j in places}
        axes: list[tuple[Place, ...]] = [()] * len(shape)
        for taken, made in runs:
            found = [(places[f][0], first[places[f]]) for f in taken]
            if len(made) == 1:
                axes[made[0]] = tuple(found)
            else:
                for k, t in enumerate(made):
                    axes[t] = ((found[0][0], found[0][1] + k),)
        return Array(self.graph, self.value, tuple(tuple(chain(*pieces)) for pieces in parts), tuple(axes))

    def transposed(self, axes: Sequence[int]) -> Array:
        return Array(self.graph, self.value, self.memory, tuple(self.axes[axis] for axis in axes))

    def __getitem__(self, key: Any) -> Array:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
        found = self
        for axis, cut in reversed(list(enumerate(keys))):
            found = found._cut(axis, cut) if isinstance(cut, slice) else found._picked(axis, cut)
        return found

    def _picked(self, axis: int, index: int) -> Array:
        """One of an axis that is the outer part of an axis in memory, which is split there into as many pieces."""
        if not self.axes[axis]:
            return Array(self.graph, self.value, self.memory, (*self.axes[:axis], *self.axes[axis + 1 :]))
        if [j for _, j in self.axes[axis]] != [0]:
            return self.plain()._picked(axis, index)
        i = self.axes[axis][0][0]
        memory = (*self.memory[:i], self.memory[i][1:], *self.memory[i + 1 :])
        pieces, value = self.shape[axis], self.value
        if not isinstance(value, str) and i == len(self.memory) - 1:
            picked: str | Pending = value.piece(pieces, index)
        else:
            picked = self.graph.split(self.name, i, pieces, [prod(sizes) for sizes in memory])[index]
        axes = [tuple((k, j - (k == i)) for k, j in places) for a, places in enumerate(self.axes) if a != axis]
        return Array(self.graph, picked, memory, tuple(axes))

    def _cut(self, axis: int, cut: slice) -> Array:
        """From its start to its stop; the whole of the axis is the array itself."""
        start, stop = cut.start or 0, self.shape[axis] if cut.stop is None else cut.stop
        if cut.step not in (None, 1) or start < 0 or stop < 0:
            raise NotImplementedError(f"a graph cuts from front to back in steps of 1, not by {cut}")
        if start == 0 and same([stop], [self.shape[axis]]):
            return self
        x = self.plain()
        shape = [*self.shape[:axis], stop - start, *self.shape[axis + 1 :]]
        bounds = [self.graph.integers([n]) for n in (start, stop, axis)]
        return array(self.graph, self.graph.write("Slice", x.name, *bounds, shape=shape), shape)

    def unary(self, operator: str, **attributes: Any) -> Array:
        """An operator on each number by itself, which leaves the order as it is."""
        return self.named(self.graph.write(operator, self.name, shape=self.graph.shapes[self.name], **attributes))

    def _with(self, operator: str, other: Any, *, swapped: bool = False) -> Array:
        if isinstance(other, Array):
            if not same(self.shape, other.shape):
                raise NotImplementedError(f"a graph has no broadcasting: arrays of {self.shape} and {other.shape}")
            left, right = alike(self, other)
            names = (left.name, right.name)
        else:
            left, names = self, (self.name, self.graph.constant(float(other)))
        return left.named(self.graph.write(operator, *names[:: -1 if swapped else 1], shape=self.graph.shapes[left.name]))

    def __abs__(self) -> Array:
        return self.unary("Abs")

    def __add__(self, other: Any) -> Array:
        return self._with("Add", other)

    def __radd__(self, other: Any) -> Array:
        return self._with("Add", other, swapped=True)

    def __sub__(self, other: Any) -> Array:
        return self._with("Sub", other)

    def __mul__(self, other: Any) -> Array:
        return self._with("Mul", other)

    def __truediv__(self, other: Any) -> Array:
        return self._with("Div", other)

    __rmul__ = __mul__


def array(graph: Graph, name: str, shape: Sequence[int]) -> Array:
    """A value of the graph as it lies in memory."""
    graph.shapes.setdefault(name, tuple(shape))
    one = [same([n], [1]) for n in shape]
    memory = tuple(() if alone else (n,) for n, alone in zip(shape, one, strict=True))
    return Array(graph, name, memory, tuple(() if alone else ((i, 0),) for i, alone in enumerate(one)))


def alike(x: Array, y: Array) -> tuple[Array, Array]:
    """Both in one order."""
    if x.layout == y.layout is not None:
        return x, y
    return x.lay(tokens(len(x.shape))), y.lay(tokens(len(y.shape)))
