"""A candidate's value as the specification lays it out: maps b h w c, after pooling b c.

A layout is an order of the axes b, h, w and c, some of them put together, where h and w may be cut into windows, h = (gh ph) and
w = (gw pw). There is no table of layouts: all orders that fit a shape are found, and values tell them apart where they are known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice, permutations
from math import prod

import numpy as np
from einops import rearrange

NOISE = 0.1
"""An unlikely layout is taken if the values are less than this share as unlike as in the likeliest."""

LIKE = 0.5
"""Two values that are less unlike than this are laid out alike, though one may be wrong."""

PROJECTIONS = 4
"""Random sums of the channels by which two values are compared."""

PLAIN = ("b", "h", "w")
CUT = ("b", "gh", "gw", "ph", "pw")


@dataclass(frozen=True)
class Tokens:
    """How the tokens of a map b h w lie in an array without its channels.

    Attributes
    ----------
    axes
        What each axis of the array holds, as an einops pattern has it: ("b", "gh", "gw") for an axis of all windows.
    size
        Of b, h and w of what the array holds: more than the map where it is padded.
    window
        ph and pw; 0 where nothing is cut.
    corner
        Where in the array's map the map begins, row and column; 0, 0 unless it is padded on both sides.
    order
        Where each token of the map lies among the array's, if its order is no pattern.
    """

    axes: tuple[tuple[str, ...], ...]
    size: tuple[int, int, int]
    window: int = 0
    corner: tuple[int, int] = (0, 0)
    order: tuple[int, ...] = field(default=(), repr=False)

    @property
    def turned(self) -> bool:
        """Whether columns come before rows."""
        flat = [axis for group in self.axes for axis in group]
        pairs = [("h", "w"), ("gh", "gw"), ("ph", "pw")]
        return any(a in flat and b in flat and flat.index(a) > flat.index(b) for a, b in pairs)

    def __call__(self, x: np.ndarray, h: int, w: int) -> np.ndarray:
        """An array of these axes and c, as the map b h w c of h rows and w columns."""
        b, rows, columns = self.size
        c = x.shape[-1]
        if self.order:
            return np.asarray(x.reshape(-1, c)[np.asarray(self.order)].reshape(b, h, w, c))
        flat = [axis for group in self.axes for axis in group]
        sizes = _sizes(self.size, self.window)
        given = " ".join(f"({' '.join(group)})" if group else "1" for group in self.axes)
        wanted = " ".join(axis for axis in ("b", "h", "gh", "ph", "w", "gw", "pw") if axis in flat)
        x = rearrange(x, f"{given} c -> {wanted} c", **{axis: sizes[axis] for axis in flat})
        top, left = self.corner
        return np.asarray(x).reshape(b, rows, columns, c)[:, top : top + h, left : left + w]


@dataclass(frozen=True)
class Layout:
    """How a candidate lays out a map b h w c, or an array b c.

    Attributes
    ----------
    tokens
        Of the axes that do not hold channels.
    axis
        The first axis that holds channels.
    wide
        How many axes hold channels: two where heads are split off.
    canonical
        The shape that `__call__` gives, but for the channels.
    """

    tokens: Tokens
    axis: int
    wide: int
    canonical: tuple[int, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The values of `x`, laid out so, as b h w c, or b c."""
        x = _channels_last(x, self.axis, self.wide)
        if len(self.canonical) == 2:
            return x.reshape(self.canonical[0], x.shape[-1])
        return self.tokens(x, *self.canonical[1:3])

    @property
    def turned(self) -> bool:
        """Whether H and W are swapped."""
        return self.tokens.turned

    @property
    def words(self) -> str:
        """As an einops pattern: "b (h w) c"."""
        if len(self.canonical) == 2:
            return "b c"
        if self.tokens.order:
            return "its own order of tokens"
        channels = ("c",) if self.wide == 1 else ("heads", "d")
        groups = [f"({' '.join(group)})" if len(group) > 1 else (group or ("1",))[0] for group in self.tokens.axes]
        groups[self.axis : self.axis] = channels
        return " ".join(groups)


def layouts(
    shape: Sequence[int], canonical: Sequence[int], *, axis: int | None = None, windows: Collection[int] = ()
) -> list[Layout]:
    """All layouts in which an array of `shape` can hold a map of shape `canonical`, b h w c, or a b c array; the likeliest first.

    Parameters
    ----------
    shape, canonical
        Of the array, and of the map that it is to hold.
    axis
        The axis that holds the channels, where that is known; they may then be more or fewer than the canonical shape's.
    windows
        Sizes of windows into which the map may be cut, or to whole ones of which it may be padded.

    Examples
    --------
    >>> [layout.words for layout in layouts((2, 49, 64), (2, 7, 7, 64))]
    ['b (h w) c', 'b (w h) c']
    >>> layouts((8, 49, 64), (2, 14, 14, 64), windows=[7])[0].words
    '(b gh gw) (ph pw) c'
    """
    shape, canonical = tuple(shape), tuple(canonical)
    found: list[tuple[tuple[int, ...], Layout]] = []
    for start, wide in _channel_axes(shape, canonical, axis):
        rest = shape[:start] + shape[start + wide :]
        if len(canonical) == 2:
            if prod(rest) == canonical[0] == (rest or (1,))[0] and (axis is not None or start or canonical[0] == 1):
                found.append(((0,), Layout(Tokens((("b",),), (canonical[0], 1, 1)), start, wide, canonical)))
            continue
        b, h, w, _ = canonical
        last = start + wide == len(shape)
        for rank, tokens in enumerate(_tokens(rest, (b, h, w), tuple(sorted(windows)))):
            layout = Layout(tokens, start, wide, canonical)
            found.append(((tokens.turned, wide, bool(tokens.window), not last and start != 1, not last, rank), layout))
    return [layout for _, layout in sorted(found, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Settled:
    """A layout, and whether the values themselves tell it: they are then the expected ones, or much like them."""

    layout: Layout
    sure: bool


def settled(
    x: np.ndarray,
    expected: np.ndarray,
    *,
    axis: int | None = None,
    windows: Collection[int] = (),
    strange: bool = False,
) -> Settled | None:
    """The layout of `x`, which should hold what `expected` holds and may be wrong. None if there is none.

    The likeliest that its shape allows, unless the values tell of another.

    Parameters
    ----------
    x
        The candidate's value, as it lies.
    expected
        b h w c, or b c. With `axis`, `x` may have other numbers of channels; the shape alone then tells.
    axis, windows
        As in `layouts`.
    strange
        Whether any order of the tokens will do in which the values are the expected ones, where `x` cannot be a whole map.
    """
    fits = layouts(x.shape, expected.shape, axis=axis, windows=windows)
    if expected.ndim == 2:
        return Settled(fits[0], sure=True) if fits else None
    if all(_channels(x, layout) != expected.shape[-1] for layout in fits):
        return Settled(fits[0], sure=False) if fits else None
    unlike = _unlikeness(x, expected, fits)
    best = min(range(len(fits)), key=lambda i: unlike[i])
    if strange and unlike[best] > SAME and all(layout.tokens.window for layout in fits):
        for start, wide in _channel_axes(x.shape, expected.shape, axis):
            order = _row_order(_channels_last(x, start, wide), expected)
            if order is not None:
                b, h, w, _ = expected.shape
                return Settled(Layout(Tokens((), (b, h, w), order=order), start, wide, expected.shape), sure=True)
    clear = unlike[best] < NOISE * unlike[0] or unlike[best] < LIKE < UNLIKE < unlike[0]
    return Settled(fits[best if clear else 0], sure=unlike[best if clear else 0] < LIKE)


class Layouts:
    """The layouts of the values of one layer: a value whose numbers do not tell lies as another of its shape does."""

    def __init__(self, windows: Collection[int]) -> None:
        self.windows = frozenset(windows)
        self.turned = False
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Tokens] = {}

    def __call__(self, x: np.ndarray, expected: np.ndarray, axis: int | None) -> np.ndarray | None:
        """The value as b h w and its own number of channels, or b c; None if it fits no layout."""
        x = np.asarray(x, np.float64)
        layout = self.of(x, expected, axis)
        return None if layout is None else layout(x)

    def of(self, x: np.ndarray, expected: np.ndarray, axis: int | None) -> Layout | None:
        """The layout of a value; None if it fits none."""
        known = self._from_known(x, expected, axis)
        found = settled(x, expected, axis=axis, windows=self.windows, strange=True)
        if known is not None and (found is None or not found.sure):
            return known
        if found is None:
            return None
        if found.sure:
            self._known.setdefault(_token_key(x.shape, expected.shape, found.layout), found.layout.tokens)
            self.turned |= found.layout.turned
        return found.layout

    def _from_known(self, x: np.ndarray, expected: np.ndarray, axis: int | None) -> Layout | None:
        for start, wide in _channel_axes(x.shape, expected.shape, axis):
            layout = Layout(Tokens((), (0, 0, 0)), start, wide, expected.shape)
            tokens = self._known.get(_token_key(x.shape, expected.shape, layout))
            if tokens is not None:
                return Layout(tokens, start, wide, expected.shape)
        return None


SAME = 1e-2
"""Two values that are less unlike than this are the same but for rounding, or nearly so."""

UNLIKE = 0.9
"""Two values that are more unlike than this have nothing in common."""


def _token_key(shape: tuple[int, ...], canonical: tuple[int, ...], layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return shape[: layout.axis] + shape[layout.axis + layout.wide :], canonical[:-1]


def _channel_axes(shape: tuple[int, ...], canonical: tuple[int, ...], axis: int | None) -> list[tuple[int, int]]:
    """Where the channels may be: the first axis, and how many."""
    c = canonical[-1]
    if axis is not None:
        axis %= len(shape)
        if shape[axis] >= c or c % shape[axis]:
            return [(axis, 1)]
        runs = [(start, stop) for start in range(axis + 1) for stop in range(axis + 1, len(shape) + 1)]
        merged = [(start, stop - start) for start, stop in runs if prod(shape[start:stop]) == c]
        return sorted(merged, key=lambda run: run[1])[:1] or [(axis, 1)]
    singles = [(i, 1) for i in range(len(shape)) if shape[i] == c]
    return singles + [(i, 2) for i in range(len(shape) - 1) if min(shape[i : i + 2]) > 1 and prod(shape[i : i + 2]) == c]


def _channels(x: np.ndarray, layout: Layout) -> int:
    return prod(x.shape[layout.axis : layout.axis + layout.wide])


def _channels_last(x: np.ndarray, axis: int, wide: int) -> np.ndarray:
    x = np.moveaxis(x, range(axis, axis + wide), range(-wide, 0))
    return x.reshape(*x.shape[: x.ndim - wide], -1)


@lru_cache(maxsize=1024)
def _tokens(shape: tuple[int, ...], size: tuple[int, int, int], windows: tuple[int, ...]) -> tuple[Tokens, ...]:
    """The layouts of the tokens, the likeliest first: whole maps, maps cut into windows, maps padded to whole windows."""
    b, h, w = size
    plain = list(_orders(shape, PLAIN, size, 0))
    if any(all(len(group) <= 1 for group in tokens.axes) for tokens in plain):
        return tuple(plain)  # an array of images, rows and columns is a map
    cut = [tokens for p in windows if p > 1 and h % p == 0 and w % p == 0 for tokens in _orders(shape, CUT, size, p)]
    if plain or cut:
        return (*plain, *cut)
    padded: list[Tokens] = []
    for p in windows:
        whole = (b, -(-h // p) * p, -(-w // p) * p)
        if whole != size and prod(whole) == prod(shape):
            middle = ((whole[1] - h) // 2, (whole[2] - w) // 2)
            for tokens in (*_orders(shape, PLAIN, whole, 0), *_orders(shape, CUT, whole, p)):
                padded += [replace(tokens, corner=corner) for corner in dict.fromkeys(((0, 0), middle))]
    return tuple(padded)


def _sizes(size: tuple[int, int, int], window: int) -> dict[str, int]:
    b, h, w = size
    cut = {"gh": h // window, "gw": w // window, "ph": window, "pw": window} if window else {}
    return {"b": b, "h": h, "w": w} | cut


def _orders(shape: tuple[int, ...], names: tuple[str, ...], size: tuple[int, int, int], window: int) -> Iterator[Tokens]:
    """The orders of these axes that have this shape when neighbours are put together, those nearest to the names' order first."""
    sizes = _sizes(size, window)
    present = [name for name in names if sizes[name] > 1]
    absent = [name for name in names if sizes[name] == 1]
    found = []
    for order in permutations(range(len(present))):
        groups = _grouped([present[i] for i in order], sizes, shape)
        if groups is None or (window and not _is_cut(groups)):
            continue
        inversions = sum(a > b for i, a in enumerate(order) for b in order[i:])
        missing = iter(absent)
        named = tuple(group or tuple(islice(missing, 1)) for group in groups)
        found.append((inversions, Tokens(named, size, window)))
    return (tokens for _, tokens in sorted(found, key=lambda pair: (pair[1].turned, pair[0])))


def _grouped(order: list[str], sizes: dict[str, int], shape: tuple[int, ...]) -> list[tuple[str, ...]] | None:
    """These axes put together to the axes of an array; those of size 1 hold none."""
    groups, names = [], iter(order)
    for length in shape:
        group: list[str] = []
        while prod(sizes[name] for name in group) < length:
            name = next(names, None)
            if name is None:
                return None
            group.append(name)
        if prod(sizes[name] for name in group) != length:
            return None
        groups.append(tuple(group))
    return groups if next(names, None) is None else None


def _is_cut(groups: list[tuple[str, ...]]) -> bool:
    """Whether this is no whole map, whose rows and columns each lie in one axis."""
    held = " ".join(name for group in groups for name in (*group, "|"))
    return any(p in held and f"{g} {p}" not in held for g, p in (("gh", "ph"), ("gw", "pw")))


def _projected(x: np.ndarray) -> np.ndarray:
    """Random sums of the channels, which are the last axis."""
    c = x.shape[-1]
    return x @ np.random.default_rng(c).standard_normal((c, PROJECTIONS))


def _unlikeness(x: np.ndarray, expected: np.ndarray, fits: Sequence[Layout]) -> list[float]:
    """Of `x` in each layout and of what is expected: 0 for the same but for a factor and a shift, near 1 without relation."""
    h, w, c = expected.shape[1:]
    wanted = _projected(expected)
    sums: dict[tuple[int, int], np.ndarray] = {}
    found = []
    for layout in fits:
        if _channels(x, layout) != c:
            found.append(1.0)
            continue
        key = (layout.axis, layout.wide)
        if key not in sums:
            sums[key] = _projected(_channels_last(x, *key))
        found.append(_unlike(layout.tokens(sums[key], h, w), wanted))
    return found


def _unlike(a: np.ndarray, b: np.ndarray) -> float:
    """√(1 − ρ²), where ρ² is the mean squared correlation of the sums over the tokens."""
    a, b = a.reshape(-1, PROJECTIONS), b.reshape(-1, PROJECTIONS)
    with np.errstate(all="ignore"):
        a, b = a - a.mean(0), b - b.mean(0)
        a, b = a / np.linalg.norm(a, axis=0), b / np.linalg.norm(b, axis=0)
        signs = np.sign((a * b).sum(0))
        apart = np.linalg.norm(a - signs * b, axis=0)  # √(2 − 2ρ), exact where ρ is near 1
        unlike = float(np.sqrt(np.mean(apart**2 * (1 - apart**2 / 4))))
    return unlike if np.isfinite(unlike) else 1.0


def _row_order(x: np.ndarray, expected: np.ndarray) -> tuple[int, ...] | None:
    """Where each token of `expected` lies among those of `x`, if they are the same tokens but for rounding."""
    c = expected.shape[-1]
    x, expected = x.reshape(-1, x.shape[-1]), expected.reshape(-1, c)
    if x.shape != expected.shape or not np.isfinite(x).all() or not np.isfinite(expected).all():
        return None
    a, b = _projected(x)[:, 0], _projected(expected)[:, 0]
    order = np.empty(len(a), np.intp)
    order[np.argsort(b, kind="stable")] = np.argsort(a, kind="stable")
    if np.linalg.norm(x[order] - expected) > SAME * np.linalg.norm(expected):
        return None
    return tuple(order.tolist())
