"""What an ONNX graph that torch exported tells of the modules it came from: which made a node, what each gives and holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

SCOPES = "pkg.torch.onnx.name_scopes"
"""The newer exporter's note on a node: the modules' paths from the outermost to the innermost, then the node's own name."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)

ROLES = {
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "bias",
    ("MatMul", 1): "weight",
    ("LayerNormalization", 1): "weight",
    ("LayerNormalization", 2): "bias",
    ("Mul", 0): "weight",
    ("Mul", 1): "weight",
    ("Add", 0): "bias",
    ("Add", 1): "bias",
}
"""What a constant is that an operation takes as its n-th input."""


@dataclass(frozen=True)
class Parameter:
    """A constant of the graph, and whether it is the parameter turned from (out, in) to (in, out)."""

    tensor: Any
    turned: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.dims)[:: -1 if self.turned else 1]

    def value(self) -> np.ndarray:
        x = np.asarray(numpy_helper.to_array(self.tensor))
        return x.T if self.turned else x


def scope(node: Any) -> str:
    """The path of the module that made a node; empty for the outermost, or if nothing tells."""
    for note in node.metadata_props:
        if note.key == SCOPES:
            paths: list[str] = re.findall(r"'([^']*)'", note.value)[:-1]
            return paths[-1] if paths else ""
    if not node.name.startswith("/"):
        return ""
    path = part = ""
    for name in node.name.split("/")[1:-1]:  # the older exporter's: a child of a list or a Sequential repeats its parent's name
        path = path.removesuffix(part) + name if part and name.startswith(f"{part}.") else f"{path}.{name}".removeprefix(".")
        part = name
    return path


def outputs(graph: Any) -> dict[str, str]:
    """The modules in the order in which they end, each with the last value that is made in it and used outside."""
    users: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    for node in graph.node:
        for value in node.input:
            users.setdefault(value, set()).add(scope(node))
    found: dict[str, str] = {}
    for node in graph.node:
        for module in _inwards(scope(node)):
            for value in node.output:
                if any(user != module and not user.startswith(f"{module}.") for user in users.get(value, ())):
                    found.pop(module, None)
                    found[module] = value
    return found


def _inwards(path: str) -> Iterator[str]:
    """A module and those that it is part of, the innermost first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def parameters(graph: Any) -> dict[str, Parameter]:
    """The constants that nodes take, under their modules' paths and what they are: `stages.0.0.mlp.fc1.weight`."""
    held = constants(graph)
    found: dict[str, Parameter] = {}
    for node in graph.node:
        for place, value in enumerate(node.input):
            role = ROLES.get((node.op_type, place))
            if role is None or value not in held or not scope(node):
                continue
            rank = len(held[value].dims)
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            own = Parameter(held[value], rank == 2 and (node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed)))
            keys = (f"{scope(node)}.{name}" for name in chain([role], (f"{n}.{role}" for n in count(1))))
            found[next(key for key in keys if key not in found or found[key].tensor is own.tensor)] = own
    return found


def constants(graph: Any) -> Mapping[str, Any]:
    """Tensors of floating point with more than one value: initialisers, constants, and other names for these."""
    held = {x.name: x for x in graph.initializer if x.data_type in FLOATS and prod(x.dims) > 1}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in held:
            held[node.output[0]] = held[node.input[0]]
        for a in node.attribute if node.op_type == "Constant" else ():
            if a.name == "value" and a.t.data_type in FLOATS and prod(a.t.dims) > 1:
                held[node.output[0]] = a.t
    return held
