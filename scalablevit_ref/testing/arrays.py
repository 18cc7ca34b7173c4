"""Compare arrays and traces of any libraries: the error in eps, where it is worst, and which name differs first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.testing.tolerances import EPS, MAX_TOLERANCE, ratio

Measure = Literal["max", "l2"]
_SIZES: dict[Measure, Callable[[np.ndarray], float]] = {
    "max": lambda x: float(np.abs(x).max()),
    "l2": lambda x: float(np.linalg.norm(x)),
}


@dataclass(frozen=True)
class Comparison:
    """One array against its reference: `error` in eps of `dtype`, and the element that is farthest off."""

    error: float
    dtype: str
    index: tuple[int, ...]
    actual: float
    expected: float

    def __str__(self) -> str:
        return f"{self.error:.3g} eps({self.dtype}); worst at {self.index}: {self.actual!r} instead of {self.expected!r}"


def compare_arrays(actual: Any, reference: Any, *, dtype: str | None = None, measure: Measure = "max") -> Comparison:
    """The error of `actual` against `reference`, arrays of any library.

    dtype: what `actual` must be; None asks for the reference's own. A reference may be wider than what is compared with it.
    measure: "max" is max|Δ| / max|reference|, "l2" is ‖Δ‖ / ‖reference‖; a NaN on either side makes the error NaN.

    Raises AssertionError for another dtype, another shape or an array without elements: such a pair was not compared.
    Raises TypeError for what is no array, or none of floating point.
    """
    x, y = to_numpy(actual), to_numpy(reference)
    dtype = y.dtype.name if dtype is None else dtype
    if dtype not in EPS:
        raise TypeError(f"dtype must be one of {', '.join(EPS)}, got {dtype}")
    if x.dtype.name != dtype:
        raise AssertionError(f"dtype {x.dtype.name} instead of {dtype}")
    if x.shape != y.shape:
        raise AssertionError(f"shape {x.shape} instead of {y.shape}")
    if not x.size:
        raise AssertionError(f"nothing to compare in shape {x.shape}")
    with np.errstate(invalid="ignore"):  # an infinity less another is a NaN, which is said
        wide = y.astype(np.float64, copy=False)
        difference = np.abs(x.astype(np.float64, copy=False) - wide)
        size = _SIZES[measure]
        error = ratio(size(difference), size(wide)) / EPS[dtype]
    index = tuple(map(int, np.unravel_index(np.argmax(difference), x.shape)))  # a NaN counts as the largest
    return Comparison(error, dtype, index, float(x[index]), float(y[index]))


def assert_agrees(
    actual: Any,
    reference: Any,
    *,
    tolerance: float = MAX_TOLERANCE,
    dtype: str | None = None,
    measure: Measure = "max",
    what: str = "",
) -> Comparison:
    """`compare_arrays`, and AssertionError if the error is not within `tolerance` eps (a NaN never is)."""
    comparison = compare_arrays(actual, reference, dtype=dtype, measure=measure)
    if not comparison.error <= tolerance:
        raise AssertionError(f"{what or 'array'}: {comparison}; allowed {tolerance:g} eps")
    return comparison


def first_difference(
    actual: Mapping[str, Any], reference: Mapping[str, Any], *, tolerance: float, dtype: str | None = None, measure: Measure = "l2"
) -> tuple[str, Comparison] | None:
    """The first name, in the reference's order, whose arrays differ by more than `tolerance` eps; None if all agree.

    Raises AssertionError where nothing can be compared: no names at all, other names, another shape or dtype (with the name).
    """
    if not reference:
        raise AssertionError("nothing to compare: the reference trace is empty")
    missing = [name for name in reference if name not in actual]
    surplus = [name for name in actual if name not in reference]
    if missing or surplus:
        raise AssertionError(f"names differ: missing {missing[:5]}, surplus {surplus[:5]}")
    for name, expected in reference.items():
        try:
            comparison = compare_arrays(actual[name], expected, dtype=dtype, measure=measure)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        if not comparison.error <= tolerance:
            return name, comparison
    return None


def assert_traces_agree(
    actual: Mapping[str, Any], reference: Mapping[str, Any], *, tolerance: float, dtype: str | None = None, measure: Measure = "l2"
) -> None:
    """AssertionError naming the first of the traces' arrays that differs by more than `tolerance` eps."""
    found = first_difference(actual, reference, tolerance=tolerance, dtype=dtype, measure=measure)
    if found:
        raise AssertionError(f"first difference at {found[0]}: {found[1]}; allowed {tolerance:g} eps")
