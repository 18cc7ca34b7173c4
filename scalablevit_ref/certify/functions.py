"""The definitions' own errors, proved for every input: how far a series is from its function, and what rounding adds at most.

A definition runs, as it is written, on two kinds of numbers. On Taylor series of balls, its difference from the function is
enclosed on each of many short intervals: Taylor's remainder, evaluated on the whole interval, bounds what the terms leave out. On
pairs of an interval and of the largest error that roundings can have brought, each operation adds its own half unit in the last
place.
Beyond the last interval both functions are bounded by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from flint import arb, arb_series, ctx

from scalablevit_ref import ops
from scalablevit_ref.backends import register
from scalablevit_ref.backends.balls import precision
from scalablevit_ref.backends.dispatch import registered

BITS, TERMS, PIECES = 160, 16, 32
"""Precision of balls in bits, terms of a Taylor series, and intervals for each unit of x."""

FEW_TERMS, MANY_PIECES = 4, 128
"""The same for the float32 GELU, of which fewer digits are asked and whose powers spread more."""

TAIL = 7
"""The x from which on erf and what stands for it are bounded by hand, as both are 1 to float64's last digits."""

FAR = 256
"""The square of x from which on the float32 GELU's polynomial is bounded by its terms."""

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24}
"""Largest relative error of one rounding."""

EXP_ULPS = 2
"""Most units of a rounding (half an ulp each) by which a library's `exp` and `tanh` are taken to err; NumPy's own err by less."""


class Formal:
    """One number of any kind on which a definition runs: it passes each operation on to what it holds."""

    def __init__(self, held: Any) -> None:
        self.held = held

    shape = ()

    def __add__(self, other: Any) -> Formal:
        return Formal(self.held + _held(other))

    def __radd__(self, other: Any) -> Formal:
        return Formal(_held(other) + self.held)

    def __sub__(self, other: Any) -> Formal:
        return Formal(self.held - _held(other))

    def __rsub__(self, other: Any) -> Formal:
        return Formal(_held(other) - self.held)

    def __mul__(self, other: Any) -> Formal:
        return Formal(self.held * _held(other))

    def __rmul__(self, other: Any) -> Formal:
        return Formal(_held(other) * self.held)

    def __truediv__(self, other: Any) -> Formal:
        return Formal(self.held / _held(other))

    def __rtruediv__(self, other: Any) -> Formal:
        return Formal(_held(other) / self.held)

    def __abs__(self) -> Formal:
        """Of what is not negative, which is all that is asked for here."""
        return self


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Formal) else x


class FormalBackend:
    """What `register` asks for, of which definitions of one variable need `exp` alone."""

    NAME = "formal"

    @staticmethod
    def exp(x: Formal) -> Formal:
        return Formal(x.held.exp())

    zeros = device = from_numpy = to_numpy = None


@contextmanager
def formally() -> Iterator[None]:
    """Within, definitions run on `Formal` numbers, in balls of `BITS` bits and series of `TERMS` terms."""
    cap = ctx.cap
    register(Formal, FormalBackend)
    ctx.cap = TERMS + 1
    try:
        with precision(BITS):
            yield
    finally:
        ctx.cap = cap
        registered.pop(FormalBackend.NAME, None)


@dataclass(frozen=True)
class Rounded:
    """An interval of exact values, and how far what is computed may be from them, at most.

    Parameters
    ----------
    value
        Ball that contains the exact value, for every x of an interval.
    error
        Bound of |computed − exact|.
    unit
        Largest relative error of one rounding.
    """

    value: arb
    error: arb
    unit: float

    def _rounded(self, value: arb, error: arb, ulps: int = 1) -> Rounded:
        largest = abs(value).upper() + error
        return Rounded(value, (error + ulps * arb(self.unit) * largest).upper(), self.unit)

    def _of(self, other: Any) -> Rounded:
        return other if isinstance(other, Rounded) else Rounded(arb(other), arb(0), self.unit)

    def __add__(self, other: Any) -> Rounded:
        y = self._of(other)
        return self._rounded(self.value + y.value, self.error + y.error)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Rounded:
        y = self._of(other)
        return self._rounded(self.value - y.value, self.error + y.error)

    def __rsub__(self, other: Any) -> Rounded:
        return self._of(other) - self

    def __mul__(self, other: Any) -> Rounded:
        y = self._of(other)
        error = abs(self.value).upper() * y.error + abs(y.value).upper() * self.error + self.error * y.error
        exact = isinstance(other, float) and abs(other) in (0.5, 2.0, 4.0)
        return self._rounded(self.value * y.value, error, ulps=0 if exact else 1)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Rounded:
        y = self._of(other)
        least = abs(y.value).lower() - y.error
        quotient = self.value / y.value
        error = (self.error + abs(quotient).upper() * y.error) / least
        return self._rounded(quotient, error)

    def __rtruediv__(self, other: Any) -> Rounded:
        return self._of(other) / self

    def exp(self) -> Rounded:
        value = self.value.exp()
        return self._rounded(value, value.upper() * self.error.expm1(), ulps=EXP_ULPS)

    def tanh(self) -> Rounded:
        least = self.value.lower() - self.error
        steepest = 1 / least.cosh() ** 2 if least > 0 else arb(1)
        return self._rounded(self.value.tanh(), self.error * steepest, ulps=EXP_ULPS)


def intervals(end: int, start: int = 0, pieces: int = PIECES) -> Iterator[tuple[arb, arb]]:
    """Middles and half widths, both exact, of intervals that cover start ≤ x ≤ end; `pieces`, a power of two, for each unit."""
    half = arb(0.5 / pieces)
    for i in range(start * pieces, end * pieces):
        yield arb((i + 0.5) / pieces), half


def series_error(difference: Callable[[arb_series], arb_series], middle: arb, half: arb, count: int = TERMS) -> arb:
    """A bound of |difference| on an interval: the size of the terms around its middle, and Taylor's remainder on all of it."""
    terms = difference(arb_series([middle, 1])).coeffs()[:count]
    rest = difference(arb_series([arb(middle, half), 1])).coeffs()
    remainder = abs(rest[count]) if len(rest) > count else arb(0)
    total: arb = sum((abs(term) * half**i for i, term in enumerate(terms)), remainder * half**count)
    return total.upper()


def erf_method_error() -> float:
    """sup |P(x) − erf(x)| over x ≥ 0 of the Chebyshev series of `ops.erf` in exact arithmetic.

    For x ≥ `TAIL`, 1 − P(x) = t · exp(−x² + Σ c_k T_k) is at most ¼ · exp(−x² + Σ |c_k|), since |T_k| ≤ 1 and t ≤ ¼; and
    1 − erf(x) is at most erfc(`TAIL`).

    Examples
    --------
    >>> round(erf_method_error() / 2**-53, 2)
    0.45
    """

    def difference(x: arb_series) -> arb_series:
        found: arb_series = ops.erf.definition(Formal(x)).held - x.erf()
        return found

    with formally():
        found = [series_error(difference, middle, half) for middle, half in intervals(TAIL)]
        return _up(max([*found, _erf_tail()], key=lambda bound: bound.upper()))


def _erf_tail() -> arb:
    most = sum((abs(arb(c)) for c in ops.ERFC_SERIES), arb(0))
    return arb(0.25) * (most - TAIL**2).exp() + arb(TAIL).erfc()


def erf_rounding_error() -> float:
    """sup |computed − P(x)| over float64 x ≥ 0, of `ops.erf` with an `exp` that errs by `EXP_ULPS` units at most.

    Examples
    --------
    >>> round(erf_rounding_error() / 2**-53, 2)
    11.09
    """
    with formally():
        bounds = []
        for middle, half in intervals(TAIL):
            x = Rounded(arb(middle, half), arb(0), UNITS["float64"])
            bounds.append(ops.erf.definition(Formal(x)).held.error)
        bounds.append(2 * _erf_tail() + arb(UNITS["float64"]))  # of 1 less next to nothing
        return _up(max(bounds, key=lambda bound: bound.upper()))


def gelu_method_error() -> float:
    """sup |G(x) − GELU(x)| / |x| over all x ≠ 0 of `ops.gelu` in exact arithmetic: erf's, and that of √½ as a float64.

    Both are |x|/2 times what erf is off by. |erf(z · (1 + δ)) − erf(z)| ≤ |δ| · 2/√π · sup z · exp(−z²) · (1 + |δ|), and the
    supremum is (2e)^-½.

    Examples
    --------
    >>> round(gelu_method_error() / 2**-53, 2)
    0.37
    """
    with precision(BITS):
        off = abs(arb(0.5**0.5) * arb(2).sqrt() - 1)
        peak = 2 / arb.pi().sqrt() * (2 * arb(1).exp()).rsqrt()
        return _up((arb(erf_method_error()) + off * (1 + 2 * off) * peak) / 2)


def gelu32_method_error() -> float:
    """sup |tanh(x · P(x²)) − erf(x/√2)| over all x of the NumPy kernel's polynomial P, whose coefficients are float32.

    Both are odd. For s = x² ≥ `TAIL`² P is shown to be more than 1.5: by intervals up to `FAR`, and above by its terms. The fifth
    and sixth power together are positive there and outweigh those of degree 3 and less that are negative, and what is left is at
    least the linear term. So both functions are above 1 − 2 · exp(−2 · `TAIL` · 1.5) and 1 − erfc(`TAIL`/√2).

    Examples
    --------
    >>> round(gelu32_method_error() / 2**-24, 2)
    0.98
    """
    series = [arb(float(np.float32(c))) for c in _tanh_series()]

    def difference(x: arb_series) -> arb_series:
        y = polynomial(series, x * x) * x
        decay = (y * -2).exp()
        found: arb_series = 1 - 2 * decay / (1 + decay) - (x * arb(2).rsqrt()).erf()
        return found

    with formally():
        found = [series_error(difference, *interval, FEW_TERMS) for interval in intervals(TAIL, pieces=MANY_PIECES)]
        for middle, half in intervals(FAR, TAIL**2):
            if not polynomial(series, arb(middle, half)) > 1.5:
                raise ArithmeticError(f"P is not shown to be more than 1.5 at {middle}")
        sixth, fifth, fourth, third, second, linear, constant = series
        negative = sum(abs(c) for c in (third, second) if not c > 0)
        if not ((sixth * FAR + fifth) * FAR**2 > negative and fourth > 0 and linear * FAR > 1.5 and constant > 0):
            raise ArithmeticError(f"P is not shown to be more than 1.5 above {FAR}")
        tail = 2 * arb(-2 * TAIL * 1.5).exp() + (TAIL * arb(2).rsqrt()).erfc()
        return _up(max([*found, tail], key=lambda bound: bound.upper()))


def gelu32_rounding_error() -> float:
    """sup |computed − tanh form| / |x| over float32 x of the NumPy kernel, with a `tanh` that errs by `EXP_ULPS` units.

    Beyond `TAIL` the computed tanh is 1 to within its own error, and three roundings follow.

    Examples
    --------
    >>> round(gelu32_rounding_error() / 2**-24, 2)
    7.0
    """
    series = [float(np.float32(c)) for c in _tanh_series()]
    with formally():
        bounds = [arb(0)]
        for middle, half in intervals(TAIL, pieces=MANY_PIECES):
            x = Rounded(arb(middle, half), arb(0), UNITS["float32"])
            y = polynomial(series, x * x) * x
            bounds.append(((y.tanh() + 1.0) * 0.5).error)
        bounds.append(arb(UNITS["float32"]) * (EXP_ULPS + 3))
        worst = max(bounds, key=lambda bound: bound.upper())
        return _up(worst + 2 * arb(UNITS["float32"]))  # the last product


def polynomial(coefficients: list[Any], s: Any) -> Any:
    """By Horner's scheme, the highest power first."""
    y = s * coefficients[0]
    for c in coefficients[1:-1]:
        y = (y + c) * s
    return y + coefficients[-1]


def _tanh_series() -> tuple[float, ...]:
    from scalablevit_ref.backends import numpy

    return numpy._TANH_SERIES


def _up(x: arb) -> float:
    return float(np.nextafter(float(x.upper()), inf))


# Sums, for the shapes of a network


def sum_error(n: int, dtype: str) -> float:
    """γ: the most by which a sum of n products, in whatever order, is off, as a share of the sum of their sizes.

    (1 + u)^n − 1, and so for fused multiply-adds; Higham, Accuracy and Stability of Numerical Algorithms, 3.1.

    Examples
    --------
    >>> round(sum_error(64, "float32") / 2**-24, 3)
    64.0
    """
    with precision(BITS):
        return _up((1 + arb(UNITS[dtype])) ** n - 1)


def layer_norm_error(n: int, dtype: str, *, offset: float = 1.0, size: float = 1.0) -> float:
    """The most by which (x − mean) / √(variance + eps) is off, of n channels, before gain and shift.

    With a mean that is off by e = γ_n · offset, all deviations are off by e alike, which the second pass sees squared only.

    Parameters
    ----------
    n
        Channels.
    dtype
        In which all is computed.
    offset
        mean|x| / √(variance + eps).
    size
        |x − mean| / √(variance + eps) of the entry.

    Examples
    --------
    >>> round(layer_norm_error(64, "float32") / 2**-24, 1)
    169.0
    """
    with precision(BITS):
        u, gamma = arb(UNITS[dtype]), arb(sum_error(n, dtype))
        e = gamma * arb(offset)
        off = e * (1 + u) + u * arb(size)  # one deviation
        spread = (1 + u) ** 2 * (1 + e**2) * (1 + arb(sum_error(n + 2, dtype))) - 1  # relative, of the variance
        share = (1 + spread) ** 0.5 * (1 + u) ** 2 / (1 - spread) - 1  # of the quotient by the root
        return _up(off + (arb(size) + off) * share)


def softmax_error(n: int, dtype: str, *, reach: float = 20.0) -> float:
    """The most by which one weight of a softmax over n entries is off, as a share of it, while none is subnormal.

    The shift by the largest entry is one rounding of at most `reach` (largest less smallest entry) · u, which the exponential makes
    a relative error; the sum of positive numbers adds γ_n, the quotient one rounding.

    Examples
    --------
    >>> round(softmax_error(49, "float32") / 2**-24, 1)
    94.0
    """
    with precision(BITS):
        u = arb(UNITS[dtype])
        one = (u * arb(reach)).exp() * (1 + EXP_ULPS * u)
        return _up(one / ((2 - one) * (1 - arb(sum_error(n, dtype)))) * (1 + u) - 1)
