"""How busy the machine is with other work, and whether figures that were taken meanwhile can be held against each other.

Threads that share a product wait for each other. Where another process takes a core away from one of them, all the others wait,
most in a loop that keeps their cores busy: a tenth of other work can make one library ten times as slow, and another not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from scalablevit_ref.backends.threads import cores

LIMIT = 0.1
"""Most of the cores' time that other processes may take of a run whose ratios are told, as a share of 1."""

LOOK = 0.5
"""Seconds over which the load is measured before a run."""

QUIET = 5.0
"""Seconds that a machine must have been quiet for, before a run begins that waits for it."""

TELL = 5.0
"""Seconds from one line about the waiting to the next."""

PROC = Path("/proc")

TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Units of time in a second that the system counts in."""


@dataclass(frozen=True)
class Ticks:
    """What the system has counted since it began, in seconds."""

    moment: float
    busy: float  # of the cores that this process may use, by whomever, and by the host's other machines
    own: float  # of this process and all that it started


def ticks() -> Ticks | None:
    """As they are now, or None where the system does not say (all but Linux)."""
    try:
        mine = {f"cpu{core}" for core in cores()}
        lines = [line.split() for line in (PROC / "stat").read_text(encoding="ascii").splitlines()]
        counted = [[int(word) for word in words[1:9]] for words in lines if words[0] in mine]
        if not counted:
            return None
        busy = sum(user + nice + system + irq + soft + steal for user, nice, system, _, _, irq, soft, steal in counted)
        return Ticks(time.perf_counter(), busy / TICK, _tree() / TICK)
    except (OSError, ValueError, IndexError):
        return None


def _tree() -> int:
    """Ticks of this process and its descendants: those that have ended count for whoever waited for them."""
    parents, spent = {}, {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(folder.name)], spent[int(folder.name)] = int(words[1]), sum(map(int, words[11:15]))
    own = {os.getpid()}
    while grown := {process for process, parent in parents.items() if parent in own} - own:
        own |= grown
    return sum(spent.get(process, 0) for process in own)


def others(since: Ticks | None, now: Ticks | None) -> float | None:
    """The share of the cores' time between two moments that went to other processes, 0 to 1; None where it is not known."""
    if since is None or now is None or now.moment <= since.moment:
        return None
    spent = now.busy - since.busy - (now.own - since.own)
    return min(1.0, max(0.0, spent / ((now.moment - since.moment) * len(cores()))))


def load_now(seconds: float = LOOK) -> float | None:
    """The share of the cores' time that other processes take, over the next so many seconds."""
    before = ticks()
    time.sleep(seconds)
    return others(before, ticks())


def wait_until_quiet(
    longest: float, step: Callable[[str], None], look: Callable[[], float | None] = lambda: load_now(1.0)
) -> tuple[float, bool]:
    """Wait until other processes have left the cores alone for `QUIET` seconds, at most so many seconds.

    `step` is told how busy the machine is, and `look` says it, after a second or so.

    Returns
    -------
    tuple
        The seconds that were waited, and whether the machine was quiet then. Where its load is not known, nobody waits.
    """
    begin = time.perf_counter()
    quiet_since, told = begin, begin - TELL
    while True:
        load = look()
        now = time.perf_counter()
        if load is None:
            return now - begin, False
        if load > LIMIT:
            quiet_since = now
        elif now - quiet_since >= min(QUIET, longest):
            return now - begin, True
        if now - begin >= longest:
            return now - begin, False
        if now - told >= TELL:
            step(f"waiting: other processes take {load:.0%} of the cores' time; {longest - (now - begin):.0f} s left to wait")
            told = now


def disturbances(before: float | None, during: float | None, unserved: float | None) -> list[str]:
    """Why a run's figures cannot be held against each other, each in a line; none if they can.

    Parameters
    ----------
    before, during
        The share of the cores' time that other processes took.
    unserved
        The share of the time, of runs on one thread, in which that thread did not run.
    """
    said = []
    for share, when in ((before, "before the run"), (during, "during the run")):
        if share is not None and share > LIMIT:
            said.append(f"other processes took {share:.0%} of the cores' time {when}")
    if unserved is not None and unserved > LIMIT:
        said.append(f"the one thread did not run for {unserved:.0%} of the time")
    return said


def unserved(wall: Iterable[float], processor: Iterable[float]) -> float:
    """The share of seconds passed in which a single thread did not run, from those and the processor's seconds."""
    passed = sum(wall)
    return max(0.0, 1 - sum(processor) / passed) if passed else 0.0
