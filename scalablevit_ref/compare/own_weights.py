"""The weights that a module came with, beside those that they should be: which differ, and by what slip of a conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend
from scalablevit_ref.parameters import is_gain
from scalablevit_ref.testing.arrays import EPS, relative_l2

MOST_NAMES = 3
"""Parameters of one slip that are named one by one."""

UNRELATED = 0.5
"""Least relative error of weights that have nothing to do with each other."""

NOT_LOADED = "they have nothing to do with the file's (not loaded?)"
ONES = "they are ones (not loaded?)"
ZEROS = "they are zeros"
NEARBY = "they are near the file's (trained on?)"
FRESH = frozenset({NOT_LOADED, ONES, ZEROS, NEARBY})
"""Slips of what is as a new module has it, be it one from which the file was trained."""

FEWEST = 32
"""Fewest values of a parameter that is near the file's, or a multiple of it, by more than chance."""


@dataclass(frozen=True)
class Slip:
    """Parameters that went wrong in the same way.

    Attributes
    ----------
    words
        What the module's own are beside the file's: "transposed".
    names
        Official names.
    harmless
        Whether the module still computes the same, but for rounding.
    """

    words: str
    names: tuple[str, ...]
    harmless: bool = False

    def __str__(self) -> str:
        some = ", ".join(self.names[:MOST_NAMES])
        more = f" and {len(self.names) - MOST_NAMES} more" if self.names[MOST_NAMES:] else ""
        return f"{some}{more}: {self.words}"


@dataclass(frozen=True)
class OwnWeights:
    """What a module's own weights are beside the given ones.

    Attributes
    ----------
    slips
        What differs; empty if nothing does.
    equal, count
        How many parameters that tell anything are equal, and how many there are. Gains of ones and biases of zeros tell nothing.
    kin
        How many others come from the file's, by so many values that it is no chance.
    """

    slips: tuple[Slip, ...]
    equal: int
    count: int
    kin: int

    @property
    def loaded(self) -> bool:
        """Whether somebody meant to load the given weights: some of the module's are these, or come from these."""
        return bool(self.equal or self.kin)

    @property
    def wrong(self) -> bool:
        """Whether the module, as it came, computes something else."""
        return self.loaded and any(not slip.harmless for slip in self.slips)

    def lines(self, file: str) -> list[str]:
        """What to tell of it. file: what the given weights are called."""
        if not self.slips:
            return []
        if not self.loaded:
            return [f"the module came with none of {file}'s weights; they were put into a copy of it for this comparison"]
        return [f"the module's own weights differ from {file}'s in {slip}" for slip in self.slips]


def own_weights(own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> OwnWeights:
    """Both by official names, of the same shapes."""
    found: dict[tuple[str, bool], list[str]] = {}
    telling = {name for name, x in given.items() if name in own and _tells(x)}
    equal = {
        name for name in given if name in own and np.array_equal(own[name], given[name].astype(own[name].dtype), equal_nan=True)
    }
    for name in given:
        if name in own and name not in equal:
            found.setdefault(_slip(name, own[name], given), []).append(name)
    order = Counter({key: len(names) for key, names in found.items()})
    slips = tuple(Slip(words, tuple(found[words, harmless]), harmless) for (words, harmless), _ in order.most_common())
    kin = sum(own[name].size >= FEWEST for slip in slips if slip.words not in FRESH for name in slip.names)
    return OwnWeights(slips, len(equal & telling), len(telling), kin)


def _tells(x: np.ndarray) -> bool:
    return bool(x.size > 1 and (x != x.flat[0]).any())


def _slip(name: str, own: np.ndarray, given: Mapping[str, np.ndarray]) -> tuple[str, bool]:
    """What happened to this parameter, in words, and whether it is rounding only."""
    x, y = own.astype(np.float64), given[name].astype(np.float64)
    if _near(x, y):
        for dtype in ("float32", "float16", "bfloat16"):
            if relative_l2(x, to_backend(given[name], "numpy", dtype).astype(np.float64)) <= EPS["float32"]:
                return f"they are rounded to {dtype}", True
        return "they are near the file's (rounded, or trained on?)", False
    same = _same_numbers(x, y)
    for words, moved in moves(y) if same else ():
        if moved.shape == x.shape and relative_l2(x, moved) <= EPS["bfloat16"]:
            return words, False
    for other, z in given.items():
        if other != name and z.shape == x.shape and _tells(z) and _near(x, z.astype(np.float64)):
            return f"they are those of {other}", False
    if same and _near(np.sort(x, axis=None), np.sort(y, axis=None)):
        return "the same numbers in another order", False
    factor = float((x * y).sum() / max(float((y * y).sum()), 1e-300))
    if abs(factor) > 1e-3 and relative_l2(x, factor * y) <= EPS["bfloat16"]:
        return f"they are {factor:.4g} times the file's", False
    if not x.any():
        return ZEROS, False
    if is_gain(name) and (x == 1).all():
        return ONES, False
    if relative_l2(x - y.mean(), y - y.mean()) < UNRELATED:
        return NEARBY, False
    return NOT_LOADED, False


def _same_numbers(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether they may be the same numbers in another order, or with other signs: sums tell most pairs apart."""
    size = 8 * EPS["bfloat16"] * float(np.linalg.norm(y))
    return abs(abs(float(x.sum())) - abs(float(y.sum()))) <= size and bool(np.isclose((x * x).sum(), (y * y).sum(), rtol=0.02))


def _near(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal but for rounding to 16 bits; a few numbers tell most pairs apart."""
    few = np.s_[:64]
    return bool(np.allclose(x.flat[few], y.flat[few], rtol=0.02, atol=1e-6)) and relative_l2(x, y) <= EPS["bfloat16"]


def moves(y: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What a conversion may do to a parameter, in words."""
    if y.ndim >= 2:
        yield "they are transposed", y.swapaxes(0, 1)
        yield "they are reshaped where they should be transposed", np.ascontiguousarray(y.swapaxes(0, 1)).reshape(y.shape)
        yield "they are transposed and then reshaped", y.T.reshape(y.shape)
    if y.ndim == 4:
        if y.shape[1] == 3:
            yield "their input channels are reversed (BGR for RGB)", y[:, ::-1]
        yield "their kernels have H and W swapped", y.swapaxes(2, 3)
        yield "their kernels are flipped", y[:, :, ::-1, ::-1]
        turns: tuple[tuple[str, Callable[[Any], Any]], ...] = (
            ("o i h w read as h w i o", lambda a: a.transpose(2, 3, 1, 0).reshape(a.shape)),
            ("h w i o read as o i h w", lambda a: a.reshape(a.shape[2], a.shape[3], a.shape[1], a.shape[0]).transpose(3, 2, 0, 1)),
        )
        for words, turn in turns:
            yield f"they are {words}", turn(y)
    for parts, what in ((3, "thirds"), (2, "halves")):
        if len(y) % parts == 0 and len(y) > parts:
            blocks = np.split(y, parts)
            yield f"their {what} are in reverse order", np.concatenate(blocks[::-1])
            if parts == 3:
                yield "their thirds are rotated (k, v, q)", np.concatenate([*blocks[1:], blocks[0]])
                yield "their thirds are rotated (v, q, k)", np.concatenate([blocks[2], *blocks[:2]])
                yield "their first two thirds are interchanged (k, q, v)", np.concatenate([blocks[1], blocks[0], blocks[2]])
                yield "their last two thirds are interchanged (q, v, k)", np.concatenate([blocks[0], blocks[2], blocks[1]])
            interleaved = y.reshape(parts, len(y) // parts, *y.shape[1:]).swapaxes(0, 1).reshape(y.shape)
            yield f"their {what} are interleaved", interleaved
    yield "their sign is changed", -y
