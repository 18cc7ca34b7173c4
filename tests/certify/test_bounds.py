"""Bounds of errors hold, against the same sums in fractions; and are tight."""

from __future__ import annotations

from fractions import Fraction
from math import inf, isnan, ldexp, nan
from typing import Any

import numpy as np
import pytest
from flint import fmpq
from hypothesis import given
from hypothesis import strategies as st

from scalablevit_ref.certify import bounds
from scalablevit_ref.certify.bounds import Bounds, Tally
from scalablevit_ref.certify.enclosures import Enclosure
from scalablevit_ref.testing.strategies import SEEDS
from tests.support.rationals import ends, rational


def drawn(seed: int, size: int, scale: int, apart: float, radius: float) -> tuple[np.ndarray, Enclosure]:
    """Numbers and an enclosure, `apart` of their size from each other."""
    draws = np.random.default_rng(seed)
    high = np.ldexp(draws.standard_normal(size), scale + draws.integers(-9, 9, size))
    numbers = high * (1 + apart * draws.standard_normal(size))
    low = high * 2.0**-54 * draws.uniform(-1, 1, size)
    return numbers, Enclosure(high, low, np.abs(high) * radius * draws.uniform(0, 1, size))


def exact(numbers: np.ndarray, truth: Enclosure, *, part: int) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """Σ Δ², Σ truth², max|Δ| and max|truth| of a truth inside: its lower end, its middle or its upper end."""
    true = [sum(map(Fraction, pair), part * Fraction(r)) for *pair, r in zip(*map(np.ndarray.tolist, truth), strict=True)]
    apart = [Fraction(a) - t for a, t in zip(numbers.tolist(), true, strict=True)]
    return sum(d * d for d in apart), sum(t * t for t in true), max(map(abs, apart)), max(map(abs, true))


def check_bounds(numbers: np.ndarray, truth: Enclosure) -> None:
    """AssertionError where the truth's own error is outside of what is said to be proved."""
    least, most = ends(bounds._squares(numbers))
    assert least <= sum((x * x for x in rational(numbers)), fmpq(0)) <= most
    tally = Tally()
    for cut in (slice(0, 3), slice(3, None)):
        tally.add(numbers[cut], Enclosure(*(x[cut] for x in truth)))
    error = tally.error()
    for part in (-1, 0, 1):
        squares, whole, largest, size = exact(numbers, truth, part=part)
        assert Fraction(error.l2.low) ** 2 * whole <= squares <= Fraction(error.l2.high) ** 2 * whole
        assert Fraction(error.maximum.low) * size <= largest <= Fraction(error.maximum.high) * size


RADII = st.sampled_from([0.0, 2.0**-110, 2.0**-60, 2.0**-40])
APART = st.sampled_from([0.0, 2.0**-53, 2.0**-52, 2.0**-23, 0.5])
SCALES = st.sampled_from([-900, -300, 0, 300, 900])


@given(seed=SEEDS, size=st.integers(4, 40), scale=SCALES, apart=APART, radius=RADII)
def test_the_bounds_hold(seed: int, size: int, scale: int, apart: float, radius: float) -> None:
    check_bounds(*drawn(seed, size, scale, apart, radius))


FAULTS: dict[str, tuple[str, Any]] = {
    "differences in float64 alone": ("_distances", lambda x, truth: (np.abs(x - truth.high),) * 2),
    "the radius left out": ("_distances", lambda x, truth: (np.abs((x - truth.high) - truth.low),) * 2),
    "sums in float64 alone": ("_squares", lambda x: bounds.arb(float(np.vdot(x, x)))),
    "rounded to nearest at the end": ("_ratio", lambda e, s: Bounds(float((e / s).mid()), float((e / s).mid()))),
}


def check_some() -> None:
    for seed in range(8):
        for apart in (0.0, 2.0**-53, 2.0**-23, 0.5):
            for radius in (0.0, 2.0**-60):
                check_bounds(*drawn(seed, 30, 0, apart, radius))


@pytest.mark.parametrize("name", FAULTS)
def test_a_bound_that_is_none_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, *FAULTS[name])
    with pytest.raises(AssertionError):
        check_some()


def test_the_bounds_are_tight() -> None:
    """The width is what the truth is uncertain by."""
    numbers, truth = drawn(0, 1000, 0, 2.0**-52, 2.0**-80)
    tally = Tally()
    tally.add(numbers, truth)
    error = tally.error()
    for found in (error.l2, error.maximum):
        assert 0 < found.low < found.high < found.low * (1 + 1e-6)


def test_nothing_but_zeros_and_what_is_not_finite() -> None:
    zeros, ones = np.zeros(3), np.ones(3)
    for truth, actual, low, high in (
        (zeros, zeros, 0.0, 0.0),
        (zeros, ones, 1e308, inf),
        (ones, ones, 0.0, 2.0**-1000),
        (ones, np.array([1, nan, 1]), nan, nan),
        (ones, np.array([1, -inf, 1]), nan, nan),
        (ones * ldexp(1, 1000), ones * ldexp(1.5, 1000), 0.49, 0.51),
        (ones * ldexp(1, -1000), ones * ldexp(1.5, -1000), 0.49, 0.51),
    ):
        tally = Tally()
        tally.add(actual, Enclosure(truth, zeros, zeros))
        for found in (tally.error().l2, tally.error().maximum):
            if isnan(low):
                assert isnan(found.low)
                assert isnan(found.high)
            else:
                assert found.low >= low * (1 - 1e-9)
                assert found.high <= high * (1 + 1e-9)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) instead of \(3,\)"):
        Tally().add(np.ones(2), Enclosure(*(np.ones(3),) * 3))
