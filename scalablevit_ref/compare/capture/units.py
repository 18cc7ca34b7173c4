"""The candidate's own steps: a weight, or a run of its rows, with the bias beside it and the places where they act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from scalablevit_ref.compare.capture.context import STEPS
from scalablevit_ref.compare.capture.flow import Flow
from scalablevit_ref.compare.capture.layout import Layout, layout_by_values, layouts
from scalablevit_ref.compare.capture.official import Key, key_of
from scalablevit_ref.compare.capture.uses import Use
from scalablevit_ref.compare.capture.vocabulary import is_bias, stem_of


@dataclass
class Unit:
    """One of the candidate's steps.

    Attributes
    ----------
    weight, bias
        Its own names; `bias` is empty where it has none.
    rows
        The run of the weight's output rows, and of the bias's; None for all.
    keys
        What sort of step it may be: one where it acts, several where only its shape tells.
    sizes
        Channels out, numbers in, kernel, for each key.
    uses
        Where it acts, by places in the list of uses.
    live
        Whether an output depends on any of these.
    layout
        How the weight lies; None where nothing tells.
    declared
        Its place among all parameters.
    sure
        Whether what it does is what such a step does; a gain where nothing is normalised is no norm for sure.
    """

    weight: str
    bias: str
    rows: tuple[int, int] | None
    keys: tuple[Key, ...]
    sizes: Mapping[Key, tuple[int, ...]]
    declared: int
    uses: list[int] = field(default_factory=list)
    live: bool = False
    layout: Layout | None = None
    sure: bool = True

    @property
    def name(self) -> str:
        """Its weight's name without its end."""
        return stem_of(self.weight)


def units_of(flow: Flow, uses: Sequence[Use], own: Mapping[str, np.ndarray]) -> list[Unit]:
    """All of the candidate's steps: those that act, in the order in which they first do, then those that never do."""
    places = {name: i for i, name in enumerate(own)}
    found: dict[tuple[str, tuple[int, int] | None, Key], Unit] = {}
    normed = {use.weight for use in uses if use.kind == "norm"}
    for i, use in enumerate(uses):
        if use.weight not in own or not (use.kind in STEPS or (use.kind == "gain" and own[use.weight].size > 1)):
            continue
        if use.kind == "gain" and (use.weight in normed or own[use.weight].ndim > 2):  # a kernel, multiplied number by number
            continue
        rows, layout = _lies(flow, use, own[use.weight])
        key = key_of(use.kind, use.sizes)
        at = (use.weight, rows, key)
        unit = found.setdefault(at, Unit(use.weight, use.bias, rows, (key,), {key: use.sizes}, places[use.weight]))
        unit.uses.append(i)
        unit.bias = unit.bias or use.bias
        unit.live |= use.live
        unit.layout = unit.layout or layout
        unit.sure = use.kind in STEPS
    units = list(found.values())
    taken = {name for unit in units for name in (unit.weight, unit.bias)} | {use.weight for use in uses if use.kind == "shift"}
    return units + _idle(own, taken, places, units)


def _lies(flow: Flow, use: Use, own: np.ndarray) -> tuple[tuple[int, int] | None, Layout | None]:
    """The run of the weight's rows that is used, and how it lies."""
    sizes = use.sizes
    partial = prod(sizes) < own.size
    if use.kind not in ("linear", "convolution"):
        return None, None
    layout, value = None, flow.graph.constants.get(use.operand)
    if value is not None:
        layout = layout_by_values(_canonical(value, use), own)
    layout = layout or _by_moves(flow, use, own)
    if not partial:
        return None, layout
    if layout is not None and value is not None:
        return (layout.start, layout.start + sizes[0]), layout
    start = _by_split(flow, use)
    return (None if start is None else (start, start + sizes[0])), layout


def _canonical(value: np.ndarray, use: Use) -> np.ndarray:
    """The operand's own part as out, in, height, width."""
    kept = [axis for axis in range(value.ndim) if axis in use.axes]
    value = value[tuple(slice(None) if axis in use.axes else 0 for axis in range(value.ndim))]
    value = value.transpose([kept.index(axis) for axis in use.axes])
    if use.made_rows is not None:
        value = value.reshape(-1, *use.sizes[1:])[slice(*use.made_rows)]
    return value.reshape(use.sizes)


def _by_moves(flow: Flow, use: Use, own: np.ndarray) -> Layout | None:
    """How a weight lies by the operations between the parameter and the product: none, or transpositions of a matrix."""
    turns, value = 0, use.operand
    while (made := flow.made_by(value)) is not None and made.kind == "move" and len(made.inputs) == 1:
        words = made.name.lower().split(".")
        turns += any(word in ("t", "transpose", "permute", "numpy_t") for word in words)
        value = made.inputs[0]
    if value not in flow.graph.parameters or prod(use.sizes) != own.size:
        return None
    if turns == 0 and flow.graph.shapes[use.operand] == flow.graph.shapes[value] and len(use.axes) == len(use.sizes):
        order = tuple(use.axes.index(axis) for axis in range(len(use.axes)) if flow.graph.shapes[value][axis] > 1)
        return Layout(order, 0)
    if turns == 0 and use.kind == "convolution" and len(use.axes) < len(use.sizes):  # depthwise, with fewer axes
        letters = dict(zip(use.axes, ((0,), (2,), (3,)) if len(use.axes) == 3 else ((0,), (2, 3)), strict=True))
        return Layout(tuple(i for axis in range(own.ndim) for i in letters[axis] if use.sizes[i] > 1), 0)
    if len(use.sizes) == 2 and len(use.axes) == 2 and sum(size > 1 for size in own.shape) <= 2:
        turned = (use.axes[0] > use.axes[1]) != (turns % 2 == 1)
        return Layout((1, 0) if turned else (0, 1), 0)
    return None


def _by_split(flow: Flow, use: Use) -> int | None:
    """The first row of a weight that was cut into runs by one operation."""
    value = use.operand
    while (made := flow.made_by(value)) is not None and made.kind == "move" and len(made.inputs) == 1:
        if len(made.outputs) > 1:
            before = made.outputs[: made.outputs.index(value)]
            return sum(flow.size(x) for x in before) * use.sizes[0] // flow.size(value)
        value = made.inputs[0]
    return None


def _idle(own: Mapping[str, np.ndarray], taken: set[str], places: Mapping[str, int], units: Sequence[Unit]) -> list[Unit]:
    """Parameters that act nowhere, weights with their biases by their names."""
    free = [name for name in own if name not in taken]
    by_stem: dict[str, list[str]] = {}
    for name in free:
        by_stem.setdefault(stem_of(name), []).append(name)
    turned = usual(units)
    found = []
    for names in by_stem.values():
        weights = [name for name in names if not is_bias(name)] or names
        biases = [name for name in names if name not in weights]
        for name in weights:
            bias = biases[0] if biases and len(weights) == 1 else ""
            sizes = _possible(own[name].shape, turned)
            if sizes:
                keys = {key_of("norm" if len(some) == 1 else "linear", some): some for some in sizes}
                found.append(Unit(name, bias, None, tuple(keys), keys, places[name]))
    return found


def usual(units: Iterable[Unit]) -> bool:
    """Whether most of the candidate's weights lie as in, out."""
    told = Counter(unit.layout.turned for unit in units if unit.layout is not None and unit.keys[0][0] == "dense")
    return told[True] > told[False]


def _possible(shape: tuple[int, ...], turned: bool) -> list[tuple[int, ...]]:
    """The sizes out, in, height, width that a stored shape may have, the likeliest first."""
    long = tuple(size for size in shape if size > 1)
    if len(shape) <= 1 or len(long) <= 1:
        return [(prod(shape),)] if prod(shape) > 1 else []
    if len(shape) == 2:
        ways = [tuple(shape), tuple(reversed(shape))]
        return ways[::-1] if turned else ways
    if len(shape) == 4:
        ways = [tuple(shape), (shape[3], shape[2], *shape[:2])]
        return ways if (shape[2] == shape[3] and shape[0] != shape[1]) or not turned else ways[::-1]
    if len(shape) == 3:
        return [(shape[0], 1, *shape[1:]), (shape[2], 1, *shape[:2]), (shape[0], prod(shape[1:])), (prod(shape[:2]), shape[2])]
    return []


def layout_of(unit: Unit, own: np.ndarray, sizes: tuple[int, ...], turned: bool) -> Layout:
    """How a unit's weight lies, by what is known: its values, else its shape, else as most of the candidate's do."""
    if unit.layout is not None:
        return Layout(unit.layout.order, 0)
    ways = list(layouts(own, sizes))
    shape = tuple(size for size in own.shape if size > 1)
    fits = [way for way in ways if tuple(own.size // prod(sizes[1:]) if a == 0 else sizes[a] for a in way.order) == shape]
    fits = sorted(fits, key=lambda way: way.turned != turned)
    return (fits or ways)[0]
