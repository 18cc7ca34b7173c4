"""An OpenVINO model as a `Graph`, and a quantised one without its quantisation.

A value is an output of an operation: its key is the operation's friendly name and the output's place. Both models share the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from openvino import opset13

from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Kind, ModuleRun, Operation, fed_by_images, sources
from scalablevit_ref.compare.capture.quantised import Grid, counted
from scalablevit_ref.formats.onnx import module_path

Key = tuple[str, int]
Run = Callable[[Iterable[Key]], Mapping[Key, np.ndarray]]
"""Runs a model for the values of these keys."""

MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Split", "VariadicSplit", "Concat", "Gather"),
        *("Broadcast", "Pad", "Convert", "ConvertLike", "Tile", "Roll", "DepthToSpace", "SpaceToDepth", "ShuffleChannels"),
        *("GatherElements", "GatherND", "ScatterUpdate", "ReverseSequence", "Reverse"),
    }
)
"""Operations that lay numbers out in another way, or leave some of them out."""

ARITHMETIC: Mapping[str, tuple[Kind, bool]] = {
    "Multiply": ("multiply", False),
    "Divide": ("multiply", True),
    "Add": ("add", False),
    "Subtract": ("add", True),
}

FLOATS = frozenset({"f32", "f16", "bf16", "f64"})
INTEGERS = frozenset({"i8", "u8", "i4", "u4", "i32", "nf4", "f8e4m3", "f8e5m2"})
"""What weights of few bits lie in a model as; biases in 32."""


def key_of(output: Any) -> Key:
    return output.get_node().get_friendly_name(), output.get_index()


def source(node: Any, i: int) -> Any:
    """The output that a node takes as its i-th input."""
    return node.input(i).get_source_output()


def is_constant(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Constant")


def element(output: Any) -> str:
    return str(output.get_element_type().get_type_name())


def scope(node: Any) -> str:
    """The path of the module that made an operation, where its name tells; else empty."""
    name = node.get_friendly_name()
    if name.startswith("__module."):
        return str(name.removeprefix("__module.").partition("/")[0])
    return module_path(name, None)


# Quantisation


@dataclass
class Plain:
    """A model without quantisation, and what was taken away.

    Attributes
    ----------
    words
        The operations on few bits that it had.
    grids
        By the names of the constants that took the place of numbers of few bits.
    ranges
        Of the values that were rounded.
    fixed
        Whether values were rounded, and not weights alone.
    """

    model: Any
    words: str
    grids: dict[str, Grid] = field(default_factory=dict)
    ranges: dict[Key, Grid] = field(default_factory=dict)
    by_channel: bool = False
    rounded: frozenset[str] = frozenset()
    fixed: bool = False


def rounded_in_the_run(model: Any) -> str:
    """Operations that make whole numbers of few bits of data whose range is taken in the run, in words; empty for none."""
    data = {model.input().get_node().get_friendly_name()}
    found = []
    for node in model.get_ordered_ops():
        if any(source(node, i).get_node().get_friendly_name() in data for i in range(node.get_input_size())):
            data.add(node.get_friendly_name())
            if node.get_type_name() == "Convert" and element(node.output(0)) in ("i8", "u8"):
                found.append(f"Convert to {element(node.output(0))}")
    return counted(found)


def quantised(model: Any) -> str:
    """What of a model is of few bits, in words; empty if nothing is."""
    found = [node.get_type_name() for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    found += [
        f"Constant of {element(node.output(0))}"
        for node in model.get_ordered_ops()
        if _of_few_bits(node) and _scaled(node) is not None
    ]
    return counted(found)


def _of_few_bits(node: Any) -> bool:
    return node.get_type_name() == "Constant" and element(node.output(0)) in INTEGERS and prod(node.output(0).get_shape()) > 1


def _taker(node: Any) -> Any | None:
    """The one operation that takes what this one gives; None where there are several."""
    takers = {one.get_node() for one in node.output(0).get_target_inputs()}
    return takers.pop() if len(takers) == 1 else None


def _scaled(node: Any) -> tuple[Any, Any, Any | None] | None:
    """Of whole numbers the operation that gives what they stand for, the scale, and the zero; None where there is none."""
    converted = _taker(node)
    if converted is None or converted.get_type_name() != "Convert" or element(converted.output(0)) not in FLOATS:
        return None
    at, zero = _taker(converted), None
    if at is not None and at.get_type_name() == "Subtract" and source(at, 0).get_node() == converted:
        zero, at = source(at, 1), _taker(at)
    if at is None or at.get_type_name() != "Multiply":
        return None
    factors = [source(at, i) for i in range(2)]
    scale = next((one for one in factors if _is_of_constants(one) and not _comes_from(one, node)), None)
    return None if scale is None else (at, scale, zero)


def _is_of_constants(output: Any) -> bool:
    node = output.get_node()
    return is_constant(output) or (node.get_type_name() == "Convert" and is_constant(source(node, 0)))


def _comes_from(output: Any, node: Any) -> bool:
    queue, seen = [output.get_node()], 0
    while queue and seen < 20:
        at = queue.pop()
        seen += 1
        if at == node:
            return True
        queue += [source(at, i).get_node() for i in range(at.get_input_size())]
    return False


def without_quantisation(model: Any, run: Callable[[Any, list[Any]], list[np.ndarray]]) -> Plain:
    """A clone on numbers of floating point. run: of a model and outputs of its operations, their values."""
    found = Plain(model.clone(), quantised(model))
    products = set[str]()
    for node in found.model.get_ordered_ops():
        kind = node.get_type_name()
        if _of_few_bits(node) and (scaled := _scaled(node)) is not None:
            products |= _products_of(scaled[0])
            _put_numbers(found, node, *scaled, run)
        elif kind == "FakeQuantize":
            _take_away(found, node, run)
    for node in found.model.get_ordered_ops():
        if node.get_type_name() == "Multiply" and "smooth_quant" in node.get_friendly_name():
            _smooth(found, node, run)
    found.model.validate_nodes_and_infer_types()
    rounded = {"linear": "MatMul" in products, "conv2d": "Convolution" in products}
    found.fixed = bool(found.ranges)
    rounded |= {"attention": found.fixed}
    found.rounded = frozenset(name for name, there in rounded.items() if there) if found.fixed else frozenset()
    return found


def _products_of(node: Any) -> set[str]:
    """What takes a weight."""
    queue, found = [node], set[str]()
    while queue:
        for one in queue.pop().output(0).get_target_inputs():
            taker = one.get_node()
            kind = taker.get_type_name()
            if kind in ("Reshape", "Transpose", "Convert", "FakeQuantize"):
                queue.append(taker)
            found.add("Convolution" if kind == "GroupConvolution" else kind)
    return found


def _put_numbers(found: Plain, node: Any, product: Any, scale: Any, zero: Any | None, run: Any) -> None:
    """A constant of floating point in the place of numbers of few bits."""
    converted = _taker(node)
    assert converted is not None
    whole, step, *zeros = run(found.model, [converted.output(0), scale, *([] if zero is None else [zero])])
    kind = element(node.output(0))
    bits = 32 if kind == "i32" else 4 if kind in ("i4", "u4", "nf4") else 8
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    at = zeros[0].astype(np.float64) if zeros else np.zeros(())
    wide = step.astype(np.float64)
    numbers = (whole.astype(np.float64) - at) * wide
    name = node.get_friendly_name()
    constant = opset13.constant(np.asarray(numbers, np.float32), name=name)
    constant.set_friendly_name(name)
    product.output(0).replace(constant.output(0))
    found.by_channel |= step.size > 1
    ends = (low - at) * wide, (high - at) * wide  # a step may be negative
    parts = (np.abs(wide), np.minimum(*ends), np.maximum(*ends))
    found.grids[name] = Grid(*(np.broadcast_to(part, numbers.shape) for part in parts))


def _take_away(found: Plain, node: Any, run: Any) -> None:
    """What rounds a value, or a constant."""
    low, high, out_low, out_high = (x.astype(np.float64) for x in run(found.model, [source(node, i) for i in range(1, 5)]))
    count = node.get_attributes()["levels"] - 1
    name = node.get_friendly_name()
    if is_constant(source(node, 0)):
        (numbers,) = run(found.model, [node.output(0)])
        own = source(node, 0).get_node().get_friendly_name()
        constant = opset13.constant(np.asarray(numbers, np.float32), name=own)
        constant.set_friendly_name(own)
        node.output(0).replace(constant.output(0))
        found.by_channel |= out_low.size > 1
        parts = ((out_high - out_low) / count, out_low, out_high)
        found.grids[own] = Grid(*(np.broadcast_to(part, numbers.shape) for part in parts))
        return
    given = source(node, 0)
    if low.size == 1 == high.size:
        found.ranges[key_of(given)] = Grid(*(part.reshape(()) for part in ((high - low) / count, low, high)))
    if np.array_equal(low, out_low) and np.array_equal(high, out_high):
        node.output(0).replace(given)
        return
    factor = (out_high - out_low) / (high - low)
    scaled = opset13.multiply(given, opset13.constant(factor.astype(np.float32)))
    shifted = opset13.add(scaled, opset13.constant((out_low - low * factor).astype(np.float32)))
    scaled.set_friendly_name(f"{name}: read by another scale")
    shifted.set_friendly_name(f"{name}: read otherwise")
    node.output(0).replace(shifted.output(0))


def _smooth(found: Plain, node: Any, run: Any) -> None:
    """Factors of channels that a tool took out of a weight, to round both better, are put back."""
    place = next((i for i in range(2) if is_constant(source(node, i))), None)
    takers = [one.get_node() for one in node.output(0).get_target_inputs()]
    if place is None or any(taker.get_type_name() != "MatMul" or not is_constant(source(taker, 1)) for taker in takers):
        return
    (factor,) = run(found.model, [source(node, place)])
    for taker in takers:
        weight = source(taker, 1).get_node()
        name, turned = weight.get_friendly_name(), taker.get_attributes()["transpose_b"]
        across = factor.reshape(-1) if turned else factor.reshape(-1, 1)
        constant = opset13.constant(np.asarray(weight.get_data() * across, np.float32), name=name)
        constant.set_friendly_name(name)
        weight.output(0).replace(constant.output(0))
        if name in found.grids:
            grid = found.grids[name]
            found.grids[name] = Grid(*(part * across for part in (grid.step, grid.least, grid.greatest)))
    node.output(0).replace(source(node, 1 - place))


def open_attention(model: Any) -> list[Key]:
    """Write fused attention as two products and a softmax, so that each can be asked for; the keys of the softmaxes.

    Where values beside fused attention are asked for, OpenVINO 2026.4 gives wrong numbers for it, on the processor. It puts the
    three together again unless the softmax is asked for too.
    """
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_attributes()["causal"]:
            continue
        query, key, value, *more = (source(node, i) for i in range(node.get_input_size()))
        if len(more) < 2:
            width = query.get_partial_shape()[-1]
            if not width.is_static:
                continue
            more = [*more, opset13.constant(np.float32(width.get_length() ** -0.5)).output(0)]
        mask, scale = more
        name = node.get_friendly_name()
        scores = opset13.multiply(opset13.matmul(query, key, False, True), scale)
        if mask.get_partial_shape().rank.is_dynamic or prod(mask.get_shape()) > 1:
            scores = opset13.add(scores, mask)
        shares = opset13.softmax(scores, -1)
        made = opset13.matmul(shares, value, False, False)
        made.set_friendly_name(name)
        shares.set_friendly_name(f"{name}: the softmax")
        found.append(key_of(shares.output(0)))
        node.output(0).replace(made.output(0))
    model.validate_nodes_and_infer_types()
    return found


# The graph


@dataclass(frozen=True)
class Numbered:
    """The graph, and the keys of its values by their numbers."""

    graph: Graph
    keys: Mapping[int, Key]


def numbered(model: Any, *, outputs: Mapping[str, Any], parameters: Mapping[str, str], run: Run) -> Numbered:
    """The operations of a model.

    Parameters
    ----------
    model
        Whose input has a fixed shape.
    outputs
        What it gives, by the names that `Graph.outputs` has.
    parameters
        From the names of constants to what they are called as parameters.
    run
        Runs it; asked for the shapes that depend on values, and for what is made of parameters alone.
    """
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() != "Result"]
    numbers = {key_of(output): i for i, output in enumerate(output for node in nodes for output in node.outputs())}
    every = {key_of(output): output for node in nodes for output in node.outputs()}
    moving = [key for key, output in every.items() if not output.get_partial_shape().is_static]
    found = {} if not moving else run(moving)
    shapes = {
        numbers[key]: found[key].shape if key in found else tuple(output.get_partial_shape().to_shape())
        for key, output in every.items()
    }
    merged: dict[int, int] = {}
    operations: list[Operation] = []
    for node in nodes:
        if node.get_type_name() in ("Parameter", "Constant"):
            continue
        given = [numbers[key_of(source(node, i))] for i in range(node.get_input_size())]
        made = tuple(numbers[key_of(output)] for output in node.outputs())
        kind, inputs, settings = _described(node, given, shapes)
        where, name = scope(node), f"openvino.{_name(node.get_type_name())}"
        if node.get_type_name() == "GroupConvolution":  # whose weight has an axis of groups
            weight = given[1]
            if weight not in merged:
                merged[weight] = len(numbers) + len(merged)
                groups, out, *rest = shapes[weight]
                shapes[merged[weight]] = (groups * out, *rest)
                operations.append(Operation("move", "openvino.Reshape", (weight,), (merged[weight],), {}, where))
            inputs = [given[0], merged[weight]]
        operations.append(Operation(kind, name, tuple(inputs), made, settings, where, node.get_friendly_name()))
    dtypes = {numbers[key]: _dtype(output) for key, output in every.items()} | dict.fromkeys(merged.values(), "float32")
    graph = Graph(
        tuple(operations),
        shapes,
        dtypes,
        numbers[key_of(model.input().get_node().output(0))],
        {numbers[name, 0]: called for name, called in parameters.items() if (name, 0) in numbers},
        {},
        {called: numbers[key_of(output)] for called, output in outputs.items()},
        (*_modules(nodes, numbers), *(ModuleRun(name, (), (value,)) for (name, _), value in numbers.items())),
    )
    keys = {value: key for key, value in numbers.items()}
    return Numbered(_with_constants(graph, keys, {one: weight for weight, one in merged.items()}, run), keys)


def _with_constants(graph: Graph, keys: Mapping[int, Key], merged: Mapping[int, int], run: Run) -> Graph:
    """With the numbers of what is made of parameters alone and meets the images, or what they become."""
    fed, own = fed_by_images(graph), sources(graph)
    wanted = {value for one in graph.operations if fed.intersection(one.inputs) for value in one.inputs if value in own}
    held = run([keys[merged.get(value, value)] for value in wanted]) if wanted else {}
    constants = {value: held[keys[merged.get(value, value)]].reshape(graph.shapes[value]) for value in wanted}
    return replace(graph, constants=constants)


def _modules(nodes: list[Any], numbers: Mapping[Key, int]) -> tuple[ModuleRun, ...]:
    """In the order in which they end, each with the last value that is made in it and used outside."""
    found: dict[str, int] = {}
    for node in nodes:
        path = scope(node)
        while path:
            for output in node.outputs():
                users = [scope(one.get_node()) for one in output.get_target_inputs()]
                if any(user != path and not user.startswith(f"{path}.") for user in users):
                    found.pop(path, None)
                    found[path] = numbers[key_of(output)]
            path = path.rpartition(".")[0]
    return tuple(ModuleRun(path, (), (value,)) for path, value in found.items())


def _described(node: Any, given: list[int], shapes: Mapping[int, tuple[int, ...]]) -> tuple[Kind, list[int], dict[str, Any]]:
    """An operation's kind, inputs and settings."""
    kind, told = node.get_type_name(), node.get_attributes()
    if kind in ("Convolution", "GroupConvolution"):
        settings = {
            "stride": tuple(told["strides"]),
            "padding": tuple(zip(told["pads_begin"], told["pads_end"], strict=True)),
            "dilation": tuple(told["dilations"]),
            "groups": shapes[given[1]][0] if kind == "GroupConvolution" else 1,
            "transposed": False,
            "x": "bchw",
            "weight": "oihw",
        }
        return "convolution", given, settings
    if kind == "MatMul":
        left, right = (len(shapes[value]) for value in given)
        contracted = (
            (max(left - (2 if told["transpose_a"] else 1), 0),),
            (max(right - (1 if told["transpose_b"] else 2), 0),),
        )
        axes = tuple(range(min(left, right) - 2)) if min(left, right) > 2 else ()
        batch = (tuple(left - 2 - len(axes) + i for i in axes), tuple(right - 2 - len(axes) + i for i in axes))
        return "product", given, {"contracted": contracted, "batch": batch}
    if kind == "MVN":
        rank = len(shapes[given[0]])
        axes = tuple(int(axis) % rank for axis in np.ravel(source(node, 1).get_node().get_data()))
        return "norm", given[:1], {"eps": told["eps"], "axes": axes, "groups": None}
    if kind in ARITHMETIC:
        plain, inverse = ARITHMETIC[kind]
        return plain, given, {"inverse": inverse}
    if kind in MOVES:
        return "move", given if kind == "Concat" else given[:1], {}
    return "other", [value for value in given if value != ABSENT], {}


def _name(kind: str) -> str:
    return "scaled_dot_product_attention" if kind == "ScaledDotProductAttention" else str(kind)


def _dtype(output: Any) -> str:
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
    return names.get(element(output), element(output))
