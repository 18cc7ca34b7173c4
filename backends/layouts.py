"""How the axes of an array lie in memory, and in how few steps they are moved, merged and split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from math import prod
from typing import TypeAlias

from scalablevit_ref.backends.symbolic import parts_of

Layout: TypeAlias = tuple[tuple[int, ...], ...]
"""The axes in memory, each a run of an array's axes: a map b h w c that lies as b (h w) c is ((0,), (1, 2), (3,))."""

CHANNELS_FIRST: Layout = ((0,), (3,), (1,), (2,))
"""How a convolution takes a map b h w c."""


Place: TypeAlias = tuple[int, int]
"""A factor of an axis in memory: the number of the axis, and of its factor from the outermost."""


def tokens(axes: int) -> Layout:
    """How an array lies where nothing asks for another order: a map as b (h w) c, any other as it is."""
    return ((0,), (1, 2), (3,)) if axes == 4 else tuple((i,) for i in range(axes))


def moved_runs(old: Sequence[list[Place]], new: Sequence[list[Place]]) -> list[list[Place]]:
    """The runs of places that a transposition moves, as they lie: the new axes or the old ones if it can, else the fewest."""
    before, after = list(chain(*old)), list(chain(*new))
    for axes, order in ((new, before), (old, after)):
        runs = [run for run in axes if run]
        if all(run == order[order.index(run[0]) :][: len(run)] for run in runs):
            return sorted(runs, key=lambda run: before.index(run[0]))
    following = dict(pairwise(after))
    runs = [before[:1]]
    for last, place in pairwise(before):
        if following.get(last) == place:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def same(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether these sizes are equal at every run."""
    return [parts_of(n) for n in some] == [parts_of(n) for n in others]


def segments(factors: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Shortest runs of factors and of sizes, by their numbers, whose products are the same; of no factors for a size of 1."""
    taken: list[int] = []
    made: list[int] = []
    left = list(range(len(factors)))
    for t, size in enumerate(shape):
        if not taken and same([size], [1]):
            yield [], [t]
            continue
        made.append(t)
        want = prod(shape[k] for k in made)
        while left and (not taken or int(prod(factors[k] for k in taken)) < int(want)):
            taken.append(left.pop(0))
        if same([prod(factors[k] for k in taken)], [want]):
            yield taken, made
            taken, made = [], []
    if taken or made or left:
        yield taken + left, made
