"""Arrays of balls: each number is a midpoint with a rigorous radius, computed by FLINT's Arb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx

BITS = 106
"""Precision of balls, in bits, where none is asked for: twice that of float64."""

LEAST_BITS, MOST_BITS = 53, 1 << 14
"""Least and most precision that is taken, in bits."""

GUARD, SAMPLE = 24, 64
"""Bits beyond the accuracy that balls still have, in which is computed with them; and how many of them are asked for it."""


class WideBallError(ArithmeticError):
    """A ball that contains zero is divided by, or one that contains a negative number has its root taken."""


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """FLINT's own precision is one for the whole process: it is set within, and afterwards as it was."""
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


class Balls:
    """An array of balls.

    Parameters
    ----------
    held
        An array of floating point, whose numbers are exact and become balls when they are computed with; or one of `flint.arb`.
    bits
        Precision of what is computed with it; of two arrays, the larger one counts. Balls that have grown are computed with in
        fewer bits, as many as they are accurate to and `GUARD` more. Whatever the bits are, what is computed encloses the result.
    """

    __array_ufunc__ = None  # so that NumPy's arrays and numbers leave the operators to this class

    def __init__(self, held: np.ndarray, bits: int = BITS) -> None:
        self.held, self.bits = held, bits

    @property
    def numbers(self) -> np.ndarray:
        """As an array of `flint.arb`."""
        if self.held.dtype == object:
            return self.held
        return array(map(arb, self.held.ravel().tolist()), self.held.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `to_numpy` gives."""
        return np.dtype(np.float64)

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, key: Any) -> Balls:
        return Balls(kept(self.held[key], self.held.dtype), self.bits)

    def _with(self, numbers: Any, bits: int = 0) -> Balls:
        return Balls(kept(numbers), max(bits, self.bits))

    def _each(self, operation: Callable[[Any, Any], Any], other: Any) -> Balls:
        both = (self, other) if isinstance(other, Balls) else (self,)
        with precision(enough(*both)):
            x = other.numbers if isinstance(other, Balls) else arb(other)
            return self._with(operation(self.numbers, x), both[-1].bits)

    def __add__(self, other: Any) -> Balls:
        return self._each(np.add, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Balls:
        return self._each(np.multiply, other)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Balls:
        return self._each(np.subtract, other)

    def __rsub__(self, other: Any) -> Balls:
        return (-self).__add__(other)

    def __neg__(self) -> Balls:
        return self * -1

    def __abs__(self) -> Balls:
        return mapped(abs, self)

    def __truediv__(self, other: Any) -> Balls:
        """Raises WideBallError where a ball that is divided by contains zero."""
        divisors = other.numbers.ravel() if isinstance(other, Balls) else [arb(other)]
        if any(x.contains(0) for x in divisors):
            raise WideBallError("a ball that contains zero is divided by")
        return self._each(np.divide, other)

    def __rtruediv__(self, other: Any) -> Balls:
        return Balls(np.full((), arb(other), object), self.bits) / self

    def __pow__(self, exponent: float) -> Balls:
        """The square root, for 0.5. Raises WideBallError where a ball contains negative numbers."""
        if exponent != 0.5:
            return self._each(np.power, exponent)
        if any(not x >= 0 for x in self.numbers.ravel().tolist()):
            raise WideBallError("the root of a ball that contains negative numbers is taken")
        return mapped(arb.sqrt, self)

    def __matmul__(self, other: Balls) -> Balls:
        """As NumPy's: products of matrices over the last two axes, each one product of FLINT's."""
        if self.shape[-1] == 1:
            return self * other
        with precision(enough(self, other)):
            return self._with(_product(self.held, other.held), other.bits)


def enough(*arrays: Balls) -> int:
    """Bits in which rounding adds nothing to speak of to the radii that are there: a guess, from some of the balls."""
    bits = max(x.bits for x in arrays)
    some = [ball for x in arrays if x.held.dtype == object for ball in x.held.flat[:: 1 + x.held.size // SAMPLE]]
    known = [ball.rel_accuracy_bits() for ball in some if not ball.is_exact()]
    return min(bits, max(LEAST_BITS, *known) + GUARD) if known else bits


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if y.ndim == 2:
        rows = x.reshape(-1, x.shape[-1])
        return array((_matrix(rows) * _matrix(y)).entries(), (*x.shape[:-1], y.shape[-1]))
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = np.broadcast_to(x, (*batch, *x.shape[-2:])), np.broadcast_to(y, (*batch, *y.shape[-2:]))
    z = np.empty((*batch, x.shape[-2], y.shape[-1]), object)
    for i in np.ndindex(batch):
        z[i] = array((_matrix(x[i]) * _matrix(y[i])).entries(), z.shape[-2:])
    return z


def _matrix(x: np.ndarray) -> arb_mat:
    rows, columns = x.shape
    return arb_mat(rows, columns, x.ravel().tolist())


def array(numbers: Any, shape: Sequence[int]) -> np.ndarray:
    return np.fromiter(numbers, object, prod(shape)).reshape(shape)


def mapped(function: Callable[[Any], Any], x: Balls) -> Balls:
    with precision(enough(x)):
        return Balls(array(map(function, x.numbers.ravel()), x.shape), x.bits)


class Standard:
    """What einops asks for of the array API standard."""

    @staticmethod
    def reshape(x: Balls, shape: tuple[int, ...]) -> Balls:
        return Balls(x.held.reshape(shape), x.bits)

    @staticmethod
    def permute_dims(x: Balls, axes: tuple[int, ...]) -> Balls:
        return Balls(x.held.transpose(axes), x.bits)

    @staticmethod
    def sum(x: Balls, *, axis: tuple[int, ...], keepdims: bool = False) -> Balls:
        with precision(enough(x)):
            return Balls(kept(x.numbers.sum(axis=axis, keepdims=keepdims)), x.bits)

    @staticmethod
    def mean(x: Balls, *, axis: tuple[int, ...]) -> Balls:
        return Standard.sum(x, axis=axis) / prod(x.shape[i] for i in axis)

    @staticmethod
    def max(x: Balls, *, axis: tuple[int, ...]) -> Balls:
        with precision(enough(x)):
            return Balls(kept(np.frompyfunc(arb.max, 2, 1).reduce(x.numbers, axis=axis)), x.bits)

    @staticmethod
    def concat(arrays: Sequence[Balls], *, axis: int) -> Balls:
        return Balls(np.concatenate([x.numbers for x in arrays], axis), max(x.bits for x in arrays))

    @staticmethod
    def stack(arrays: Sequence[Balls]) -> Balls:
        return Balls(np.stack([x.numbers for x in arrays]), max(x.bits for x in arrays))


def kept(numbers: Any, dtype: Any = object) -> np.ndarray:
    """What is one number, since all axes are gone, as an array too."""
    return numbers if isinstance(numbers, np.ndarray) else np.full((), numbers, dtype)
