"""Which parameters act on which values, from the dataflow alone: a graph's uses.

Nothing here knows names, modules or the network: a Linear is a Linear however its weight lies and wherever its bias is added, and a
norm is one whether it is fused or written out as mean, variance and root.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod
from types import MappingProxyType
from typing import Literal

import numpy as np

from scalablevit_ref.compare.capture.flow import Flow
from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Operation

UseKind = Literal["linear", "convolution", "norm", "gain", "shift", "other"]


@dataclass(frozen=True)
class Use:
    """One place where parameters act on data.

    Attributes
    ----------
    kind
        "linear" is a product, and "convolution" one of any kernel, 1 × 1 included; "norm" is one with a gain, fused or written
        out; "gain" multiplies and "shift" adds elsewhere (layer scale, position embeddings).
    operation
        The operation, by its place in the graph, in which the weight meets data.
    weight, bias
        The candidate's own names; `bias` is empty where none is added.
    given, made
        The value that enters (of a norm: what is normalised) and the value that leaves, bias added. Where tokens lie on one axis
        only for the product's sake, the values before and after that.
    given_axis, made_axis
        The axes that hold the channels, −1 where that is not known; the first of several, where heads have an axis of their own.
    rows
        The run of the weight's output rows that is used here; None for all.
    made_rows
        The run of `made`'s channels that they give, where weights are put together in the run; None for all.
    live
        Whether an output depends on `made`.
    operand, axes
        The weight as the operation takes it, by its value, and its axes in the order out, in, height, width; those that it has.
        A depthwise kernel may lack the second, or have the last two as one.
    sizes
        Out, in, height, width. A depthwise kernel has one channel in.
    """

    kind: UseKind
    operation: int
    weight: str
    bias: str
    given: int
    made: int
    given_axis: int
    made_axis: int
    rows: tuple[int, int] | None = None
    made_rows: tuple[int, int] | None = None
    live: bool = True
    module: str = ""
    line: str = ""
    operand: int = ABSENT
    axes: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    bias_operand: int = ABSENT

    @property
    def channels(self) -> int:
        """Channels out."""
        return self.sizes[0] if self.sizes else 1


def uses_of(graph: Graph, own: Mapping[str, np.ndarray] = MappingProxyType({})) -> tuple[Use, ...]:
    """All uses, in the order in which they run. `own` are the parameters' numbers in this run, where they are known."""
    flow = Flow(graph)
    found: list[Use] = []
    holders: dict[int, tuple[int, ...]] = {}  # a value: the uses in `found` that made it, perhaps moved about since
    bare: dict[int, int] = {}  # what a fused norm without a gain made: what it was given
    shifted: dict[int, tuple[int, int]] = {}  # a normalised value plus a parameter: the use in `found`, and what is normalised
    rates: dict[int, tuple[int, int]] = {}  # 1/deviation times gain: the gain's operation, and the operand
    for place, operation in enumerate(graph.operations):
        fed, weights = flow.split(operation)
        if not fed:
            continue
        if not weights:
            _pass_on(flow, operation, fed, holders, bare, rates, found)
            continue
        if operation.kind == "add" and (targets := _want_bias(flow, operation, fed, weights, holders, found)):
            for target in targets:
                found[target] = _with_bias(flow, operation, found[target], weights[0])
            holders[operation.outputs[0]] = targets
            continue
        if operation.kind == "multiply" and len(fed) == 1 and _is_rate(flow, operation, fed[0]):
            rates[operation.outputs[0]] = (place, weights[0])
            continue
        if operation.kind == "multiply" and len(fed) == 1 and fed[0] in shifted:
            at, given = shifted[fed[0]]
            use = _scaled(flow, place, operation, fed[0], weights[0], given, operation.outputs[0])
            found[at] = replace(use, bias=found[at].weight, bias_operand=found[at].operand)
            holders[use.made] = (at,)
            continue
        for use in _uses_in(flow, place, operation, fed, weights, bare):
            found.append(use)
            holders[use.made] = (*holders.get(use.made, ()), len(found) - 1)
            normalised = _normalised(flow, fed[0], bare) if use.kind == "shift" and len(fed) == 1 else None
            if normalised is not None:
                shifted[use.made] = len(found) - 1, normalised
    return tuple(_settled(flow, use) for use in _with_sums_of_shifts(flow, found, own))


def _with_sums_of_shifts(flow: Flow, found: Sequence[Use], own: Mapping[str, np.ndarray]) -> list[Use]:
    """The uses, in which a depthwise kernel is one whose numbers each multiply the map in another place, before all are summed."""
    by_weight: dict[str, list[Use]] = {}
    for use in found:
        if use.kind == "gain" and flow.size(use.operand) < flow.size(flow.numbers[use.weight]):
            by_weight.setdefault(use.weight, []).append(use)
    wholes = {name: _sum_of_shifts(flow, name, taps, own.get(name)) for name, taps in by_weight.items()}
    sums = {name: whole for name, whole in wholes.items() if whole is not None}
    added = {use.given: use for use in found if use.kind == "shift"}
    biased: list[Use] = []
    for name, whole in sums.items():
        bias = added.get(whole.made)
        if bias is not None and bias.channels == whole.channels and len(flow.users[whole.made]) == 1:
            sums[name] = replace(whole, bias=bias.weight, made=bias.made, made_axis=bias.made_axis, bias_operand=bias.operand)
            biased.append(bias)
    kept = [use for use in found if use not in biased and (use.weight not in sums or use is by_weight[use.weight][-1])]
    return [sums.get(use.weight, use) for use in kept]


def _sum_of_shifts(flow: Flow, name: str, taps: Sequence[Use], own: np.ndarray | None) -> Use | None:
    """The convolution that a kernel's numbers make, each by itself; None where they make none."""
    shape = flow.graph.shapes[flow.numbers[name]]
    widths = {use.channels for use in taps}
    if len(widths) != 1 or len(taps) < 2 or len(taps) * taps[0].channels != prod(shape) or not 2 <= len(shape) <= 4:
        return None
    width = widths.pop()
    out = _channels_of_kernel(flow, taps, width, shape, own)
    given = {_origin(flow, use.given) for use in taps}
    made = _sum_of(flow, {use.made for use in taps})
    if out is None or len(given) != 1 or made is None:
        return None
    rest = [axis for axis in range(len(shape)) if axis != out]
    kernel = [shape[axis] for axis in rest]
    if len(shape) == 4:
        single = [axis for axis in rest if shape[axis] == 1]
        if not single:
            return None
        inner = min(single, key=lambda axis: abs(axis - out))  # beside the channels: c 1 kh kw, kh kw 1 c, kh kw c 1
        rest = [inner, *(axis for axis in rest if axis != inner)]
        kernel = [shape[axis] for axis in rest[1:]]
    elif len(shape) == 2:
        kernel = [isqrt(len(taps))] * 2
        if prod(kernel) != len(taps):
            return None
    return replace(
        taps[-1],
        kind="convolution",
        given=given.pop(),
        made=made,
        operand=flow.numbers[name],
        axes=(out, *rest),
        sizes=(width, 1, *kernel),
    )


def _channels_of_kernel(flow: Flow, taps: Sequence[Use], width: int, shape: Sequence[int], own: np.ndarray | None) -> int | None:
    """The axis of a depthwise kernel on which its channels lie: by its size, and by the numbers that each tap takes of it."""
    last = len(shape) - 1
    fits = sorted((axis for axis, size in enumerate(shape) if size == width), key=lambda axis: (axis not in (0, last), -axis))
    taken = [flow.graph.constants.get(use.operand) for use in taps]
    if len(fits) > 1 and own is not None and all(x is not None and x.size == width for x in taken):
        rows = {axis: np.moveaxis(own, axis, -1).reshape(-1, width) for axis in fits}
        fits = [
            axis for axis in fits if all((rows[axis] == np.ravel(x).astype(own.dtype)).all(1).any() for x in taken if x is not None)
        ]
    return fits[0] if fits else None


def _origin(flow: Flow, value: int) -> int:
    """What a value is before its numbers were put in other places, were filled up or cut off."""
    while (made := flow.made_by(value)) is not None and made.kind == "move":
        before = flow.dominators.get(value, value)
        between = flow.region(value, before)
        if before == value or between is None or any(flow.graph.operations[i].kind != "move" for i in between):
            return value
        value = before
    return value


def _sum_of(flow: Flow, values: Collection[int]) -> int | None:
    """The value that is the sum of these and of nothing else; None where there is none."""
    parts: dict[int, frozenset[int]] = {value: frozenset({value}) for value in values}
    for operation in flow.graph.operations:
        fed, weights = flow.split(operation)
        adds = operation.kind == "add" and not operation.settings.get("inverse") and not any(operation.settings.get("scalars", ()))
        if adds and fed and not weights and all(x in parts for x in fed):
            parts[operation.outputs[0]] = frozenset().union(*(parts[x] for x in fed))
    return next((value for value, some in parts.items() if len(some) == len(values) and value not in values), None)


def _settled(flow: Flow, use: Use) -> Use:
    """The use with its values as they are before and after tokens lie on one axis."""
    given, given_axis = (use.given, use.given_axis) if use.given_axis < 0 else flow.unflattened(use.given, use.given_axis)
    made, made_axis = (use.made, use.made_axis) if use.made_axis < 0 else flow.folded(use.made, use.made_axis)
    asked = flow.graph.operations[use.operation]
    use = replace(use, given=given, given_axis=given_axis, made=made, made_axis=made_axis)
    return replace(use, live=made in flow.live, module=asked.module, line=asked.line)


def _pass_on(
    flow: Flow,
    operation: Operation,
    fed: list[int],
    holders: dict[int, tuple[int, ...]],
    bare: dict[int, int],
    rates: dict[int, tuple[int, int]],
    found: list[Use],
) -> None:
    """An operation without parameters: what it moves stays whose it was; it may be a norm that a gain follows."""
    out = operation.outputs[0]
    if operation.kind == "norm":
        bare[out] = fed[0]
    elif operation.kind == "move" and len(fed) == 1 and flow.size(fed[0]) == flow.size(out):
        if fed[0] in holders:
            holders[out] = holders[fed[0]]
        if fed[0] in bare:
            bare[out] = bare[fed[0]]
        if fed[0] in rates:
            rates[out] = rates[fed[0]]
    elif operation.kind == "multiply":
        for value in fed:
            if value not in rates:
                continue
            gain, operand = rates[value]
            given = flow.normalised(out, gain)
            use = _scaled(flow, gain, flow.graph.operations[gain], value, operand, ABSENT if given is None else given, out)
            found.append(use)
            holders[out] = (len(found) - 1,)


def _uses_in(
    flow: Flow, place: int, operation: Operation, fed: list[int], weights: list[int], bare: dict[int, int]
) -> Iterator[Use]:
    """The uses that begin in this operation: several where its weight is put together of several parameters."""
    graph, out = flow.graph, operation.outputs[0]
    if operation.kind == "product" and len(set(operation.inputs[:2]) & set(weights)) == 1:
        yield from _products(flow, place, operation)
    elif operation.kind == "convolution" and operation.inputs[1] in weights:
        x, operand, bias = (*operation.inputs, ABSENT)[:3]
        word, word_x = operation.settings["weight"], operation.settings["x"]
        axes = tuple(word.index(letter) for letter in (*"oi", *(letter for letter in word if letter not in "oi")))
        if operation.settings.get("transposed"):
            axes = (axes[1], axes[0], *axes[2:])
        channel = word_x.index("c")
        yield from _pieced(flow, place, "convolution", operand, bias, axes, (x, channel), (out, channel))
    elif operation.kind == "norm" and operation.inputs[1:2] and operation.inputs[1] in weights:
        x, operand, bias = (*operation.inputs, ABSENT)[:3]
        averaged, groups = operation.settings.get("axes", ()), operation.settings.get("groups")
        axis = 1 if groups is not None or not averaged or len(averaged) > len(graph.shapes[operand]) else averaged[-1]
        yield from _pieced(flow, place, "norm", operand, bias, (0,), (x, axis), (out, axis))
    elif operation.kind == "multiply" and len(fed) == 1:
        yield _scaled(flow, place, operation, fed[0], weights[0], _normalised(flow, fed[0], bare), out)
    elif operation.kind == "other" and "addcmul" in operation.name and len(operation.inputs) == 3 and len(fed) == 1:
        shift, *factors = operation.inputs
        gain = next((value for value in factors if value in weights), ABSENT)
        if gain != ABSENT and shift in weights:
            use = _scaled(flow, place, operation, fed[0], gain, flow.normalised(fed[0]), out)
            yield replace(use, bias=flow.pieces(shift)[0].name, bias_operand=shift)
    else:
        kind: UseKind = "shift" if operation.kind == "add" else "gain" if operation.kind == "multiply" else "other"
        for operand in dict.fromkeys(weights):
            axis = _broadcast_axis(graph.shapes[operand], graph.shapes[out])
            for piece in flow.pieces(operand):
                if piece.name:
                    same = -1 if kind == "other" else axis
                    size = (graph.shapes[out][axis],) if axis >= 0 and kind != "other" else graph.shapes[operand]
                    yield Use(kind, place, piece.name, "", fed[0], out, same, same, operand=operand, sizes=size)


def _products(flow: Flow, place: int, operation: Operation) -> Iterator[Use]:
    """A matrix of parameters times data, on either side."""
    left, right, *rest = operation.inputs
    side = 0 if left in flow.sources else 1
    operand, x = (left, right) if side == 0 else (right, left)
    contracted, batch = operation.settings["contracted"], operation.settings["batch"]
    shapes = flow.graph.shapes
    own_batch = [i for i in batch[side] if _is_own_axis(flow, operand, i)]
    free = {
        s: [i for i in range(len(shapes[value])) if i not in contracted[s] and i not in batch[s]]
        for s, value in ((0, left), (1, right))
    }
    axes = (*(own_batch or free[side]), *contracted[side], *(free[side] if own_batch else ()))
    out = operation.outputs[0]
    made_axis = len(batch[0]) + (0 if side == 0 else len(free[0]))
    given_axis = contracted[1 - side][0] if contracted[1 - side] else -1
    if own_batch:  # one small matrix for each channel, as a depthwise kernel is
        made_axis = batch[side].index(own_batch[0])
        given_axis = batch[1 - side][made_axis]
    bias = rest[0] if rest and rest[0] in flow.sources else ABSENT
    merged = (len(free[side]), len(contracted[side])) if not own_batch else (len(own_batch), len(contracted[side]))
    yield from _pieced(flow, place, "linear", operand, bias, axes, (x, given_axis), (out, made_axis), merged, bool(own_batch))


def _is_own_axis(flow: Flow, operand: int, axis: int) -> bool:
    """Whether the operand's numbers differ along a batch axis, rather than being the same ones for each image."""
    if flow.graph.shapes[operand][axis] == 1:
        return False
    size = flow.size(operand)
    return any(size <= flow.size(flow.numbers[piece.name]) for piece in flow.pieces(operand) if piece.name)


def _pieced(
    flow: Flow,
    place: int,
    kind: UseKind,
    operand: int,
    bias: int,
    axes: tuple[int, ...],
    given: tuple[int, int],
    made: tuple[int, int],
    merged: tuple[int, int] = (1, 1),
    depthwise: bool = False,
) -> Iterator[Use]:
    """One use for each parameter that the operand is put together of. merged: how many axes stand for channels out, and in."""
    shape = flow.graph.shapes[operand]
    outs, ins = axes[: merged[0]], axes[merged[0] : merged[0] + merged[1]]
    wide = prod(shape[i] for i in outs)
    if kind == "norm":
        sizes: tuple[int, ...] = (flow.size(operand),)
    elif kind == "linear":
        sizes = (wide, 1, prod(shape[i] for i in ins)) if depthwise else (wide, prod(shape[i] for i in ins))
    else:
        sizes = tuple(shape[i] for i in axes)
    pieces, biases = flow.pieces(operand), flow.pieces(bias) if bias in flow.sources else ()
    total = pieces[-1].stop
    for piece in pieces:
        if not piece.name:
            continue
        rows = (piece.start * wide // total, piece.stop * wide // total)
        beside = [b.name for b in biases if b.start <= rows[0] < b.stop]
        yield Use(
            kind,
            place,
            piece.name,
            beside[0] if beside else "",
            given[0],
            made[0],
            given[1],
            made[1],
            made_rows=rows if len(pieces) > 1 else None,
            operand=operand,
            axes=axes,
            sizes=(rows[1] - rows[0], *sizes[1:]) if len(pieces) > 1 else sizes,
            bias_operand=bias,
        )


def _normalised(flow: Flow, value: int, bare: dict[int, int]) -> int | None:
    """What was normalised to a value, by a fused norm or by one written out; None where it is no normalisation."""
    return bare[value] if value in bare else flow.normalised(value)


def _scaled(flow: Flow, place: int, operation: Operation, x: int, operand: int, given: int | None, out: int) -> Use:
    """A multiplication by a parameter: the gain of a norm where something was normalised."""
    axis = _broadcast_axis(flow.graph.shapes[operand], flow.graph.shapes[out])
    normalised = given is not None and given != ABSENT
    start = given if given is not None and normalised else x
    shape, made = flow.graph.shapes[start], flow.graph.shapes[out]
    given_axis = axis - len(made) + len(shape) if axis >= 0 and len(shape) >= len(made) - axis else -1
    if given_axis >= 0 and shape[given_axis] != made[axis]:
        fits = [i for i, size in enumerate(shape) if size == made[axis]]
        given_axis = fits[0] if len(fits) == 1 else -1
    sizes = (flow.size(operand),)
    name = flow.pieces(operand)[0].name
    kind: UseKind = "norm" if normalised else "gain"
    return Use(
        kind,
        place,
        name,
        "",
        start,
        out,
        given_axis,
        axis,
        operand=operand,
        axes=tuple(i for i, size in enumerate(flow.graph.shapes[operand]) if size > 1)[:1],
        sizes=sizes,
    )


def _is_rate(flow: Flow, operation: Operation, x: int) -> bool:
    """Whether a gain meets one number for all channels: 1/deviation, before it meets what is normalised."""
    return flow.size(operation.outputs[0]) > flow.size(x)


def _want_bias(
    flow: Flow,
    operation: Operation,
    fed: list[int],
    weights: list[int],
    holders: dict[int, tuple[int, ...]],
    found: list[Use],
) -> tuple[int, ...]:
    """The uses whose bias this addition adds: several where their weights are put together in the run."""
    if len(fed) != 1 or len(weights) != 1 or fed[0] not in holders or operation.settings.get("inverse"):
        return ()
    targets = holders[fed[0]]
    uses = [found[target] for target in targets]
    fits = sum(use.channels for use in uses) == flow.size(weights[0]) and not any(use.bias for use in uses)
    alone = len(flow.users[fed[0]]) == 1 and all(use.kind in ("linear", "convolution", "norm", "gain") for use in uses)
    return targets if fits and alone else ()


def _with_bias(flow: Flow, operation: Operation, use: Use, operand: int) -> Use:
    out = operation.outputs[0]
    axis = _broadcast_axis(flow.graph.shapes[operand], flow.graph.shapes[out])
    start = use.made_rows[0] if use.made_rows else 0
    beside = [piece.name for piece in flow.pieces(operand) if piece.start <= start < piece.stop]
    return replace(use, bias=beside[0] if beside else "", made=out, made_axis=axis, bias_operand=operand)


def _broadcast_axis(shape: Sequence[int], out: Sequence[int]) -> int:
    """The axis of `out` that the one long axis of `shape` meets; −1 where there are several or none."""
    long = [i for i, size in enumerate(shape) if size > 1]
    return long[0] - len(shape) + len(out) if len(long) == 1 else len(out) - 1 if not long and len(shape) == 1 else -1
