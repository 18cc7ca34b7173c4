"""Arrays that write down ONNX's operators in place of computing: the network runs on them once, and is then a graph.

An op writes the operator that says the same. That axes are moved, merged or split is written down only where an operator needs
another order than the one in memory, and then in one transposition. Nothing here needs a library, or knows a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from math import pi, prod
from typing import Any, TypeAlias

import numpy as np
from einops._backends import AbstractBackend
from scalablevit_ref.backends.symbolic import Parts, Size, parts_of

NAME = "graph"

Layout: TypeAlias = tuple[tuple[int, ...], ...]
"""The axes in memory, each a run of an array's axes by their numbers: a map b h w c that lies as b (h w) c is ((0,), (1, 2), (3,))."""

CHANNELS_FIRST: Layout = ((0,), (3,), (1,), (2,))
"""How a convolution takes a map b h w c."""


@dataclass(frozen=True)
class Node:
    """An operator, and the names of the values that it takes and gives."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """What the ops have written down so far.

    Parameters
    ----------
    dtype
        Of all arrays.
    opset
        Version of ONNX's operators, at least 18.

    Attributes
    ----------
    nodes
        In an order in which they can run.
    shapes
        Of the values that are arrays, by name.
    """

    def __init__(self, dtype: Any, *, opset: int) -> None:
        self.dtype, self.opset = np.dtype(dtype), opset
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._written: dict[Any, tuple[str, ...]] = {}
        self._axes: dict[str, tuple[str, int]] = {}
        self._divisible: set[tuple[Parts, int]] = set()

    def unknown(self, name: str, value: str, axis: int, example: int) -> Size:
        """The size of an axis of a value, which is known when the graph runs; until then it counts as the example's."""
        self._axes[name] = value, axis
        return Size(example, (1, ((name,),)), self._divisible)

    def array(self, name: str, shape: Sequence[int]) -> Array:
        """An input or a parameter, or a value that was written."""
        self.shapes.setdefault(name, tuple(shape))
        one = [_same([n], [1]) for n in shape]
        memory = tuple(() if alone else (n,) for n, alone in zip(shape, one, strict=True))
        return Array(self, name, memory, tuple(() if alone else ((i, 0),) for i, alone in enumerate(one)))

    def output(self, name: str, x: Array) -> None:
        """Give this name to an array, with its own axes in memory."""
        self.nodes.append(Node("Identity", (x.plain().name,), (name,)))
        self.shapes[name] = x.shape

    def write(self, operator: str, *inputs: str, shape: Sequence[int] = (), **attributes: Any) -> str:
        """The name of what a node gives, an array of this shape; what is written already is not written again."""
        name = self._node(operator, inputs, 1, attributes)[0]
        self.shapes.setdefault(name, tuple(shape))
        return name

    def split(self, value: str, axis: int, pieces: int, shape: Sequence[int]) -> tuple[str, ...]:
        """Equal pieces along an axis, each of this shape."""
        names = self._node("Split", (value,), pieces, {"axis": axis, "num_outputs": pieces})
        self.shapes |= dict.fromkeys(names, tuple(shape))
        return names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Numbers that are known now, of the graph's dtype if no other is given."""
        return self._node("Constant", (), 1, {"value": np.asarray(value, dtype=dtype or self.dtype)})[0]

    def integers(self, sizes: Sequence[int]) -> str:
        """Whole numbers as a vector, computed at the run where they are unknown now."""
        known = [(isinstance(n, Size), n) for n in sizes]
        parts: list[str] = []
        for unknown, run in groupby(known, key=lambda pair: pair[0]):
            numbers = [n for _, n in run]
            parts += [self._computed(parts_of(n)) for n in numbers] if unknown else [self.constant(numbers, np.int64)]
        return parts[0] if len(parts) == 1 else self._node("Concat", parts, 1, {"axis": 0})[0]

    def _computed(self, parts: Parts) -> str:
        """A size as a vector of one number."""
        times, factors = parts
        numbers = [self.constant([times], np.int64)] * (times != 1 or not factors)
        for left, *others in factors:
            if not others:
                value, axis = self._axes[left]
                numbers.append(self._node("Shape", (value,), 1, {"start": axis, "end": axis + 1})[0])
            elif others[0] == "+":
                numbers.append(self._node("Add", (self._computed(left), self._computed(others[1])), 1, {})[0])
            else:
                whole, by = self._computed(left), self.constant([others[1]], np.int64)
                found = self._node("Mod", (whole, by), 1, {})[0]  # not negative, as Python's
                if others[0] == "//":  # Div rounds to zero
                    found = self._node("Div", (self._node("Sub", (whole, found), 1, {})[0], by), 1, {})[0]
                numbers.append(found)
        found, *others = numbers
        for other in others:
            found = self._node("Mul", (found, other), 1, {})[0]
        return found

    def _node(self, operator: str, inputs: Sequence[str], outputs: int, attributes: dict[str, Any]) -> tuple[str, ...]:
        stated = tuple((name, value.tobytes() + repr(value).encode()) if isinstance(value, np.ndarray) else (name, value) for name, value in attributes.items())
        key = operator, tuple(inputs), stated
        if key not in self._written:
            name = f"{operator}_{len(self.nodes)}"
            self._written[key] = tuple(f"{name}_{i}" if i else name for i in range(outputs))
            self.nodes.append(Node(operator, tuple(inputs), self._written[key], attributes))
        return self._written[key]


Place: TypeAlias = tuple[int, int]
"""A factor of an axis in memory: the number of the axis, and of its factor from the outermost."""


class Array:
    """A value of a graph, seen in another order than the one in which it lies in memory.

    Parameters
    ----------
    graph
        The graph that is written.
    name
        Of the value.
    memory
        Of each axis in memory the sizes that its own is the product of, the outermost first.
    axes
        Of each axis the factors in memory that it is merged of; one of size 1 may have none.
    """

    def __init__(self, graph: Graph, name: str, memory: tuple[tuple[int, ...], ...], axes: tuple[tuple[Place, ...], ...]) -> None:
        self.graph, self.name, self.memory, self.axes = graph, name, memory, axes
        self.laid: dict[Layout, Array] = {}

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.graph.dtype

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(self.memory[i][j] for i, j in places) for places in self.axes)

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
        places = [[place for axis in run for place in self.axes[axis]] for run in layout]
        before = [(i, j) for i, sizes in enumerate(self.memory) for j in range(len(sizes))]
        after = [place for run in places for place in run]
        name, shape = self.name, [prod(sizes) for sizes in self.memory]
        if before != after:
            following = dict(zip(after, after[1:], strict=False))
            runs: list[list[Place]] = []  # what stays together, in the order of before
            for last, place in zip([None, *before], before, strict=False):
                if last is not None and following.get(last) == place:
                    runs[-1].append(place)
                else:
                    runs.append([place])
            together = [prod(self.memory[i][j] for i, j in run) for run in runs]
            order = sorted(range(len(runs)), key=lambda k: after.index(runs[k][0]))
            name = self._reshape(name, shape, together)
            shape = [together[k] for k in order]
            name = self.graph.write("Transpose", name, perm=tuple(order), shape=shape)
        memory = tuple(tuple(self.memory[i][j] for i, j in run) for run in places)
        name = self._reshape(name, shape, [prod(sizes) for sizes in memory])
        at = {place: (i, j) for i, run in enumerate(places) for j, place in enumerate(run)}
        return Array(self.graph, name, memory, tuple(tuple(at[place] for place in axis) for axis in self.axes))

    def _reshape(self, name: str, before: Sequence[int], after: Sequence[int]) -> str:
        """Sizes that are unknown are copied or inferred by the operator as far as it can, and computed where it cannot."""
        if _same(before, after):
            return name
        sizes = [0 if isinstance(n, Size) and i < len(before) and _same([n], [before[i]]) else n for i, n in enumerate(after)]
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
        return self.lay(_tokens(n + 1))

    def reshaped(self, shape: Sequence[int]) -> Array:
        """A view, where each new axis is one factor or some whole ones, or one factor becomes some of the new axes."""
        factors = [(place, self.memory[place[0]][place[1]]) for places in self.axes for place in places]
        runs = list(_segments([size for _, size in factors], shape))
        if any(len(taken) > 1 and len(made) > 1 for taken, made in runs):
            lying = self.plain()
            return self.graph.array(self._reshape(lying.name, lying.shape, shape), shape)
        pieces = {factors[taken[0]][0]: [shape[t] for t in made] for taken, made in runs if len(made) > 1}
        memory = tuple(tuple(n for j, size in enumerate(sizes) for n in pieces.get((i, j), [size])) for i, sizes in enumerate(self.memory))
        moved = {place: (place[0], sum(len(pieces.get((place[0], j), [0])) for j in range(place[1]))) for place, _ in factors}
        axes: list[tuple[Place, ...]] = [()] * len(shape)
        for taken, made in runs:
            places = [moved[factors[f][0]] for f in taken]
            if len(made) == 1:
                axes[made[0]] = tuple(places)
            else:
                axes = [((places[0][0], places[0][1] + made.index(t)),) if t in made else axis for t, axis in enumerate(axes)]
        return Array(self.graph, self.name, memory, tuple(axes))

    def transposed(self, axes: Sequence[int]) -> Array:
        return Array(self.graph, self.name, self.memory, tuple(self.axes[axis] for axis in axes))

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
        if [j for _, j in self.axes[axis]] != [0] or isinstance(self.shape[axis], Size):
            return self.plain()._picked(axis, index)
        i = self.axes[axis][0][0]
        memory = (*self.memory[:i], self.memory[i][1:], *self.memory[i + 1 :])
        shape = [prod(sizes) for sizes in memory]
        name = self.graph.split(self.name, i, self.shape[axis], shape)[index]
        axes = [tuple((k, j - (k == i)) for k, j in places) for a, places in enumerate(self.axes) if a != axis]
        return Array(self.graph, name, memory, tuple(axes))

    def _cut(self, axis: int, cut: slice) -> Array:
        """From its start to its stop; the whole of the axis is the array itself."""
        start, stop = cut.start or 0, self.shape[axis] if cut.stop is None else cut.stop
        if cut.step not in (None, 1) or start < 0 or stop < 0:
            raise NotImplementedError(f"a graph cuts from front to back in steps of 1, not by {cut}")
        if start == 0 and _same([stop], [self.shape[axis]]):
            return self
        x = self.plain()
        shape = [*self.shape[:axis], stop - start, *self.shape[axis + 1 :]]
        bounds = [self.graph.integers([n]) for n in (start, stop, axis)]
        return self.graph.array(self.graph.write("Slice", x.name, *bounds, shape=shape), shape)

    def unary(self, operator: str, **attributes: Any) -> Array:
        """An operator on each number by itself, which leaves the order as it is."""
        return self.named(self.graph.write(operator, self.name, shape=self.graph.shapes[self.name], **attributes))

    def _with(self, operator: str, other: Any, *, swapped: bool = False) -> Array:
        if isinstance(other, Array):
            if not _same(self.shape, other.shape):
                raise NotImplementedError(f"a graph has no broadcasting: arrays of {self.shape} and {other.shape}")
            left, right = _alike(self, other)
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


def _tokens(axes: int) -> Layout:
    """How an array lies where nothing asks for another order: a map as b (h w) c, any other as it is."""
    return ((0,), (1, 2), (3,)) if axes == 4 else tuple((i,) for i in range(axes))


def _alike(x: Array, y: Array) -> tuple[Array, Array]:
    """Both in one order: in one that both have had, or as tokens."""
    if x.layout != y.layout or x.layout is None:
        for one, other in ((x, y), (y, x)):
            if one.layout is not None and one.layout in other.laid:
                return x.lay(one.layout), y.lay(one.layout)
        return x.lay(_tokens(len(x.shape))), y.lay(_tokens(len(y.shape)))
    return x, y


def _same(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether these sizes are equal at every run."""
    return [parts_of(n) for n in some] == [parts_of(n) for n in others]


def _segments(factors: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Shortest runs of factors and of sizes, by their numbers, whose products are the same; of no factors for a size of 1."""
    taken: list[int] = []
    made: list[int] = []
    f = t = 0
    while f < len(factors) or t < len(shape):
        have, want = (prod(side[k] for k in run) for side, run in ((factors, taken), (shape, made)))
        if not made and not taken and t < len(shape) and _same([shape[t]], [1]):
            yield [], [t]
            t += 1
            continue
        if t < len(shape) and (f == len(factors) or (taken and int(want) < int(have))):
            made.append(t)
            t += 1
        else:
            taken.append(f)
            f += 1
        if made and _same([prod(factors[k] for k in taken)], [prod(shape[k] for k in made)]):
            yield taken, made
            taken, made = [], []
    if taken or made:
        yield taken, made


class EinopsBackend(AbstractBackend):
    """What einops needs; it finds it by itself among the subclasses."""

    framework_name = __name__

    def is_appropriate_type(self, tensor: Any) -> bool:
        return isinstance(tensor, Array)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshaped(shape)

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.transposed(axes)

    def reduce(self, x: Array, operation: str, axes: Sequence[int]) -> Array:
        return reduced(x, operation, sorted(axes))

    def is_float_type(self, x: Array) -> bool:
        return True


def reduced(x: Array, operation: str, axes: Sequence[int]) -> Array:
    """Over some axes, where they lie as axes of their own in memory; else they are laid so."""
    layout = x.layout
    if layout is None or any(set(run) & set(axes) and not set(run) <= set(axes) for run in layout):
        x = x.plain()
        layout = tuple((i,) for i in range(len(x.shape)))
    over = [i for i, run in enumerate(layout) if set(run) & set(axes)]
    memory = [sizes for i, sizes in enumerate(x.memory) if i not in over]
    shape = [prod(sizes) for sizes in memory]
    operator = {"mean": "ReduceMean", "max": "ReduceMax", "sum": "ReduceSum"}[operation]
    name = x.graph.write(operator, x.name, x.graph.integers(over), keepdims=0, shape=shape)
    moved = {i: k for k, i in enumerate(i for i in range(len(x.memory)) if i not in over)}
    kept = [places for axis, places in enumerate(x.axes) if axis not in axes]
    return Array(x.graph, name, tuple(memory), tuple(tuple((moved[i], j) for i, j in places) for places in kept))


def device(x: Array) -> str:
    return "none"


def exp(x: Array) -> Array:
    return x.unary("Exp")


def erf(x: Array) -> Array:
    return x.unary("Erf")


def softmax(x: Array) -> Array:
    return x.last().unary("Softmax", axis=-1)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The weight is turned, which a runtime does once when it loads the graph: its products take (in, out)."""
    x, (out, _) = x.last(), weight.shape
    shape = [*x.graph.shapes[x.name][:-1], out]
    name = x.graph.write("MatMul", x.name, weight.transposed((1, 0)).plain().name, shape=shape)
    if bias is not None:
        name = x.graph.write("Add", name, bias.plain().name, shape=shape)
    return _of_width(x, name, out)


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    x = x.last()
    parameters = (weight.plain().name, bias.plain().name)
    shape = x.graph.shapes[x.name]
    return x.named(x.graph.write("LayerNormalization", x.name, *parameters, axis=-1, epsilon=eps, shape=shape))


def gelu(x: Array) -> Array:
    if x.graph.opset >= 20:
        return x.unary("Gelu")
    return x * (erf(x / 2**0.5) + 1.0) * 0.5


def gelu_tanh(x: Array) -> Array:
    if x.graph.opset >= 20:
        return x.unary("Gelu", approximate="tanh")
    return x * (((x + x * x * x * 0.044715) * (2.0 / pi) ** 0.5).unary("Tanh") + 1.0) * 0.5


def attention(q: Array, k: Array, v: Array, *, scale: float) -> Array:
    """Queries or keys are scaled, whichever are fewer, and not their products."""
    n = len(q.shape) - 2
    layout: Layout = (tuple(range(n)), (n,), (n + 1,))
    q, k, v = (x.lay(layout) for x in (q, k, v))
    if int(k.shape[-2]) < int(q.shape[-2]):
        k = k * scale
    else:
        q = q * scale
    graph, (maps, queries, _) = q.graph, q.graph.shapes[q.name]
    turned = [graph.shapes[k.name][i] for i in (0, 2, 1)]
    keys = graph.write("Transpose", k.name, perm=(0, 2, 1), shape=turned)
    shape = [maps, queries, turned[2]]
    weights = graph.write("Softmax", graph.write("MatMul", q.name, keys, shape=shape), axis=-1, shape=shape)
    z = graph.write("MatMul", weights, v.name, shape=[maps, queries, v.shape[-1]])
    return _of_width(q, z, v.shape[-1])


def conv2d(x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """Of b c h w. A kernel of 1 × 1 on a map that lies as b (h w) c is a product."""
    out, _, *kernel = weight.shape
    if kernel == [1, 1] and (stride, padding, groups) == (1, 0, 1) and x.layout != CHANNELS_FIRST:
        return linear(x, weight.reshaped(weight.shape[:2]), bias)
    x, graph = x.lay(CHANNELS_FIRST), x.graph
    parameters = [p.plain().name for p in (weight, bias) if p is not None]
    settings: dict[str, Any] = {"kernel_shape": tuple(kernel), "strides": (stride,) * 2, "pads": (padding,) * 4, "group": groups}
    name = graph.write("Conv", x.name, *parameters, **settings)
    h, w = ((n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel, strict=True))
    graph.shapes[name] = (x.shape[0], out, h, w)
    return graph.array(name, graph.shapes[name]).transposed((0, 2, 3, 1))


def pad(x: Array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Array:
    if _same([top, bottom, left, right], [0] * 4):
        return x
    x, graph = x.plain(), x.graph
    b, h, w, c = x.shape
    shape = (b, top + h + bottom, left + w + right, c)
    return graph.array(graph.write("Pad", x.name, graph.integers([0, top, left, 0, 0, bottom, right, 0]), shape=shape), shape)


def _of_width(x: Array, name: str, width: int) -> Array:
    """A value that lies as an array whose last axis is the last in memory, and has another width there."""
    last = len(x.memory) - 1
    return Array(x.graph, name, (*x.memory[:last], (width,)), (*x.axes[:-1], ((last, 0),)))
