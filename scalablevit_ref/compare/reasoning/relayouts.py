"""Numbers written in one order of the axes and read in another: a missing transposition, interleaved heads, misplaced windows.

From a few pairs of places both orders are found at once, since a place in the one order must be the same number as its partner's
place in the other; then the whole array decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np

from scalablevit_ref.compare.reasoning.case import Case
from scalablevit_ref.compare.reasoning.difference import Difference

SAME = "the same numbers in other places: "

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
        mixed = "images are mixed: " if self.mixes_images else ""
        return f"{mixed}numbers in the order ({written}) are read as if their order were ({read})"

    @property
    def mixes_images(self) -> bool:
        """Whether numbers of one image come into another: the axis of images comes to lie elsewhere."""
        return "b" in self.written and (self.written[0] == "b") != (self.read[0] == "b")

    @property
    def orders(self) -> tuple[str, str]:
        return " ".join(self.written), " ".join(self.read)


def relaid(case: Case, target: np.ndarray, source: np.ndarray) -> Difference | None:
    """The simplest relayout that brings every number from its source to its target."""
    for axes in systems(case):
        for move in relayouts(axes, target[:64], source[:64]):
            left = case.explains(move(case.expected))
            if left is not None:
                return relayout_found(case, move, left)
    return None


def relayout_found(case: Case, move: Relayout, left: float) -> Difference:
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


def relayouts(axes: Axes, target: np.ndarray, source: np.ndarray) -> Iterator[Relayout]:
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
