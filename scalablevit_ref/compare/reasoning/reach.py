"""Which tokens move where one is changed, told by geometry: windows, neighbourhoods, a grid, runs, a causal mask.

A law says which places of a map (b h w, one image of it) a place of another map reaches. It is told from a few places that were
changed, and holds only if it gives exactly what moved for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod
from typing import Protocol

import numpy as np

from scalablevit_ref.compare.reasoning.numbers import listed
from scalablevit_ref.compare.reasoning.reach_lines import (
    Around,
    Every,
    Halo,
    Later,
    Line,
    Pairs,
    Strided,
    Tiles,
    equal,
    line_laws,
    nth,
    same_first,
    same_last,
    turned,
    ways_said,
)

Array = np.ndarray
Size = tuple[int, int]
"""Rows and columns."""

MOST_LINES = 24
"""Laws of rows, and of columns, that are tried with each other."""


@dataclass(frozen=True)
class Moved:
    """What moved, b h w, where the token at this row and column of an image was changed."""

    image: int
    row: int
    column: int
    moved: Array

    @property
    def own(self) -> Array:
        """What moved in the image that was changed: h w."""
        return np.asarray(self.moved[self.image])


# Laws of a map


class Law(Protocol):
    """What a token reaches."""

    def of(self, place: Size, size: Size, target: Size) -> Array:
        """The places of a map of size `target` that this one of a map of size `size` reaches: h w, of bool."""

    @property
    def words(self) -> str:
        """As a noun, which may stand after "it reaches" and after "each query sees"."""


@dataclass(frozen=True)
class Nothing:
    words: str = "nothing"

    def of(self, place: Size, size: Size, target: Size) -> Array:
        return np.zeros(target, bool)


ORDERS: dict[str, tuple[Callable[[Array, int], Array], str, str]] = {
    "later": (lambda order, own: order >= own, "the later tokens", "the earlier tokens"),
    "earlier": (lambda order, own: order <= own, "the earlier tokens", "the later tokens"),
    "strictly later": (lambda order, own: order > own, "the later tokens without its own", "the earlier tokens without its own"),
    "others": (lambda order, own: order != own, "all but its own token", "all but its own token"),
}
"""Which of a window's tokens are reached, by their order row by row; in words; and in words, which a token is reached by."""


@dataclass(frozen=True)
class Grid:
    """Rows by one law, columns by another; of these the ones of an order, if one is named."""

    rows: Line
    columns: Line
    order: str = ""

    def of(self, place: Size, size: Size, target: Size) -> Array:
        lines = (self.rows, self.columns)
        rows, columns = (line.of(p, n, m) for line, p, n, m in zip(lines, place, size, target, strict=True))
        reached = np.asarray(rows[:, None] & columns)
        if self.order:
            starts = [line.start if isinstance(line, Tiles) and line.cyclic else 0 for line in lines]
            order = np.roll(np.arange(prod(target)).reshape(target), starts, (0, 1))
            reached &= ORDERS[self.order][0](order, int(order[place])) if size == target else False
        return reached

    @property
    def words(self) -> str:
        some = self._plain()
        if not self.order:
            return some
        causal = " (a causal mask)" if "later" in self.order or "earlier" in self.order else ""
        within = {"the": "", "of": f", {some}"}.get(some.split()[0], f" of {some}")
        return f"{ORDERS[self.order][1]}{within}{causal}"

    def _plain(self) -> str:
        rows, columns = self.rows, self.columns
        if isinstance(rows, Every) and isinstance(columns, Every):
            return "the whole map"
        if rows == columns == Tiles(1):
            return "its own token alone"
        if (rows, type(columns)) == (Tiles(1), Every) or (type(rows), columns) == (Every, Tiles(1)):
            return "its own row" if rows == Tiles(1) else "its own column"
        if isinstance(rows, Tiles | Every) and isinstance(columns, Tiles | Every):
            return f"its window of {rows.size} × {columns.size}{_shift(rows, columns)}"
        if isinstance(rows, Strided) and isinstance(columns, Strided):
            if rows == columns:
                return f"every {nth(rows.step)} row and column from its own (a dilated grid)"
            return f"every {nth(rows.step)} row and every {nth(columns.step)} column from its own (a dilated grid)"
        if isinstance(rows, Around) and isinstance(columns, Around) and rows.edge == columns.edge:
            return _neighbourhood(rows, columns)
        if isinstance(rows, Halo) and isinstance(columns, Halo) and rows.halo == columns.halo:
            return f"windows of {rows.size} × {columns.size} with {rows.halo} rows and columns around each"
        return f"of the rows {rows.words}, of the columns {columns.words}"


def _shift(rows: Tiles | Every, columns: Tiles | Every) -> str:
    """How windows are shifted, in words that stand behind their size."""
    tiles = {name: line for name, line in (("row", rows), ("column", columns)) if isinstance(line, Tiles) and line.start}
    if not tiles:
        return ""
    starts = [line.start for line in tiles.values()]
    by = [f"{line.start} {name}{'s' * (line.start > 1)}" for name, line in tiles.items()]
    cut = any(not line.cyclic for line in tiles.values())
    said = f"{starts[0]}" if len(set(starts)) < len(starts) else " and ".join(by)
    return f", shifted by {said}" + " and cut at the border, not rolled round it" * cut


def _neighbourhood(rows: Around, columns: Around) -> str:
    if rows.size == columns.size == 1:
        return f"the token {rows.before:+d} rows and {columns.before:+d} columns away"
    text = f"the {rows.size} × {columns.size} tokens around it"
    if (rows.before, columns.before) != (rows.after, columns.after):
        text += f" ({ways_said(rows)} rows, {ways_said(columns)} columns from it)"
    if (rows.step, columns.step) != (1, 1):
        same = f"every {nth(rows.step)} row and column"
        text += f", of these {same if rows.step == columns.step else _steps(rows.step, columns.step)}"
    return (
        text + {"cut": "", "cyclic": ", round the border", "inside": ", kept inside the map (neighbourhood attention)"}[rows.edge]
    )


def _steps(rows: int, columns: int) -> str:
    named = [f"every {nth(n)} {axis}" for n, axis in ((rows, "row"), (columns, "column")) if n > 1]
    return " and ".join(named)


@dataclass(frozen=True)
class Flat:
    """A law of the tokens one after the other, row by row; column by column if `turned`."""

    line: Line
    turned: bool = False

    def of(self, place: Size, size: Size, target: Size) -> Array:
        if self.turned:
            return np.asarray(Flat(self.line).of(place[::-1], size[::-1], target[::-1]).T)
        return np.asarray(self.line.of(place[0] * size[1] + place[1], prod(size), prod(target)).reshape(target))

    @property
    def words(self) -> str:
        way = "column by column" if self.turned else "row by row"
        if isinstance(self.line, Tiles):
            shifted = f", which begin at token {self.line.start}" if self.line.start else ""
            return f"its run of {self.line.size} tokens one after the other, {way}{shifted}"
        if isinstance(self.line, Later):
            return f"the {'earlier' if self.line.turned else 'later'} tokens (a causal mask)" + f", {way}" * self.turned
        return f"of the tokens {way} {self.line.words}"


@dataclass(frozen=True)
class Cross:
    """Its column's rows by one law, and its row's columns by another."""

    rows: Line
    columns: Line

    def of(self, place: Size, size: Size, target: Size) -> Array:
        own = Tiles(1)
        return np.asarray(Grid(self.rows, own).of(place, size, target) | Grid(own, self.columns).of(place, size, target))

    @property
    def words(self) -> str:
        if isinstance(self.rows, Every) and isinstance(self.columns, Every):
            return "its row and its column (axial attention)"
        return f"of its column {self.rows.words}, of its row {self.columns.words}"


def laws_of(moves: Sequence[Moved], size: Size, most: int = 1) -> list[Law]:
    """Laws, the simplest first, that give what moved in the image that was changed, for each place."""
    target = (moves[0].own.shape[0], moves[0].own.shape[1])
    return list(islice((law for law in _laws(moves, size, target) if _fits(law, moves, size, target)), most))


def _fits(law: Law, moves: Sequence[Moved], size: Size, target: Size) -> bool:
    """Whether a law gives what moved.

    With a causal mask the first token sees itself alone: no change of its key changes what it sees.
    """
    alone = law.order in ("later", "earlier") if isinstance(law, Grid) else isinstance(law, Flat) and isinstance(law.line, Later)
    for one in moves:
        reached = law.of((one.row, one.column), size, target)
        if alone and size == target:
            reached[one.row, one.column] = one.own[one.row, one.column]
        if not np.array_equal(reached, one.own):
            return False
    return not alone or any(one.own[one.row, one.column] for one in moves if size == target)


def disputed(one: Law, other: Law, size: Size, target: Size) -> Size | None:
    """A token that tells two laws apart; None if none does."""
    every = ((i, j) for i in range(size[0]) for j in range(size[1]))
    return next((at for at in every if not np.array_equal(one.of(at, size, target), other.of(at, size, target))), None)


def _laws(moves: Sequence[Moved], size: Size, target: Size) -> Iterator[Law]:
    """Laws that may be meant, the simplest first."""

    def fitting(axis: int, fits: Callable[[Line, Pairs, int, int], bool], *, own: bool = False) -> list[Line]:
        n, m, pairs = size[axis], target[axis], []
        for one in moves:
            reached = np.array(one.own)
            if own:
                reached[one.row, one.column] = True
            pairs.append(((one.row, one.column)[axis], np.asarray(reached.any(1 - axis))))
        return list(islice((line for line in line_laws(pairs, n, m) if fits(line, pairs, n, m)), MOST_LINES))

    yield Nothing()
    exact = [fitting(axis, equal) for axis in (0, 1)]
    for rows, columns in product(*exact):
        yield Grid(rows, columns)
    tokens = prod(size), prod(target)
    for by_columns in (False, True):
        flat = [(_flat((one.row, one.column), size, by_columns), (one.own.T if by_columns else one.own).ravel()) for one in moves]
        if size == target:
            yield from (Flat(Later(way), by_columns) for way in (False, True))
        runs = {int(reached.sum()) for _, reached in flat}
        lines = [Tiles(run, start) for run in sorted(runs) if run > 1 for start in range(run)]
        yield from (Flat(line, by_columns) for line in lines if equal(line, flat, *tokens))
    if size != target:
        return
    for fits, orders in ((equal, ("others",)), (same_last, ("later", "strictly later")), (same_first, ("earlier",))):
        whole = [fitting(axis, fits, own=True) for axis in (0, 1)]
        yield from (Grid(rows, columns, order) for order in orders for rows, columns in product(*whole))
    yield from (Cross(rows, columns) for rows, columns in product(*exact))


def _flat(place: Size, size: Size, turned: bool) -> int:
    return place[1] * size[0] + place[0] if turned else place[0] * size[1] + place[1]


def as_seen(law: Law) -> str:
    """What each query sees, in words, where this law says what each key reaches."""
    if isinstance(law, Flat):
        return replace(law, line=turned(law.line)).words
    if not isinstance(law, Grid | Cross):
        return law.words
    law = replace(law, rows=turned(law.rows), columns=turned(law.columns))
    if isinstance(law, Grid) and law.order:
        return law.words.replace(*ORDERS[law.order][1:], 1)
    return law.words


def matrix(law: Law, size: Size, target: Size) -> Array:
    """What every place reaches, as rows of 0 and 1: (h w) (h' w'), of bool."""
    return np.stack([law.of((i, j), size, target).ravel() for i in range(size[0]) for j in range(size[1])])


def groups(moves: Sequence[Moved], size: Size) -> Array | None:
    """What every place reaches, where each token lies in one group of the tokens that move together; None where that is not so.

    Every token must have been changed, or have moved with one that was.
    """
    n = prod(size)
    found = np.full(n, -1)
    for one in moves:
        members = np.flatnonzero(one.own.ravel()) if one.own.shape == size else np.zeros(0, int)
        own = one.row * size[1] + one.column
        if own not in members:
            return None
        known = set(found[members].tolist())
        if known != {-1} and (len(known) > 1 or not np.array_equal(np.flatnonzero(found == known.pop()), members)):
            return None
        found[members] = own
    return None if (found < 0).any() else np.asarray(found[:, None] == found)


def uncovered(moves: Sequence[Moved], size: Size) -> list[Size]:
    """The tokens that were not changed and have not moved, in an order that spreads them."""
    missing = np.ones(size, bool)
    for one in moves:
        missing[one.row, one.column] = False
        if one.own.shape == size:
            missing &= ~one.own
    places = [(int(i), int(j)) for i, j in np.argwhere(missing)]
    return [places[i] for i in np.random.default_rng(0).permutation(len(places))]


def places(size: Size, most: int) -> list[Size]:
    """Tokens to be changed: one inside, the corners, the middles of the sides, and others that spread over rows and columns."""
    h, w = size
    ends = [(0, 0), (h - 1, w - 1), (0, w - 1), (h - 1, 0), (0, w // 2), (h // 2, w - 1)]
    golden = [(int(h * ((i * 0.7549) % 1)), int(w * ((i * 0.5698) % 1))) for i in range(1, most)]
    return list(dict.fromkeys([(h * 5 // 9, w * 3 // 7), *ends, *golden]))[:most]


# In words


def moved_said(reached: Array) -> str:
    """What moved, h w, as a clause.

    Examples
    --------
    >>> moved_said(
    ...     np.array([[True, True, False], [True, True, False], [False, False, False]])
    ... )
    'rows 0–1 and columns 0–1 move'
    """
    count = int(reached.sum())
    if count in (0, reached.size):
        return "every token moves" if count else "nothing moves"
    rows, columns = (np.flatnonzero(reached.any(axis)).tolist() for axis in (1, 0))
    if count == 1:
        return f"the token at row {rows[0]}, column {columns[0]} alone moves"
    if count == len(rows) * len(columns):
        named = (("row", rows, reached.shape[0]), ("column", columns, reached.shape[1]))
        some = [(f"{name}{'s' * (len(at) > 1)} {listed(at)}", len(at)) for name, at, n in named if len(at) < n]
        return f"{' and '.join(words for words, _ in some)} move{'s' * ([n for _, n in some] == [1])}"
    flat, w = np.flatnonzero(reached.ravel()).tolist(), reached.shape[1]
    if flat[-1] - flat[0] == count - 1:
        (top, left), (bottom, right) = divmod(flat[0], w), divmod(flat[-1], w)
        return f"the {count} tokens from row {top}, column {left} to row {bottom}, column {right} move"
    return f"{count} tokens of rows {rows[0]}–{rows[-1]} and columns {columns[0]}–{columns[-1]} move"
