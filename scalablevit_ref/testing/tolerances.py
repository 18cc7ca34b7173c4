"""Errors in units of eps, and how many of them are allowed."""

from __future__ import annotations

import numpy as np

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next number of each dtype."""

MAX_TOLERANCE = 64
"""T: one operation's max|Δ| / max|reference|, in eps. The worst seen is 5.1 in float64 and 9.8 in float32."""

NETWORK_TOLERANCE = {"float64": 32, "float32": 32, "float16": 8, "bfloat16": 8}
"""The whole network, at every tap: ‖Δ‖ / ‖reference‖ in eps. Worst seen at 224²: 11 in float32, 1.6 in 16 bits."""


def relative_l2(actual: np.ndarray, reference: np.ndarray) -> float:
    """‖actual − reference‖ / ‖reference‖, computed in float64; NaN if either holds one. Raises ValueError for unequal shapes."""
    difference, reference = _difference(actual, reference)
    return ratio(float(np.linalg.norm(difference)), float(np.linalg.norm(reference)))


def max_error(actual: np.ndarray, reference: np.ndarray) -> float:
    """max|actual − reference| / max|reference|, computed in float64; NaN wherever either holds one."""
    difference, reference = _difference(actual, reference)
    return ratio(float(np.abs(difference).max()), float(np.abs(reference).max()))


def ratio(error: float, size: float) -> float:
    """Error / size; against a reference of zeros 0 if there is no error, else infinite; NaN stays NaN."""
    if size == 0 and error == error:
        return 0.0 if error == 0 else float("inf")
    return float(error / size) if size else float("nan")


def _difference(actual: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if actual.shape != reference.shape:
        raise ValueError(f"shapes differ: {actual.shape} against the reference's {reference.shape}")
    wide = reference.astype(np.float64)
    return actual.astype(np.float64) - wide, wide
