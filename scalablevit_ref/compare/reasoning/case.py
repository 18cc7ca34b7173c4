"""A pair of arrays with everything that may explain its difference, and what counts as an explanation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np

from scalablevit_ref.compare.reasoning.judge import Judge, tolerance

THE_INPUT = "the input"
"""The word in `given` for what the step is applied to."""

SAMPLE = 2048
"""Numbers of an array that are looked at before all of them are."""


@dataclass(frozen=True)
class Case:
    """The candidate's value and the reference's, as maps b h w c, with what else is known of the step.

    Tokens b n c are a map of width 1, vectors b c a map of one token.
    """

    actual: np.ndarray
    expected: np.ndarray
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    num_heads: int | None = None
    window_size: int | None = None
    gain: np.ndarray | None = None
    shift: np.ndarray | None = None
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    eps: float = 2.0**-52

    @cached_property
    def tolerance(self) -> float:
        """Relative l2 error of an explanation."""
        return tolerance(self.eps)

    @cached_property
    def size(self) -> float:
        return float(np.linalg.norm(self.actual)) or 1.0

    @cached_property
    def before(self) -> float:
        """‖actual − expected‖ / ‖actual‖: what there is to explain."""
        return float(np.linalg.norm(self.actual - self.expected)) / self.size

    @cached_property
    def bar(self) -> float:
        """What an explanation may leave: rounding, and never more than an eighth of what there is to explain."""
        return Judge(self.before, self.eps).bar()

    @cached_property
    def spread(self) -> float:
        """Root mean square of the candidate's numbers."""
        return self.size / float(np.sqrt(self.actual.size))

    @cached_property
    def same_grid(self) -> dict[str, np.ndarray]:
        """The given values that have the candidate's shape."""
        return {name: value for name, value in self.given.items() if value.shape == self.actual.shape}

    @property
    def channels(self) -> int:
        return int(self.actual.shape[-1])

    @cached_property
    def tokens(self) -> int:
        return self.actual.size // self.channels

    def left(self, explained: np.ndarray) -> float:
        return float(np.linalg.norm(self.actual - explained)) / self.size

    def explains(self, explained: np.ndarray) -> float | None:
        """What this explanation leaves, if it is one."""
        left = self.left(explained)
        return left if left <= self.bar else None

    def part(self, *places: np.ndarray | slice) -> Case:
        """The same case of some images, rows, columns and channels; parameters that belong to all channels are dropped."""

        def cut(value: np.ndarray) -> np.ndarray:
            for axis, place in enumerate(places):
                value = value[(slice(None),) * axis + (place,)]
            return value

        given = {name: cut(value) for name, value in self.same_grid.items()}
        bare = replace(self, actual=cut(self.actual), expected=cut(self.expected), given=given, num_heads=None, window_size=None)
        return replace(bare, gain=None, shift=None, weight=None, bias=None, vectors={})

    def sources(self) -> Iterator[tuple[str, np.ndarray]]:
        """The reference's value, then the given ones of its shape."""
        yield REFERENCE, self.expected
        yield from self.same_grid.items()


REFERENCE = "the reference's value"


def flat(x: np.ndarray) -> np.ndarray:
    """b h w c -> (b h w) c."""
    return x.reshape(-1, x.shape[-1])


@cache
def sampled(count: int, most: int) -> np.ndarray:
    """At most so many places of `count`, irregularly spread, always the same ones, in ascending order."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.random.default_rng(count).integers(0, count, most))
