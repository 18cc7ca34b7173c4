"""A few numbers of a wrong value and of the right one, kept for the pictures of a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_POINTS = 1500
"""Numbers that are kept of each of the two values."""

MOST_CELLS = 64
"""Most rows and columns of a map that is kept; of a larger one each cell stands for the largest of a few tokens."""


@dataclass(frozen=True)
class Sample:
    """A wrong value and the right one, at the same places.

    Attributes
    ----------
    actual, expected
        Numbers at the same places: n. Not all of them are finite.
    off
        |actual − expected|, the largest over images and channels: h w. None where the value has no tokens.
    channels
        The same by channel, the largest over images and tokens: c.
    shape
        The whole value's: b h w c, or b c.
    """

    actual: np.ndarray
    expected: np.ndarray
    off: np.ndarray | None
    channels: np.ndarray
    shape: tuple[int, ...]


def sampled(actual: np.ndarray, expected: np.ndarray) -> Sample:
    """Of two values of the same shape, b h w c or b c."""
    step = max(1, -(-actual.size // MOST_POINTS))
    places = np.arange(actual.size) if step == 1 else np.random.default_rng(0).choice(actual.size, MOST_POINTS, replace=False)
    with np.errstate(all="ignore"):
        difference = abs(actual - expected)
    off = None
    if actual.ndim == 4:
        off = difference.max((0, 3))
        for axis, size in enumerate(off.shape):
            off = np.maximum.reduceat(off, range(0, size, -(-size // MOST_CELLS)), axis=axis)
    channels = difference.max(tuple(range(actual.ndim - 1)))
    return Sample(actual.ravel()[places], expected.ravel()[places], off, channels, actual.shape)
