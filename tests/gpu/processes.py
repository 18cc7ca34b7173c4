"""Processes that end in time: each has a moment by which it is killed, with all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX would take three quarters of the GPU's memory in each process
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Many processes share the processor and the GPU."""


QUICKLY = {"cpu": {}, "cuda": {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}}
"""For tests on JAX: it takes the first product that a GPU offers. On a CPU `tests.support.compiling` says what it leaves out."""


@contextmanager
def python(arguments: Sequence[str], until: float, log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`python ARGUMENTS` from the repository's root, in a session of its own that is killed at the moment `until` (`time.time`)."""
    with (
        log.open("a", encoding="utf-8") as said,
        subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=ROOT,
            env=environment_with(environment),
            start_new_session=True,
        ) as process,
    ):
        try:
            with stopped_at(process, until):
                yield process
        finally:
            kill(process)


@contextmanager
def stopped_at(process: subprocess.Popen[str], moment: float) -> Iterator[None]:
    """The process is killed at that moment, unless the block has ended."""
    timer = threading.Timer(max(0.0, moment - time.time()), kill, [process])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that it prints; nothing if it has ended."""
    assert process.stdout is not None
    return process.stdout.readline()


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, **more}


def kill(process: subprocess.Popen[str]) -> None:
    """The process and those of its session, which it leads, so that nobody else's is in it; unless it has ended by itself."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def last_words(log: Path, most: int = 200) -> str:
    """The last line that a process wrote to its log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip()[:most] if lines else "nothing was said"
