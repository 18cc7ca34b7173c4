"""Intervals and tests, held against SciPy's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from scalablevit_ref.evaluation import mcnemar, statistics, wilson


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
    """In whole numbers below `EXACT` flips, by logarithms above."""
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert abs(mcnemar(gained, lost) - expected) <= 1e-9 * expected + 1e-300


def test_both_ways_of_summing_agree() -> None:
    for lost in (0, 450, 499, 500):
        few = mcnemar(statistics.EXACT - lost, lost)
        more = mcnemar(statistics.EXACT + 1 - lost, lost)
        assert 0.8 < (more + 1e-300) / (few + 1e-300) < 1.25 or few == more == 1.0 or few < 1e-200
