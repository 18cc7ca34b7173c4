"""The candidate's own values of a layer's steps, each held against what the reference makes of those before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

import numpy as np

from scalablevit_ref.compare.canonical import Layout, Layouts
from scalablevit_ref.compare.capture.graph import ABSENT, Graph, fed_by_images, makers
from scalablevit_ref.compare.capture.uses import Use
from scalablevit_ref.testing.arrays import EPS, Comparison, compare_arrays

NONE: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class Piece:
    """Where in a candidate's value the reference's numbers lie: in rows of an axis if they are given, laid out so."""

    value: int
    layout: Layout
    axis: int = ABSENT
    rows: tuple[int, int] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """An array of the value's shape as b h w c, or b c."""
        return self.layout(x if self.rows is None else np.take(x, range(*self.rows), self.axis))


@dataclass(frozen=True)
class Held:
    """One of the candidate's values beside the reference's, both b h w c, or b c."""

    value: int
    actual: np.ndarray
    expected: np.ndarray
    comparison: Comparison
    turned: bool = False
    """Whether the candidate's own has H and W swapped."""
    pieces: tuple[Piece, ...] = ()
    """Where the candidate has it: its channels side by side, or all of them several times."""


@dataclass(frozen=True)
class Misfit:
    """One of the candidate's values, as it lies, that cannot hold the reference's, b h w c or b c."""

    actual: np.ndarray
    expected: np.ndarray


class Followed:
    """The candidate's own values, each held against what the reference makes of those before it as the layer runs."""

    def __init__(
        self,
        uses: Mapping[str, Sequence[Use]],
        before: Mapping[int, Sequence[int]],
        fetched: Mapping[int, np.ndarray],
        windows: Collection[int],
        dtype: str,
        late: Mapping[str, np.ndarray] = NONE,
    ) -> None:
        """`before`: what each use's input was before it was moved, that itself first; `late`: biases added behind their steps."""
        self.uses, self.before, self.fetched, self.dtype, self.late = uses, before, fetched, dtype, late
        self.layouts = Layouts(windows)
        self.inputs: dict[str, Held] = {}
        self.outputs: dict[str, Held] = {}
        self.misfits: dict[str, Misfit] = {}

    def given(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        """The candidate's own input of a step; of several uses that of the one that is farthest off."""
        found = []
        for use in self.uses.get(name, ()):
            for value in self.before[use.given]:
                axis = use.given_axis if value == use.given else ABSENT
                laid = self._laid_out(value, axis, expected, name)
                if laid is not None:
                    x, layout = laid
                    found.append(Held(value, x, expected, self._compared(x, expected), layout.turned, (Piece(value, layout),)))
                    self.misfits.pop(name, None)
                    break
        if not found or len(found) < len(self.uses[name]):
            return None
        worst = max(found, key=lambda held: np.nan_to_num(held.comparison.error, nan=np.inf))
        self.inputs[name] = replace(worst, pieces=tuple({held.value: held.pieces[0] for held in (worst, *found)}.values()))
        return self.inputs[name].actual

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        """The candidate's own output of a step, b h w c; of several uses side by side."""
        uses, parts, start = self.uses.get(name, ()), [], 0
        pieces = list[Piece]()
        for use in uses:
            if use.made not in self.fetched:
                return None
            x, axis = self.fetched[use.made], use.made_axis
            rows = use.made_rows if axis != ABSENT else None
            if rows is not None and rows[1] > x.shape[axis]:  # a weight of fewer rows than the reference's
                return None
            x = x if rows is None else np.take(x, range(*rows), axis)
            width = use.channels if len(uses) > 1 else expected.shape[-1]
            if start + width > expected.shape[-1]:
                return None
            laid = self._laid_out(use.made, axis, expected[..., start : start + width], name, x)
            if laid is None:
                return None
            parts.append(laid[0])
            pieces.append(Piece(use.made, laid[1], axis, rows))
            start += width
        if not parts or start != expected.shape[-1]:
            return None
        x = np.concatenate(parts, -1)
        x = x + self.late[name] if name in self.late else x
        self.outputs[name] = Held(uses[0].made, x, expected, self._compared(x, expected), pieces=tuple(pieces))
        return x

    def _laid_out(
        self, value: int, axis: int, expected: np.ndarray, name: str, x: np.ndarray | None = None
    ) -> tuple[np.ndarray, Layout] | None:
        """A value as the reference has it, and how it lies."""
        if value not in self.fetched:
            return None
        x = np.asarray(self.fetched[value] if x is None else x, np.float64)
        layout = self.layouts.of(x, expected, None if axis == ABSENT else axis)
        laid = None if layout is None else layout(x)
        if layout is None or laid is None or laid.shape != expected.shape:
            self.misfits.setdefault(name, Misfit(x, expected))
            return None
        return laid, layout

    def _compared(self, actual: np.ndarray, expected: np.ndarray) -> Comparison:
        return compared(actual, expected, self.dtype)


def compared(actual: np.ndarray, expected: np.ndarray, dtype: str) -> Comparison:
    """Two wide arrays, in eps of the dtype that the candidate computed in."""
    held = compare_arrays(actual.astype(np.float64), expected.astype(np.float64), dtype="float64", measure="l2")
    return replace(held, error=held.error * EPS["float64"] / EPS[dtype], dtype=dtype)


def moved_from(graph: Graph, use: Use) -> tuple[int, ...]:
    """What a use is given and, of a convolution, what that was before it was padded, the nearest first."""
    found, made, fed_values = [use.given], makers(graph), fed_by_images(graph)
    for value in found:
        if use.kind == "convolution" and value in made and graph.operations[made[value]].kind == "move":
            found += [x for x in graph.operations[made[value]].inputs if x in fed_values and x not in found]
    sizes = {prod(graph.shapes[value]): value for value in found}  # of one size the one that was made
    return (use.given, *(value for value in sizes.values() if value != use.given))
