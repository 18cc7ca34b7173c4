"""The same numbers in other places: by which transposition, reshape, roll, flip or permutation.

The numbers themselves tell where each of them came from: a number that is far from all others is looked up in the reference's
value. From such pairs of places relayouts are read off (`relayouts`), rolls, flips and permutations of an axis; then the whole
array decides.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, Case
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import three_digits
from scalablevit_ref.compare.reasoning.relayouts import SAME, relaid, relayout_found, relayouts, systems
from scalablevit_ref.compare.reasoning.shifts import shifted
from scalablevit_ref.compare.reasoning.windows import Windows, cut

LOOKED_UP = 4096
"""Numbers whose origin is looked up."""

UNNAMED = "permuted, alike everywhere"
"""Said of an axis whose permutation has no name."""

DISTINCT = 0.5
"""Share of the numbers that must be distinct for their order to prove anything."""


def places(case: Case) -> list[Difference]:
    """The same multiset of numbers, moved in a way that has a name."""
    looked_up = _looked_up(case)
    if looked_up is None:
        return shifted(case)
    target, source, _ = looked_up
    found = _to_a_turned_map(case) or relaid(case, target, source) or _separable(case, target, source)
    if found is None or UNNAMED in found.words:
        found = _rolled_and_relaid(case, target, source)
    return [found] if found else []


def _to_a_turned_map(case: Case) -> Difference | None:
    """Windows of an oblong map that are put together, or cut out, as if it had as many rows as it has columns."""
    b, h, w, c = case.actual.shape
    p = case.window_size
    if not p or h == w or h % p or w % p:
        return None
    windows = cut(Windows((p, p), placed="turned map"), h, w, h * w, (h, w))
    written, read = windows.queries.ravel(), windows.places.ravel()
    ways = (
        (written, read, "windows are merged to a map of W × H, not H × W"),
        (read, written, "windows are cut out of a map of W × H, not H × W"),
    )
    for origin, place, words in ways:
        moved = np.empty_like(case.expected.reshape(b, h * w, c))
        moved[:, place] = case.expected.reshape(b, h * w, c)[:, origin]
        left = case.explains(moved.reshape(case.actual.shape))
        if left is not None:
            return Difference("places", SAME + words, left, {"pattern": words, "window_size": p}, True)
    return None


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
                for move in relayouts(axes, t, s):
                    explained = move(case.expected) if after else np.take(case.expected, table, axis=axis)
                    explained = np.take(explained, table, axis=axis) if after else move(explained)
                    left = case.explains(explained)
                    if left is not None:
                        found = relayout_found(case, move, left)
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
