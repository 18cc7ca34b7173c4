"""Numbers in words: 0.125 is 1/√d of heads of 64 channels, 1.1111 is 1/0.9."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

import numpy as np


def three_digits(x: float) -> str:
    """-1.00 is −1; else 3 significant digits."""
    return f"{x:.3g}"


def named(x: float, *, within: float, channels: int | None = None, num_heads: int | None = None) -> str:
    """A number in words: with its origin where one is known within this relative error, else with 3 digits."""
    for value, words in known(channels, num_heads):
        if abs(x - value) <= within * abs(value):
            return words
        if abs(x + value) <= within * abs(value):
            return f"-{words}"
    return three_digits(x)


def known(channels: int | None, num_heads: int | None) -> Iterator[tuple[float, str]]:
    """Numbers that networks are scaled by, the simplest first."""
    for n in range(1, 9):
        yield float(n), str(n)
    for n in (2, 3, 4, 8):
        yield 1 / n, f"1/{n}"
    yield 255.0, "255"
    yield 1 / 255, "1/255"
    if channels and num_heads and channels % num_heads == 0:
        yield from _powers(channels // num_heads, "d", f"d = {channels // num_heads} channels of a head")
    if channels:
        yield from _powers(channels, "c", f"c = {channels} channels")
    yield sqrt(2.0), "√2"
    yield sqrt(0.5), "1/√2"
    for tenth in range(19, 0, -1):
        keep = round(tenth * 0.05, 2)
        yield 1 / keep, f"1/{keep:g} (as a keep probability of {keep:g} scales)"
        yield keep, f"{keep:g}"


def _powers(n: int, letter: str, meaning: str) -> Iterable[tuple[float, str]]:
    return (
        (sqrt(n), f"√{letter} ({meaning})"),
        (1 / sqrt(n), f"1/√{letter} ({meaning})"),
        (float(n), f"{letter} ({meaning})"),
        (1 / n, f"1/{letter} ({meaning})"),
    )


def listed(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 is 0–2, 5."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return ", ".join(shown[:6]) + (" …" if len(shown) > 6 else "")


def ranged(numbers: np.ndarray) -> str:
    """Smallest to largest; what is 0 to rounding is 0."""
    largest = float(abs(numbers).max())
    low, high = (0.0 if abs(x) <= 1e-7 * largest else x for x in (float(numbers.min()), float(numbers.max())))
    return f"{three_digits(low)} to {three_digits(high)}"
