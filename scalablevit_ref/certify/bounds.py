"""How far numbers are from what is enclosed, proved from below and from above, the rounding of the bounds' own arithmetic included.

Differences are taken in float64 with what their rounding may be; sums, roots and quotients are balls.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, nan

import numpy as np
from flint import arb

from scalablevit_ref.backends.balls import precision
from scalablevit_ref.certify.enclosures import Enclosure

UNIT = 2.0**-53
"""Largest relative error of one rounding to float64."""

TINY = 2.0**-1022
"""Smallest normal float64: more than all underflow in one difference can be."""

BITS = 128
"""Precision of the sums, in bits."""


@dataclass(frozen=True)
class Bounds:
    """A number that is proved to lie between two float64 numbers.

    Examples
    --------
    >>> Bounds(1.0, 1.5) * 2**-3
    Bounds(low=0.125, high=0.1875)
    """

    low: float
    high: float

    def __mul__(self, factor: float) -> Bounds:
        """By a power of two, which rounds nothing."""
        return Bounds(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Error:
    """Of one array: ‖Δ‖ / ‖truth‖ and max|Δ| / max|truth|.

    Examples
    --------
    >>> Error(l2=Bounds(0.0, 0.25), maximum=Bounds(0.0, 0.5)).l2.high
    0.25
    """

    l2: Bounds
    maximum: Bounds


class Tally:
    """The error of arrays against what encloses the truth, one or several parts of it."""

    def __init__(self) -> None:
        self.finite = True
        self.squares, self.whole = arb(0), arb(0)
        self.largest, self.size = Bounds(0.0, 0.0), Bounds(0.0, 0.0)

    def add(self, actual: np.ndarray, truth: Enclosure) -> None:
        """Another part: numbers of any dtype up to float64, each of which float64 holds. Raises ValueError for other shapes."""
        numbers = actual.astype(np.float64)
        if numbers.shape != truth.high.shape:
            raise ValueError(f"shape {numbers.shape} instead of {truth.high.shape}")
        if not np.isfinite(numbers).all():
            self.finite = False
            return
        low, high = _distances(numbers, truth)
        least, most = _distances(np.zeros_like(numbers), truth)
        with precision(BITS):
            self.squares += _between(_squares(low), _squares(high))
            self.whole += _between(_squares(least), _squares(most))
        self.largest = _larger(self.largest, low, high)
        self.size = _larger(self.size, least, most)

    def error(self) -> Error:
        """NaN where an array holds NaN or infinity."""
        if not self.finite:
            return Error(Bounds(nan, nan), Bounds(nan, nan))
        with precision(BITS):
            l2 = _ratio(_root(self.squares), _root(self.whole))
            largest, size = (_between(arb(x.low), arb(x.high)) for x in (self.largest, self.size))
            return Error(l2, _ratio(largest, size))


def _distances(numbers: np.ndarray, truth: Enclosure) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of |number − truth|, element by element.

    number − high is s + e without any error (Knuth's TwoSum). What is computed of s + (e − low) is rounded twice, each time by at
    most `UNIT` of the result.
    """
    s = numbers - truth.high
    shadow = s - numbers
    e = (numbers - (s - shadow)) - (truth.high + shadow)
    t = e - truth.low
    d = np.abs(s + t)
    margin = (truth.radius + UNIT * (np.abs(t) + d)) * (1 + 2.0**-50) + TINY
    same = (d == 0) & (t == 0) & (truth.radius == 0)
    return np.nextafter(d - margin, -inf).clip(0.0), np.where(same, 0.0, np.nextafter(d + margin, inf))


def _squares(x: np.ndarray) -> arb:
    """Σ x². Whatever the order, float64 sums n squares with a relative error below 2 (n + 2) · UNIT."""
    largest = float(np.abs(x).max(initial=0.0))
    if largest == 0 or not isfinite(largest):
        return arb(largest)
    exponent = int(np.frexp(largest)[1])
    scaled = np.ldexp(x.ravel(), -exponent)
    total, count = arb(float(np.vdot(scaled, scaled))), x.size
    lost = total * arb(4 * (count + 4)) * arb(UNIT) + arb(count) * arb(2.0**-1020)  # the second: what underflows
    return (total + arb(0, lost.upper())) * arb(2) ** (2 * exponent)


def _between(low: arb, high: arb) -> arb:
    return low.union(high)


def _root(x: arb) -> arb:
    """Of a sum of squares, whose ball may reach below zero."""
    upper = x.upper().sqrt()
    lower = x.lower()
    return _between(lower.sqrt() if lower > 0 else arb(0), upper)


def _larger(known: Bounds, low: np.ndarray, high: np.ndarray) -> Bounds:
    return Bounds(max(known.low, float(low.max(initial=0.0))), max(known.high, float(high.max(initial=0.0))))


def _ratio(error: arb, size: arb) -> Bounds:
    """Of an error to a size. Beside a truth of nothing but zeros, no error is 0 and any other infinite."""
    if error.upper() == 0:
        return Bounds(0.0, 0.0)
    low = (error.lower() / size.upper()).lower() if size.upper() > 0 else arb(inf) if error.lower() > 0 else arb(0)
    high = (error.upper() / size.lower()).upper() if size.lower() > 0 else arb(inf)
    return Bounds(max(0.0, float(np.nextafter(float(low), -inf))), float(np.nextafter(float(high), inf)))
