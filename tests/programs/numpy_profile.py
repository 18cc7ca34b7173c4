"""`python -m tests.programs.numpy_profile`: where the NumPy backend's time goes, written into `docs/backends.md`.

One thread on one core. Time is the thread's own, which other programs change least; each operation without those inside of it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from scalablevit_ref.backends import numpy as native
from threadpoolctl import threadpool_limits

import scalablevit_ref as sv

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
BEGIN, END = "<!-- where NumPy's time goes -->", "<!-- end -->"
OPERATIONS = ("linear", "attention", "gelu", "layer_norm", "conv2d", "pad")
BATCHES = (1, 8)
PASSES = 5
SIDE = 2048
"""Rows and columns of the matrices whose product is taken for the fastest that this core can multiply."""


@contextmanager
def timed(seconds: Counter[str], flops: Counter[str]) -> Iterator[None]:
    """What each native operation takes, while this lasts, and the floating-point operations of the products."""
    inside: list[float] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(x: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            inside.append(0.0)
            y = function(x, *args, **kwargs)
            took = time.thread_time() - began
            seconds[name] += took - inside.pop()
            if inside:
                inside[-1] += took
            if name == "linear":
                flops[name] += 2 * x.size * y.shape[-1]
            return y

        return run

    originals = {name: getattr(native, name) for name in OPERATIONS}
    for name, function in originals.items():
        setattr(native, name, watched(name, function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(native, name, function)


def profile(images: np.ndarray, params: dict[str, np.ndarray], config: Any) -> tuple[dict[str, float], float]:
    """Milliseconds an image of each operation and of the rest, the largest first, and GFLOP/s of the linear layers."""
    sv.scalable_vit(images, params, config)
    seconds, flops = Counter[str](), Counter[str]()
    began = time.thread_time()
    with timed(seconds, flops):
        for _ in range(PASSES):
            sv.scalable_vit(images, params, config)
    seconds["the rest: sums, and cutting and joining maps"] = time.thread_time() - began - seconds.total()
    each = {name: 1e3 * took / PASSES / len(images) for name, took in seconds.most_common()}
    return each, flops["linear"] / seconds["linear"] / 1e9


def peak() -> float:
    """GFLOP/s of a large product in float32: the best of some."""
    a = np.ones((SIDE, SIDE), np.float32)
    took = []
    for _ in range(PASSES):
        began = time.thread_time()
        a @ a
        took.append(time.thread_time() - began)
    return 2 * SIDE**3 / min(took) / 1e9


def table() -> list[str]:
    config = sv.variant("small")
    params = sv.init_params(config)
    random = np.random.default_rng(0)
    columns = [profile(random.standard_normal((b, 3, 224, 224), np.float32), params, config) for b in BATCHES]
    totals = [sum(each.values()) for each, _ in columns]
    made = f"{time.strftime('%Y-%m-%d')}, NumPy {np.__version__}"
    lines = [
        f"Of `small` at 224 × 224 in float32, one thread, {made}: milliseconds an image.",
        "",
        "| operation | " + " | ".join(f"batch {b}" for b in BATCHES) + " |",
        "|---|" + "---|" * len(BATCHES),
    ]
    for name in columns[-1][0]:
        cells = [f"{each[name]:.1f} ({each[name] / total:.0%})" for (each, _), total in zip(columns, totals, strict=True)]
        lines.append(f"| {f'`{name}`' if name in OPERATIONS else name} | {' | '.join(cells)} |")
    lines.append("| all | " + " | ".join(f"{total:.1f}" for total in totals) + " |")
    speeds = " and ".join(f"{speed:.0f}" for _, speed in columns)
    return [*lines, "", f"The linear layers, their biases included, reach {speeds} GFLOP/s of the {peak():.0f} of a large product."]


def main() -> None:
    """Measure on the last core that this process may use, and write the table between its marks."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with threadpool_limits(1):
        lines = table()
    page = PAGE.read_text(encoding="utf-8")
    marked = "\n".join([BEGIN, "", *lines, "", END])
    found, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: marked, page, flags=re.DOTALL)
    if not count:
        sys.exit(f"{PAGE.name} has no {BEGIN}")
    PAGE.write_text(found, encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
