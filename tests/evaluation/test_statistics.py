"""Intervals and tests, held against SciPy's."""

from __future__ import annotations

from fractions import Fraction
from math import comb

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from scalablevit_ref.evaluation import mcnemar, wilson


@given(st.integers(1, 60_000), st.floats(0, 1))
def test_wilson(of: int, share: float) -> None:
    hits = round(of * share)
    expected = binomtest(hits, of).proportion_ci(method="wilson")
    assert abs(wilson(hits, of)[0] - expected.low) < 1e-12
    assert abs(wilson(hits, of)[1] - expected.high) < 1e-12


def test_nothing_was_counted() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert mcnemar(0, 0) == 1.0


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar(gained: int, lost: int) -> None:
    """By logarithms above `EXACT` flips; here in whole numbers, and below it beside SciPy's."""
    flips = gained + lost
    exact = min(Fraction(1), Fraction(2 * sum(comb(flips, i) for i in range(min(gained, lost) + 1)), 2**flips))
    assert abs(mcnemar(gained, lost) - float(exact)) <= 1e-10 * float(exact) + 1e-300
    if 0 < flips <= 200:
        assert abs(mcnemar(gained, lost) - binomtest(gained, flips).pvalue) <= 1e-9
