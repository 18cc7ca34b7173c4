"""What comes of a row of the endurance table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """done: what was done, with its figures, for the table. wrong: what should not be, one line each."""

    done: str = ""
    wrong: list[str] = field(default_factory=list)


def share(count: float, much: float) -> int:
    """So much of a count, and at least two."""
    return max(2, round(count * much))
