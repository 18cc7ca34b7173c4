"""A graph of ONNX's operators as the model that onnx writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalablevit_ref.backends.nodes import Graph, Node

FORMATS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The version of ONNX's file format that each of these came with."""


def onnx_model(graph: Graph, weights: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Any:
    """The `onnx.ModelProto`: the weights are its initialisers, in their order, and the shapes of all values are stated."""
    from onnx import TensorProto, helper

    kinds = {
        "float32": TensorProto.FLOAT,
        "float16": TensorProto.FLOAT16,
        "bfloat16": TensorProto.BFLOAT16,
        "float64": TensorProto.DOUBLE,
        "int64": TensorProto.INT64,
    }

    def value(name: str) -> Any:
        sizes = [n if type(n) is int else str(n) for n in graph.shapes[name]]
        return helper.make_tensor_value_info(name, kinds[graph.dtype.name], sizes)

    def tensor(name: str, x: np.ndarray) -> Any:
        little = x.astype(x.dtype.newbyteorder("<"), copy=False)
        return helper.make_tensor(name, kinds[x.dtype.name], x.shape, little.tobytes(), raw=True)

    def node(it: Node) -> Any:
        settings = {name: tensor(name, x) if isinstance(x, np.ndarray) else x for name, x in it.attributes.items()}
        return helper.make_node(it.operator, it.inputs, it.outputs, name=it.outputs[0], **settings)

    given = {"images", *weights, *outputs}
    whole = helper.make_graph(
        [node(it) for it in graph.nodes],
        "scalable_vit",
        [value("images")],
        [value(name) for name in outputs],
        [tensor(name, x) for name, x in weights.items()],
        value_info=[value(name) for name in graph.shapes if name not in given],
    )
    opsets = [helper.make_opsetid("", graph.opset)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=FORMATS[graph.opset], producer_name="scalablevit_ref")
