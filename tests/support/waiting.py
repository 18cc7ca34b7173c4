"""Limits of time that no load and no slow machine breaks: for what may hang, and for what must be quick."""

from __future__ import annotations

import json
import time

HANGS = 1800
"""Seconds after which a process or a thread is taken to hang. What is waited for takes less than one minute of an idle machine."""

USUAL = 0.04
"""Seconds of processor time that the work of `slowness` takes on the machine on which limits of processor time were set."""


def slowness() -> float:
    """How many times as slow as usual this machine is now, at least 1: a limit of processor time is multiplied by it.

    Other work slows down processor time as well, by its share of the caches and of the core; both are measured together.
    """
    start = time.process_time()
    for _ in range(5):
        tree = {f"stages.{i}": [i, str(i), {"shape": (i, i)}] for i in range(4000)}
        json.loads(json.dumps(tree))
    return max(1.0, (time.process_time() - start) / USUAL)
