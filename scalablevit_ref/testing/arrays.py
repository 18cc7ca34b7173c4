"""Arrays for tests: random ones behind which no fault hides, how far two are apart in units of eps, and how far they may be."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalablevit_ref.arguments import (
    check_choice,
    check_count,
    check_mapping,
    check_not_negative,
    check_seed,
    check_text,
    float_dtype,
)
from scalablevit_ref.backends.transfer import numbers_of
from scalablevit_ref.errors import brief
from scalablevit_ref.parameters import is_gain

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next number of each dtype."""

MAX_TOLERANCE = 64
"""T: one operation's max|Δ| / max|reference|, in eps. The worst seen is 5.1 in float64 and 9.8 in float32."""

NETWORK_TOLERANCE = {"float64": 32, "float32": 32, "float16": 8, "bfloat16": 8}
"""The whole network, at every tap: ‖Δ‖ / ‖reference‖ in eps. Worst seen at 224²: 11 in float32, 1.6 in 16 bits."""

_SQUARABLE = 1e140
"""Numbers of this size, and the inverse of it, have squares that float64 holds with all digits."""

Measure = Literal["max", "l2"]
_SIZES: dict[Measure, Callable[[np.ndarray], float]] = {
    "max": lambda x: float(np.abs(x).max()),
    "l2": lambda x: float(np.linalg.norm(x)),
}


def random_params(shapes: Mapping[str, Sequence[int]], seed: int = 0, dtype: Any = "float64") -> dict[str, np.ndarray]:
    """Kernels N / √fan_in, gains 1 + 0.3 N, biases 0.3 N: unlike `init_params`, nothing hides behind a zero or a one.

    Equal for equal seeds whatever the dtype. Each parameter has a random stream of its own, which its name and the seed determine.

    Examples
    --------
    >>> params = random_params({"fc1.weight": (8, 4), "fc1.bias": (8,)})
    >>> params["fc1.weight"].shape, params["fc1.bias"].dtype
    ((8, 4), dtype('float64'))
    """
    check_mapping("shapes", shapes, of="names to shapes")
    check_seed("seed", seed)
    params, dtype = {}, float_dtype("dtype", dtype)
    for name, shape in shapes.items():
        check_text("a name in shapes", name)
        _check_shape(f"shapes[{name!r}]", shape)
        values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(tuple(shape))
        if len(shape) > 1:
            values /= np.prod(shape[1:]) ** 0.5
        else:
            values = 0.3 * values + (1.0 if is_gain(name) else 0.0)
        params[name] = values.astype(dtype, copy=False)
    return params


def random_images(shape: Sequence[int], seed: int = 0, dtype: Any = "float64") -> np.ndarray:
    """Normal pixels, as images are after normalisation: b c h w.

    Examples
    --------
    >>> random_images((2, 3, 224, 224), dtype="float32").shape
    (2, 3, 224, 224)
    """
    _check_shape("shape", shape)
    check_seed("seed", seed)
    draws = np.random.default_rng([seed, zlib.crc32(b"images")])
    return draws.standard_normal(tuple(shape)).astype(float_dtype("dtype", dtype), copy=False)


def _check_shape(name: str, shape: Any) -> None:
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes | bytearray):
        raise TypeError(f"{name} must be a sequence of whole numbers, got {brief(shape)}")
    for size in shape:
        check_count(name, size, least=0)


def relative_l2(actual: np.ndarray, reference: np.ndarray) -> float:
    """‖actual − reference‖ / ‖reference‖, computed in float64; NaN if either holds one. Raises ValueError for unequal shapes.

    Examples
    --------
    >>> relative_l2(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    0.1
    """
    return _relative(actual, reference, "l2")


def max_error(actual: np.ndarray, reference: np.ndarray) -> float:
    """max|actual − reference| / max|reference|, computed in float64; NaN wherever either holds one.

    Examples
    --------
    >>> max_error(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    0.125
    """
    return _relative(actual, reference, "max")


def _relative(actual: np.ndarray, reference: np.ndarray, measure: Measure) -> float:
    actual, reference = numbers_of("actual", actual, real=True), numbers_of("reference", reference, real=True)
    if actual.shape != reference.shape:
        raise ValueError(f"shapes differ: actual is {actual.shape}, the reference {reference.shape}")
    if measure == "max" and not actual.size:
        raise ValueError(f"actual and reference have no elements, shape {actual.shape}")
    return _error(actual.astype(np.float64), reference.astype(np.float64), measure)


def _error(actual: np.ndarray, reference: np.ndarray, measure: Measure) -> float:
    """Of two arrays in float64. Numbers whose squares float64 does not hold are first brought near 1 by a power of two."""
    size = _SIZES[measure]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        whole = size(reference)
        if not 1 / _SQUARABLE < whole < _SQUARABLE:
            largest = np.abs(reference[np.isfinite(reference)]).max(initial=0)
            exponent = int(np.frexp(largest)[1])
            actual, reference = np.ldexp(actual, -exponent), np.ldexp(reference, -exponent)
            whole = size(reference)
        return ratio(size(actual - reference), whole)


def ratio(error: float, size: float) -> float:
    """Error / size; against a reference of zeros 0 if there is no error, else infinite; NaN stays NaN.

    NaN against an infinite reference too, beside which every error would be 0.

    Examples
    --------
    >>> ratio(1.0, 4.0), ratio(0.0, 0.0), ratio(1.0, 0.0)
    (0.25, 0.0, inf)
    """
    if size == 0 and error == error:
        return 0.0 if error == 0 else float("inf")
    return float(error / size) if 0 < size < float("inf") else float("nan")


@dataclass(frozen=True)
class Comparison:
    """One array against its reference: `error` in eps of `dtype`, and the element that is farthest off.

    Examples
    --------
    >>> print(compare_arrays(np.array([1.0, 2.5]), np.array([1.0, 2.0])))
    1.13e+15 eps(float64); worst at (1,): 2.5 instead of 2.0
    """

    error: float
    dtype: str
    index: tuple[int, ...]
    actual: float
    expected: float

    def __str__(self) -> str:
        return f"{self.error:.3g} eps({self.dtype}); worst at {self.index}: {self.actual!r} instead of {self.expected!r}"


def compare_arrays(actual: Any, reference: Any, *, dtype: str | None = None, measure: Measure = "max") -> Comparison:
    """The error of one array against another, of any libraries.

    Parameters
    ----------
    actual
        What is compared.
    reference
        What it should be; it may be wider than `actual`.
    dtype
        What `actual` must be; None asks for the reference's own.
    measure
        "max" is max|Δ| / max|reference|, "l2" is ‖Δ‖ / ‖reference‖; a NaN on either side makes the error NaN.

    Raises
    ------
    AssertionError
        For another dtype, another shape or an array without elements: such a pair was not compared.
    TypeError
        For what is no array, or none of floating point.

    Examples
    --------
    >>> actual, reference = np.array([1.0, 2.5], "float32"), np.array([1.0, 2.0])
    >>> found = compare_arrays(actual, reference, dtype="float32")
    >>> found.error * EPS["float32"], found.index
    (0.25, (1,))
    """
    check_choice("measure", measure, tuple(_SIZES))
    x, y = numbers_of("actual", actual, real=True), numbers_of("reference", reference, real=True)
    dtype = y.dtype.name if dtype is None else dtype
    if not isinstance(dtype, str) or dtype not in EPS:
        raise TypeError(f"dtype must be one of {', '.join(EPS)}, got {dtype if isinstance(dtype, str) else brief(dtype)}")
    if x.dtype.name != dtype:
        raise AssertionError(f"dtype {x.dtype.name} instead of {dtype}")
    if x.shape != y.shape:
        raise AssertionError(f"shape {x.shape} instead of {y.shape}")
    if not x.size:
        raise AssertionError(f"nothing to compare in shape {x.shape}")
    wide_x, wide_y = (array.astype(np.float64, copy=False) for array in (x, y))
    error = _error(wide_x, wide_y, measure) / EPS[dtype]
    with np.errstate(invalid="ignore", over="ignore"):  # an infinity less another is a NaN, which is said
        difference = np.asarray(wide_x - wide_y)
        np.abs(difference, out=difference)
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
    """`compare_arrays`, and AssertionError if the error is not within `tolerance` eps (a NaN never is).

    Examples
    --------
    >>> assert_agrees(np.array([1.0 + EPS["float64"]]), np.array([1.0])).error
    1.0
    >>> assert_agrees(
    ...     np.array([1.5]), np.array([1.0]), what="the logits"
    ... )  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: the logits: 2.25e+15 eps(float64); worst at (0,): 1.5 instead of ...
    """
    check_not_negative("tolerance", tolerance)
    check_text("what", what)
    comparison = compare_arrays(actual, reference, dtype=dtype, measure=measure)
    if not comparison.error <= tolerance:
        raise AssertionError(f"{what or 'array'}: {comparison}; allowed {tolerance:g} eps")
    return comparison


def first_difference(
    actual: Mapping[str, Any], reference: Mapping[str, Any], *, tolerance: float, dtype: str | None = None, measure: Measure = "l2"
) -> tuple[str, Comparison] | None:
    """The first name, in the reference's order, whose arrays differ by more than `tolerance` eps; None if all agree.

    Raises AssertionError where nothing can be compared: no names at all, other names, another shape or dtype (with the name).

    Examples
    --------
    >>> right = {"norm": np.array([1.0, 2.0]), "head": np.array([3.0])}
    >>> first_difference(right | {"head": np.array([4.0])}, right, tolerance=32)[0]
    'head'
    """
    check_not_negative("tolerance", tolerance)
    check_mapping("actual", actual, of="names to arrays")
    check_mapping("reference", reference, of="names to arrays")
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
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        if not comparison.error <= tolerance:
            return name, comparison
    return None


def assert_traces_agree(
    actual: Mapping[str, Any], reference: Mapping[str, Any], *, tolerance: float, dtype: str | None = None, measure: Measure = "l2"
) -> None:
    """AssertionError naming the first of the traces' arrays that differs by more than `tolerance` eps.

    Examples
    --------
    >>> right = {"norm": np.array([1.0, 2.0]), "head": np.array([3.0])}
    >>> assert_traces_agree(right | {"head": np.array([3.0])}, right, tolerance=32)
    >>> wrong = right | {"head": np.array([4.0])}
    >>> assert_traces_agree(wrong, right, tolerance=32)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: first difference at head: 1.5e+15 eps(float64); worst at (0,): ...
    """
    found = first_difference(actual, reference, tolerance=tolerance, dtype=dtype, measure=measure)
    if found:
        raise AssertionError(f"first difference at {found[0]}: {found[1]}; allowed {tolerance:g} eps")
