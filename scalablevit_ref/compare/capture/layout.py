"""How a weight lies in the candidate's own parameter: in which order its axes are, and from which output row on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import prod

import numpy as np

MOST_COMPARED = 4_096
"""Most numbers of a weight that are looked at to see how it lies."""


@dataclass(frozen=True)
class Layout:
    """How a weight out, in, height, width lies in a parameter.

    order
        Its axes, those of one number left out, in the order in which the parameter holds them: (1, 0) is in, out.
    start
        The first of the parameter's output rows that is the weight's.
    """

    order: tuple[int, ...]
    start: int

    @property
    def turned(self) -> bool:
        return self.order != tuple(sorted(self.order))

    def view(self, own: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
        """A parameter as out, in, height, width, all of its output rows; what is written into it is written into the parameter.

        sizes
            Of the weight; its output rows may be fewer.
        """
        wide = own.size // max(prod(sizes[1:]), 1)
        full = (wide, *sizes[1:])
        order = self.order if 0 in self.order or wide == 1 else (0, *self.order)
        view = own.reshape([full[axis] for axis in order])
        view = view.transpose([order.index(axis) for axis in sorted(order)])
        return view.reshape(full) if view.flags.c_contiguous else _with_ones(view, full, sorted(order))


def _with_ones(view: np.ndarray, full: tuple[int, ...], axes: list[int]) -> np.ndarray:
    """The same memory with the axes of one number put back."""
    return np.expand_dims(view, [axis for axis in range(len(full)) if axis not in axes])


def layouts(own: np.ndarray, sizes: tuple[int, ...]) -> Iterator[Layout]:
    """All orders of a weight's axes, as the reference has them first."""
    long = [axis for axis, size in enumerate(sizes) if size > 1 or (axis == 0 and own.size > prod(sizes))]
    for order in permutations(long):
        yield Layout(order, 0)


def layout_by_values(operand: np.ndarray, own: np.ndarray) -> Layout | None:
    """How an operand, out, in, height, width, lies in the parameter, by its numbers; None where they do not tell."""
    operand = operand.astype(own.dtype, copy=False)
    if own.size % max(prod(operand.shape[1:]), 1) or own.size < operand.size or not operand.size:
        return None
    step = max(1, int(np.ceil((operand.size / MOST_COMPARED) ** (1 / operand.ndim))))
    sampled = tuple(slice(None, None, step) for _ in operand.shape)
    fits = []
    for layout in layouts(own, operand.shape):
        view = layout.view(own, operand.shape)
        firsts: tuple[slice | int, ...] = (slice(None), *[0] * (view.ndim - 1))
        column = view[firsts]
        last = len(column) - len(operand)
        starts = [0] if not last else [int(i) for i in np.flatnonzero(column[: last + 1] == operand.flat[0])][:16]
        fits += [
            Layout(layout.order, start)
            for start in starts
            if np.array_equal(view[start : start + len(operand)][sampled], operand[sampled])
        ]
    return fits[0] if len(fits) == 1 else None
