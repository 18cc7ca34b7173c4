"""A candidate's value of another shape than the reference's: what it lacks, or has too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from scalablevit_ref.compare.followed import Misfit
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.judge import tolerance

Size = tuple[int, int, int]
"""b, h and w."""


def misfit(named: str, found: Misfit, eps: float) -> Difference:
    """What is said of a value whose shape does not fit; exact where all that it does hold is right.

    Parameters
    ----------
    named
        The step at which it lies, in words.
    found
        The candidate's value, and the reference's.
    eps
        That of the candidate's dtype.
    """
    shape, expected = found.actual.shape, found.expected.shape
    data = {"shape": list(shape), "expected": list(expected)}
    axes = "b h w c" if len(expected) == 4 else "b c"
    words = f"at {named} there is an array of shape {shape}, the reference's is {axes} = {expected}"
    tried = list(_tried(found)) if len(expected) == 4 else []
    for x, said in tried:
        for part, missing in _parts(x.shape[:3], (expected[0], expected[1], expected[2])):
            mine, own = x[part[0]], found.expected[part[1]]
            left = float(np.linalg.norm(mine - own)) / (float(np.linalg.norm(own)) or 1.0)
            if left <= 4 * tolerance(eps):
                clauses = ", ".join([*said, *(_as_padding(x.shape[:3], found.expected.shape[:3], part[0]) or missing)])
                return Difference("shape", f"{words}: {clauses}; all else in it is right", left, data, exact=True)
    sizes = [_sizes(x.shape[:3], (expected[0], expected[1], expected[2])) for x, said in tried if not said]
    return Difference("shape", words + (f": {sizes[0]}" if sizes and sizes[0] else ""), 1.0, data)


def _tried(found: Misfit) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The value as maps b h w c that it may be, and what was taken off it for that."""
    _, h, w, c = found.expected.shape
    for axis in (i for i, size in enumerate(found.actual.shape) if size == c):
        x = np.moveaxis(np.asarray(found.actual, np.float64), axis, -1)
        if x.ndim == 4:
            yield x, []
        if x.ndim != 3:
            continue
        images, n = x.shape[:2]
        if n == h * w + 1:
            yield x[:, 1:].reshape(images, h, w, c), ["there is one token more, before the others (a class token?)"]
            yield x[:, :-1].reshape(images, h, w, c), ["there is one token more, behind the others"]
        if n % w == 0:
            yield x.reshape(images, n // w, w, c), []
        if n % h == 0 and n != h * w:
            yield x.reshape(images, h, n // h, c), []


def _parts(size: Size, wanted: Size) -> Iterator[tuple[tuple[tuple[slice, ...], tuple[slice, ...]], list[str]]]:
    """The parts of a value and of the reference's that should be equal, and in words what is missing or too much."""
    axes = [list(_cuts(n, m, name)) for n, m, name in zip(size, wanted, ("image", "row", "column"), strict=True)]
    for cuts in product(*axes):
        mine, own = tuple(cut[0] for cut in cuts), tuple(cut[1] for cut in cuts)
        yield (mine, own), [cut[2] for cut in cuts if cut[2]]


def _cuts(n: int, m: int, name: str) -> Iterator[tuple[slice, slice, str]]:
    """Where n rows and m rows may be the same ones."""
    whole = slice(None)
    if n == m:
        yield whole, whole, ""
        return
    k, short = abs(n - m), min(n, m)
    some = f"{k} {name}s" if k > 1 else name
    for first in (0, k):
        place = slice(first, first + short)
        at = "first" if first else "last"
        if n < m:
            yield whole, place, f"the {at} {some} {'are' if k > 1 else 'is'} missing"
        else:
            yield place, whole, f"there {'are' if k > 1 else 'is'} {k} {name}{'s' * (k > 1)} too many, {at}"


def _as_padding(size: Sequence[int], wanted: Sequence[int], kept: Sequence[slice]) -> list[str]:
    """Where the reference's map is a part of the value, in words: how far that is padded."""
    sides = []
    borders = (("row", "top", "bottom"), ("column", "left", "right"))
    for n, m, part, (line, first, last) in zip(size[1:], wanted[1:], kept[1:], borders, strict=True):
        if n < m:
            return []
        sides += [f"{n - m} {line}{'s' * (n - m > 1)} at the {first if part.start else last}"] if n > m else []
    return [f"it is padded by {' and '.join(sides)}"] if sides and size[0] == wanted[0] else []


def _sizes(size: Size, wanted: Size) -> str:
    """What is different about the sizes."""
    (b, h, w), (images, rows, columns) = size, wanted
    if b == images and h * columns == w * rows and (h % rows == 0 or rows % h == 0) and h != rows:
        return f"the map is resized by a factor {h // rows if h > rows else f'1/{rows // h}'}"
    names = ("image", "row", "column")
    clauses = [
        f"{abs(n - m)} {name}{'s' * (abs(n - m) > 1)} {'fewer' if n < m else 'more'}"
        for n, m, name in zip(size, wanted, names, strict=True)
        if n != m
    ]
    return ", ".join(clauses)
