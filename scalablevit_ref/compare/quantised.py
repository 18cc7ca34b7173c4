"""What 8 bits cost at each layer, beside what a quantised candidate's layer is off by: both as noise levels in dB."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from math import inf, isfinite, log10
from typing import Any

import numpy as np

from scalablevit_ref.edits import Changes, Function, Mistake, Swap
from scalablevit_ref.ops import attention, conv2d, gelu, gelu_tanh, layer_norm, linear
from scalablevit_ref.testing.arrays import relative_l2

LEVELS = 256
"""Values that a number of 8 bits can take."""

EXCESS = 6.0
"""Noise above what 8 bits cost from which on a layer is likely to be wrong, in dB: twice the error."""

EXCESS_OF_FIXED = 12.0
"""The same where ranges were fixed before the candidate ran: values beyond them are cut off."""

MOST_ROWS = 5
"""Layers of the greatest noise that are told."""


@dataclass(frozen=True)
class LayerNoise:
    """One layer: 20·log10 ‖Δ‖ / ‖reference‖ in dB, of the candidate and of the reference whose factors are rounded to 8 bits.

    Both are fed what the candidate's own layers before it gave. `cost` is −inf where the candidate computes in floating point.
    """

    layer: str
    noise: float
    cost: float
    wrong: bool


@dataclass(frozen=True)
class Noise:
    """Of all layers that were compared.

    Attributes
    ----------
    operations
        The candidate's operations on few bits, in words.
    excess
        Noise above what 8 bits cost from which on a layer counts as wrong, in dB.
    rows
        In the network's order.
    """

    operations: str
    excess: float
    rows: tuple[LayerNoise, ...]

    @property
    def wrong(self) -> tuple[LayerNoise, ...]:
        """Those that are off by more than 8 bits cost."""
        return tuple(row for row in self.rows if row.wrong)

    def lines(self) -> list[str]:
        """The conclusion, and the layers of the greatest noise."""
        if self.wrong:
            names = ", ".join(row.layer for row in self.wrong[:MOST_ROWS])
            more = f" and {len(self.wrong) - MOST_ROWS} more" if self.wrong[MOST_ROWS:] else ""
            first = (
                f"the noise of {names}{more} is more than {self.excess:g} dB above what 8 bits cost: likely a mistake, "
                "or ranges that do not fit these images"
            )
        else:
            first = f"the noise is what 8 bits cost: in each layer at most {self.excess:g} dB more"
        shown = sorted(self.rows, key=lambda row: (not row.wrong, -row.noise if row.noise == row.noise else -inf))[:MOST_ROWS]
        width = max(len("layer"), *(len(row.layer) for row in shown))
        table = [f"{'layer':{width}}     noise   8 bits cost"]
        table += [f"{row.layer:{width}}  {_said(row.noise)}   {_said(row.cost):>11}" for row in shown]
        return [first, *table]

    def data(self) -> dict[str, Any]:
        """Plain values only; what is not finite is None."""
        rows = [
            {"layer": row.layer, "noise_db": _plain(row.noise), "cost_of_8_bits_db": _plain(row.cost), "wrong": row.wrong}
            for row in self.rows
        ]
        return {"operations": self.operations, "noise_is_what_8_bits_cost": not self.wrong, "layers": rows}


def noise_of_layers(
    errors: Mapping[str, float],
    output: Callable[[str, Mistake], np.ndarray],
    shown: Callable[[str], np.ndarray],
    *,
    operations: str,
    rounded: Collection[str],
    by_channel: bool,
    fixed: bool,
    floor: float,
) -> Noise:
    """The noise of each layer beside what 8 bits cost there.

    Parameters
    ----------
    errors
        ‖Δ‖ / ‖reference‖ of each layer of the candidate, on its own input.
    output
        What the reference's layer makes of that input, with a mistake in it.
    shown
        What the candidate's layer gives; of so few values that it is rounded itself, or not.
    operations
        The candidate's operations on few bits, in words.
    rounded
        What the candidate computes on 8 bits: of "linear", "conv2d", "attention", "layer_norm" and "gelu".
    by_channel
        Whether each output channel of a weight has a scale of its own; else the whole weight has one.
    fixed
        Whether the candidate's ranges were fixed before it ran.
    floor
        Error that is no mistake in floating point.
    """
    change = Mistake("8 bits", changes=eight_bits(rounded, by_channel=by_channel))
    right, excess = Mistake("none"), EXCESS_OF_FIXED if fixed else EXCESS
    rows = []
    for layer, error in errors.items():
        expected = output(layer, right)
        actual = output(layer, change)
        if fixed and np.unique(shown(layer)).size <= LEVELS:
            actual = rounded_to_8_bits(actual)
        cost = relative_l2(actual, expected)
        allowed = max(cost, floor) * 10 ** (excess / 20)
        rows.append(LayerNoise(layer, decibels(error), decibels(cost), wrong=not error <= allowed))
    return Noise(operations, excess, tuple(rows))


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
    step = np.where(step == 0, 1, step)
    least = np.round(low / step)
    return np.asarray(np.clip(np.round(x / step), least, least + LEVELS - 1) * step)


def decibels(ratio: float) -> float:
    """20·log10 of a ratio of norms."""
    return -inf if ratio == 0 else 20 * log10(ratio) if ratio > 0 and isfinite(ratio) else ratio


def _said(level: float) -> str:
    return f"{level:6.1f} dB" if isfinite(level) else "     none" if level == -inf else f"{level}"


def _plain(level: float) -> float | None:
    return level if isfinite(level) else None
