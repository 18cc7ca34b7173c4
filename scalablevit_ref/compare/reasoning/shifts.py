"""A map moved by some rows or columns, where what falls off is lost."""

from __future__ import annotations

import numpy as np

from scalablevit_ref.compare.reasoning.case import Case
from scalablevit_ref.compare.reasoning.difference import Difference


def shifted(case: Case) -> list[Difference]:
    """The map moved by up to three rows or columns; what comes in at the border is zero, repeated or something else."""
    for axis, word in ((1, "H"), (2, "W")):
        size = case.actual.shape[axis]
        for by in (1, -1, 2, -2, 3, -3):
            if size < 2 * abs(by) + 2:
                continue
            inner, origin = _slices(axis, by)
            a, e = case.actual[inner], case.expected[origin]
            if abs(a[0, 0, 0] - e[0, 0, 0]).max() > 1e3 * case.tolerance * case.spread:
                continue
            left = float(np.linalg.norm(a - e)) / case.size
            if left > case.bar:
                continue
            direction = f"moved by {by} along {word}"
            for filling, words in ((0.0, "zeros come in"), (None, "the border is repeated")):
                index = np.clip(np.arange(size) - by, 0, size - 1)
                explained = np.take(case.expected, index, axis=axis)
                if filling is not None:
                    explained[(slice(None),) * axis + (slice(0, by) if by > 0 else slice(by, None),)] = filling
                remaining = case.explains(explained)
                if remaining is not None:
                    data = {"axis": word, "by": by, "filling": words}
                    return [Difference("places", f"{direction}: {words}", remaining, data, True)]
            side = {1: ("top", "bottom"), 2: ("left", "right")}[axis][by < 0]
            words = f"{direction}; what comes in at the {side} is something else"
            remaining = case.left(np.roll(case.expected, by, axis))
            return [Difference("places", words, remaining, {"axis": word, "by": by, "filling": "unknown"})]
    return []


def _slices(axis: int, by: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    lead = (slice(None),) * axis
    late, early = slice(abs(by), None), slice(None, -abs(by))
    return ((*lead, late), (*lead, early)) if by > 0 else ((*lead, early), (*lead, late))
