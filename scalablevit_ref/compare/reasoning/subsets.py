"""Where a value differs at all: only some images, heads, channels, rows, columns or windows, only at a border.

These are facts. Where a part differs and the rest is right, the part is a difference of its own, which the other kinds may explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.case import Case
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import listed


@dataclass(frozen=True)
class Part:
    """Some places of some axes, all of them together holding the whole difference."""

    words: str
    places: tuple[np.ndarray | slice, ...]  # of b h w c
    data: dict[str, Any]


def differing(case: Case) -> np.ndarray:
    """Which numbers differ by more than rounding, b h w c."""
    noise = np.maximum(abs(case.expected), case.spread) * max(case.tolerance, 1e-14)
    return np.asarray(~(abs(case.actual - case.expected) <= noise))


def parts(case: Case) -> list[Part]:
    """The images, heads and channels, rows and columns that hold the difference, where they are not all."""
    wrong = differing(case)
    everywhere = slice(None)
    found: list[Part] = []
    w = wrong.shape[2]
    for axis, name in ((0, "image"), (3, "channel"), (1, "row"), (2, "column")):
        others = tuple(i for i in range(4) if i != axis)
        lines = np.flatnonzero(wrong.any(others))
        size = wrong.shape[axis]
        if not 0 < len(lines) < size:
            continue
        if axis in (1, 2) and w == 1:
            name = "token"
        words, data = _which(case, name, lines, size)
        places: list[np.ndarray | slice] = [everywhere] * 4
        places[axis] = lines
        found.append(Part(words, tuple(places), data))
    return found


def _which(case: Case, name: str, lines: np.ndarray, size: int) -> tuple[str, dict[str, Any]]:
    d = size // case.num_heads if name == "channel" and case.num_heads and size % case.num_heads == 0 else 0
    if d > 1 and case.num_heads and case.num_heads > 1:
        heads = np.unique(lines // d)
        if len(lines) == len(heads) * d and len(heads) < case.num_heads:
            return f"only heads {listed(heads)} of {case.num_heads} differ", {"axis": "head", "differ": heads.tolist()}
    share = ""
    if name == "channel" and np.array_equal(lines, np.arange(lines[0], lines[0] + len(lines))):
        for parts_, word in ((2, ("first", "second")), (3, ("first", "second", "last"))):
            n = size // parts_
            if size % parts_ == 0 and len(lines) == n and lines[0] % n == 0:
                share = f", the {word[lines[0] // n]} {'half' if parts_ == 2 else 'third'}"
    data = {"axis": name, "differ": lines[:512].tolist(), "of": size}
    if len(lines) == 1:
        place = {0: "first ", size - 1: "last "}.get(int(lines[0]), "")
        return f"only the {place}{name} ({lines[0]} of {size}) differs", data
    return f"only {name}s {listed(lines)} of {size} differ{share}", data


def borders(case: Case) -> list[Difference]:
    """Tokens that differ lie at borders of the map or of the windows."""
    _, h, w, _ = case.actual.shape
    tokens = np.asarray(differing(case).any((0, 3)))
    if not tokens.any() or tokens.all() or min(h, w) < 2:
        return []
    rows, columns = np.nonzero(tokens)
    row, column = np.arange(h)[:, None], np.arange(w)[None, :]
    distances = {
        "top": row + 0 * column,
        "left": column + 0 * row,
        "bottom": h - 1 - row + 0 * column,
        "right": w - 1 - column + 0 * row,
    }
    depth = int(reduce(np.minimum, distances.values())[rows, columns].max()) + 1
    if 2 * depth < min(h, w):
        touched = {side for side, distance in distances.items() if tokens[_line(side, h, w)].mean() > 0.5}
        sides = [side for side in distances if side in touched] or list(distances)
        inside = reduce(np.logical_or, [distances[side] < depth for side in sides])
        if np.all(inside[tokens]):
            where = "on all sides" if len(sides) == 4 else "at the " + " and ".join(sides)
            words = f"only tokens at the border differ, {where}, {depth} deep, as with another padding or another size there"
            data = {"sides": sides, "depth": depth, "tokens": len(rows)}
            return [Difference("border", words, case.before, data)]
    return _window_borders(case, tokens)


def _line(side: str, h: int, w: int) -> tuple[Any, Any]:
    every = slice(None)
    return {"top": (0, every), "bottom": (h - 1, every), "left": (every, 0), "right": (every, w - 1)}[side]


def _window_borders(case: Case, tokens: np.ndarray) -> list[Difference]:
    h, w = tokens.shape
    p = case.window_size
    if not p or p < 3 or h <= p or w <= p or h % p or w % p:
        return []
    row, column = np.nonzero(tokens)
    depth = int(np.minimum(np.minimum(row % p, p - 1 - row % p), np.minimum(column % p, p - 1 - column % p)).max()) + 1
    if 2 * depth < p:
        words = f"only tokens at the borders of windows differ, {depth} deep, as where windows do not interact"
        return [Difference("border", words, case.before, {"depth": depth, "window_size": p, "tokens": len(row)})]
    windows = tokens.reshape(h // p, p, w // p, p).any((1, 3))
    if not windows.all():
        rows, columns = np.nonzero(windows)
        pairs = ", ".join(f"({i}, {j})" for i, j in zip(rows[:6].tolist(), columns[:6].tolist(), strict=True))
        words = f"only {len(rows)} of {windows.size} windows differ: {pairs}{' …' if len(rows) > 6 else ''}"
        return [
            Difference(
                "some windows", words, case.before, {"windows": [[int(i), int(j)] for i, j in zip(rows, columns, strict=True)][:64]}
            )
        ]
    return []


def some_tokens(case: Case) -> list[Difference]:
    """How many tokens differ, where they are few and lie nowhere in particular."""
    tokens = differing(case).any(3)
    wrong = int(tokens.sum())
    if not 0 < wrong <= tokens.size // 2 or tokens.size < 4:
        return []
    words = f"only {wrong} of {tokens.size} tokens differ"
    where = [[int(i) for i in place] for place in np.argwhere(tokens)[:64]]
    return [Difference("some tokens", words, case.before, {"tokens": where, "count": wrong})]


def not_finite(case: Case) -> list[Difference]:
    """NaN and infinite numbers, and where."""
    wrong = ~np.isfinite(case.actual)
    count = int(wrong.sum())
    if not count or not np.all(np.isfinite(case.expected)):
        return []
    nan = int(np.isnan(case.actual).sum())
    what = "NaN" if nan == count else "infinite" if nan == 0 else "NaN or infinite"
    share = "all numbers are" if count == wrong.size else f"{count} of {wrong.size} numbers are"
    channels, tokens = np.flatnonzero(wrong.any((0, 1, 2))), wrong.any(3)
    where = ""
    if len(channels) < wrong.shape[3]:
        where = f", in channels {listed(channels)}"
    elif tokens.sum() < tokens.size:
        where = f", in {int(tokens.sum())} of {tokens.size} tokens"
    return [Difference("not finite", f"{share} {what}{where}", float("inf"), {"count": count, "nan": nan})]
