"""A quantised ONNX model without its quantisation: the same graph on numbers of floating point, and the grids that were in it.

Each value keeps its name. What is a whole number in the quantised model is, in the other one, the number that it stands for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from scalablevit_ref.compare.capture.quantised import Grid, counted

QUANTISED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"),
        *("QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSoftmax", "QGemm", "QAttention", "QLinearSigmoid"),
        *("QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat", "QLinearReduceMean"),
        *("QLinearWhere", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    }
)
"""Operations on numbers of 8 bits and fewer."""

PRODUCTS = {"MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul", "DynamicQuantizeMatMul": "MatMul", "ConvInteger": "Conv"}
"""Products of whole numbers whose ranges are taken while the model runs, and what they stand for."""

ELEMENTWISE = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
"""Of two inputs by their elements, and what they stand for."""

ALONE = {
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSoftmax": "Softmax",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearReduceMean": "ReduceMean",
}
"""Of one input, and what they stand for."""

MOVES = frozenset(
    {
        *("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Expand", "Concat"),
        *("Pad", "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool"),
    }
)
"""Operations that leave whole numbers what they are."""


@dataclass(frozen=True)
class Scale:
    """What whole numbers n stand for: (n - zero) · step; `axis` is that of the steps where there are several."""

    step: np.ndarray
    zero: np.ndarray
    axis: int
    block: int = 0

    def fitted(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Steps or zeros as they fit an array of this shape."""
        x = x.astype(np.float64)
        if x.size == 1 or not shape:
            return x.reshape(())
        if self.block:
            return np.repeat(x, self.block, self.axis)[tuple(slice(size) for size in shape)]
        sizes = [1] * len(shape)
        sizes[self.axis] = x.size
        return x.reshape(sizes)

    def numbers(self, whole: np.ndarray) -> np.ndarray:
        """In float64."""
        zero, step = self.fitted(self.zero, whole.shape), self.fitted(self.step, whole.shape)
        return np.asarray((whole.astype(np.float64) - zero) * step)

    def grid(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Grid:
        """All that whole numbers of this dtype can stand for."""
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        zero, step = self.fitted(self.zero, shape), self.fitted(self.step, shape)
        low, high = (-8, 7) if limits is None else (limits.min, limits.max)
        if dtype.name in ("uint4",):
            low, high = 0, 15
        return Grid(step, (low - zero) * step, (high - zero) * step)

    def same(self, other: Scale) -> bool:
        return bool(np.array_equal(self.step, other.step) and np.array_equal(self.zero, other.zero))


@dataclass
class Plain:
    """A model without quantisation, and what was taken away.

    Attributes
    ----------
    words, left
        The operations on few bits that it had, and those that it still has.
    grids
        Of the initialisers that lay in it as whole numbers.
    ranges
        The values that were rounded to ranges fixed before, and these.
    scales
        What the values that are whole numbers in the quantised model stand for.
    """

    model: Any
    words: str
    left: str = ""
    grids: dict[str, Grid] = field(default_factory=dict)
    ranges: dict[str, Grid] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    by_channel: bool = False
    rounded: frozenset[str] = frozenset()
    fixed: bool = False


def quantised(graph: Any) -> str:
    """The operations on few bits of a graph, in words; empty if there are none."""
    return counted([node.op_type for node in graph.node if node.op_type in QUANTISED])


def without_quantisation(model: Any) -> Plain:
    """A model, all of whose constants are initialisers, on numbers of floating point.

    What is quantised otherwise than ONNX Runtime's, NNCF's and torch's tools do it stays as it is, and is told.
    """
    found = Plain(copy.deepcopy(model), quantised(model.graph))
    graph = found.model.graph
    _fold(graph)
    rewriting = _Rewriting(graph, found)
    nodes = [new for node in graph.node for new in rewriting.nodes(node)]
    weights = {name: numpy_helper.from_array(x, name) for name, x in rewriting.weights.items()}
    _replace_nodes(graph, nodes, weights)
    del graph.value_info[:]
    for value in graph.output:
        if value.name in found.scales:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    taken = {name for node in graph.node for name in node.input}
    left = [node for node in graph.node if node.op_type in QUANTISED]
    found.left = counted([n.op_type for n in left if n.op_type != "DynamicQuantizeLinear" or n.output[0] in taken])
    found.fixed = any(node.op_type in ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm") for node in model.graph.node)
    found.rounded = _rounded_operations(model.graph, graph, set(found.grids))
    return found


def _fold(graph: Any) -> None:
    """Whole numbers that are laid out in another way before they are used become initialisers as they are used."""
    held = {x.name: x for x in graph.initializer}
    kept = []
    for node in graph.node:
        x = held.get(node.input[0]) if node.input else None
        if x is not None and node.op_type in ("Transpose", "Identity") and numpy_helper.to_array(x).dtype.kind in "iu":
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            array = numpy_helper.to_array(x)
            moved = np.ascontiguousarray(array.transpose(given.get("perm")) if node.op_type == "Transpose" else array)
            held[node.output[0]] = numpy_helper.from_array(moved, node.output[0])
            graph.initializer.append(held[node.output[0]])
        else:
            kept.append(copy.deepcopy(node))
    del graph.node[:]
    graph.node.extend(kept)


def _rounded_operations(graph: Any, plain: Any, weights: set[str]) -> frozenset[str]:
    """What a quantised graph computes on numbers of few bits. plain, weights: without quantisation, and its rounded weights."""
    made = {name: node.op_type for node in graph.node for name in node.output}
    kinds = set(made.values())
    for node in plain.node:
        weights |= set(node.output) if node.op_type in MOVES and node.input[0] in weights else set()
    whole = {node.op_type for node in plain.node if weights.intersection(node.input)}
    fed = {node.op_type for node in graph.node if any(made.get(name) == "DequantizeLinear" for name in node.input)}
    found = {
        "linear": whole & {"MatMul", "Gemm"} or kinds & {"QLinearMatMul", "QGemm", "MatMulNBits", "QAttention"},
        "conv2d": "Conv" in whole or "QLinearConv" in kinds,
        "attention": kinds & {"QuantizeLinear", "QLinearMatMul", "QAttention"},
        "layer_norm": "LayerNormalization" in fed,
        "gelu": fed & {"Erf", "Gelu", "FastGelu"},
    }
    return frozenset(name for name, there in found.items() if there)


class _Rewriting:
    """Nodes on numbers of floating point, and the weights that they take in place of whole numbers."""

    def __init__(self, graph: Any, found: Plain) -> None:
        self.found = found
        self.held = {x.name: x for x in graph.initializer}
        self.made = {name: node for node in graph.node for name in node.output}
        self.takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self.weights: dict[str, np.ndarray] = {}
        self._given: set[str] = set()
        self._names = 0

    def nodes(self, node: Any) -> Iterator[Any]:
        """What stands for a node; nodes that nothing takes any more are left out later."""
        if self._given.intersection(node.output):
            return
        made: list[Any] | None = None
        match node.op_type:
            case "QuantizeLinear":
                made = self._to_whole(node)
            case "DequantizeLinear":
                made = self._from_whole(node)
            case "QLinearConv":
                made = self._convolution(node)
            case "QLinearMatMul":
                made = self._matrices(node)
            case "QGemm":
                made = self._general(node)
            case "QLinearConcat":
                made = self._of_terms(node, "Concat", tuple((i, i + 1, i + 2) for i in range(2, len(node.input), 3)), 0)
            case "QLinearWhere":
                made = self._of_terms(node, "Where", ((1, 2, 3), (4, 5, 6)), 7)
                made[-1].input.insert(0, node.input[0])
            case "MatMulNBits":
                made = self._of_blocks(node)
            case kind if kind in ELEMENTWISE:
                made = self._of_terms(node, ELEMENTWISE[kind], ((0, 1, 2), (3, 4, 5)), 6)
            case kind if kind in ALONE:
                made = self._of_terms(node, ALONE[kind], ((0, 1, 2),), 3)
            case kind if kind in PRODUCTS:
                made = self._product(node)
            case _:
                made = [self._moved(node)]
        yield from [node] if made is None else made

    def _moved(self, node: Any) -> Any:
        """A node that takes whole numbers as they are; what fills up with their zero fills up with 0."""
        known = next((self.found.scales[name] for name in node.input if name in self.found.scales), None)
        if known is None or node.op_type not in MOVES:
            return node
        self.found.scales |= dict.fromkeys(node.output, known)
        if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] in self.held:
            own = f"{node.input[2]} of {node.output[0]}"
            self.weights[own] = known.numbers(numpy_helper.to_array(self.held[node.input[2]])).astype(np.float32)
            node = copy.deepcopy(node)
            node.input[2] = own
        return node

    # Rounding

    def _to_whole(self, node: Any) -> list[Any] | None:
        scale = self._scale(node)
        if scale is None:
            return None
        source, made = node.input[0], node.output[0]
        whole = self._whole_dtype(node)
        self.found.scales[made] = scale
        if source in self.held:  # a weight that is rounded in the run
            x = numpy_helper.to_array(self.held[source])
            self._keep(made, scale.grid(x.shape, whole).rounded(x), scale, x.dtype, whole)
            return []
        self._range(source, scale, whole)
        return [onnx.helper.make_node("Identity", [source], [made], name=node.name)]

    def _from_whole(self, node: Any) -> list[Any] | None:
        scale, source, made = self._scale(node), node.input[0], node.output[0]
        if scale is None:
            return None
        if source in self.held:
            whole = numpy_helper.to_array(self.held[source])
            dtype = numpy_helper.to_array(self.held[node.input[1]]).dtype
            self._keep(made, scale.numbers(whole), scale, dtype, whole.dtype)
            return []
        if source in self.weights:
            self.weights[made] = self._read_as(self.weights[source], self.found.scales[source], scale)
            if source in self.found.grids:
                self.found.grids[made] = self.found.grids[source]
            return []
        maker = self.made.get(source)
        if maker is not None and maker.op_type == "DynamicQuantizeLinear":
            return [onnx.helper.make_node("Identity", [maker.input[0]], [made], name=node.name)]
        if source not in self.found.scales:
            return None
        return self._taken(source, scale, made, node.name)

    def _taken(self, source: str, scale: Scale, made: str, name: str) -> list[Any]:
        """Whole numbers that are read so: what they stand for, if that is how they were made; else what another reading gives."""
        own = self.found.scales[source]
        if own.same(scale):
            return [onnx.helper.make_node("Identity", [source], [made], name=name)]
        factor, shift = f"{made}: the ratio of the scales", f"{made}: the difference of the zeros"
        between = f"{made}: read by another scale"
        self.weights[factor] = np.asarray(scale.step / own.step, np.float32)
        self.weights[shift] = np.asarray((own.zero.astype(np.float64) - scale.zero) * scale.step, np.float32)
        return [
            onnx.helper.make_node("Mul", [source, factor], [between], name=between),
            onnx.helper.make_node("Add", [between, shift], [made], name=name),
        ]

    def _read_as(self, x: np.ndarray, own: Scale, scale: Scale) -> np.ndarray:
        if own.same(scale):
            return x
        whole = x / own.fitted(own.step, x.shape) + own.fitted(own.zero, x.shape)
        return np.asarray(scale.numbers(whole), x.dtype)

    # Products and other operations of fixed ranges

    def _convolution(self, node: Any) -> list[Any] | None:
        x, given = self._term(node, 0, 1, 2)
        weight = self._weight(node, 3, 4, 5, axis=0)
        bias = self._bias(node, 8, 1, 4)
        return self._finished(node, "Conv", [*given], [x, weight, *([bias] if bias else [])], 6)

    def _matrices(self, node: Any) -> list[Any] | None:
        x, given = self._term(node, 0, 1, 2)
        if node.input[3] in self.held:
            y, more = self._weight(node, 3, 4, 5, axis=-1), list[Any]()
        else:
            y, more = self._term(node, 3, 4, 5)
        return self._finished(node, "MatMul", [*given, *more], [x, y], 6)

    def _general(self, node: Any) -> list[Any] | None:
        turned = _attribute(node, "transB", 0)
        x, given = self._term(node, 0, 1, 2)
        weight = self._weight(node, 3, 4, 5, axis=0 if turned else 1)
        bias = self._bias(node, 6, 1, 4)
        return self._finished(node, "Gemm", [*given], [x, weight, *([bias] if bias else [])], 7)

    def _of_terms(self, node: Any, kind: str, terms: tuple[tuple[int, int, int], ...], at: int) -> list[Any]:
        inputs, before = [], []
        for term in terms:
            x, given = self._term(node, *term)
            inputs.append(x)
            before += given
        return self._finished(node, kind, before, inputs, at)

    def _finished(self, node: Any, kind: str, before: list[Any], inputs: list[str], at: int) -> list[Any]:
        """The operation, and what its result is rounded to; the scale and the zero of that are inputs from `at` on."""
        made = node.output[0]
        whole = onnx.helper.make_node(kind, inputs, [made], name=node.name)
        known = {a.name for a in onnx.defs.get_schema(kind).attributes.values()}
        whole.attribute.extend(a for a in node.attribute if a.name in known)
        if node.op_type == "QLinearReduceMean":
            axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
            self.weights[f"{made}: the axes"] = np.array(axes, np.int64)
            whole.input.append(f"{made}: the axes")
            del whole.attribute[:]
            whole.attribute.extend(a for a in node.attribute if a.name == "keepdims")
        whole.metadata_props.extend(node.metadata_props)
        if len(node.input) > at and node.input[at]:
            scale = self._scale(node, at, at + 1)
            if scale is not None:
                self.found.scales[made] = scale
                zero = self.held.get(node.input[at + 1]) if len(node.input) > at + 1 else None
                dtype = np.dtype(np.uint8) if zero is None else numpy_helper.to_array(zero).dtype
                self._range(made, scale, dtype)
        return [*before, whole]

    def _term(self, node: Any, i: int, scale_at: int, zero_at: int) -> tuple[str, list[Any]]:
        """The number of floating point that an input stands for, and the nodes that make it."""
        source, scale = node.input[i], self._scale(node, scale_at, zero_at)
        if source in self.held and scale is not None:
            own, whole = f"{source} as floating point", numpy_helper.to_array(self.held[source])
            self._keep(own, scale.numbers(whole), scale, np.dtype(np.float32), whole.dtype)
            return own, []
        if scale is None or source not in self.found.scales or self.found.scales[source].same(scale):
            return source, []
        self._names += 1
        own = f"{source}: as {node.output[0]} reads it, {self._names}"
        return own, self._taken(source, scale, own, node.name)

    def _weight(self, node: Any, i: int, scale_at: int, zero_at: int, *, axis: int) -> str:
        scale = self._scale(node, scale_at, zero_at, axis)
        if scale is None or node.input[i] not in self.held:
            return str(node.input[i])
        whole = numpy_helper.to_array(self.held[node.input[i]])
        own = f"{node.input[i]} as floating point"
        self._keep(own, scale.numbers(whole), scale, np.dtype(np.float32), whole.dtype)
        return own

    def _bias(self, node: Any, i: int, *scales_at: int) -> str:
        """A bias in whole numbers, whose step is the product of those of what is multiplied."""
        if len(node.input) <= i or not node.input[i]:
            return ""
        step = np.ones(())
        for at in scales_at:
            step = step * numpy_helper.to_array(self.held[node.input[at]]).astype(np.float64)
        whole = numpy_helper.to_array(self.held[node.input[i]])
        own = f"{node.input[i]} as floating point"
        scale = Scale(np.ravel(step) if step.size > 1 else step, np.zeros(()), 0)
        self._keep(own, scale.numbers(whole), scale, np.dtype(np.float32), whole.dtype)
        return own

    # Products whose ranges are taken in the run

    def _product(self, node: Any) -> list[Any] | None:
        """The operation on floating point that gives the same value; None where its scales are not found."""
        given = [*node.input, *[""] * 7]
        bias = factor = ""
        if node.op_type == "DynamicQuantizeMatMul":
            x, weight, scale, zero, bias = given[0], given[1], given[2], given[3], given[4]
            result = node.output[0]
        elif node.op_type == "MatMulIntegerToFloat":
            x, weight, scale, zero, bias = self._rounded(given[0], given[2], given[4]), given[1], given[3], given[5], given[6]
            result = node.output[0]
        else:
            x, weight, zero = self._rounded(given[0], "", given[2]), given[1], given[3]
            result, scale, factor = self._scaled(node.output[0])
        if not x or weight not in self.held or scale not in self.held:
            return None
        kind = PRODUCTS[node.op_type]
        self._given.add(result)
        own = f"{weight} as floating point"
        whole = numpy_helper.to_array(self.held[weight])
        steps = numpy_helper.to_array(self.held[scale])
        zeros = numpy_helper.to_array(self.held[zero]) if zero in self.held else np.zeros((), whole.dtype)
        axis = 0 if kind == "Conv" else -1
        found = Scale(np.ravel(steps), np.ravel(zeros), axis)
        self._keep(own, found.numbers(whole), found, steps.dtype, whole.dtype)
        maker = self.made.get(given[0])
        rounding = "" if maker is None else maker.output[1] if maker.op_type == "DynamicQuantizeLinear" else maker.input[1]
        other = factor if factor != rounding else ""
        made = f"{result}: the product" if bias or other else result
        plain = onnx.helper.make_node(kind, [x, own], [made], name=node.name)
        plain.attribute.extend(node.attribute)
        plain.metadata_props.extend(node.metadata_props)
        if other:  # what was rounded on one scale is read on another
            ratio = f"{result}: the ratio of the scales"
            read = onnx.helper.make_node("Mul", [made, ratio], [result], name=result)
            return [plain, onnx.helper.make_node("Div", [other, rounding], [ratio], name=ratio), read]
        return [plain, *([onnx.helper.make_node("Add", [made, bias], [result], name=result)] if bias else [])]

    def _rounded(self, name: str, scale: str, zero: str) -> str:
        """The value of floating point that this one is the whole numbers of, by this scale and this zero; else empty."""
        maker = self.made.get(name)
        if maker is None or maker.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear"):
            return ""
        own = maker.output if maker.op_type == "DynamicQuantizeLinear" else maker.input
        said = ((scale, own[1]), (zero, own[2] if len(own) > 2 else ""))
        return str(maker.input[0]) if all(not one or one == other for one, other in said) else ""

    def _scaled(self, whole: str) -> tuple[str, str, str]:
        """The value that these whole numbers become, and the two scales in it, of the weight and of what it meets.

        All empty where that is not plain.
        """
        (cast, *more) = self.takers.get(whole, [None])
        if cast is None or more or cast.op_type != "Cast":
            return "", "", ""
        (product, *more) = self.takers.get(cast.output[0], [None])
        if product is None or more or product.op_type != "Mul":
            return "", "", ""
        factor = self.made.get(next(name for name in product.input if name != cast.output[0]))
        if factor is None or factor.op_type != "Mul":
            return "", "", ""
        of_weight, *others = sorted(factor.input, key=lambda name: name not in self.held)
        return (product.output[0], of_weight, others[0]) if of_weight in self.held else ("", "", "")

    def _of_blocks(self, node: Any) -> list[Any] | None:
        """A product with a weight of few bits whose scale is another one for each block of inputs."""
        given = [*node.input, *[""] * 6]
        wide, out, size, bits = (_attribute(node, name, 0) for name in ("K", "N", "block_size", "bits"))
        if given[1] not in self.held or given[2] not in self.held or given[4] or bits not in (4, 8) or not size:
            return None
        blocks = -(-wide // size)

        def unpacked(x: np.ndarray, count: int) -> np.ndarray:
            x = x.reshape(out, -1)
            return (np.stack([x & 15, x >> 4], -1).reshape(out, -1) if bits == 4 else x)[:, :count].astype(np.float64)

        whole = unpacked(numpy_helper.to_array(self.held[given[1]]), blocks * size)
        steps = numpy_helper.to_array(self.held[given[2]])
        zeros = np.full((out, blocks), 2.0 ** (bits - 1))
        if given[3] in self.held:
            zeros = numpy_helper.to_array(self.held[given[3]])
            zeros = unpacked(zeros, blocks) if zeros.dtype == np.uint8 else zeros.reshape(out, blocks).astype(np.float64)
        step, zero = (np.repeat(x.reshape(out, blocks).astype(np.float64), size, 1)[:, :wide].T for x in (steps, zeros))
        own = f"{given[1]} as floating point"
        self.weights[own] = ((whole[:, :wide].T - zero) * step).astype(steps.dtype)
        self.found.grids[own] = Grid(step, -zero * step, (2**bits - 1 - zero) * step)
        self.found.by_channel = True
        result = node.output[0]
        made = f"{result}: the product" if given[5] else result
        nodes = [onnx.helper.make_node("MatMul", [given[0], own], [made], name=node.name)]
        return nodes + ([onnx.helper.make_node("Add", [made, given[5]], [result], name=result)] if given[5] else [])

    # Scales

    def _scale(self, node: Any, scale_at: int = 1, zero_at: int = 2, axis: int | None = None) -> Scale | None:
        """None where it is not fixed."""
        name = node.input[scale_at]
        if name not in self.held:
            return None
        step = numpy_helper.to_array(self.held[name])
        zero = np.zeros((), np.uint8)
        if len(node.input) > zero_at and node.input[zero_at]:
            if node.input[zero_at] not in self.held:
                return None
            zero = numpy_helper.to_array(self.held[node.input[zero_at]])
        block = _attribute(node, "block_size", 0)
        step, zero = (x if block else np.ravel(x) if x.size > 1 else x.reshape(()) for x in (step, zero))
        return Scale(step, zero, _attribute(node, "axis", 1) if axis is None else axis, block)

    def _whole_dtype(self, node: Any) -> np.dtype[Any]:
        if len(node.input) > 2 and node.input[2] in self.held:
            return np.dtype(numpy_helper.to_array(self.held[node.input[2]]).dtype)
        kind = _attribute(node, "output_dtype", 0)
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else np.dtype(np.uint8)

    def _range(self, name: str, scale: Scale, whole: np.dtype[Any]) -> None:
        if scale.step.size == 1:
            self.found.ranges[name] = scale.grid((), whole)

    def _keep(self, name: str, x: np.ndarray, scale: Scale, dtype: np.dtype[Any], whole: np.dtype[Any]) -> None:
        """A weight, and the numbers that it could have."""
        self.weights[name] = np.asarray(x, dtype)
        self.found.by_channel |= scale.step.size > 1 and x.ndim > 1
        grid = scale.grid(x.shape, whole)
        self.found.grids[name] = Grid(*(np.broadcast_to(one, x.shape) for one in (grid.step, grid.least, grid.greatest)))


def _replace_nodes(graph: Any, nodes: list[Any], weights: Mapping[str, Any]) -> None:
    """These nodes and weights, without what no output depends on."""
    wanted, kept = {value.name for value in graph.output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    kept = [copy.deepcopy(node) for node in reversed(kept)]
    held = [copy.deepcopy(x) for x in (*graph.initializer, *weights.values()) if x.name in wanted]
    graph.ClearField("initializer")
    graph.initializer.extend(held)
    graph.ClearField("node")
    graph.node.extend(kept)


def _attribute(node: Any, name: str, usual: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), usual)
