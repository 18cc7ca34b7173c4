"""FLINT: every number is a ball of Arb, a midpoint with a rigorous radius, and encloses the exact real result.

The definitions run on it. An op has its own version here where its definition holds a constant that float64 rounds (GELU's √2) or a
step that only other numbers need (the shift of softmax). Parameters and images are exact: they are the numbers that they are.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any, cast

import numpy as np
from flint import arb
from scalablevit_ref.backends.balls import BITS, LEAST_BITS, MOST_BITS, Balls, Standard, mapped, precision

from scalablevit_ref import ops
from scalablevit_ref.arguments import is_whole
from scalablevit_ref.errors import brief

NAME = "flint"

LARGEST_DENOMINATOR = 8
"""Largest denominator of a width w = d · r_c whose root `attention` takes."""


def exp(x: Balls) -> Balls:
    return mapped(arb.exp, x)


def erf(x: Balls) -> Balls:
    return mapped(arb.erf, x)


def gelu(x: Balls) -> Balls:
    """With √2 itself."""
    with precision(x.bits):
        inverse = arb(2).rsqrt()
    return x * (erf(x * inverse) + 1) * 0.5


def gelu_tanh(x: Balls) -> Balls:
    """With √(2/π) itself, and 0.044715 as it is written."""
    with precision(x.bits):
        root, cubic = (2 / arb.pi()).sqrt(), arb(44715) / 10**6
    return x * (mapped(arb.tanh, (x + x * x * x * cubic) * root) + 1) * 0.5


def softmax(x: Balls) -> Balls:
    """Without the shift, which keeps other numbers from overflowing."""
    y = exp(x)
    return y / Standard.sum(y, axis=(len(x.shape) - 1,), keepdims=True)


def attention(q: Balls, k: Balls, v: Balls, *, scale: float) -> Balls:
    """With the scale that is meant: w^-½ where `scale` is the float64 next to it and w = d or d·r_c a short fraction."""
    width = Fraction(scale**-2.0).limit_denominator(LARGEST_DENOMINATOR) if scale > 0 else Fraction(0)
    if width <= 0 or float(width) ** -0.5 != scale:
        return cast("Balls", ops.attention.definition(q, k, v, scale=scale))
    with precision(q.bits):
        exact = (arb(width.numerator) / width.denominator).rsqrt()
    return cast("Balls", ops.attention.definition(q * exact, k, v, scale=1))


def zeros(x: Balls, shape: tuple[int, ...]) -> Balls:
    return Balls(np.full(shape, arb(0), object), x.bits)


def namespace(x: Balls) -> type[Standard]:
    return Standard


def device(x: Balls) -> str:
    """Where an array lives that says with what precision: arrays of different bits are not mixed unseen."""
    return f"{x.bits} bits"


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Balls:
    """`device`: the bits of precision, 53 to 16384; None is 106. Numbers are exact, rounded before only where a dtype is named."""
    bits = BITS if device is None else device
    if not is_whole(bits) or not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"device: flint takes bits of precision, {LEAST_BITS} to {MOST_BITS}, got {brief(device)}")
    if dtype == "bfloat16":
        import ml_dtypes

        x = x.astype(ml_dtypes.bfloat16)
    elif dtype is not None:
        x = x.astype(dtype)
    numbers = np.array(x, np.float32 if x.dtype.name in ("float16", "bfloat16", "float32") else np.float64, order="C")
    if not np.isfinite(numbers).all():
        raise ValueError("params_or_array holds NaN or infinity, which no ball encloses")
    if not (numbers.astype(x.dtype) == x).all():
        raise TypeError(f"params_or_array holds {x.dtype} with numbers that float64 rounds")
    return Balls(numbers, int(bits))


def to_numpy(x: Balls) -> np.ndarray:
    """The midpoints, rounded to float64; `enclosure` gives what is proved."""
    return np.fromiter(map(float, x.numbers.ravel()), np.float64, prod(x.shape)).reshape(x.shape)
