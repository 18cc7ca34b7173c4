"""Times taken in turn, and what can be said of their ratio."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from scalablevit_ref.backends.threads import cores
from scalablevit_ref.benchmark.contenders import Call

PAUSE = 0.03
"""Seconds between two runs, in which the idle threads of the library that ran last go to sleep and leave the cores to the next."""


@dataclass(frozen=True)
class Spread:
    """A median, and the bounds that whoever gives it names."""

    median: float
    low: float
    high: float


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; within a round every call runs once, in a random order. Each is warmed up by two runs."""
    for call in calls.values():
        for _ in range(2):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(sorted(calls), len(calls)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: Sequence[float]) -> Spread:
    """The median of all runs, and their quartiles."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def ratio(base: Sequence[float], seconds: Sequence[float], draws: int = 2000) -> Spread:
    """base / seconds of the same rounds, so that what slows a whole round down does not count: how many times as fast.

    The median over the rounds, and its 95 % confidence interval (percentile bootstrap).
    """
    paired = np.asarray(base) / np.asarray(seconds)
    drawn = np.random.default_rng(0).choice(paired, (draws, len(paired)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Spread(float(np.median(paired)), float(low), float(high))


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """The same number of threads for every library: BLAS, PyTorch, the NumPy backend, and by the cores allowed JAX, if not begun.

    None: as many as there are cores. Yields the number.
    """
    at_hand = cores()
    count = count or len(at_hand)
    if count > len(at_hand):
        raise ValueError(f"--threads must be at most {len(at_hand)}, the cores there are, got {count}")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, at_hand[:count])
    from threadpoolctl import threadpool_limits

    with suppress(ImportError):
        import torch

        torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield count
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, at_hand)


def matmul_peak(dtype: str, device: str = "cpu", *, side: int = 2048, repeats: int = 8) -> float:
    """Multiply-adds a second of a square matrix product, the best of some runs and, on a CPU, of NumPy and PyTorch."""
    import torch

    place = {"device": device, "dtype": getattr(torch, dtype)}
    a, b = torch.randn(side, side, **place), torch.randn(side, side, **place)
    products: list[Call] = [lambda: (a @ b)[0, 0].item()]
    if device == "cpu" and dtype != "bfloat16":
        x, y = a.numpy(), b.numpy()
        products.append(lambda: x @ y)
    best = min(second for seconds in interleaved(dict(zip("ab", products, strict=False)), repeats).values() for second in seconds)
    return side**3 / best
