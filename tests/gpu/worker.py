"""One work of the benchmark in a process of its own: it compiles beside the others, and is timed alone, when it is told to.

It prints a line when it is ready, reads the rate of a large matrix product, and prints its rows.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from scalablevit_ref.benchmark.contenders import MODULE, Contender, Work, entered, oracle
from scalablevit_ref.benchmark.measure import in_turn

SHORTEST = 3.0
"""Seconds that must be left for a contender to be begun."""


def main(asked: dict[str, Any], out: TextIO) -> None:
    work, names = Work(**asked["work"]), [MODULE, *asked["contenders"]]
    ready, absent, failed, seconds = enter(names, work, asked["until"])
    oracle(work)
    if work.device != "cpu":
        release(names)
    out.write(f"{json.dumps({'ready': list(ready), 'seconds': seconds})}\n")
    out.flush()
    matmul = float(sys.stdin.readline())
    rows = in_turn(
        work, names, ready, absent, failed, matmul=matmul, rounds=asked["rounds"], count=1, peaks=True, step=lambda what: None
    )
    rows = [row | {"first_run_seconds": seconds[row["contender"]]} for row in rows]
    out.write(f"{json.dumps(rows)}\n")
    out.flush()


def enter(
    names: Sequence[str], work: Work, until: float
) -> tuple[dict[str, Contender], dict[str, str], dict[str, str], Mapping[str, float]]:
    """As `entered`, and the seconds that each took; what is not ready at the moment `until` has failed."""
    found: tuple[dict[str, Contender], dict[str, str], dict[str, str]] = ({}, {}, {})
    seconds = {}
    for name in names:
        start = time.time()
        if name != MODULE and until - start < SHORTEST:
            found[2][name] = "not begun: no time left"
        else:
            with stopped(until - start + SHORTEST * (name == MODULE) * 10):
                for all_of_them, new in zip(found, entered([name], work, lambda what: None), strict=True):
                    all_of_them.update(new)  # type: ignore[arg-type]
        seconds[name] = round(time.time() - start, 2)
    return *found, seconds


@contextmanager
def stopped(after: float) -> Iterator[None]:
    """TimeoutError when so many seconds have passed, as soon as Python code runs again."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"not ready after {after:.0f} s, with other processes beside it")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(after, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def release(names: Sequence[str]) -> None:
    """Give back the GPU memory that nobody holds, and end the compiler's processes: others are timed beside this one."""
    gc.collect()
    if "cupy" in names and "cupy" in sys.modules:
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()
    import torch
    from torch._inductor.async_compile import shutdown_compile_workers

    torch.cuda.empty_cache()
    shutdown_compile_workers()


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print goes to the log
    main(json.loads(sys.argv[1]), own)
