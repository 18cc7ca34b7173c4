"""Sizes that are known when a graph runs and not while it is written: whole numbers that remember how they come about."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

Factor: TypeAlias = tuple[Any, ...]
"""A name, (name,), or an operation: (parts, "//", divisor), (parts, "%", divisor), (parts, "+", parts)."""

Parts: TypeAlias = tuple[int, tuple[Factor, ...]]
"""A size as a product: a whole number, and factors in order."""


class Size(int):
    """A size that remembers how it is computed. As a number it is that of the example on which the graph is written.

    The specification checks sizes and asks whether they are zero. It gets the example's answer, and the graph is that of all sizes
    with the same answers: what was found to be divisible is so from then on.

    Attributes
    ----------
    parts
        Equal for two sizes that are equal at every run.
    divisible
        (parts, divisor) of what was found to be divisible, shared by all sizes of a graph.
    """

    parts: Parts
    divisible: set[tuple[Parts, int]]

    def __new__(cls, example: int, parts: Parts, divisible: set[tuple[Parts, int]]) -> Size:
        size = super().__new__(cls, example)
        size.parts, size.divisible = parts, divisible
        return size

    def __eq__(self, other: object) -> bool:
        _, (first, *others) = self.parts
        if int(self) == 0 == other and not others and first[1:2] == ("%",):
            self.divisible.add(_positive(first[0], first[2]))
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        """Of what it stands for, and of no number: what einops keeps for a shape must not serve another graph, nor known sizes."""
        return hash((id(self.divisible), self.parts))

    def __bool__(self) -> bool:
        return self != 0

    def __str__(self) -> str:
        return written(self.parts)

    def __mul__(self, other: Any) -> Any:
        return self._product(self.parts, parts_of(other), int(self) * int(other))

    def __neg__(self) -> Any:
        return self * -1

    def __floordiv__(self, other: Any) -> Any:
        quotient = self._quotient(other)
        return self._made(self.parts, "//", _known(other), int(self) // int(other)) if quotient is None else quotient

    def __mod__(self, other: Any) -> Any:
        if self._quotient(other) is not None or _positive(self.parts, int(other)) in self.divisible:
            return 0
        return self._made(self.parts, "%", _known(other), int(self) % int(other))

    def __add__(self, other: Any) -> Any:
        """Whole numbers are added up: (n − 1) + 1 is n."""
        left, right = self.parts, parts_of(other)
        if left[0] == 1 and len(left[1]) == 1 and left[1][0][1:2] == ("+",) and not (left[1][0][2][1] or right[1]):
            left, _, (number, _) = left[1][0]
            right = (number + right[0], ())
        example = int(self) + int(other)
        return Size(example, left, self.divisible) if right == (0, ()) else self._made(left, "+", right, example)

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    __rmul__, __radd__ = __mul__, __add__

    def _made(self, left: Parts, operator: str, right: Any, example: int) -> Size:
        return Size(example, (1, ((left, operator, right),)), self.divisible)

    def _quotient(self, other: int) -> Any:
        """What is left without the factors of the other; None where they are not among those here."""
        times, factors = parts_of(other)
        left = Counter(self.parts[1])
        left.subtract(factors)
        if self.parts[0] % times or min(left.values()) < 0:
            return None
        return self._product((self.parts[0] // times, tuple(left.elements())), (1, ()), int(self) // int(other))

    def _product(self, left: Parts, right: Parts, example: int) -> Any:
        """n · (m // n) is m where n was found to divide m. Without a factor that is unknown it is a number."""
        times, factors = left[0] * right[0], (*left[1], *right[1])
        for at, factor in enumerate(factors):
            if factor[1:2] == ("//",) and times % factor[2] == 0 and _positive(factor[0], factor[2]) in self.divisible:
                return self._product((times // factor[2], factors[:at] + factors[at + 1 :]), factor[0], example)
        return Size(example, (times, tuple(sorted(factors, key=repr))), self.divisible) if times and factors else times


def parts_of(size: int) -> Parts:
    return size.parts if isinstance(size, Size) else (int(size), ())


def written(parts: Parts) -> str:
    """A size as text, the same for equal parts: `7*(height//7)`."""
    times, factors = parts
    texts = [str(times)] * (times != 1 or not factors)
    for left, *others in factors:
        operator, right = others or ("", "")
        texts.append(f"({written(left)}{operator}{written(right) if isinstance(right, tuple) else right})" if others else left)
    return "*".join(texts)


def _known(divisor: int) -> int:
    if isinstance(divisor, Size):
        raise TypeError(f"a size that is known at a run only can be divided by a whole number, not by {divisor}")
    return int(divisor)


def _positive(dividend: Parts, divisor: int) -> tuple[Parts, int]:
    """What divides a size divides its negative."""
    return (abs(dividend[0]), dividend[1]), divisor
