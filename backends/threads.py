"""Work shared out among threads, as many as BLAS has: NumPy works without Python's lock, but on one core.

Meanwhile BLAS runs each product in the thread that asks for it: its own threads would spin for the cores between two products.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock, local
from typing import Any


def share(work: Callable[[Any], None], parts: Sequence[Any]) -> None:
    """Call `work` for each of the parts, in as many threads as are at hand. They take tenths of a second, or are not worth it.

    Measured: a task of a millisecond is over before the system has moved its thread to an idle core.
    """
    threads = min(threads_at_hand(), len(parts))
    if threads == 1:
        for part in parts:
            work(part)
        return

    def run(first: int) -> None:
        _here.shared = True
        try:
            for part in parts[first::threads]:
                work(part)
        finally:
            _here.shared = False

    with _one_thread_of_blas():
        others = [_pool().submit(run, first) for first in range(1, threads)]
        run(0)
        for other in others:
            other.result()


def threads_at_hand() -> int:
    """One inside of shared work; else as OpenBLAS counts: its variable, OpenMP's, or the cores that the process may use."""
    if getattr(_here, "shared", False):
        return 1
    most = len(cores())
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        count = os.environ.get(name, "").partition(",")[0]
        if count.isdecimal() and int(count):
            return min(int(count), most)
    return most


def cores() -> list[int]:
    """Those that the process may use, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


_here = local()


@cache
def _pool() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(thread_name_prefix="scalablevit_ref")


@cache
def _blas() -> list[Any]:
    """The libraries that multiply for NumPy."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library for library in found if "numpy" in library.filepath] or list(found)


_blas_lock = Lock()
_blas_threads: list[int] = []  # as they were before the first of the callers below
_blas_callers = 0


@contextmanager
def _one_thread_of_blas() -> Iterator[None]:
    """The first caller takes BLAS's threads away, the last one gives them back."""
    global _blas_callers
    with _blas_lock:
        if not _blas_callers:
            _blas_threads[:] = [library.get_num_threads() for library in _blas()]
            for library in _blas():
                library.set_num_threads(1)
        _blas_callers += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_callers -= 1
            if not _blas_callers:
                for library, count in zip(_blas(), _blas_threads, strict=True):
                    library.set_num_threads(count)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
