"""A TensorFlow graph, frozen and written out in one, as a `Graph`.

A value is what an operation gives: its key is TensorFlow's name of it, "block/attn/MatMul:0". A kernel with an axis of multiples,
as a depthwise one has, and what an `Einsum` gives in another order are values that TensorFlow has not: they are moved here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from scalablevit_ref.compare.capture.graph import Graph, Kind, ModuleRun, Operation, fed_by_images, sources
from scalablevit_ref.errors import CaptureError

Run = Callable[[Iterable[str]], Mapping[str, np.ndarray]]
"""Runs a graph for the values of these keys."""

Move = Callable[[np.ndarray], np.ndarray]

MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "ExpandDims", "Pack", "Unpack", "ConcatV2", "Split", "SplitV", "StridedSlice"),
        *("Slice", "GatherV2", "Gather", "GatherNd", "Cast", "Identity", "IdentityN", "Pad", "PadV2", "MirrorPad", "Tile"),
        *("BroadcastTo", "Roll", "ReverseV2", "StopGradient", "EnsureShape", "SpaceToBatchND", "BatchToSpaceND", "Snapshot"),
        *("SpaceToDepth", "DepthToSpace", "PreventGradient", "CheckNumerics", "ExtractImagePatches"),
    }
)
"""Operations that lay numbers out in another way, or leave some of them out."""

ARITHMETIC: Mapping[str, tuple[Kind, bool]] = {
    "Mul": ("multiply", False),
    "RealDiv": ("multiply", True),
    "Div": ("multiply", True),
    "AddV2": ("add", False),
    "Add": ("add", False),
    "BiasAdd": ("add", False),
    "Sub": ("add", True),
}

OPAQUE = frozenset({"While", "StatelessWhile", "If", "StatelessIf", "PartitionedCall", "StatefulPartitionedCall", "XlaCallModule"})
"""Operations that run a function of which the graph tells nothing."""


IN_MODULE = "in_module"
"""Begins the scopes that stand for modules, where they were told while the graph was made."""


@dataclass(frozen=True)
class Numbered:
    """A graph, and how its values are found in TensorFlow's.

    Attributes
    ----------
    keys
        TensorFlow's name of a value, and what is done to it, by value.
    back
        What undoes that.
    """

    graph: Graph
    keys: Mapping[int, tuple[str, Move | None]]
    back: Mapping[int, Move]


class Numbers:
    """The numbers of values, and their shapes and dtypes; those that TensorFlow has not are moved from others."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.keys: dict[int, tuple[str, Move | None]] = {}
        self.back: dict[int, Move] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.dtypes: dict[int, str] = {}

    def __call__(self, x: Any) -> int:
        if x.name not in self.of:
            self.of[x.name] = self._new(x.name, None, x)
        return self.of[x.name]

    def moved(self, x: Any, shape: tuple[int, ...], move: Move, back: Move) -> int:
        value = self._new(x.name, move, x)
        self.shapes[value], self.back[value] = shape, back
        return value

    def _new(self, name: str, move: Move | None, x: Any) -> int:
        value = len(self.keys)
        self.keys[value] = name, move
        self.shapes[value] = tuple(x.shape) if x.shape.rank is not None else ()
        self.dtypes[value] = x.dtype.name
        return value


def numbered(
    operations: Iterable[Any],
    *,
    images: Any,
    outputs: Mapping[str, Any],
    parameters: Mapping[str, str],
    lines: Mapping[str, str],
    run: Run,
) -> Numbered:
    """The operations of a frozen graph.

    Parameters
    ----------
    operations
        In an order in which they can run.
    images
        What it is fed.
    outputs
        What it gives, by the names that `Graph.outputs` has.
    parameters
        From the names of constants to what they are called as parameters.
    lines
        Where the candidate's own code asks for an operation, by its name.
    run
        Runs it; asked for the shapes that depend on values, and for what is made of parameters alone.

    Raises
    ------
    CaptureError
        For a graph that calls functions or loops.
    """
    nodes = list(operations)
    opaque = [node for node in nodes if node.type in OPAQUE]
    if opaque:
        raise CaptureError(f"the candidate's graph has a {opaque[0].type} ({opaque[0].name}), inside which nothing can be followed")
    numbers = Numbers()
    moving = [x for node in nodes for x in node.outputs if not x.shape.is_fully_defined()]
    known = run([x.name for x in moving]) if moving else {}
    for node in nodes:
        for x in node.outputs:
            value = numbers(x)
            if x.name in known:
                numbers.shapes[value] = known[x.name].shape
    found: list[Operation] = []
    for node in nodes:
        if node.type not in ("Placeholder", "Const", "NoOp"):
            found += _described(node, numbers, lines.get(node.name, ""))
    held = {x.name: numbers(x) for node in nodes for x in node.outputs}
    unplaced = {x.name: numbers(x) for node in nodes if node.name not in lines for x in node.outputs}
    graph = Graph(
        tuple(found),
        numbers.shapes,
        numbers.dtypes,
        numbers(images),
        {held[f"{name}:0"]: called for name, called in parameters.items() if f"{name}:0" in held},
        {},
        {called: numbers(x) for called, x in outputs.items()},
        (*_modules(nodes, numbers), *(ModuleRun(name.removesuffix(":0"), (), (value,)) for name, value in unplaced.items())),
    )
    fed, own = fed_by_images(graph), sources(graph)
    wanted = {value for one in graph.operations if fed.intersection(one.inputs) for value in one.inputs if value in own}
    values = run([numbers.keys[value][0] for value in wanted]) if wanted else {}
    constants = {value: moved(values[numbers.keys[value][0]], numbers.keys[value][1]) for value in wanted}
    return Numbered(replace(graph, constants=constants), numbers.keys, numbers.back)


def moved(x: np.ndarray, move: Move | None) -> np.ndarray:
    return x if move is None else move(x)


def _described(node: Any, numbers: Numbers, line: str) -> list[Operation]:
    """The operations that one of TensorFlow's stands for."""
    inputs, made = [*map(numbers, node.inputs)], tuple(map(numbers, node.outputs))
    name, module = f"tensorflow.{node.type}", scope(node.name)

    def one(kind: Kind, given: Iterable[int], made: tuple[int, ...] = made, **settings: Any) -> Operation:
        return Operation(kind, name, tuple(given), made, settings, module, line)

    if node.type == "Conv2D":
        return [one("convolution", inputs[:2], **_convolution(node, numbers))]
    if node.type == "DepthwiseConv2dNative":
        kernel = node.inputs[1]
        h, w, c, m = numbers.shapes[inputs[1]]
        merged = numbers.moved(kernel, (h, w, 1, c * m), lambda x: x.reshape(h, w, 1, c * m), lambda x: x.reshape(h, w, c, m))
        settings = _convolution(node, numbers) | {"groups": c}
        return [one("move", inputs[1:], (merged,)), one("convolution", (inputs[0], merged), **settings)]
    if node.type in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        turned = [bool(_attr(node, a, b)) for a, b in (("transpose_a", "adj_x"), ("transpose_b", "adj_y"))]
        left, right = (len(numbers.shapes[value]) for value in inputs)
        contracted = ((left - (2 if turned[0] else 1),), (right - (1 if turned[1] else 2),))
        axes = range(min(left, right) - 2)
        batch = (tuple(left - 2 - len(axes) + i for i in axes), tuple(right - 2 - len(axes) + i for i in axes))
        return [one("product", inputs, contracted=contracted, batch=batch)]
    if node.type == "Einsum" and len(inputs) == 2:
        return _einsum(node, numbers, inputs, one)
    if node.type in ARITHMETIC:
        kind, inverse = ARITHMETIC[node.type]
        numbers_in = [_scalar(x) for x in node.inputs]
        plain = [value for value, number in zip(inputs, numbers_in, strict=True) if number is None]
        if len(plain) == 1:
            number = next(x for x in numbers_in if x is not None)
            return [one(kind, plain, inverse=inverse, scalars=(number,), turned=numbers_in[0] is not None)]
        return [one(kind, inputs, inverse=inverse)]
    if node.type in MOVES:
        data = [value for value, x in zip(inputs, node.inputs, strict=True) if x.dtype.is_floating or x.dtype.is_complex]
        return [one("move", data or inputs)]
    random = "Random" in node.type or node.type.startswith("Multinomial")
    return [one("other", inputs, random=True) if random else one("other", inputs)]


def _convolution(node: Any, numbers: Numbers) -> dict[str, Any]:
    """The settings of a convolution, dense or depthwise."""
    form = _attr(node, "data_format")
    rows, columns = form.index(b"H"), form.index(b"W")
    x, kernel = (numbers.shapes[numbers(given)] for given in node.inputs[:2])
    stride, dilation = ([list(_attr(node, name))[i] for i in (rows, columns)] for name in ("strides", "dilations"))
    padding = _attr(node, "padding")
    pads = [(0, 0), (0, 0)]
    if padding == b"SAME":
        pads = [_same(x[axis], kernel[i], stride[i], dilation[i]) for i, axis in enumerate((rows, columns))]
    elif padding == b"EXPLICIT":
        around = list(_attr(node, "explicit_paddings"))
        pads = [(around[2 * axis], around[2 * axis + 1]) for axis in (rows, columns)]
    channels = x[form.index(b"C")]
    return {
        "stride": tuple(stride),
        "padding": tuple(pads),
        "dilation": tuple(dilation),
        "groups": channels // kernel[2],
        "transposed": False,
        "x": "bhwc" if form == b"NHWC" else "bchw",
        "weight": "hwio",
    }


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    whole = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return whole // 2, whole - whole // 2


def _einsum(node: Any, numbers: Numbers, inputs: list[int], one: Callable[..., Operation]) -> list[Operation]:
    """A product, and what is given in another order moved from it."""
    equation = _attr(node, "equation").decode()
    given, _, out = equation.replace(" ", "").partition("->")
    left, right = given.split(",")
    letters = set(left + right)
    summed = [letter for letter in left if letter in right and letter not in out]
    if "." in equation or len(set(left)) < len(left) or len(set(right)) < len(right) or letters - set(out) != set(summed):
        return [one("other", inputs)]
    batch = [letter for letter in left if letter in right and letter in out]
    own = [*batch, *(x for x in left if x not in batch + summed), *(x for x in right if x not in batch + summed)]
    settings = {
        "contracted": (tuple(map(left.index, summed)), tuple(map(right.index, summed))),
        "batch": (tuple(map(left.index, batch)), tuple(map(right.index, batch))),
    }
    if own == list(out):
        return [one("product", inputs, **settings)]
    x = node.outputs[0]
    order, back = [out.index(letter) for letter in own], [own.index(letter) for letter in out]
    shape = numbers.shapes[numbers(x)]
    product = numbers.moved(x, tuple(shape[i] for i in order), lambda y: y.transpose(order), lambda y: y.transpose(back))
    return [one("product", inputs, (product,), **settings), one("move", (product,))]


def _scalar(x: Any) -> float | None:
    """The number that a constant of one element is; None for everything else."""
    if x.op.type != "Const" or x.shape.num_elements() != 1 or not x.dtype.is_floating:
        return None
    return float(np.asarray(tf.make_ndarray(x.op.get_attr("value"))).reshape(()))


def _attr(node: Any, *names: str) -> Any:
    """The first of these attributes that an operation has."""
    for name in names:
        if name in node.node_def.attr:
            return node.get_attr(name)
    return None


def scope(name: str) -> str:
    """The path of the module that made an operation, as scopes of names tell it."""
    return ".".join(part for part in name.split("/")[:-1] if part not in (IN_MODULE, "PartitionedCall", "StatefulPartitionedCall"))


def _modules(nodes: list[Any], numbers: Numbers) -> list[ModuleRun]:
    """In the order in which they end, each with the last value that is made in it and used outside."""
    found: dict[str, int] = {}
    for node in nodes:
        path = scope(node.name)
        while path:
            for x in node.outputs:
                users = [scope(user.name) for user in x.consumers()]
                if any(user != path and not user.startswith(f"{path}.") for user in users):
                    found.pop(path, None)
                    found[path] = numbers(x)
            path = path.rpartition(".")[0]
    return [ModuleRun(path, (), (value,)) for path, value in found.items()]
