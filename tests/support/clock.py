"""A clock for tests of times: no figure depends on the machine."""

from __future__ import annotations


class Clock:
    """In the place of the module `time`: time passes while somebody sleeps, and by nothing else."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
