"""An operation's settings fitted to what a candidate gave: one door for attention, convolution, Linear and pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.attention_fit import fit_attention, fit_window_attention
from scalablevit_ref.compare.reasoning.convolution_fit import fit_convolution
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.linear_fit import fit_linear
from scalablevit_ref.compare.reasoning.pooling_fit import fit_pool

BUDGET = 4000
"""Hypotheses that are tried on a sample, at most."""

STEPS = {
    "window attention": fit_window_attention,
    "attention": fit_attention,
    "convolution": fit_convolution,
    "linear": fit_linear,
    "pool": fit_pool,
}


def fits(
    step: str,
    actual: np.ndarray,
    sources: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    *,
    eps: float,
    budget: int = BUDGET,
    **more: Any,
) -> list[Difference]:
    """What explains an operation's output `actual`, of its own exact inputs.

    Parameters
    ----------
    step : str
        A name in `STEPS`; any other one has no fits.
    actual : array
        What the candidate's operation gave, float64. Nothing is fitted to zeros, or to what is not finite.
    sources : mapping
        Its inputs and parameters, float64 (see the step's own function).
    settings : mapping
        The reference's settings of the operation.
    eps : float
        Distance from 1 to the next number of the dtype in which the candidate computed.
    budget : int
        Hypotheses that are tried, at most: work, and not time.
    **more
        What the step's own function takes besides.

    Returns
    -------
    list of Difference
        Empty where the reference's own settings explain `actual`. Exact ones are all that explain it; where none does, facts.
    """
    fit = STEPS.get(step)
    if fit is None or not np.isfinite(actual).all() or not actual.any():
        return []
    with np.errstate(all="ignore"):
        return fit(actual, sources, settings, eps=eps, budget=budget, **more)
