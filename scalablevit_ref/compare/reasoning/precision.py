"""Differences that are rounding: of the value itself, which can be proved, or somewhere before it, of whose size is spoken."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from scalablevit_ref.compare.reasoning.case import Case, flat, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import three_digits

FEWEST = 8
"""Fewest numbers that show a format: by chance one of 2¹⁶ in float32 is one that bfloat16 has."""

SEVERAL = 4
"""Roundings, in spacings of a format, that a value computed in it may be off by."""

LEVELS = 256
"""Most distinct values of what is quantised to 8 bits."""


def _tf32(x: np.ndarray) -> np.ndarray:
    """Rounded to 10 bits behind the point, half to even, with float32's exponents."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x0FFF + ((bits >> 13) & 1)
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(float)


def _as(dtype: object) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: x.astype(np.dtype(dtype)).astype(float)  # type: ignore[call-overload]


FORMATS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "float8 (e5m2)": (_as(ml_dtypes.float8_e5m2), 2.0**-2),
    "float8 (e4m3)": (_as(ml_dtypes.float8_e4m3fn), 2.0**-3),
    "bfloat16": (_as(ml_dtypes.bfloat16), 2.0**-7),
    "float16": (_as(np.float16), 2.0**-10),
    "TF32": (_tf32, 2.0**-10),
    "float32": (_as(np.float32), 2.0**-23),
}
"""How each format rounds, and the spacing of its numbers at 1; the coarsest first."""


def rounded(case: Case) -> list[Difference]:
    """The value itself is rounded: every number is one that the format has, next to the reference's."""
    some = case.actual.ravel()[: 64 * 64]
    for name, (rounding, spacing) in FORMATS.items():
        if spacing <= 2 * case.eps:
            continue
        with np.errstate(over="ignore"):
            if not np.array_equal(rounding(some), some) or not np.array_equal(rounding(case.actual), case.actual):
                continue
            explained = rounding(case.expected)
        off = int(np.count_nonzero(explained != case.actual))
        left = case.left(explained)
        # numbers halfway between two of the format's may fall to either side, by what the candidate itself has rounded
        if off <= case.actual.size * max(0.01, 64 * case.eps / spacing):
            said = "float16 (or TF32, as precise)" if name == "float16" else name
            words = f"the value itself is rounded to {said}: every number is one that {name} has"
            return [Difference("precision", words, left, {"format": name, "entering": "the value itself", "other": off}, True)]
        return []
    return []


def representable(case: Case) -> list[Difference]:
    """Every number is one that a coarser format has, though not always the one next to the reference's: it was computed in it."""
    for name, (rounding, spacing) in FORMATS.items():
        if spacing <= 2 * case.eps or case.actual.size < FEWEST:
            continue
        with np.errstate(over="ignore"):
            if not np.array_equal(rounding(case.actual), case.actual):
                continue
        if case.before > SEVERAL * spacing:
            return []
        words = f"every number is one that {name} has, and the difference is of the size of its rounding: it is computed in {name}"
        return [Difference("precision", words, case.before, {"format": name, "relative": case.before}, False)]
    return []


def quantised(case: Case) -> list[Difference]:
    """At most 256 distinct values, evenly spaced: one grid for all, or one for each channel."""
    if case.actual.size < 4 * LEVELS:
        return []
    grid = _grid(case.actual.ravel())
    if grid is not None:
        spacing, zero, count = grid
        near = np.clip(np.round((case.expected - zero) / spacing), 0, count - 1) * spacing + zero
        explained = bool(np.mean(abs(near - case.actual) <= 0.01 * spacing) > 0.98)
        words = f"the value is quantised to {count} evenly spaced levels, {three_digits(spacing)} apart (int8)"
        return [Difference("precision", words, case.left(near), {"scale": spacing, "lowest": zero, "levels": count}, explained)]
    columns = flat(case.actual)
    if len(columns) < 2 * LEVELS:
        return []
    grids = [_grid(columns[:, j]) for j in range(min(columns.shape[1], 8))]
    if all(grids):
        spacings = [g[0] for g in grids if g]
        shown = f"{three_digits(min(spacings))} to {three_digits(max(spacings))}"
        words = f"the value is quantised to at most {LEVELS} levels, {shown} apart, with a scale for each channel (int8)"
        return [Difference("precision", words, case.before, {"scales": spacings}, False)]
    return []


def _grid(x: np.ndarray) -> tuple[float, float, int] | None:
    """Spacing, lowest value and number of levels of evenly spaced values."""
    if len(np.unique(x[:2048].round(12))) > LEVELS:
        return None
    levels = np.unique(x)
    gaps = np.diff(levels)
    size = float(levels[-1] - levels[0])
    gaps = gaps[gaps > 1e-6 * size]  # the same level, rounded otherwise
    if not len(gaps) or len(gaps) < 3:
        return None
    spacing = float(gaps.min())
    steps = (levels - levels[0]) / spacing
    spacing *= float(np.mean(steps[steps > 0.5] / np.round(steps[steps > 0.5])))
    steps = (levels - levels[0]) / spacing
    count = round(float(steps[-1])) + 1
    if count > LEVELS or np.any(abs(steps - np.round(steps)) > 0.02):
        return None
    return spacing, float(levels[0]), count


def unsystematic(case: Case) -> list[Difference]:
    """A difference without pattern, of the size that rounding in a format gives: a fact, not a cause."""
    difference = case.actual - case.expected
    size = float(np.linalg.norm(case.expected)) or 1.0
    relative = float(np.linalg.norm(difference)) / size
    if not relative or case.actual.size < 64 or _pattern(difference, case.expected):
        return []
    formats = {
        "float32": (2.0**-23, "float32's rounding"),
        "float16": (2.0**-10, "the rounding of float16 or TF32"),
        "bfloat16": (2.0**-7, "bfloat16's rounding"),
    }
    for name, (spacing, words) in formats.items():
        if spacing > 2 * case.eps and spacing / 16 <= relative <= 1.5 * spacing:
            said = f"without pattern, and of the size of {words} (relative {relative:.1g}; one rounding gives {spacing / 3.5:.1g})"
            return [Difference("precision", said, case.before, {"format": name, "relative": relative}, False)]
    return []


def _pattern(difference: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a difference goes with the value, a channel, a token or its neighbours, or is made by few numbers."""
    d, e = difference.ravel(), expected.ravel()
    energy = float(np.mean(d * d))
    allowed = 0.05 + 6 / np.sqrt(d.size)
    at = sampled(d.size, 1 << 16)
    some = np.sort(d[at] ** 2)
    if some[-max(1, len(some) // 100) :].sum() > 0.3 * some.sum() or abs(_correlation(d[at], e[at])) > allowed:
        return True
    if difference.shape[1] > 2 and abs(_correlation(difference[:, 1:].ravel(), difference[:, :-1].ravel())) > allowed:
        return True
    bins = np.array_split(d[at][np.argsort(e[at])], 48) if d.size >= 48 * 32 else []
    if bins and np.mean([part.mean() ** 2 for part in bins]) > (0.05 + 3 / len(bins[0])) * energy:
        return True  # a function of the value
    tokens, values = flat(difference), flat(expected)
    for axis in (0, 1):
        count, share = tokens.shape[axis], 2 / tokens.shape[axis] + 4 / tokens.size**0.5
        if count < 2:
            continue
        square = np.sum(values * values, axis)
        along = np.sum(tokens * values, axis) ** 2 / np.where(square == 0, 1, square)
        if np.mean(tokens.mean(axis) ** 2) > share * energy or np.sum(along) > share * energy * d.size:
            return True  # a shift or a factor of each channel, or of each token
    return False


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size else 0.0
