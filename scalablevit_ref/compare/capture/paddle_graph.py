"""A program of PaddlePaddle's intermediate representation (PIR) as a `Graph`: what `paddle.jit.to_static` traces of a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import paddle

from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.compare.capture.graph import Graph, Kind, ModuleRun, Operation, fed_by_images, sources
from scalablevit_ref.compare.capture.own_code import shown_line
from scalablevit_ref.errors import CaptureError

MOVES = frozenset(
    {
        *("reshape", "transpose", "flatten", "squeeze", "unsqueeze", "slice", "strided_slice", "split", "split_with_num"),
        *("concat", "stack", "unstack", "unbind", "expand", "expand_as", "tile", "pad", "pad3d", "roll", "cast", "assign"),
        *("assign_out_", "gather", "gather_nd", "index_select", "flip", "share_data", "view_shape", "set_value_", "pixel_shuffle"),
        *("pixel_unshuffle", "builtin.split", "builtin.combine", "builtin.slice", "as_strided", "unfold", "fold"),
    }
)
"""Operations that lay numbers out in another way, or leave some of them out."""

TOGETHER = frozenset({"concat", "stack", "builtin.combine", "set_value_"})
"""Those of them that put several arrays together; of all others the first input is what is moved."""

ARITHMETIC: Mapping[str, tuple[Kind, bool]] = {
    "multiply": ("multiply", False),
    "divide": ("multiply", True),
    "add": ("add", False),
    "subtract": ("add", True),
}

CONVOLUTIONS = frozenset({"conv2d", "depthwise_conv2d", "conv3d"})
RANDOM = frozenset({"dropout", "uniform", "gaussian", "bernoulli", "randint", "randperm", "truncated_gaussian_random"})
NUMBERS = frozenset({"full", "full_int_array"})
"""Operations that hold a setting of the one that takes what they give."""

FRAME = re.compile(r'\s*File "(.+)", line (\d+), in (\S+)')
"""One frame of the stack that an operation of a program remembers."""


@dataclass
class Scopes:
    """Which layer ran while which operations were traced.

    Attributes
    ----------
    spans
        Path, the number of operations before it began and when it ended, what it was given and what it returned; in the order in
        which they ended.
    """

    spans: list[tuple[str, int, int, list[Any], list[Any]]] = field(default_factory=list)

    def innermost(self, place: int) -> str:
        """The path of the innermost layer in which the operation of this place was traced."""
        inside = [(end - start, -len(path), path) for path, start, end, _, _ in self.spans if start <= place < end]
        return min(inside)[2] if inside else ""


@dataclass(frozen=True)
class Numbered:
    """The graph, and the program's values by their numbers."""

    graph: Graph
    values: Mapping[int, Any]


def numbered(
    program: Any,
    *,
    outputs: Mapping[str, Any],
    parameters: Mapping[str, str],
    scopes: Scopes,
    run: Callable[[Collection[Any]], Sequence[np.ndarray]],
) -> Numbered:
    """The operations of a program.

    Parameters
    ----------
    program
        With one `pd_op.data`, the images. Shapes that depend on theirs are those of a run.
    outputs
        The values that it gives, by the names that `Graph.outputs` has.
    parameters
        From the program's names of parameters to the candidate's.
    scopes
        The layers that ran.
    run
        The numbers of some values, computed from the images and the parameters.

    Raises
    ------
    CaptureError
        For a program that branches or repeats by what it computes.
    """
    ops = program.global_block().ops
    if branches := sorted({_name(op) for op in ops if list(op.blocks())}):
        raise CaptureError(f"the layer decides by its own numbers what it computes ({', '.join(branches)}), which is not followed")
    values: dict[int, Any] = {}
    numbers: dict[tuple[int, int], int] = {}
    for op in ops:
        for i, value in enumerate(op.results()):
            numbers[op.id(), i] = len(values)
            values[len(values)] = value
    number = _Numbers(numbers)
    shapes, dtypes, own, images = {}, {}, dict[int, str](), -1
    operations: list[Operation] = []
    moving: dict[int, Any] = {}
    for place, op in enumerate(ops):
        name = _name(op)
        made = tuple(number(value) for value in op.results())
        for n, value in zip(made, op.results(), strict=True):
            shapes[n], dtypes[n] = _shape(value), _dtype(value)
            if -1 in shapes[n]:
                moving[n] = value
        if name == "data":
            images = made[0]
        elif name == "builtin.parameter":
            called = op.attrs()["parameter_name"]
            if called in parameters:
                own[made[0]] = parameters[called]
        elif made and name not in NUMBERS:
            given = [operand.source() for operand in op.operands() if operand.source().get_defining_op() is not None]
            kind, inputs, settings = _described(name, op.attrs(), given, number)
            line = _line(op)
            operations.append(Operation(kind, name, inputs, made, settings, scopes.innermost(place), line))
    if moving:
        shapes |= {n: x.shape for n, x in zip(moving, run(list(moving.values())), strict=True)}
    runs = tuple(
        ModuleRun(path, tuple(one for x in given if (one := number.known(x)) is not None), tuple(map(number, returned)))
        for path, _, _, given, returned in scopes.spans
        if path and all(number.known(x) is not None for x in returned)
    )
    graph = Graph(tuple(operations), shapes, dtypes, images, own, {}, {k: number(v) for k, v in outputs.items()}, runs)
    return Numbered(_with_constants(graph, values, run), values)


class _Numbers:
    """Values by what made them, which is all that two objects for the same value share."""

    def __init__(self, numbers: Mapping[tuple[int, int], int]) -> None:
        self.numbers = numbers

    def __call__(self, value: Any) -> int:
        return self.numbers[value.get_defining_op().id(), value.index()]

    def known(self, value: Any) -> int | None:
        op = value.get_defining_op()
        return None if op is None else self.numbers.get((op.id(), value.index()))


def _with_constants(graph: Graph, values: Mapping[int, Any], run: Callable[[Collection[Any]], Sequence[np.ndarray]]) -> Graph:
    """With the numbers of what is made of parameters alone and meets the images."""
    fed, own = fed_by_images(graph), sources(graph)
    wanted = sorted({n for one in graph.operations if fed.intersection(one.inputs) for n in one.inputs if n in own})
    held = run([values[n] for n in wanted]) if wanted else []
    return replace(graph, constants=dict(zip(wanted, held, strict=True)))


def _described(
    name: str, told: Mapping[str, Any], given: Sequence[Any], number: _Numbers
) -> tuple[Kind, tuple[int, ...], dict[str, Any]]:
    """An operation's kind, inputs and settings."""
    inputs = tuple(number(value) for value in given if _name(value.get_defining_op()) not in NUMBERS)
    ranks = [len(_shape(value)) for value in given]
    if name in CONVOLUTIONS:
        first = "b" + "dhw"[-(ranks[0] - 2) :]
        settings = {
            "stride": tuple(told["strides"]),
            "padding": _padding(told, _shape(given[1])),
            "dilation": tuple(told["dilations"]),
            "groups": told["groups"],
            "transposed": False,
            "x": f"{first}c" if told["data_format"] in ("NHWC", "NDHWC") else f"bc{first[1:]}",
            "weight": f"oi{first[1:]}",
        }
        return "convolution", inputs, settings
    if name == "matmul" and min(ranks) > 1:
        left, right = ranks
        contracted = ((left - (2 if told["transpose_x"] else 1),), (right - (1 if told["transpose_y"] else 2),))
        shared = range(min(left, right) - 2)
        batch = tuple(tuple(rank - 2 - len(shared) + i for i in shared) for rank in ranks)
        return "product", inputs, {"contracted": contracted, "batch": batch}
    if name == "layer_norm":
        axes = tuple(range(told["begin_norm_axis"], ranks[0]))
        return "norm", inputs, {"eps": _eps(told), "axes": axes, "groups": None}
    if name in ARITHMETIC:
        plain, inverse = ARITHMETIC[name]
        if len(inputs) == 2:
            return plain, inputs, {"inverse": inverse}
        numbers = [value for value in given if _name(value.get_defining_op()) in NUMBERS]
        if len(inputs) == len(numbers) == 1:
            return plain, inputs, {"inverse": inverse, "scalars": (_held(numbers[0]),), "turned": numbers[0] is given[0]}
    if name == "scale" and len(inputs) == 1:
        factor, bias = _held(given[1]) if len(given) > 1 else 1.0, told["bias"]
        if bias == 0:
            return "multiply", inputs, {"scalars": (factor,)}
        if factor == 1:
            return "add", inputs, {"scalars": (bias,)}
    if name in MOVES:
        return "move", inputs if name in TOGETHER else inputs[:1], {}
    return "other", inputs, {"random": True} if name in RANDOM else _axes(told, given)


def _axes(told: Mapping[str, Any], given: Sequence[Any]) -> dict[str, Any]:
    """Those along which an operation runs, where it says so: a softmax in an attribute, a sum in a constant that it takes."""
    if isinstance(told.get("axis"), int):
        return {"dim": told["axis"]}
    held = [value.get_defining_op() for value in given if _name(value.get_defining_op()) == "full_int_array"]
    return {"dim": tuple(held[0].attrs()["value"])} if held else {}


def _padding(told: Mapping[str, Any], weight: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Zeros before and after, for each axis of the map."""
    kernel, given = weight[2:], list(told["paddings"])
    if told["padding_algorithm"] == "VALID":
        given = [0] * len(kernel)
    if len(given) == 2 * len(kernel):
        return tuple(zip(given[::2], given[1::2], strict=True))
    return tuple((p, p) for p in given)


def _eps(told: Mapping[str, Any]) -> float:
    """An epsilon as its author wrote it: a program holds it in float32."""
    return float(str(np.float32(told["epsilon"])))


def _held(value: Any) -> float:
    return float(value.get_defining_op().attrs()["value"])


def _name(op: Any) -> str:
    return str(op.name()).removeprefix("pd_op.").rstrip("_") if op.name() != "pd_op.set_value_" else "set_value_"


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(value.shape)
    except ValueError:  # several arrays together
        return ()


def _dtype(value: Any) -> str:
    try:
        return dtype_name(value)
    except (ValueError, TypeError):
        return "several"


def _line(op: Any) -> str:
    """Where the candidate's own code asks for it."""
    for frame in reversed(op.callstack or ()):
        if (found := FRAME.match(frame)) is not None:
            file, line, function = found.groups()
            if shown := shown_line(file, int(line), function):
                return shown
    return ""


def floats(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of floating point."""
    return {name: x for name, x in state.items() if paddle.is_floating_point(x)}
