"""How a candidate computes with few bits, whatever framework it is of: the grids of its weights, the ranges of its values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

LEVELS = 256
"""Values that a number of 8 bits can take."""


@dataclass(frozen=True)
class Grid:
    """The numbers that few bits can hold: the multiples of `step` from `least` to `greatest`; arrays that fit what is rounded."""

    step: np.ndarray
    least: np.ndarray
    greatest: np.ndarray

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """The nearest numbers of the grid, in float64.

        Examples
        --------
        >>> Grid(np.array(0.5), np.array(-1.0), np.array(1.0)).rounded(np.array([0.3, 7.0]))
        array([0.5, 1. ])
        """
        step = np.where(self.step == 0, 1, self.step)
        return np.asarray(np.clip(np.round(x.astype(np.float64) / step) * step, self.least, self.greatest))


@dataclass(frozen=True)
class Range:
    """A value of the candidate's graph that is rounded to a grid, which was fixed before the candidate ran."""

    value: int
    grid: Grid
    called: str


@dataclass(frozen=True)
class Quantised:
    """How a candidate is quantised. What is followed is the same candidate without: its weights are those that the grids hold.

    Attributes
    ----------
    words
        Its operations on few bits: "MatMulInteger and 35 more such operations".
    grids
        Of the weights that lie in it as numbers of few bits, by the candidate's own names.
    ranges
        Of the values that are rounded.
    by_channel
        Whether each output channel of a weight has a scale of its own.
    rounded
        What is computed on whole numbers, or on numbers rounded to such: of "linear", "conv2d", "attention", "layer_norm" and
        "gelu".
    fixed
        Whether the ranges of values were fixed before the candidate ran.
    values
        Gives values of the graph as the quantised candidate has them, in floating point.
    left
        Operations on few bits that could not be taken away, in words; empty if all were.
    """

    words: str
    grids: Mapping[str, Grid]
    ranges: tuple[Range, ...]
    by_channel: bool
    rounded: frozenset[str]
    fixed: bool
    values: Callable[[Collection[int]], Mapping[int, np.ndarray]]
    left: str = ""


def counted(operations: Collection[str]) -> str:
    """Operations in words: the first, and how many more there are; empty for none."""
    if not operations:
        return ""
    first, *more = operations
    return first + (f" and {len(more)} more such operation{'s' * (len(more) > 1)}" if more else "")
