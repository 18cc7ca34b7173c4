"""ONNX's operators, written down in place of computing: the network runs once on the arrays of `views`, and is then a graph.

Each op writes the operators that say the same in the fewest steps that runtimes are fast at. It needs no library, as `sizes` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from math import pi, prod
from types import ModuleType
from typing import Any

from scalablevit_ref.backends.layouts import CHANNELS_FIRST, same
from scalablevit_ref.backends.views import Array, Pending, array

NAME = "graph"


def namespace(x: Array) -> ModuleType:
    return sys.modules[__name__]


def reshape(x: Array, shape: Sequence[int]) -> Array:
    return x.reshaped(shape)


def permute_dims(x: Array, axes: Sequence[int]) -> Array:
    return x.transposed(axes)


def mean(x: Array, *, axis: Sequence[int]) -> Array:
    """Over axes that lie as axes of their own in memory; else they are laid so."""
    layout = x.layout
    if layout is None or any(set(run) & set(axis) and not set(run) <= set(axis) for run in layout):
        x = x.plain()
        layout = tuple((i,) for i in range(len(x.shape)))
    over = [i for i, run in enumerate(layout) if set(run) & set(axis)]
    memory = [sizes for i, sizes in enumerate(x.memory) if i not in over]
    shape = [prod(sizes) for sizes in memory]
    name = x.graph.write("ReduceMean", x.name, x.graph.integers(over), keepdims=0, shape=shape) if over else x.name
    moved = {i: k for k, i in enumerate(i for i in range(len(x.memory)) if i not in over)}
    kept = [places for i, places in enumerate(x.axes) if i not in axis]
    return Array(x.graph, name, tuple(memory), tuple(tuple((moved[i], j) for i, j in places) for places in kept))


class Product:
    """What a linear layer gives, not written before it is used: of a part of its channels that part is computed.

    The weight is turned, which a runtime does once when it loads the graph: its products take (in, out).
    """

    def __init__(self, x: Array, weight: Array, bias: Array | None) -> None:
        self.x, self.weight, self.bias = x.last(), weight, bias

    @cached_property
    def name(self) -> str:
        graph = self.x.graph
        shape = [*graph.shapes[self.x.name][:-1], self.weight.shape[0]]
        name = graph.write("MatMul", self.x.name, self.weight.transposed((1, 0)).plain().name, shape=shape)
        return name if self.bias is None else graph.write("Add", name, self.bias.plain().name, shape=shape)

    def piece(self, pieces: int, index: int) -> Product:
        """One of so many equal parts of the channels."""
        out, taken = self.weight.shape
        weight = self.weight.reshaped((pieces, out // pieces, taken))[index, ...]
        return Product(self.x, weight, None if self.bias is None else self.bias.reshaped((pieces, out // pieces))[index, ...])


def device(x: Array) -> str:
    return "none"


def exp(x: Array) -> Array:
    return x.unary("Exp")


def erf(x: Array) -> Array:
    return x.unary("Erf")


def softmax(x: Array) -> Array:
    return x.last().unary("Softmax", axis=-1)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    product = Product(x, weight, bias)
    return _of_width(product.x, product, weight.shape[0])


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    x = x.last()
    parameters = (weight.plain().name, bias.plain().name)
    shape = x.graph.shapes[x.name]
    return x.named(x.graph.write("LayerNormalization", x.name, *parameters, axis=-1, epsilon=eps, shape=shape))


def gelu(x: Array) -> Array:
    if x.graph.opset >= 20:
        return x.unary("Gelu")
    y: Array = x * (erf(x / 2**0.5) + 1.0) * 0.5
    return y


def gelu_tanh(x: Array) -> Array:
    if x.graph.opset >= 20:
        return x.unary("Gelu", approximate="tanh")
    inner: Array = (x + x * x * x * 0.044715) * (2.0 / pi) ** 0.5
    y: Array = x * (inner.unary("Tanh") + 1.0) * 0.5
    return y


def attention(q: Array, k: Array, v: Array, *, scale: float) -> Array:
    """Queries or keys are scaled, whichever are fewer, and not their products."""
    n = len(q.shape) - 2
    maps = ((0,), (1,)) if n == 2 else (tuple(range(n)),)
    q, k, v = (x.lay((*maps, (n,), (n + 1,))) for x in (q, k, v))
    if int(k.shape[-2]) < int(q.shape[-2]):
        k = k * scale
    else:
        q = q * scale
    graph, first, (*_, keys, width) = q.graph, q.graph.shapes[q.name][:-1], k.graph.shapes[k.name]
    turned = graph.write("Transpose", k.name, perm=(*range(len(maps)), len(maps) + 1, len(maps)), shape=(*first[:-1], width, keys))
    weights = graph.write("MatMul", q.name, turned, shape=(*first, keys))
    weights = graph.write("Softmax", weights, axis=-1, shape=(*first, keys))
    return _of_width(q, graph.write("MatMul", weights, v.name, shape=(*first, v.shape[-1])), v.shape[-1])


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
    return array(graph, name, graph.shapes[name]).transposed((0, 2, 3, 1))


def pad(x: Array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Array:
    if same([top, bottom, left, right], [0] * 4):
        return x
    x, graph = x.plain(), x.graph
    b, h, w, c = x.shape
    shape = (b, top + h + bottom, left + w + right, c)
    return array(graph, graph.write("Pad", x.name, graph.integers([0, top, left, 0, 0, bottom, right, 0]), shape=shape), shape)


def _of_width(x: Array, value: str | Pending, width: int) -> Array:
    """A value that lies as an array whose last axis is the last in memory, and has another width there."""
    last = len(x.memory) - 1
    own, places = ((), ()) if width == 1 else ((width,), ((last, 0),))
    return Array(x.graph, value, (*x.memory[:last], own), (*x.axes[:-1], places))
