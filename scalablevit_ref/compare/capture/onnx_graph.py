"""An ONNX graph as a `Graph`: its nodes as operations, its initialisers as parameters, its values by number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Kind, ModuleRun, Operation, fed_by_images, sources

Run = Callable[[Iterable[str]], Mapping[str, np.ndarray]]
"""Runs a model for the values of these names."""

MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Expand", "Gather"),
        *("Pad", "Cast", "Tile", "DepthToSpace", "SpaceToDepth", "CastLike", "GatherElements", "GatherND", "ConcatFromSequence"),
    }
)
"""Operations that lay numbers out in another way, or leave some of them out."""

PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})

NORMS = frozenset(
    {"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"}
)


@dataclass(frozen=True)
class Numbered:
    """The graph, and the names of its values by their numbers."""

    graph: Graph
    names: Mapping[int, str]


def numbered(
    graph: Any,
    *,
    images: str,
    outputs: Mapping[str, str],
    parameters: Mapping[str, str],
    scope: Callable[[Any], str],
    modules: Mapping[str, str],
    dtype: str,
    run: Run,
) -> Numbered:
    """The operations of a model.

    Parameters
    ----------
    graph
        The model's, all of whose constants are initialisers.
    images
        The name of its input.
    outputs
        What it gives, by the names that `Graph.outputs` has: from those to the graph's own.
    parameters
        From initialisers' names to what they are called as parameters.
    scope
        Gives the path of the module that made a node.
    modules
        Paths of modules, and the values that they give.
    dtype
        What it computes in.
    run
        Runs the model; asked for the shapes of all values, and for those that are made of parameters alone.
    """
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers)) if name else ABSENT

    held = {x.name: x for x in graph.initializer}
    fed = number(images)
    for name in held:
        number(name)
    ranks = {name: len(x.dims) for name, x in held.items()}
    values = [name for node in graph.node for name in node.output if name]
    shapes = shapes_of(graph, [images, *values], run) | {name: tuple(x.dims) for name, x in held.items()}
    ranks |= {name: len(shape) for name, shape in shapes.items()}
    operations: list[Operation] = []
    for node in graph.node:
        for kind, inputs, made, settings in _described(node, ranks):
            operations.append(
                Operation(
                    kind,
                    f"{node.domain or 'ai.onnx'}.{node.op_type}",
                    tuple(map(number, inputs)),
                    tuple(number(name) for name in made if name),
                    settings,
                    scope(node),
                    node.name,
                )
            )
    found = Graph(
        tuple(operations),
        {numbers[name]: shape for name, shape in shapes.items() if name in numbers},
        {numbers[name]: _dtype(held[name]) if name in held else dtype for name in numbers},
        fed,
        {numbers[name]: called for name, called in parameters.items() if name in numbers},
        {},
        {called: number(name) for called, name in outputs.items()},
        tuple(ModuleRun(path, (), (number(name),)) for path, name in (*modules.items(), *((name, name) for name in values))),
    )
    names = {value: name for name, value in numbers.items()}
    return Numbered(_with_constants(found, names, held, run), names)


def shapes_of(graph: Any, values: Collection[str], run: Run) -> dict[str, tuple[int, ...]]:
    """Of all these values, from one run that keeps their shapes alone."""
    count = len(graph.node)
    graph.node.extend(onnx.helper.make_node("Shape", [value], [f"shape of {value}"]) for value in values)
    try:
        found = run([f"shape of {value}" for value in values])
    finally:
        del graph.node[count:]
    return {value: tuple(map(int, found[f"shape of {value}"])) for value in values}


def _with_constants(graph: Graph, names: Mapping[int, str], held: Mapping[str, Any], run: Run) -> Graph:
    """With the numbers of what is made of parameters alone and meets the images, or what they become."""
    fed, own = fed_by_images(graph), sources(graph)
    wanted = {value for op in graph.operations if fed.intersection(op.inputs) for value in op.inputs if value in own}
    computed = run([names[value] for value in wanted if names[value] not in held])
    constants = {
        value: numpy_helper.to_array(held[names[value]]) if names[value] in held else computed[names[value]] for value in wanted
    }
    return replace(graph, constants=constants)


Described = tuple[Kind, list[str], list[str], dict[str, Any]]
"""An operation's kind, inputs, outputs and settings."""


def _described(node: Any, ranks: Mapping[str, int]) -> list[Described]:
    """The operations that a node stands for: one, or for a fused one those that it is made of."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    inputs, made = list(node.input), list(node.output)
    if node.op_type in ("Conv", "FusedConv"):
        rank = ranks.get(inputs[1], 4) - 2
        pads = list(given.get("pads", [0] * 2 * rank))
        settings = {
            "stride": tuple(given.get("strides", [1] * rank)),
            "padding": tuple(zip(pads[:rank], pads[rank:], strict=True)),
            "dilation": tuple(given.get("dilations", [1] * rank)),
            "groups": given.get("group", 1),
            "transposed": False,
            "x": "bchw",
            "weight": "oihw",
        }
        return [("convolution", inputs[:3], made[:1], settings)]
    if node.op_type in PRODUCTS:
        left, right = (ranks.get(name, 2) for name in inputs[:2])
        turned = [bool(given.get(name, 0)) for name in ("transA", "transB")]
        contracted = ((max(left - (2 if turned[0] else 1), 0),), (max(right - (1 if turned[1] else 2), 0),))
        axes = tuple(range(min(left, right) - 2)) if min(left, right) > 2 else ()
        batch = (tuple(left - 2 - len(axes) + i for i in axes), tuple(right - 2 - len(axes) + i for i in axes))
        return [("product", inputs[:3], made[:1], {"contracted": contracted, "batch": batch})]
    if node.op_type in NORMS or node.op_type in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        rank = ranks.get(inputs[0], 3)
        eps = given.get("epsilon", 1e-5)
        if node.op_type.startswith("Skip"):
            settings = {"eps": eps, "axes": (rank - 1,), "groups": None}
            added: Described = ("add", [*inputs[:2], *inputs[4:5]], [made[3]], {"inverse": False})
            return [added, ("norm", [made[3], *inputs[2:4]], made[:1], settings)]
        axis = given.get("axis", -1) % rank
        axes = (
            tuple(range(axis, rank))
            if node.op_type in ("LayerNormalization", "SimplifiedLayerNormalization")
            else tuple(range(1, rank))
        )
        return [("norm", inputs[:3], made[:1], {"eps": eps, "axes": axes, "groups": given.get("num_groups")})]
    if node.op_type == "BatchNormalization":
        return [("norm", inputs[:3], made[:1], {"eps": given.get("epsilon", 1e-5), "axes": (0, 2, 3), "groups": None})]
    if node.op_type in ("Mul", "Div", "Add", "Sub"):
        kind: Kind = "multiply" if node.op_type in ("Mul", "Div") else "add"
        return [(kind, inputs, made, {"inverse": node.op_type in ("Div", "Sub")})]
    if node.op_type in MOVES:
        return [("move", inputs, made, {})]
    return [("other", inputs, made, {})]


def _dtype(x: Any) -> str:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(x.data_type)).name
