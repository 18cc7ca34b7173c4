"""Laws of one axis: which places of it a changed place reaches; as tiles, a stride, the surroundings, all after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from typing import Protocol

import numpy as np

Array = np.ndarray

MOST_STARTS = 64
"""Rows or columns of the largest tile of which every start is tried."""


class Line(Protocol):
    """What a place of an axis of n places reaches on one of m."""

    def of(self, place: int, n: int, m: int) -> Array:
        """The places that are reached: m, of bool."""

    @property
    def words(self) -> str: ...


@dataclass(frozen=True)
class Every:
    """All `size` places."""

    size: int
    words: str = "all"

    def of(self, place: int, n: int, m: int) -> Array:
        return np.ones(m, bool)


@dataclass(frozen=True)
class Tiles:
    """The tile that the place lies in: of `size` places, a first one begins at `start`. Where `cyclic`, the last goes on there."""

    size: int
    start: int = 0
    cyclic: bool = False

    def of(self, place: int, n: int, m: int) -> Array:
        if n != m:
            place = place * m // n
        places = np.append(np.arange(m), place) - self.start
        tiles = (places % m if self.cyclic else places) // self.size
        return np.asarray(tiles[:-1] == tiles[-1])

    @property
    def words(self) -> str:
        return "its own alone" if self.size == 1 else f"its tile of {self.size}{f', shifted by {self.start}' * (self.start > 0)}"


@dataclass(frozen=True)
class Strided:
    """Every `step`-th place, from the place's own on, in both directions."""

    step: int

    def of(self, place: int, n: int, m: int) -> Array:
        return np.asarray((np.arange(m) - place) % self.step == 0) & (n == m)

    @property
    def words(self) -> str:
        return f"every {nth(self.step)}"


@dataclass(frozen=True)
class Around:
    """Places of which a kernel sees it: `before` and `after` are how far it looks, by `step`.

    At the border it is "cut", so that beyond it is nothing, or "cyclic"; or it stays "inside" and always sees as many places.
    """

    before: int
    after: int
    step: int = 1
    edge: str = "cut"

    def of(self, place: int, n: int, m: int) -> Array:
        centres = np.arange(m) * n // m
        if self.edge == "inside":
            first = np.clip(centres - self.before, 0, max(n - self.before - self.after - 1, 0))
            return np.asarray((place >= first) & (place <= first + self.before + self.after))
        ways = place - centres
        ways = (ways + self.before) % n - self.before if self.edge == "cyclic" else ways
        return np.asarray((ways >= -self.before) & (ways <= self.after) & ((ways + self.before) % self.step == 0))

    @property
    def size(self) -> int:
        return self.before + self.after + 1

    @property
    def words(self) -> str:
        if self.size == 1:
            away = f"the one {abs(self.before)} {'after' if self.before > 0 else 'before'} it"
            return away if self.before else "its own alone"
        dilated = f", every {nth(self.step)}" if self.step > 1 else ""
        edge = {"cut": "", "cyclic": ", round the border", "inside": ", kept inside the map"}[self.edge]
        way = "" if self.before == self.after else f" ({ways_said(self)})"
        return f"the {self.size} around it{way}{dilated}{edge}"


@dataclass(frozen=True)
class Halo:
    """The tiles whose surroundings, `halo` places wide, hold the place."""

    size: int
    halo: int

    def of(self, place: int, n: int, m: int) -> Array:
        first = np.arange(m) // self.size * self.size
        return np.asarray((place >= first - self.halo) & (place < first + self.size + self.halo)) & (n == m)

    @property
    def words(self) -> str:
        return f"tiles of {self.size} with {self.halo} around each"


@dataclass(frozen=True)
class Later:
    """The place and all after it; before it, if `turned`."""

    turned: bool = False

    def of(self, place: int, n: int, m: int) -> Array:
        centres = np.arange(m) * n // m
        return np.asarray(centres <= place if self.turned else centres >= place)

    @property
    def words(self) -> str:
        return "those up to it" if self.turned else "those from it on"


Pairs = Sequence[tuple[int, Array]]
"""Places that were changed, and what was reached on the axis."""


def equal(law: Line, pairs: Pairs, n: int, m: int) -> bool:
    return all(np.array_equal(law.of(place, n, m), reached) for place, reached in pairs)


def same_last(law: Line, pairs: Pairs, n: int, m: int) -> bool:
    return all(_last(law.of(place, n, m)) == _last(reached) for place, reached in pairs)


def same_first(law: Line, pairs: Pairs, n: int, m: int) -> bool:
    return all(_last(law.of(place, n, m)[::-1]) == _last(reached[::-1]) for place, reached in pairs)


def _last(reached: Array) -> int:
    return int(np.flatnonzero(reached)[-1]) if reached.any() else -1


def line_laws(pairs: Pairs, n: int, m: int) -> Iterator[Line]:
    """Laws of an axis that may be meant, the simplest first."""
    if n == m:
        yield Tiles(1)
    yield Every(m)
    sizes = range(2, m)
    yield from (Tiles(size) for size in sizes)
    yield from (Strided(step) for step in range(2, n // 2 + 1) if n == m)
    yield from _around(pairs, n, m)
    lengths = {int(reached.sum()) for _, reached in pairs}
    for size in (s for s in sizes if s <= MOST_STARTS or s in lengths):
        for cyclic in (True, False):
            yield from (Tiles(size, start, cyclic) for start in range(1, m if cyclic and m % size else size))
    yield from (Halo(size, halo) for size in sizes for halo in range(1, size) if n == m)
    yield Later()
    yield Later(turned=True)


def _around(pairs: Pairs, n: int, m: int) -> Iterator[Around]:
    """Kernels that see the places so."""
    known = [(place, place - np.flatnonzero(reached) * n // m) for place, reached in pairs if reached.any()]
    if known:
        ways = np.unique(np.concatenate([ways for _, ways in known]))
        kernels = _kernel(ways, "cut"), _kernel(np.unique((ways + n // 2) % n - n // 2), "cyclic")
        yield from sorted(kernels, key=lambda kernel: kernel.size)
    yield from (Around(size // 2, (size - 1) // 2, 1, "inside") for size in range(2, n) if n == m)


def _kernel(ways: Array, edge: str) -> Around:
    """The kernel of these ways from what is reached to the place, in ascending order."""
    step = reduce(gcd, np.diff(ways).tolist(), 0) or 1
    return Around(-int(ways[0]), int(ways[-1]), step, edge)


def turned(line: Line) -> Line:
    """The law by which a place is reached, where this one says what it reaches."""
    if isinstance(line, Around):
        return replace(line, before=line.after, after=line.before)
    return Later(not line.turned) if isinstance(line, Later) else line


def nth(n: int) -> str:
    """A place, counted.

    Examples
    --------
    >>> nth(2), nth(11), nth(23)
    ('2nd', '11th', '23rd')
    """
    if n % 100 in (11, 12, 13):
        return f"{n}th"
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th') }"


def ways_said(line: Around) -> str:
    """What is reached, counted from where it came from."""
    return f"{-line.after:+d} to {line.before:+d}" if line.size > 1 else f"{line.before:+d}"
