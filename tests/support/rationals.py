"""Exact arithmetic with rational numbers, written down without the specification, and whether balls enclose it."""

from __future__ import annotations

from typing import Any

import numpy as np
from flint import arb, fmpq
from scalablevit_ref.backends.balls import Balls

from scalablevit_ref.certify.enclosures import Enclosure


def rational(x: np.ndarray) -> np.ndarray:
    """Floating-point numbers as the fractions that they are."""
    ratios = [float(value).as_integer_ratio() for value in np.ravel(x)]
    return np.array([fmpq(*ratio) for ratio in ratios] + [None], object)[:-1].reshape(np.shape(x))


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    found = np.empty((*x.shape[:-1], len(weight)), object)
    for i in np.ndindex(found.shape):
        found[i] = sum((a * b for a, b in zip(x[i[:-1]], weight[i[-1]], strict=True)), bias[i[-1]])
    return found


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, stride: int, padding: int, groups: int) -> np.ndarray:
    """Sums over the window, point by point; what lies outside of the map is left out."""
    b, h, w, _ = x.shape
    c_out, per_group, kh, kw = weight.shape
    rows, columns = ((n + 2 * padding - k) // stride + 1 for n, k in ((h, kh), (w, kw)))
    found = np.empty((b, rows, columns, c_out), object)
    for n, i, j, o in np.ndindex(found.shape):
        first = o // (c_out // groups) * per_group
        total = bias[o]
        for p, q, channel in np.ndindex(kh, kw, per_group):
            at, across = i * stride + p - padding, j * stride + q - padding
            if 0 <= at < h and 0 <= across < w:
                total = total + x[n, at, across, first + channel] * weight[o, channel, p, q]
        found[n, i, j, o] = total
    return found


def mean(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.array([sum(row) / len(row) for row in x.reshape(-1, x.shape[-1])] + [None], object)[:-1].reshape(x.shape[:-1])


def check_encloses(balls: Balls, exact: np.ndarray) -> None:
    """AssertionError where a ball does not contain its number."""
    assert balls.shape == exact.shape
    for i in np.ndindex(exact.shape):
        least, most = ends(balls.numbers[i])
        assert least <= exact[i] <= most, f"at {i}: {balls.numbers[i].str(40)} does not contain {exact[i]}"


def ends(ball: arb) -> tuple[fmpq, fmpq]:
    """The least and the largest number of a ball, exactly; `arb.contains` would round the fraction that it is asked for."""
    (mid, mid_exp), (rad, rad_exp) = ball.mid().man_exp(), ball.rad().man_exp()
    middle, radius = fmpq(mid) * fmpq(2) ** int(mid_exp), fmpq(rad) * fmpq(2) ** int(rad_exp)
    return middle - radius, middle + radius


def check_covers(enclosure: Enclosure, balls: Balls) -> None:
    """AssertionError where float64 numbers do not enclose the whole ball."""
    parts: Any = [rational(part) for part in enclosure]
    for i in np.ndindex(balls.shape):
        high, low, radius = (part[i] for part in parts)
        least, most = ends(balls.numbers[i])
        assert high + low - radius <= least, f"at {i}"
        assert most <= high + low + radius, f"at {i}"
