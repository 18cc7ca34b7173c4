"""The same numbers in other places: by which transposition, reshape, roll, flip or permutation.

The numbers themselves tell where each of them came from: a number that is far from all others is looked up in the reference's
value. From a few such pairs of places a relayout is read off: numbers written in one order of the axes and read in another. Both
orders are found at once, since a place in the one order must be the same number as its partner's place in the other; then the
whole array decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from math import prod

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, Case
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import listed, three_digits

SAME = "the same numbers in other places: "

LOOKED_UP = 4096
"""Numbers whose origin is looked up."""

UNNAMED = "permuted, alike everywhere"

DISTINCT = 0.5
"""Share of the numbers that must be distinct for their order to prove anything."""

Axes = tuple[tuple[str, int], ...]
"""Names and sizes, in the order in which the reference's value has them."""

# what numbers in the first order, read as if they were in the second, are called
NAMED = {
    ("b heads h w d", "b h w heads d"): "heads are merged without the transposition: (b heads n d) is reshaped to (b n c)",
    ("b heads n d", "b n heads d"): "heads are merged without the transposition: (b heads n d) is reshaped to (b n c)",
    ("b gh gw heads ph pw d", "b gh gw ph pw heads d"): "heads are merged without the transposition in each window: "
    "(windows heads n d) is reshaped to (windows n c)",
    ("b h w heads d", "b heads h w d"): "heads are split without the transposition: (b n c) is reshaped to (b heads n d)",
    ("b n heads d", "b heads n d"): "heads are split without the transposition: (b n c) is reshaped to (b heads n d)",
    ("b gh gw ph pw heads d", "b gh gw heads ph pw d"): "heads are split without the transposition in each window: "
    "(windows n c) is reshaped to (windows heads n d)",
    ("b h w d heads", "b h w heads d"): "heads are interleaved when they are merged: (d heads) instead of (heads d)",
    ("b n d heads", "b n heads d"): "heads are interleaved when they are merged: (d heads) instead of (heads d)",
    ("b h w heads d", "b h w d heads"): "heads are interleaved when they are split: (d heads) instead of (heads d)",
    ("b n heads d", "b n d heads"): "heads are interleaved when they are split: (d heads) instead of (heads d)",
    ("b c h w", "b h w c"): "a map (b c h w) is viewed as (b h w c), not transposed",
    ("b h w c", "b c h w"): "a map (b h w c) is viewed as (b c h w), not transposed",
    ("b c n", "b n c"): "tokens (b c n) are viewed as (b n c), not transposed",
    ("b n c", "b c n"): "tokens (b n c) are viewed as (b c n), not transposed",
    ("b c", "c b"): "vectors (b c) are viewed as (c b), not transposed",
    ("c b", "b c"): "vectors (c b) are viewed as (b c), not transposed",
    ("b w h c", "b h w c"): "H and W are swapped",
    ("b h w c", "b w h c"): "H and W are swapped",
    (
        "b ph gh pw gw c",
        "b gh ph gw pw c",
    ): "windows are a dilated grid instead of tiles: (ph gh) (pw gw) in place of (gh ph) (gw pw)",
    (
        "b gh ph gw pw c",
        "b ph gh pw gw c",
    ): "windows are a dilated grid instead of tiles: (ph gh) (pw gw) in place of (gh ph) (gw pw)",
    ("b gw gh ph pw c", "b gh gw ph pw c"): "windows are cut out column by column and merged row by row",
    ("b gh gw ph pw c", "b gw gh ph pw c"): "windows are cut out row by row and merged column by column",
    ("b gh pw gw ph c", "b gh ph gw pw c"): "H and W are swapped inside each window",
    ("b gh gw ph pw c", "b gh ph gw pw c"): "windows are not merged back: (b gh gw ph pw c) is reshaped to (b h w c)",
    (
        "b gh ph gw pw c",
        "b gh gw ph pw c",
    ): "windows are cut out without the transposition: (b h w c) is reshaped to (b gh gw ph pw c)",
}


def places(case: Case) -> list[Difference]:
    """The same multiset of numbers, moved in a way that has a name."""
    looked_up = _looked_up(case)
    if looked_up is None:
        return _shifted(case)
    target, source, _ = looked_up
    found = relaid(case, target, source) or _separable(case, target, source)
    if found is None or UNNAMED in found.words:
        found = _rolled_and_relaid(case, target, source)
    return [found] if found else []


def some_places(case: Case) -> list[Difference]:
    """The same multiset of numbers in an order without a name, and within what they stay."""
    looked_up = _looked_up(case)
    if looked_up is None:
        return []
    target, source, left = looked_up
    found = _separable(case, target, source)
    if found:
        return [found]
    distinct = len(np.unique(case.expected.round(12))) / case.expected.size
    exact = case.tolerance < 1e-4 and distinct >= DISTINCT and case.actual.size >= 32
    words = SAME + _reach(case, target, source)
    return [Difference("places", words, left, {"pattern": "none", "pairs": _first(target, source)}, exact)]


def _looked_up(case: Case) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Flat places of the same numbers in both values, and what differs of the sorted numbers; None if they are others."""
    actual, expected = case.actual, case.expected
    if actual.size < 2 or abs(np.linalg.norm(expected) / case.size - 1) > max(case.tolerance, 1e-12):
        return None
    order_a, order_e = np.argsort(actual, axis=None), np.argsort(expected, axis=None)
    sorted_a, sorted_e = actual.ravel()[order_a], expected.ravel()[order_e]
    left = float(np.linalg.norm(sorted_a - sorted_e)) / case.size
    if left > case.bar:
        return None
    target, source = _pairs(case, order_a, sorted_a, order_e, sorted_e)
    return (target, source, left) if len(target) else None


def places_otherwise(case: Case) -> list[Difference]:
    """The reference's numbers times one factor, or those of a given value, in other places."""
    for name, x in case.sources():
        factor = case.size / (float(np.linalg.norm(x)) or 1.0)
        near_one = abs(factor - 1) <= max(case.tolerance, 1e-12)
        if name != REFERENCE and not near_one:
            continue
        for scale in (factor, -factor) if name == REFERENCE else (1.0,):
            trial = replace(case, expected=x if name != REFERENCE else scale * x, given={})
            if not _same_extent(trial) or trial.before <= case.bar:
                continue
            for found in places(trial):
                if found.exact and found.words.startswith(SAME):
                    words = (
                        f"{name}, in other places: "
                        if name != REFERENCE
                        else f"the reference's value times {three_digits(scale)}, in other places: "
                    )
                    return [
                        replace(
                            found, words=words + found.words.removeprefix(SAME), data={**found.data, "of": name, "factor": scale}
                        )
                    ]
    return []


def _same_extent(case: Case) -> bool:
    """Whether both values have the same smallest and largest number, as the same multiset has."""
    return all(abs(f(case.actual) - f(case.expected)) <= 64 * max(case.tolerance, 1e-12) * case.spread for f in (np.min, np.max))


def _pairs(
    case: Case, order_a: np.ndarray, sorted_a: np.ndarray, order_e: np.ndarray, sorted_e: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flat places in the candidate's value and in the reference's of the same numbers, those that are far from all others."""
    noise = 4 * min(case.tolerance, 1e-3) * case.spread
    gap = np.minimum(np.diff(sorted_e, prepend=-np.inf), np.diff(sorted_e, append=np.inf))
    apart = np.flatnonzero((gap > noise) & (abs(sorted_a - sorted_e) <= noise))
    if len(apart) > LOOKED_UP:
        apart = np.random.default_rng(0).choice(apart, LOOKED_UP, replace=False)
    return order_a[apart], order_e[apart]


# --- numbers written in one order of the axes and read in another


@dataclass(frozen=True)
class Relayout:
    """Numbers in the order `written`, read as if their order were `read`; the reference has them in the order of `axes`."""

    axes: Axes
    written: tuple[str, ...]
    read: tuple[str, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        sizes, names = dict(self.axes), [name for name, _ in self.axes]
        memory = x.reshape([size for _, size in self.axes]).transpose([names.index(name) for name in self.written])
        return (
            memory.reshape([sizes[name] for name in self.read])
            .transpose([self.read.index(name) for name in names])
            .reshape(x.shape)
        )

    @property
    def words(self) -> str:
        written, read = self.orders
        if (written, read) in NAMED:
            return NAMED[written, read]
        return f"numbers in the order ({written}) are read as if their order were ({read})"

    @property
    def orders(self) -> tuple[str, str]:
        return " ".join(self.written), " ".join(self.read)


def relaid(case: Case, target: np.ndarray, source: np.ndarray, moved: str = "") -> Difference | None:
    """The simplest relayout that brings every number from its source to its target."""
    for axes in systems(case):
        for move in _relayouts(axes, target[:64], source[:64]):
            left = case.explains(move(case.expected))
            if left is not None:
                return _relayout_found(case, move, left)
    return None


def _relayout_found(case: Case, move: Relayout, left: float) -> Difference:
    sizes = dict(move.axes)
    words = move.words
    groups = sizes.get("heads")
    if groups is not None and "interleaved" in words and case.num_heads not in (groups, case.channels // groups):
        words = f"channels are shuffled in {groups} groups of {sizes['d']}: {_channels_only(move)}"
    elif groups is not None and groups != case.num_heads:
        words += f" (heads = {groups}{'' if case.num_heads is None else f', not {case.num_heads}'})"
    if words == "H and W are swapped" and sizes["h"] != sizes["w"]:
        words = "H and W are swapped while their sizes are not: (b w h c) is viewed as (b h w c)"
        if move.orders[0] == "b h w c":
            words = "H and W are swapped while their sizes are not: (b h w c) is viewed as (b w h c)"
    data = {"pattern": words, "written": move.orders[0], "read": move.orders[1], "sizes": sizes}
    return Difference("places", SAME + words, left, data, True)


def _channels_only(move: Relayout) -> str:
    return "(d groups) instead of (groups d)" if move.written[-1] == "heads" else "(groups d) read as (d groups)"


def systems(case: Case) -> Iterator[Axes]:
    """The factorisations of a map's axes in which a relayout is looked for, the simplest first."""
    b, h, w, c = case.actual.shape
    tokens: Axes = (("h", h), ("w", w)) if w > 1 else (("n", h),)
    batch: Axes = (("b", b),)
    yield _without_ones((*batch, *tokens, ("c", c)))
    heads = _ordered_divisors(c, case.num_heads)
    for n in heads:
        yield _without_ones((*batch, *tokens, ("heads", n), ("d", c // n)))
    if c % 3 == 0:
        for n in heads:
            if (c // 3) % n == 0 and n < c // 3:
                yield _without_ones((*batch, *tokens, ("three", 3), ("heads", n), ("d", c // 3 // n)))
    for p in _windows(case):
        window: Axes = (*batch, ("gh", h // p), ("ph", p), ("gw", w // p), ("pw", p))
        yield _without_ones((*window, ("c", c)))
        if case.num_heads and c % case.num_heads == 0 and 1 < case.num_heads < c:
            yield _without_ones((*window, ("heads", case.num_heads), ("d", c // case.num_heads)))


def _without_ones(axes: Axes) -> Axes:
    """Without axes of size 1, but with the images and one axis of channels, which names are made of."""
    return tuple((name, size) for name, size in axes if size > 1 or name in "bc")


def _ordered_divisors(c: int, first: int | None) -> list[int]:
    proper = [n for n in range(2, c) if c % n == 0]
    return sorted(proper, key=lambda n: (n != first, first is None or n * first != c, n))


def _windows(case: Case) -> list[int]:
    _, h, w, _ = case.actual.shape
    return [p for p in _ordered_divisors(int(np.gcd(h, w)), case.window_size) if p < max(h, w)] + [
        p for p in (int(np.gcd(h, w)),) if 1 < p < max(h, w)
    ]


@cache
def _orders(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All orders of axes, as positions (orders axes), with how many pairs each exchanges."""
    orders = np.array(list(permutations(range(len(names)))))
    exchanged = np.zeros(len(orders), int)
    for i, j in product(range(len(names)), repeat=2):
        if i < j:
            exchanged += orders[:, i] > orders[:, j]
    return orders, exchanged


def _relayouts(axes: Axes, target: np.ndarray, source: np.ndarray) -> Iterator[Relayout]:
    """Relayouts that fit all pairs of places: named ones first, then those that exchange the fewest axes; at most four."""
    names, sizes = tuple(name for name, _ in axes), tuple(size for _, size in axes)
    orders, exchanged = _orders(names)
    strides = np.ones(orders.shape, int)  # of each order's axes, by their place in that order
    in_order = np.asarray(sizes)[orders]
    strides[:, :-1] = np.cumprod(in_order[:, :0:-1], axis=1)[:, ::-1]
    by_axis = np.empty_like(strides)
    np.put_along_axis(by_axis, orders, strides, axis=1)
    written = by_axis @ np.array(np.unravel_index(source, sizes))
    read = by_axis @ np.array(np.unravel_index(target, sizes))
    partners: dict[bytes, list[int]] = {}
    for i in range(len(orders)):
        partners.setdefault(written[i].tobytes(), []).append(i)

    def rank(pair: tuple[int, int]) -> tuple[bool, int, int]:
        a, b = pair
        named = tuple(" ".join(names[i] for i in orders[j]) for j in pair) in NAMED
        return not named, int(exchanged[a] + exchanged[b]) + (exchanged[a] > 0 < exchanged[b]), a

    pairs = [(a, b) for b in range(len(orders)) for a in partners.get(read[b].tobytes(), [])]
    for a, b in sorted(pairs, key=rank)[:4] if len(pairs) < 20_000 else []:
        yield Relayout(axes, tuple(names[i] for i in orders[a]), tuple(names[i] for i in orders[b]))


# --- each axis moved for itself: rolls, flips and permutations


def _separable(case: Case, target: np.ndarray, source: np.ndarray) -> Difference | None:
    """Rolls, flips and permutations of single axes, or of the tokens of an image as one axis."""
    b, h, w, c = case.actual.shape
    for shape, names in (((b, h, w, c), ("image", "row", "column", "channel")), ((b, h * w, c), ("image", "token", "channel"))):
        tables = _tables(shape, target, source)
        if tables is None:
            continue
        left = case.explains(case.expected.reshape(shape)[np.ix_(*tables)].reshape(case.actual.shape))
        if left is None:
            continue
        spoken = ("image", "token", "column", "channel") if len(names) == 4 and w == 1 else names
        moves = [_table_in_words(name, table) for name, table in zip(spoken, tables, strict=True)]
        words = " and ".join(move for move in moves if move)
        data = {
            "pattern": words,
            **{f"{name}s": table[:256].tolist() for name, table in zip(names, tables, strict=True) if len(table) > 1},
        }
        return Difference("places", SAME + words, left, data, True)
    return None


def _tables(shape: tuple[int, ...], target: np.ndarray, source: np.ndarray) -> list[np.ndarray] | None:
    """For each axis where its numbers come from, if that depends on the place on this axis only; what was not seen is inferred."""
    tables = []
    for size, to, come in zip(shape, np.unravel_index(target, shape), np.unravel_index(source, shape), strict=True):
        table = np.full(size, -1)
        table[to] = come
        if np.any(table[to] != come):
            return None
        seen = np.flatnonzero(table >= 0)
        if len(seen) < size:
            inferred = _inferred(table, seen)
            if inferred is None:
                return None
            table = inferred
        tables.append(table)
    return tables if all(len(np.unique(table)) == len(table) for table in tables) else None


def _inferred(table: np.ndarray, seen: np.ndarray) -> np.ndarray | None:
    """A table whose seen entries are a roll or a flip."""
    size = len(table)
    if not len(seen):
        return None
    for guess in ((np.arange(size) + table[seen[0]] - seen[0]) % size, np.arange(size)[::-1]):
        if np.array_equal(guess[seen], table[seen]):
            return guess
    missing = np.setdiff1d(np.arange(size), table)
    if len(missing) == size - len(seen) == 1:
        return np.where(table < 0, missing[0], table)
    return None


ALONG = {
    "image": "along the batch",
    "row": "along H",
    "column": "along W",
    "channel": "along the channels",
    "token": "along the tokens",
}


def _table_in_words(name: str, table: np.ndarray) -> str:
    """A permutation of one axis, in words; nothing for the identity."""
    size, at = len(table), np.arange(len(table))
    if np.array_equal(table, at):
        return ""
    if name == "channel" and size == 3 and np.array_equal(table, at[::-1]):
        return "the 3 channels are reversed (BGR for RGB)"
    if np.array_equal(table, at[::-1]):
        return {"row": "flipped along H", "column": "flipped along W"}.get(name, f"the {name}s are in reversed order")
    by = int(-table[0]) % size
    if np.array_equal(table, (at - by) % size):
        if name in ("channel", "image") and 2 * by == size:
            return f"the two halves of the {name}s are swapped"
        if name == "channel" and 3 * by in (size, 2 * size):
            return "the thirds of the channels are rotated"
        return f"rolled by {by if 2 * by <= size else by - size} {ALONG[name]}"
    for parts in (2, 3, 4, 6, 8):
        blocks = table.reshape(parts, -1) if size % parts == 0 and size > parts else None
        if (
            blocks is not None
            and np.array_equal(blocks, blocks[:, :1] + np.arange(size // parts))
            and np.all(blocks[:, 0] % (size // parts) == 0)
        ):
            order = ", ".join(str(block) for block in blocks[:, 0] // (size // parts))
            return f"the {parts} parts of the {name}s are in the order {order}"
    exchanged = np.flatnonzero(table != at)
    if len(exchanged) == 2:
        return f"{name}s {exchanged[0]} and {exchanged[1]} are exchanged"
    shown = ", ".join(map(str, table[:8].tolist())) + (" …" if size > 8 else "")
    return f"the {name}s are {UNNAMED} (0, 1, 2 … come from {shown})"


def _rolled_and_relaid(case: Case, target: np.ndarray, source: np.ndarray) -> Difference | None:
    """A roll or a flip of the map before or after a relayout."""
    shape = case.actual.shape
    names = {1: "row", 2: "column", 3: "channel"}
    few = slice(0, 24)
    base = [axes for axes in systems(case) if len(axes) <= 5][:3]
    for axis, word in names.items():
        size = shape[axis]
        tables = [np.arange(size)[::-1]] + [(np.arange(size) - by) % size for by in range(1, min(size, 65))]
        for table, after in product(tables, (True, False)):
            t, s = target[few], source[few]
            if after:  # the candidate's number at t was at table[t] before the roll
                t = _moved(t, shape, axis, table)
            else:
                s = _moved(s, shape, axis, np.argsort(table))
            for axes in base:
                for move in _relayouts(axes, t, s):
                    explained = move(case.expected) if after else np.take(case.expected, table, axis=axis)
                    explained = np.take(explained, table, axis=axis) if after else move(explained)
                    left = case.explains(explained)
                    if left is not None:
                        found = _relayout_found(case, move, left)
                        parts = [found.data["pattern"], _table_in_words(word, table)]
                        words = ", then ".join(parts if after else parts[::-1])
                        return Difference("places", SAME + words, left, {**found.data, "pattern": words}, True)
    return None


def _moved(flat_places: np.ndarray, shape: tuple[int, ...], axis: int, table: np.ndarray) -> np.ndarray:
    at = list(np.unravel_index(flat_places, shape))
    at[axis] = table[at[axis]]
    return np.ravel_multi_index(at, shape)


def _reach(case: Case, target: np.ndarray, source: np.ndarray) -> str:
    """Within what the numbers stay."""
    _, h, w, _ = case.actual.shape
    to, come = np.unravel_index(target, case.actual.shape), np.unravel_index(source, case.actual.shape)
    stays = [bool(np.array_equal(x, y)) for x, y in zip(to, come, strict=True)]
    if all(stays[:3]):
        return "permuted inside each token, in an order without a name"
    if stays[3]:
        same_image = "inside each image" if stays[0] else "across images"
        return f"tokens are permuted {same_image}, channel by channel, in an order without a name"
    p = case.window_size
    if stays[0] and p and h % p == 0 and w % p == 0 and all(np.array_equal(to[i] // p, come[i] // p) for i in (1, 2)):
        return "permuted inside each window, in an order without a name"
    if stays[0]:
        return "permuted inside each image, in an order without a name"
    return "permuted, in an order without a name"


def _first(target: np.ndarray, source: np.ndarray) -> list[list[int]]:
    return [[int(t), int(s)] for t, s in zip(target[:16], source[:16], strict=True)]


# --- moved, with what falls off lost


def _shifted(case: Case) -> list[Difference]:
    """The map moved by up to three rows or columns; what comes in at the border is zero, repeated or something else."""
    for axis, word in ((1, "H"), (2, "W")):
        size = case.actual.shape[axis]
        for by in (1, -1, 2, -2, 3, -3):
            if size < 2 * abs(by) + 2:
                continue
            inner, origin = _slices(axis, by)
            a, e = case.actual[inner], case.expected[origin]
            if abs(a[0, 0, 0] - e[0, 0, 0]).max() > 1e3 * case.tolerance * case.spread:
                continue
            left = float(np.linalg.norm(a - e)) / case.size
            if left > case.bar:
                continue
            direction = f"moved by {by} along {word}"
            for filling, words in ((0.0, "zeros come in"), (None, "the border is repeated")):
                index = np.clip(np.arange(size) - by, 0, size - 1)
                explained = np.take(case.expected, index, axis=axis)
                if filling is not None:
                    explained[(slice(None),) * axis + (slice(0, by) if by > 0 else slice(by, None),)] = filling
                remaining = case.explains(explained)
                if remaining is not None:
                    return [
                        Difference("places", f"{direction}: {words}", remaining, {"axis": word, "by": by, "filling": words}, True)
                    ]
            remaining = case.left(np.roll(case.expected, by, axis))
            border = "the first" if by > 0 else "the last"
            lines = f"{'rows' if axis == 1 else 'columns'} ({listed(range(abs(by)))})"
            words = f"{direction}; what comes in at {border} {lines} is something else"
            if prod(a.shape) and remaining > case.bar:
                return [Difference("places", words, remaining, {"axis": word, "by": by, "filling": "unknown"}, False)]
    return []


def _slices(axis: int, by: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    lead = (slice(None),) * axis
    late, early = slice(abs(by), None), slice(None, -abs(by))
    return ((*lead, late), (*lead, early)) if by > 0 else ((*lead, early), (*lead, late))
