"""What the fits share: how numbers are solved, and how changes are said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from scalablevit_ref.compare.reasoning.numbers import three_digits

Array = np.ndarray


def distance(actual: Array, explained: Array) -> float:
    """‖actual − explained‖ / ‖actual‖; infinite where the shapes differ or a number is not finite."""
    if actual.shape != explained.shape:
        return float("inf")
    left = float(np.linalg.norm(actual - explained)) / (float(np.linalg.norm(actual)) or 1.0)
    return left if np.isfinite(left) else float("inf")


def settled(x: float, simple: Iterable[float], *, within: float) -> float:
    """The first simple number within this distance of x, relative to numbers above 1; else x."""
    return next((s for s in simple if abs(x - s) <= within * max(1.0, abs(s))), x)


ENOUGH = 16
"""Numbers that are needed for each factor that is solved: with fewer anything would fit."""

SIMPLE = (0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 3.0, 0.1)
"""Factors that people write."""


def times(factor: float) -> str:
    """A factor in words: "twice", "times 0.3"."""
    return {2.0: "twice", 3.0: "three times", 0.5: "by half"}.get(factor, f"times {three_digits(factor)}")


def joined(clauses: Sequence[str]) -> str:
    """Clauses in one sentence: a; b; c is "a, b and c"."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"


@lru_cache(maxsize=256)
def spread(count: int, most: int) -> Array:
    """At most so many of 0 … count − 1, always the same, with the first and the last, in ascending order."""
    if count <= most:
        return np.arange(count)
    inner = np.random.default_rng(count).choice(np.arange(1, count - 1), max(most - 2, 0), replace=False)
    return np.sort(np.concatenate([[0], inner, [count - 1]])).astype(int)


def solved_factors(actual: Array, terms: Mapping[str, Array]) -> tuple[dict[str, float], float]:
    """Least squares of an array over some of its shape: the factors, and the relative l2 error that they leave.

    Raises ValueError where a shape is another or a number not finite.
    """
    if any(term.shape != actual.shape or not np.isfinite(term).all() for term in terms.values()):
        raise ValueError("terms do not fit")
    matrix, y = np.stack([term.reshape(-1) for term in terms.values()], 1), actual.reshape(-1)
    solved = np.linalg.lstsq(matrix, y, rcond=None)[0]
    return dict(zip(terms, map(float, solved), strict=True)), distance(y, matrix @ solved)
