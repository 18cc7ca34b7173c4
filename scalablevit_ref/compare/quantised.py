"""A quantised candidate: what its quantisation costs at each layer as noise levels in dB, and what is wrong beside that.

Without its quantisation a right candidate computes what the reference does with the weights that its grids hold, to rounding in
floating point. These weights are the given ones, rounded. What is left of the noise is what its own ranges cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from math import inf, isfinite, log2, log10
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.pairing import Pairing
from scalablevit_ref.compare.capture.quantised import LEVELS, Grid, Quantised
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.own_weights import OwnWeights, Slip, moves, own_weights
from scalablevit_ref.edits import Changes, Function, Mistake, Swap
from scalablevit_ref.ops import attention, conv2d, gelu, gelu_tanh, layer_norm, linear
from scalablevit_ref.testing.arrays import relative_l2

MOST_ROWS = 5
"""Layers of the greatest noise that are told."""

MOST_RANGES = 3
"""Ranges that do not fit the values, and that are told."""

NEIGHBOUR = 1 + 2**-10
"""How far a rounded weight may be from the given one, in steps: tools round to a neighbour that is not always the nearest."""

NEAR = re.compile("^they are (near|[01][.]?[0-9]* times) the file's")
"""Words for a parameter that is another one by little."""

ROUNDED = 2**-20
"""Relative error of a noise level that is rounding in floating point."""


@dataclass(frozen=True)
class LayerNoise:
    """One layer: 20·log10 ‖Δ‖ / ‖reference‖ in dB.

    Attributes
    ----------
    noise
        Of the candidate, fed what its own layers before it gave.
    own
        What its own grids cost there: those of the weights, and those of the values.
    cost
        What 8 bits cost there: of the reference whose factors are rounded to 8 bits, with ranges that fit these values. −inf where
        the candidate computes in floating point.
    differs
        Whether it computes something else without quantisation too.
    reweighed
        Whether its weights are others than the given ones, rounded, and that costs more than rounding them would.
    """

    layer: str
    noise: float
    own: float
    cost: float
    differs: bool = False
    reweighed: bool = False

    @property
    def wrong(self) -> bool:
        return self.differs or self.reweighed


@dataclass(frozen=True)
class UnfitRange:
    """A range that does not fit the values: where it lies, which, how many bits that costs, and the share that it cuts off."""

    layer: str
    called: str
    least: float
    greatest: float
    bits: float
    cut_off: float

    def __str__(self) -> str:
        what = f"cuts off {self.cut_off:.1%} of the values" if self.cut_off else "is wider than the values"
        between = f"{self.least:.3g} … {self.greatest:.3g}"
        return f"{self.called} in {self.layer}: the range {between} {what}, which costs {self.bits:.1f} bits"


@dataclass(frozen=True)
class Noise:
    """Of all layers that were compared.

    Attributes
    ----------
    operations
        The candidate's operations on few bits, in words.
    rows
        In the network's order.
    without
        What the candidate is without its quantisation, in words.
    left
        Operations on few bits that could not be taken away: whether the candidate is right is then not known.
    ranges
        Those that cost more than a bit, the worst first.
    """

    operations: str
    rows: tuple[LayerNoise, ...]
    without: str
    left: str = ""
    ranges: tuple[UnfitRange, ...] = ()

    @property
    def wrong(self) -> tuple[LayerNoise, ...]:
        """Those that are off by more than their quantisation."""
        return tuple(row for row in self.rows if row.wrong)

    def lines(self) -> list[str]:
        """The conclusion, the ranges that do not fit, and the layers of the greatest noise."""
        shown = sorted(self.rows, key=lambda row: (not row.wrong, -row.noise if row.noise == row.noise else -inf))[:MOST_ROWS]
        width = max(len("layer"), *(len(row.layer) for row in shown))
        table = [f"{'layer':{width}}     noise   its grids cost   8 bits cost"]
        table += [f"{row.layer:{width}}  {_said(row.noise)}   {_said(row.own):>14}   {_said(row.cost):>11}" for row in shown]
        more = f"and {len(self.ranges) - MOST_RANGES} more ranges cost more than a bit"
        ranges = [*map(str, self.ranges[:MOST_RANGES]), *([more] if self.ranges[MOST_RANGES:] else [])]
        return [*self._conclusions(), *ranges, *table]

    def _conclusions(self) -> Iterator[str]:
        if self.left:
            yield f"whether it is right is not known: {self.left} cannot be taken away; its noise beside what 8 bits cost:"
            return
        differing = [row.layer for row in self.rows if row.differs]
        if differing:
            yield f"{_some(differing)} differ{'s' * (len(differing) == 1)} without quantisation too"
        else:
            yield f"without its quantisation it {self.without}"
        reweighed = [row.layer for row in self.rows if row.reweighed]
        if reweighed:
            yield f"the weights of {_some(reweighed)} are no roundings of those given: the noise is more than its grids cost"
        elif not differing:
            yield "the noise of each layer is what its own grids cost"

    def data(self) -> dict[str, Any]:
        """Plain values only; what is not finite is None."""
        rows = [
            {
                "layer": row.layer,
                "noise_db": _plain(row.noise),
                "cost_of_its_grids_db": _plain(row.own),
                "cost_of_8_bits_db": _plain(row.cost),
                "wrong": row.wrong,
                "differs_without_quantisation": row.differs,
                "other_weights": row.reweighed,
            }
            for row in self.rows
        ]
        ranges = [
            {
                "layer": one.layer,
                "value": one.called,
                "range": [one.least, one.greatest],
                "bits_lost": _plain(one.bits),
                "cut_off": one.cut_off,
            }
            for one in self.ranges
        ]
        return {
            "operations": self.operations,
            "noise_is_what_8_bits_cost": not self.wrong,
            "not_taken_away": self.left,
            "layers": rows,
            "ranges_that_do_not_fit": ranges,
        }


# The weights


@dataclass(frozen=True)
class Weights:
    """The weights of a quantised candidate, by official names: as its grids hold them, and as the given ones are on its grids."""

    own: Mapping[str, np.ndarray]
    given: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    grids: Mapping[str, Grid]

    def slips(self) -> OwnWeights:
        """What makes the own ones others than the expected ones."""
        found = own_weights(self.own, {name: x for name, x in self.expected.items() if name in self.own})
        named = [Slip(self._moved(name) or slip.words, (name,), slip.harmless) for slip in found.slips for name in slip.names]
        words = dict.fromkeys((slip.words, slip.harmless) for slip in named)
        together = (Slip(said, tuple(x.names[0] for x in named if x.words == said), harmless) for said, harmless in words)
        return replace(found, slips=tuple(together))

    def _moved(self, name: str) -> str:
        """What was done to a parameter before it was rounded, in words; empty where that is not known."""
        if name not in self.grids:
            return ""
        mine, grid = self.own[name], self.grids[name]
        moved = ((words, x) for words, x in moves(self.given[name].astype(np.float64)) if x.shape == mine.shape)
        return next((words for words, x in moved if (np.abs(grid.rounded(x) - mine) <= NEIGHBOUR * grid.step).all()), "")


def weights_of(few: Quantised, pairing: Pairing, own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> Weights:
    """The given weights, rounded as the candidate's are.

    Parameters
    ----------
    few, pairing
        The candidate's grids, and how its parameters lie.
    own
        Its weights without quantisation, by its own names.
    given
        By official names.
    """

    def official(part: str) -> dict[str, np.ndarray]:
        arrays = {
            name: np.array(np.broadcast_to(getattr(few.grids[name], part), x.shape)) if name in few.grids else np.zeros(x.shape)
            for name, x in own.items()
        }
        return pairing.official_weights(arrays)

    steps, least, greatest = official("step"), official("least"), official("greatest")
    has = pairing.official_weights(own)
    expected, grids = dict(given), dict[str, Grid]()
    for name, step in steps.items():
        if not step.any():
            continue
        grid = grids[name] = Grid(step, least[name], greatest[name])
        x, mine = given[name].astype(np.float64), has[name].astype(np.float64)
        near = np.abs(mine - np.clip(x, grid.least, grid.greatest)) <= NEIGHBOUR * step
        rounded = np.where(near, mine, grid.rounded(x))
        expected[name] = np.where(step > 0, rounded, x)
    return Weights({name: x.astype(np.float64) for name, x in has.items()}, given, expected, grids)


def told_together(slips: Sequence[Slip]) -> list[Slip]:
    """Slips with the biases that are others by little as one: tools correct them for what rounding costs."""
    corrected, rest = list[str](), list[Slip]()
    for slip in slips:
        biases = [name for name in slip.names if name.endswith("bias")] if NEAR.search(slip.words) else []
        corrected += biases
        others = tuple(name for name in slip.names if name not in biases)
        rest += [replace(slip, names=others)] if others else []
    words = "they are near the file's (corrected by the tool that quantised it?)"
    return [*rest, *([Slip(words, tuple(corrected))] if corrected else [])]


# The layers


def noise_of_layers(
    layers: Collection[str],
    local: Local,
    weights: Weights,
    few: Quantised,
    *,
    differing: Collection[str],
    without: str,
    floor: float,
    ranges: Sequence[UnfitRange] = (),
) -> Noise:
    """The noise of each layer beside what its own grids cost there, and what 8 bits cost.

    Parameters
    ----------
    layers
        Those of the candidate.
    local
        The reference's layers with the given weights, between the quantised candidate's.
    weights, few
        Of the candidate.
    differing
        Layers that compute something else without quantisation too.
    without
        What the candidate is without quantisation, in words.
    floor
        Relative error that is no mistake in floating point.
    ranges
        Those that do not fit.
    """
    change = Mistake("8 bits", changes=eight_bits(few.rounded, by_channel=few.by_channel))
    own, expected = (
        Local(local.network, {**weights.given, **other}, local.images, set(local.names), local.tap)
        for other in (weights.own, weights.expected)
    )
    rows = []
    for layer in layers:
        actual, right, rounded = local.tap(layer), local.output(layer), local.output(layer, change)
        if few.fixed and np.unique(actual).size <= LEVELS:
            rounded = rounded_to_8_bits(rounded)
        size = float(np.linalg.norm(right)) or 1.0
        of_values = float(np.linalg.norm(actual - own.output(layer))) / size
        of_weights = float(np.linalg.norm(expected.output(layer) - right)) / size
        noise = relative_l2(actual, right)
        reweighed = not few.left and not noise <= (of_values + of_weights) * (1 + ROUNDED) + floor
        rows.append(
            LayerNoise(
                layer,
                decibels(noise),
                decibels(float(np.hypot(of_values, of_weights))),
                decibels(relative_l2(rounded, right)),
                differs=layer in differing,
                reweighed=reweighed,
            )
        )
    return Noise(few.words, tuple(rows), without, few.left, tuple(ranges))


def unfit_ranges(
    few: Quantised, fetch: Callable[[Collection[int]], Mapping[int, np.ndarray]], layer_of: Callable[[int], str]
) -> tuple[UnfitRange, ...]:
    """The ranges of values that cost more than a bit beside ranges that fit, the worst first.

    Parameters
    ----------
    few
        The candidate's ranges.
    fetch
        Gives values of its graph without quantisation.
    layer_of
        The layer in which a value is made.
    """
    held = fetch([one.value for one in few.ranges])
    found = []
    for one in few.ranges:
        x, grid = held[one.value].astype(np.float64), one.grid
        count = float((grid.greatest - grid.least) / grid.step) if grid.step else 0.0
        if not count or not np.isfinite(x).all():
            continue
        own = float(np.linalg.norm(grid.rounded(x) - x))
        fitted = float(np.linalg.norm(rounded_to_levels(x, round(count) + 1) - x))
        if own > 2 * fitted and fitted > 0:
            cut_off = float(np.mean((x < grid.least - grid.step / 2) | (x > grid.greatest + grid.step / 2)))
            least, greatest = float(grid.least), float(grid.greatest)
            found.append(UnfitRange(layer_of(one.value), one.called, least, greatest, log2(own / fitted), cut_off))
    return tuple(sorted(found, key=lambda one: -one.bits))


# 8 bits


def eight_bits(rounded: Collection[str], *, by_channel: bool) -> Changes:
    """Operations on numbers that are rounded to 8 bits, in place of the exact ones.

    Where attention is rounded, what products give is as well.
    """
    kept = rounded_to_8_bits if "attention" in rounded else np.asarray

    def product(function: Function) -> Function:
        @wraps(function)
        def of_rounded(x: np.ndarray, weight: np.ndarray, *more: Any, **settings: Any) -> Any:
            axes = tuple(range(1, weight.ndim)) if by_channel else None
            return kept(function(rounded_to_8_bits(x), rounded_to_8_bits(weight, axes, symmetric=True), *more, **settings))

        return of_rounded

    def whole(function: Function) -> Function:
        @wraps(function)
        def rounded_output(*arrays: np.ndarray, **settings: Any) -> Any:
            return rounded_to_8_bits(function(*(rounded_to_8_bits(x) for x in arrays), **settings))

        return rounded_output

    changes: dict[Any, Callable[[Function], Function]] = {
        linear: product,
        conv2d: product,
        attention: whole,
        layer_norm: whole,
        gelu: whole,
        gelu_tanh: whole,
    }
    return tuple(
        Swap(function, make, "8 bits") for function, make in changes.items() if function.__name__.removesuffix("_tanh") in rounded
    )


def rounded_to_8_bits(x: np.ndarray, axes: Sequence[int] | None = None, *, symmetric: bool = False) -> np.ndarray:
    """The nearest of 256 evenly spaced numbers between the least and the greatest, of which one is 0.

    Parameters
    ----------
    x
        Numbers of floating point.
    axes
        Those over which the least and the greatest are taken; None for all.
    symmetric
        Whether the numbers lie evenly around 0.

    Examples
    --------
    >>> rounded_to_8_bits(np.array([-1.0, 0.0, 0.3, 1.55]))
    array([-1.  ,  0.  ,  0.3 ,  1.55])
    """
    over = None if axes is None else tuple(axes)
    low = np.minimum(x.min(axis=over, keepdims=True), 0)
    high = np.maximum(x.max(axis=over, keepdims=True), 0)
    if symmetric:
        high = np.maximum(-low, high)
        step = high / (LEVELS // 2 - 1)
        low = -high
    else:
        step = (high - low) / (LEVELS - 1)
    return _on_steps(x, low, step, LEVELS)


def rounded_to_levels(x: np.ndarray, levels: int) -> np.ndarray:
    """The nearest of so many evenly spaced numbers between the least and the greatest, of which one is 0."""
    low, high = np.minimum(x.min(), 0), np.maximum(x.max(), 0)
    return _on_steps(x, low, (high - low) / max(levels - 1, 1), levels)


def _on_steps(x: np.ndarray, low: np.ndarray, step: np.ndarray, levels: int) -> np.ndarray:
    step = np.where(step == 0, 1, step)
    least = np.round(low / step)
    return np.asarray(np.clip(np.round(x / step), least, least + levels - 1) * step)


def decibels(ratio: float) -> float:
    """20·log10 of a ratio of norms."""
    return -inf if ratio == 0 else 20 * log10(ratio) if ratio > 0 and isfinite(ratio) else ratio


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_ROWS} more" if names[MOST_ROWS:] else ""
    return ", ".join(names[:MOST_ROWS]) + more


def _said(level: float) -> str:
    return f"{level:6.1f} dB" if isfinite(level) else "     none" if level == -inf else f"{level}"


def _plain(level: float) -> float | None:
    return level if isfinite(level) else None
