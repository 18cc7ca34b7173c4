"""Balls as float64 numbers that enclose them."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from scalablevit_ref.backends.balls import Balls, precision


class Enclosure(NamedTuple):
    """Real numbers between `high + low − radius` and `high + low + radius`, arrays of one shape in float64."""

    high: np.ndarray
    low: np.ndarray
    radius: np.ndarray


def enclosure(x: Balls) -> Enclosure:
    """Float64 numbers that enclose the balls: what the two do not hold of a midpoint counts to the radius, which is rounded up."""
    parts = np.empty((3, prod(x.shape)))
    with precision(x.bits):
        for i, ball in enumerate(x.numbers.ravel().tolist()):
            high = float(ball)
            rest = ball - high
            low = float(rest)
            parts[:, i] = high, low, float(abs(rest - low).upper())
    high, low, radius = parts.reshape(3, *x.shape)
    return Enclosure(high, low, rounded_up(radius))


def rounded_up(radius: np.ndarray) -> np.ndarray:
    """Float64 numbers above those that were rounded to these, in whichever direction."""
    above: np.ndarray = np.nextafter(radius, np.inf)
    return above
