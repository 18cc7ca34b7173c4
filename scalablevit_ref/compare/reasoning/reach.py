"""Which tokens move where one is changed, told by geometry: windows, neighbourhoods, a grid, runs, a causal mask.

A law says which places of a map (b h w, one image of it) a place of another map reaches. It is told from a few places that were
changed, and holds only if it gives exactly what moved for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice, product
from math import gcd, prod
from typing import Protocol

import numpy as np

from scalablevit_ref.compare.reasoning.numbers import listed

Array = np.ndarray
Size = tuple[int, int]
"""Rows and columns."""

MOST_STARTS = 64
"""Rows or columns of the largest tile of which every start is tried."""

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


# Laws of one axis


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
    """Places of which a kernel sees it: `before` and `after` are how far it looks, by `step`; beyond the `edge` is nothing.

    edge: "cut"; "cyclic"; "inside", where the kernel moves inwards at the border, so that it always sees as many places.
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
            return "its own alone" if self.before == 0 else f"the one {abs(self.before)} {'after' if self.before > 0 else 'before'} it"
        dilated = f", every {nth(self.step)}" if self.step > 1 else ""
        edge = {"cut": "", "cyclic": ", round the border", "inside": ", kept inside the map"}[self.edge]
        way = "" if self.before == self.after else f" ({_way(self)})"
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


def _equal(law: Line, pairs: Pairs, n: int, m: int) -> bool:
    return all(np.array_equal(law.of(place, n, m), reached) for place, reached in pairs)


def _same_last(law: Line, pairs: Pairs, n: int, m: int) -> bool:
    return all(_last(law.of(place, n, m)) == _last(reached) for place, reached in pairs)


def _same_first(law: Line, pairs: Pairs, n: int, m: int) -> bool:
    return all(_last(law.of(place, n, m)[::-1]) == _last(reached[::-1]) for place, reached in pairs)


def _last(reached: Array) -> int:
    return int(np.flatnonzero(reached)[-1]) if reached.any() else -1


def _lines(pairs: Pairs, n: int, m: int) -> Iterator[Line]:
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
            yield from (Tiles(size, start, cyclic) for start in range(1, size))
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
        yield _kernel(np.sort(min(known, key=lambda one: abs(2 * one[0] - n))[1]), "inside")


def _kernel(ways: Array, edge: str) -> Around:
    """ways: from what is reached to the place, in ascending order."""
    step = reduce(gcd, np.diff(ways).tolist(), 0) or 1
    return Around(-int(ways[0]), int(ways[-1]), step, edge)


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
        which = ORDERS[self.order][1]
        return f"{which}{'' if some == 'the whole map' else f' of {some}'}{causal}"

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
        return f"the token {rows.before:+d} rows and {columns.before:+d} columns away alone"
    text = f"the {rows.size} × {columns.size} tokens around it"
    if (rows.before, columns.before) != (rows.after, columns.after):
        text += f" ({_way(rows)} rows, {_way(columns)} columns from it)"
    if (rows.step, columns.step) != (1, 1):
        same = f"every {nth(rows.step)} row and column"
        text += f", of these {same if rows.step == columns.step else _steps(rows.step, columns.step)}"
    return text + {"cut": "", "cyclic": ", round the border", "inside": ", kept inside the map (neighbourhood attention)"}[rows.edge]


def _steps(rows: int, columns: int) -> str:
    named = [f"every {nth(n)} {axis}" for n, axis in ((rows, "row"), (columns, "column")) if n > 1]
    return " and ".join(named)


def _way(line: Around) -> str:
    """What is reached, counted from where it came from."""
    return f"{-line.after:+d} to {line.before:+d}" if line.size > 1 else f"{line.before:+d}"


@dataclass(frozen=True)
class Flat:
    """A law of the tokens one after the other, row by row; column by column if `turned`."""

    line: Line
    turned: bool = False

    def of(self, place: Size, size: Size, target: Size) -> Array:
        if self.turned:
            return np.asarray(Flat(self.line).of(place[::-1], size[::-1], target[::-1]).T)
        return self.line.of(place[0] * size[1] + place[1], prod(size), prod(target)).reshape(target)

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
        return Grid(self.rows, own).of(place, size, target) | Grid(own, self.columns).of(place, size, target)

    @property
    def words(self) -> str:
        if isinstance(self.rows, Every) and isinstance(self.columns, Every):
            return "its row and its column (axial attention)"
        return f"of its column {self.rows.words}, of its row {self.columns.words}"


def laws_of(moves: Sequence[Moved], size: Size, most: int = 1) -> list[Law]:
    """Laws, the simplest first, that give what moved in the image that was changed, for each place."""
    target = (moves[0].own.shape[0], moves[0].own.shape[1])
    fitting = (
        law
        for law in _laws(moves, size, target)
        if all(np.array_equal(law.of((one.row, one.column), size, target), one.own) for one in moves)
    )
    return list(islice(fitting, most))


def disputed(one: Law, other: Law, size: Size, target: Size) -> Size | None:
    """A token that tells two laws apart; None if none does."""
    every = ((i, j) for i in range(size[0]) for j in range(size[1]))
    return next((at for at in every if not np.array_equal(one.of(at, size, target), other.of(at, size, target))), None)


def _laws(moves: Sequence[Moved], size: Size, target: Size) -> Iterator[Law]:
    """Laws that may be meant, the simplest first."""

    def fitting(axis: int, fits: Callable[[Line, Pairs, int, int], bool], *, own: bool = False) -> list[Line]:
        n, m, pairs = size[axis], target[axis], []
        for one in moves:
            reached = one.own.copy()
            if own:
                reached[one.row, one.column] = True
            pairs.append(((one.row, one.column)[axis], reached.any(1 - axis)))
        return list(islice((line for line in _lines(pairs, n, m) if fits(line, pairs, n, m)), MOST_LINES))

    yield Nothing()
    exact = [fitting(axis, _equal) for axis in (0, 1)]
    for pair in product(*exact):
        yield Grid(*pair)
    tokens = prod(size), prod(target)
    for turned in (False, True):
        flat = [(_flat((one.row, one.column), size, turned), (one.own.T if turned else one.own).ravel()) for one in moves]
        runs = {int(reached.sum()) for _, reached in flat}
        lines: list[Line] = [Later(), Later(turned=True)]
        lines += [Tiles(run, start) for run in sorted(runs) if run > 1 for start in range(run)]
        yield from (Flat(line, turned) for line in lines if _equal(line, flat, *tokens))
    if size != target:
        return
    for fits, orders in ((_equal, ("others",)), (_same_last, ("later", "strictly later")), (_same_first, ("earlier",))):
        whole = [fitting(axis, fits, own=True) for axis in (0, 1)]
        yield from (Grid(*pair, order) for order in orders for pair in product(*whole))
    yield from (Cross(*pair) for pair in product(*exact))


def _flat(place: Size, size: Size, turned: bool) -> int:
    return place[1] * size[0] + place[0] if turned else place[0] * size[1] + place[1]


def as_seen(law: Law) -> str:
    """What each query sees, in words, where this law says what each key reaches."""
    if isinstance(law, Grid) and law.order:
        swapped = {"later": "earlier", "earlier": "later"}
        if law.order == "strictly later":
            text = law.words
            return text.replace(ORDERS[law.order][1], ORDERS[law.order][2])
        return replace(law, order=swapped.get(law.order, law.order)).words
    if isinstance(law, Flat) and isinstance(law.line, Later):
        return Flat(Later(not law.line.turned), law.turned).words
    if isinstance(law, Grid) and isinstance(law.rows, Around) and isinstance(law.columns, Around):
        rows, columns = (replace(one, before=one.after, after=one.before) for one in (law.rows, law.columns))
        return Grid(rows, columns).words
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


def nth(n: int) -> str:
    """
    Examples
    --------
    >>> nth(2), nth(11), nth(23)
    ('2nd', '11th', '23rd')
    """
    if n % 100 in (11, 12, 13):
        return f"{n}th"
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def moved_said(reached: Array) -> str:
    """What moved, h w, as a clause.

    Examples
    --------
    >>> moved_said(np.array([[True, True, False], [True, True, False], [False, False, False]]))
    'rows 0–1 and columns 0–1 move'
    """
    count = int(reached.sum())
    if count in (0, reached.size):
        return "every token moves" if count else "nothing moves"
    rows, columns = (np.flatnonzero(reached.any(axis)).tolist() for axis in (1, 0))
    if count == len(rows) * len(columns):
        named = (("row", rows, reached.shape[0]), ("column", columns, reached.shape[1]))
        some = [f"{name}{'s' * (len(at) > 1)} {listed(at)}" for name, at, n in named if len(at) < n]
        return f"{' and '.join(some)} move{'s' * (len(some) == 1 and (len(rows) == 1 or len(columns) == 1))}"
    flat, w = np.flatnonzero(reached.ravel()).tolist(), reached.shape[1]
    if flat[-1] - flat[0] == count - 1:
        (top, left), (bottom, right) = divmod(flat[0], w), divmod(flat[-1], w)
        return f"the {count} tokens from row {top}, column {left} to row {bottom}, column {right} move"
    return f"{count} tokens of rows {rows[0]}–{rows[-1]} and columns {columns[0]}–{columns[-1]} move"
