"""The rows of the table, in its order."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.endurance.outcome import Outcome


class Row(NamedTuple):
    """what: as the page says it. forks: whether it runs with one thread. run: takes how much of it is done, of 1."""

    what: str
    forks: bool
    run: Callable[[float], Outcome]


def _late(module: str, name: str) -> Callable[[float], Outcome]:
    """A function whose module is loaded in the process that runs it."""

    def run(much: float) -> Outcome:
        from importlib import import_module

        found: Outcome = getattr(import_module(f"tests.endurance.{module}"), name)(much)
        return found

    return run


ROWS = {
    "threads": Row("16 threads on mixed backends give the bits of one thread", False, _late("load", "threads")),
    "spawn": Row("a process started after use computes the same", False, _late("load", "spawned")),
    "fork": Row("a process forked after use", False, _late("load", "forks")),
    "passes": Row("forward passes, without growth of memory or descriptors", False, _late("load", "passes")),
    "loads": Row("loads of every format, likewise", False, _late("load", "loads")),
    "kills": Row("killed at drawn moments: every target is old, or whole, or absent", True, _late("writing", "kills")),
    "full": Row("a disk that is full at every byte of a small write", True, _late("writing", "full_at_every_byte")),
    "full_commands": Row(
        "a disk that is full at drawn bytes, for every command that writes", True, _late("writing", "full_for_commands")
    ),
    "writers": Row("two writers to one name", True, _late("writing", "two_writers")),
    "sources": Row("a source that changes while it is read", True, _late("reading", "changing")),
}
