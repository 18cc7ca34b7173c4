"""Which tokens attend to which: ways to cut a map into windows and to put them back, as indices of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from einops import rearrange, repeat

Array = np.ndarray

GROUPS = {"tiles": "(gh ph) (gw pw) -> (gh gw) (ph pw)", "grid": "(ph gh) (pw gw) -> (gh gw) (ph pw)"}


@dataclass(frozen=True, eq=False)
class Sight:
    """Which keys each query sees, as it was measured: n m, of bool; at which token its output is put: n; in words; and as data."""

    seen: Array
    places: Array
    words: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Windows:
    """A way to cut a map.

    Attributes
    ----------
    size
        Rows and columns of a window.
    kind
        "tiles"; "grid", every h/ph-th row and column; "runs" of ph·pw tokens one after the other; "sliding", each token with
        the window around it; "all", every query with every key; "measured", as `sight` says.
    shift
        The map is rolled up and left by so many rows and columns before it is cut.
    apart
        Whether tokens that the roll has put side by side do not see each other (Swin's mask).
    hidden
        Whether what fills up the windows is not seen.
    halo
        Keys and values of so many rows and columns around each tile are seen too.
    placed
        How the windows are put back: "as cut"; "unrolled"; "rolled on", in the wrong direction; "column by column" where they
        are cut row by row; "turned", H and W swapped in each; "turned map", to a map
        of w rows and h columns, whose tokens are then taken for those of the map; "as tiles"; "as a grid"; "as runs".
    """

    size: tuple[int, int]
    kind: str = "tiles"
    shift: tuple[int, int] = (0, 0)
    apart: bool = False
    hidden: bool = False
    halo: int = 0
    placed: str = "as cut"
    sight: Sight | None = None
    masked: tuple[int, int] = (0, 0)
    """Windows that are not shifted have Swin's mask of windows that are shifted by so many rows and columns."""


@dataclass(frozen=True)
class Measured:
    """What was measured of which tokens see which in a candidate.

    Attributes
    ----------
    windows
        What may stand for it.
    right
        Whether it is as in the reference.
    mixed
        Whether tokens see those of other images, which no windows of one image do.
    dead
        Whether no key has any influence.
    """

    windows: tuple[Windows, ...] = ()
    right: bool = False
    mixed: bool = False
    dead: bool = False


@dataclass(frozen=True)
class Cut:
    """Indices into the tokens of a map, in rows; `none` (the number of tokens) stands for a token of zeros.

    queries g n; keys g m; allowed g 1 m or g n m, or None where all are seen; places g n: which token a window's output is put at.
    """

    queries: Array
    keys: Array
    allowed: Array | None
    places: Array


def tokens(h: int, w: int, size: tuple[int, int]) -> Array:
    """The indices of a map, filled up with `none` at the right and bottom to whole windows."""
    index = np.arange(h * w).reshape(h, w)
    return np.pad(index, ((0, -h % size[0]), (0, -w % size[1])), constant_values=h * w)


@lru_cache(maxsize=64)
def cut(windows: Windows, h: int, w: int, keys: int, real: tuple[int, int]) -> Cut:
    """The windows of a map of h rows and w columns; `keys` is the number of keys and values, `real` the map without its filling.

    Raises ValueError where the map cannot be cut so.
    """
    if windows.sight is not None:
        return _measured(windows.sight, hidden=windows.hidden)
    if windows.kind == "all":
        queries = np.arange(h * w)[None]
        return Cut(queries, np.arange(keys)[None], None, _placed(windows, queries, queries[0].reshape(h, w)))
    if keys != h * w:
        raise ValueError("windows need as many keys as queries")
    if windows.kind == "sliding":
        return _sliding(windows, h, w)
    index = tokens(h, w, windows.size)
    rolled = np.roll(index, (-windows.shift[0], -windows.shift[1]), (0, 1))
    queries = _grouped(rolled, windows.kind, windows.size)
    allowed = None
    seen = _grouped(_neighbours(rolled, windows, h * w), "tiles", _around(windows)) if windows.halo else queries
    if windows.hidden:
        rows, columns = np.divmod(seen, w)
        allowed = ((seen < h * w) & (rows < real[0]) & (columns < real[1]))[:, None]
    if windows.apart or any(windows.masked):
        shift = windows.shift if windows.apart else windows.masked
        region = _grouped(_regions(index.shape, windows.size, shift), windows.kind, windows.size)
        same = region[:, :, None] == region[:, None]
        allowed = same if allowed is None else same & allowed
    return Cut(queries, seen, allowed, _placed(windows, queries, index))


def _grouped(index: Array, kind: str, size: tuple[int, int]) -> Array:
    if kind == "runs":
        return index.reshape(-1, size[0] * size[1])
    return rearrange(index, GROUPS[kind], ph=size[0], pw=size[1])


def _placed(windows: Windows, queries: Array, index: Array) -> Array:
    """Where a window's output is put."""
    size, cuts = windows.size, {"ph": windows.size[0], "pw": windows.size[1]}
    rolled = np.roll(index, (-windows.shift[0], -windows.shift[1]), (0, 1))
    if windows.placed == "as cut":
        return queries
    if windows.placed == "unrolled":
        return _grouped(index, windows.kind, size)
    if windows.placed == "rolled on":
        return _grouped(np.roll(index, windows.shift, (0, 1)), windows.kind, size)
    if windows.placed == "column by column":
        return rearrange(rolled, "(gh ph) (gw pw) -> (gw gh) (ph pw)", **cuts)
    if windows.placed == "turned map":
        return rearrange(rolled.reshape(rolled.shape[::-1]), "(gh ph) (gw pw) -> (gh gw) (ph pw)", **cuts)
    if windows.placed == "turned":
        return rearrange(rolled, "(gh ph) (gw pw) -> (gh gw) (pw ph)", **cuts)
    return _grouped(rolled, windows.placed.split()[-1], size).reshape(queries.shape)


def _regions(shape: tuple[int, ...], sizes: tuple[int, int], shifts: tuple[int, int]) -> Array:
    """Swin's regions of the rolled map: what was first is apart from what came to its side."""
    lines = []
    for size, p, shift in zip(shape, sizes, shifts, strict=True):
        lines.append((np.arange(size) >= size - p).astype(int) + (np.arange(size) >= size - shift))
    return np.asarray(lines[0][:, None] * 3 + lines[1])


def _around(windows: Windows) -> tuple[int, int]:
    return windows.size[0] + 2 * windows.halo, windows.size[1] + 2 * windows.halo


def _neighbours(index: Array, windows: Windows, none: int) -> Array:
    """Tiles with their halo, side by side as tiles of that larger size."""
    halo, (ph, pw) = windows.halo, windows.size
    outside = np.pad(index, halo, constant_values=none)
    rows = [slice(i, i + ph + 2 * halo) for i in range(0, index.shape[0], ph)]
    columns = [slice(j, j + pw + 2 * halo) for j in range(0, index.shape[1], pw)]
    return np.concatenate([np.concatenate([outside[r, c] for c in columns], 1) for r in rows])


def _sliding(windows: Windows, h: int, w: int) -> Cut:
    (ph, pw), index = windows.size, np.arange(h * w).reshape(h, w)
    outside = np.pad(index, ((ph // 2, (ph - 1) // 2), (pw // 2, (pw - 1) // 2)), constant_values=h * w)
    keys = rearrange(np.lib.stride_tricks.sliding_window_view(outside, (ph, pw)), "h w ph pw -> (h w) (ph pw)")
    queries = repeat(np.arange(h * w), "n -> n 1")
    return Cut(queries, keys, (keys < h * w)[:, None] if windows.hidden else None, queries)


def _measured(sight: Sight, *, hidden: bool) -> Cut:
    """Queries that see the same keys are a window; where others see more, it is filled up with tokens of zeros."""
    n, m = sight.seen.shape
    rows, which = np.unique(sight.seen, axis=0, return_inverse=True)
    some = [(np.flatnonzero(which.ravel() == i), np.flatnonzero(row)) for i, row in enumerate(rows) if row.any()]
    queries, keys = (_side_by_side([pair[i] for pair in some], none) for i, none in ((0, n), (1, m)))
    places = np.append(sight.places, n)[queries]
    return Cut(queries, keys, (keys < m)[:, None] if hidden else None, places)


def _side_by_side(rows: Sequence[Array], none: int) -> Array:
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=none) for row in rows])
