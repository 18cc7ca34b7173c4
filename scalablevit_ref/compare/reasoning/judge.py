"""When something explains a difference: what an explanation may leave."""

from __future__ import annotations

from dataclasses import dataclass

ROUGH = 1e-9
"""Smallest relative l2 error that is asked of a fit in which an exponential, a root or a solved number takes part."""


def tolerance(eps: float) -> float:
    """Relative l2 error of an explanation: 64 eps; 4 eps in 16 bits, where 64 would let anything pass."""
    return eps * (64 if eps < 2.0**-16 else 4)


@dataclass(frozen=True)
class Judge:
    """What an explanation may leave, as relative l2 error: rounding, and at most an eighth of what there is to explain."""

    before: float
    """‖actual − reference‖ / ‖actual‖; infinite where the reference gives nothing of this shape."""
    eps: float

    @property
    def tolerance(self) -> float:
        return tolerance(self.eps)

    def bar(self, *, rough: bool = False) -> float:
        return min(max(self.tolerance, ROUGH) if rough else self.tolerance, self.before / 8)

    def right(self) -> bool:
        """Whether the reference itself explains `actual`."""
        return self.before <= self.tolerance
