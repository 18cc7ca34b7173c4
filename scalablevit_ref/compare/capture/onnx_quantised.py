"""A quantised ONNX model beside the same one without quantisation, whose graph tells where weights act on which values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

QUANTISED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"),
        *("QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSoftmax", "QGemm", "QAttention"),
        *("MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    }
)
"""Operations on numbers of 8 bits and fewer."""

PLAIN = {"MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul", "DynamicQuantizeMatMul": "MatMul", "ConvInteger": "Conv"}
"""Operations on whole numbers, and what they stand for."""


@dataclass(frozen=True)
class Quantised:
    """How a model is quantised.

    Attributes
    ----------
    words
        Its operations on few bits: "MatMulInteger and 35 more such operations".
    weights
        The initialisers of the model without quantisation that lie in it as whole numbers.
    by_channel
        Whether each output channel of a weight has a scale of its own.
    rounded
        What is computed on whole numbers, or on numbers rounded to such: of "linear", "conv2d", "attention", "layer_norm" and
        "gelu".
    fixed
        Whether the ranges of values were fixed before the model ran, on other images perhaps.
    """

    words: str
    weights: frozenset[str]
    by_channel: bool
    rounded: frozenset[str]
    fixed: bool


def quantised(graph: Any) -> str:
    """The operations on few bits of a graph, in words; empty if there are none."""
    found = [node.op_type for node in graph.node if node.op_type in QUANTISED]
    if not found:
        return ""
    more = f" and {len(found) - 1} more such operation{'s' * (len(found) > 2)}" if found[1:] else ""
    return f"{found[0]}{more}"


def without_quantisation(model: Any) -> tuple[Any, Quantised]:
    """The model with floating-point operations in place of those on whole numbers, and how it was quantised.

    Values keep their names, so that one that is found in the model without quantisation can be asked of the quantised one. What is
    quantised otherwise than ONNX Runtime's and torch's tools do it stays as it is.
    """
    words = quantised(model.graph)
    plain = copy.deepcopy(model)
    rewriting = _Rewriting(plain.graph)
    nodes = [new for node in plain.graph.node for new in rewriting.nodes(node)]
    _replace_nodes(plain.graph, nodes, rewriting.weights)
    fixed = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return plain, Quantised(
        words, frozenset(rewriting.weights), rewriting.by_channel, _rounded_operations(model.graph, plain.graph), fixed
    )


def _rounded_operations(graph: Any, plain: Any) -> frozenset[str]:
    """What a quantised graph computes on numbers of few bits. plain: the same without quantisation."""
    made = {name: node.op_type for node in graph.node for name in node.output}
    kinds = set(made.values())
    weights = {x.name for x in plain.initializer} - {x.name for x in graph.initializer}
    through = {"Identity", "Reshape", "Transpose"}
    for node in plain.node:
        weights |= set(node.output) if node.op_type in through and node.input[0] in weights else set()
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
    """Nodes without quantisation, and the weights that they take in place of whole numbers."""

    def __init__(self, graph: Any) -> None:
        self.held = {x.name: x for x in graph.initializer}
        self.made = {name: node for node in graph.node for name in node.output}
        self.takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self.weights: dict[str, Any] = {}
        self.by_channel = False
        self._given: set[str] = set()

    def nodes(self, node: Any) -> Iterator[Any]:
        """What stands for a node; nodes that nothing takes any more are left out later."""
        if self._given.intersection(node.output):
            return
        if node.op_type == "DequantizeLinear" and (source := self._rounded(node.input[0])):
            yield onnx.helper.make_node("Identity", [source], node.output, name=node.name)
        elif node.op_type == "DequantizeLinear" and node.input[0] in self.held and not _attribute(node, "block_size", 0):
            self._keep(node.output[0], node.input[0], node.input[1], [*node.input[2:3], ""][0], _attribute(node, "axis", 1))
        elif node.op_type in PLAIN and (plain := self._product(node)) is not None:
            yield plain
        else:
            yield node

    def _rounded(self, name: str) -> str:
        """The value of floating point that this one is the whole numbers of; empty if there is none."""
        maker = self.made.get(name)
        return maker.input[0] if maker is not None and maker.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") else ""

    def _product(self, node: Any) -> Any | None:
        """The operation on floating point that gives the same value; None where its scale is not found."""
        given = [*node.input, *[""] * 7]
        bias: list[str] = []
        if node.op_type == "DynamicQuantizeMatMul":
            x, weight, scale, zero, bias = given[0], given[1], given[2], given[3], [given[4]]
            result = node.output[0]
        elif node.op_type == "MatMulIntegerToFloat":
            x, weight, scale, zero, bias = self._rounded(given[0]), given[1], given[3], given[5], [given[6]]
            result = node.output[0]
        else:
            x, weight, zero = self._rounded(given[0]), given[1], given[3]
            result, scale = self._scaled(node.output[0])
        if not x or weight not in self.held or scale not in self.held or (bias and bias[0]):
            return None
        kind = PLAIN[node.op_type]
        self._given.add(result)
        own = f"{weight} as floating point"
        self._keep(own, weight, scale, zero, 0 if kind == "Conv" else -1)
        plain = onnx.helper.make_node(kind, [x, own], [result], name=node.name)
        plain.attribute.extend(node.attribute)
        plain.metadata_props.extend(node.metadata_props)
        return plain

    def _scaled(self, whole: str) -> tuple[str, str]:
        """The value that these whole numbers become, and the scale of the weight in it; empty where that is not plain."""
        (cast, *more) = self.takers.get(whole, [None])
        if cast is None or more or cast.op_type != "Cast":
            return "", ""
        (product, *more) = self.takers.get(cast.output[0], [None])
        if product is None or more or product.op_type != "Mul":
            return "", ""
        factor = self.made.get(next(name for name in product.input if name != cast.output[0]))
        names = [] if factor is None else [name for name in factor.input if name in self.held]
        return (product.output[0], names[0]) if names else ("", "")

    def _keep(self, name: str, whole: str, scale: str, zero: str, axis: int) -> None:
        """Whole numbers, as the numbers of floating point that they stand for."""
        numbers, scales = (numpy_helper.to_array(self.held[one]) for one in (whole, scale))
        zeros = numpy_helper.to_array(self.held[zero]) if zero in self.held else np.zeros((), numbers.dtype)
        shape = [1] * numbers.ndim
        if scales.size > 1:
            self.by_channel |= numbers.ndim > 1
            shape[axis] = scales.size
        wide = (numbers.astype(np.float64) - zeros.astype(np.float64).reshape(shape if zeros.size > 1 else ())) * (
            scales.astype(np.float64).reshape(shape if scales.size > 1 else ())
        )
        self.weights[name] = numpy_helper.from_array(wide.astype(scales.dtype), name)


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
