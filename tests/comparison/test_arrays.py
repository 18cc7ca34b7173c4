"""The helpers that compare pass where they must and, above all, fail where they must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref.testing import EPS
from scalablevit_ref.testing.arrays import assert_agrees, assert_traces_agree, compare_arrays, first_difference, ratio

RNG = np.random.default_rng(0)
A = RNG.standard_normal((2, 4, 4, 12))  # b h w (heads d), with h = w so that their exchange does not show in the shape
MEASURES = ["max", "l2"]
NAN, INF = float("nan"), float("inf")


def changed(index: tuple[int, ...], value: float) -> np.ndarray:
    x = A.copy()
    x[index] = value
    return x


def flipped() -> np.ndarray:
    """The sign of the element nearest to zero, where it shows least."""
    index = np.unravel_index(np.argmin(abs(A)), A.shape)
    return changed(tuple(map(int, index)), -A[index])


def two_heads_exchanged() -> np.ndarray:
    heads = rearrange(A, "b h w (heads d) -> heads b h w d", heads=3)[[0, 2, 1]]
    return rearrange(heads, "heads b h w d -> b h w (heads d)")


DIFFERENT = {
    "one flipped element": flipped(),
    "one element off by a thousandth": changed((1, 2, 3, 4), A[1, 2, 3, 4] * 1.001),
    "two heads exchanged": two_heads_exchanged(),
    "swapped axes of equal size": A.swapaxes(1, 2),
    "rolled by a pixel": np.roll(A, 1, axis=2),
    "batch reversed": A[::-1],
    "an error that cancels in a sum": A + 1e-6 * np.where(np.arange(12) % 2, 1, -1),
    "an error of the mean alone": A + 1e-6,
    "a scaled array": A * (1 + 1e-6),  # the same direction and the same largest element
    "all zero": np.zeros_like(A),
    "NaN": changed((0, 1, 2, 3), NAN),
    "inf": changed((0, 1, 2, 3), INF),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("fault", DIFFERENT)
def test_what_differs_is_seen(fault: str, measure: Any) -> None:
    other = DIFFERENT[fault]
    for actual, reference in ((other, A), (A, other)):
        with np.errstate(invalid="ignore"):  # against an infinite reference the ratio is inf/inf
            assert not compare_arrays(actual, reference, measure=measure).error <= 1e6
            with pytest.raises(AssertionError, match=r"^q: .* eps\(float64\); worst at .* allowed 64 eps"):
                assert_agrees(actual, reference, measure=measure, what="q")
            found = first_difference({"p": A, "q": actual}, {"p": A, "q": reference}, tolerance=1e6, measure=measure)
            assert found is not None
            assert found[0] == "q"
            with pytest.raises(AssertionError, match=r"^first difference at q: "):
                assert_traces_agree({"p": A, "q": actual}, {"p": A, "q": reference}, tolerance=1e6, measure=measure)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_in_both_never_agrees(value: float, measure: Any) -> None:
    broken = changed((0, 1, 2, 3), value)
    with np.errstate(invalid="ignore"):
        comparison = compare_arrays(broken, broken.copy(), measure=measure)
        assert np.isnan(comparison.error)
        assert comparison.index == (0, 1, 2, 3)
        with pytest.raises(AssertionError, match=r"nan eps"):
            assert_agrees(broken, broken, tolerance=INF, measure=measure)
        with pytest.raises(AssertionError, match="first difference at x"):
            assert_traces_agree({"x": broken}, {"x": broken}, tolerance=INF, measure=measure)


@pytest.mark.parametrize("measure", MEASURES)
def test_what_agrees_passes(measure: Any) -> None:
    assert compare_arrays(A, A.copy(), measure=measure).error == 0
    assert assert_agrees(A, A, tolerance=0, measure=measure).error == 0
    near = A * (1 + 3 * EPS["float64"])
    assert 1 < assert_agrees(near, A, measure=measure).error < 6
    assert_traces_agree({"x": near, "y": A}, {"y": A, "x": A}, tolerance=6, measure=measure)
    assert first_difference({"x": A}, {"x": A}, tolerance=0, measure=measure) is None
    assert compare_arrays(np.zeros(3), np.zeros(3), measure=measure).error == 0
    assert compare_arrays(np.ones(()), np.ones(()), measure=measure).index == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("power", [-1030, -600, 600, 1018])
def test_numbers_whose_squares_no_float_holds_have_errors_too(power: int, measure: Any) -> None:
    for other in (A + 1e-6, -A, np.zeros_like(A), A):
        error, scaled = (
            compare_arrays(np.ldexp(other, exponent), np.ldexp(A, exponent), measure=measure).error for exponent in (0, power)
        )
        assert scaled == pytest.approx(error, rel=1e-2 if power < -1022 else 1e-12)  # subnormal numbers have fewer digits
    assert compare_arrays(np.ldexp(A, 600), A, measure=measure).error > 1e100
    assert not ratio(1.0, INF) <= INF


def test_the_error_is_in_eps_of_the_dtype_and_the_worst_element_is_named() -> None:
    reference = np.zeros((2, 3), np.float32)
    reference[0, 0] = 4.0
    actual = reference.copy()
    actual[1, 2] = -0.5
    actual[0, 1] = 0.25
    comparison = compare_arrays(actual, reference)
    assert comparison.error == 0.125 / EPS["float32"]
    assert (comparison.index, comparison.actual, comparison.expected, comparison.dtype) == ((1, 2), -0.5, 0.0, "float32")
    assert str(comparison) == "1.05e+06 eps(float32); worst at (1, 2): -0.5 instead of 0.0"
    assert compare_arrays(actual, reference, measure="l2").error == pytest.approx(np.hypot(0.5, 0.25) / 4 / EPS["float32"])
    actual[1, 0] = NAN  # worse than any number
    assert compare_arrays(actual, reference).index == (1, 0)


def test_the_tolerance_is_inclusive_and_64_eps_by_default() -> None:
    reference = np.ones(3)
    for steps, passes in ((64, True), (65, False)):
        actual = reference + steps * EPS["float64"]
        assert (compare_arrays(actual, reference).error <= 64) == passes
        if passes:
            assert_agrees(actual, reference)
        else:
            with pytest.raises(AssertionError, match=r"^array: 65 eps"):
                assert_agrees(actual, reference)
    with pytest.raises(AssertionError, match="allowed 0 eps"):
        assert_agrees(reference + EPS["float64"], reference, tolerance=0)


BFLOAT16 = sv.to_backend(A, "numpy", "bfloat16")
NOT_COMPARED = {
    "differing dtypes": (A.astype(np.float32), A, "dtype float32 instead of float64"),
    "a wider dtype": (A, A.astype(np.float32), "dtype float64 instead of float32"),
    "bfloat16 for float16": (BFLOAT16, A.astype(np.float16), "dtype bfloat16 instead of float16"),
    "shapes that broadcast": (A[:1], A, r"shape \(1, 4, 4, 12\) instead of \(2, 4, 4, 12\)"),
    "a reference that broadcasts": (A, A[:, :1], r"shape \(2, 4, 4, 12\) instead of \(2, 1, 4, 12\)"),
    "a missing axis": (A[0], A[:1], r"shape \(4, 4, 12\) instead of \(1, 4, 4, 12\)"),
    "a scalar": (np.ones(()), np.ones(3), r"shape \(\) instead of \(3,\)"),
    "axes swapped": (A[0].reshape(4, 48), A[0].reshape(48, 4), r"shape \(4, 48\) instead of \(48, 4\)"),
    "flattened": (A.reshape(-1), A, r"shape \(384,\) instead of \(2, 4, 4, 12\)"),
    "empty arrays": (A[:0], A[:0], r"nothing to compare in shape \(0, 4, 4, 12\)"),
}


@pytest.mark.parametrize("case", NOT_COMPARED)
def test_what_cannot_be_compared_is_no_agreement(case: str) -> None:
    actual, reference, message = NOT_COMPARED[case]
    with pytest.raises(AssertionError, match=f"^{message}$"):
        compare_arrays(actual, reference)
    with pytest.raises(AssertionError, match=message):
        assert_agrees(actual, reference, tolerance=INF)
    for compare_traces in (first_difference, assert_traces_agree):
        with pytest.raises(AssertionError, match=f"^y: {message}$"):
            compare_traces({"x": A, "y": actual}, {"x": A, "y": reference}, tolerance=INF)


def test_a_wider_reference_must_be_asked_for() -> None:
    narrow = A.astype(np.float32)
    error = compare_arrays(narrow, A, dtype="float32").error
    assert 0 < error <= 0.5
    assert_traces_agree({"x": narrow}, {"x": A}, tolerance=0.5, dtype="float32")
    assert compare_arrays(BFLOAT16, A, dtype="bfloat16").error <= 0.5
    with pytest.raises(AssertionError, match="dtype float64 instead of float32"):
        compare_arrays(A, A, dtype="float32")


@pytest.mark.parametrize("compare_traces", [first_difference, assert_traces_agree])
def test_traces_must_have_the_same_names(compare_traces: Any) -> None:
    for empty in ({}, {"x": A}):
        with pytest.raises(AssertionError, match="nothing to compare: the reference trace is empty"):
            compare_traces(empty, {}, tolerance=INF)
    with pytest.raises(AssertionError, match=r"missing \['y'\], surplus \[\]"):
        compare_traces({"x": A}, {"x": A, "y": A}, tolerance=INF)
    with pytest.raises(AssertionError, match=r"missing \[\], surplus \['y'\]"):
        compare_traces({"x": A, "y": A}, {"x": A}, tolerance=INF)
    with pytest.raises(AssertionError, match=r"missing \['x'\], surplus \['X'\]"):
        compare_traces({"X": A}, {"x": A}, tolerance=INF)


def test_the_first_difference_is_the_first_in_the_references_order() -> None:
    reference = {"c": A, "b": A, "a": A}
    actual = {"a": 3 * A, "b": 2 * A, "c": A}
    found = first_difference(actual, reference, tolerance=64)
    assert found is not None
    assert found[0] == "b"
    assert found[1].error == pytest.approx(1 / EPS["float64"])
    assert first_difference(actual, reference, tolerance=3 / EPS["float64"]) is None


def test_traces_are_measured_in_l2_unless_told_otherwise() -> None:
    """One element that is off by 1e-3 of the largest: far less in the norm over 384."""
    spike = {"x": changed((0, 0, 0, 0), A[0, 0, 0, 0] + 1e-3 * abs(A).max())}
    assert first_difference(spike, {"x": A}, tolerance=3e-4 / EPS["float64"]) is None
    assert first_difference(spike, {"x": A}, tolerance=3e-4 / EPS["float64"], measure="max") is not None


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
def test_arrays_of_different_libraries(library: str) -> None:
    """Whatever the library, the strides and whether gradients are tracked."""
    for dtype in ("float32", "float64"):
        x = sv.to_backend(A, library, dtype)
        reference = A.astype(dtype)
        assert assert_agrees(x, reference, tolerance=0).dtype == dtype
        assert_agrees(reference, x, tolerance=0)
        with pytest.raises(AssertionError, match="worst at"):
            assert_agrees(x * 1.001, reference)
        with pytest.raises(AssertionError, match="first difference at x"):
            assert_traces_agree({"x": -x}, {"x": reference}, tolerance=64)
    if library == "torch":
        assert_agrees(x.requires_grad_().mT, A.swapaxes(-1, -2), tolerance=0)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected an array of NumPy, PyTorch, JAX, CuPy.* or an array-API library, got list"):
        compare_arrays([1.0], np.ones(1))


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_what_is_not_floating_is_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match=f"dtype must be one of float64, float32, float16, bfloat16, got {dtype}"):
        compare_arrays(np.ones(3, dtype), np.ones(3, dtype))
