"""One document of a benchmark's figures."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scalablevit_ref.benchmark import memory
from scalablevit_ref.benchmark.contenders import MODULE, Work, logits, multiply_adds, prepare, why_absent
from scalablevit_ref.benchmark.timing import interleaved, matmul_peak, ratio, spread
from scalablevit_ref.testing.arrays import relative_l2

Step = Callable[[str], None]


def machine(count: int) -> dict[str, Any]:
    """What ran and on what."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": count,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in ("scalablevit-ref", *_LIBRARIES) if (found := _version(name))},
    }


_LIBRARIES = ("numpy", "einops", "torch", "jax", "cupy-cuda12x", "cupy-cuda13x", "vit-pytorch")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def gpu() -> str | None:
    """The GPU's name, or None."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def forward_passes(
    work: Work, contenders: Iterable[str], *, matmul: float, rounds: int, count: int, peaks: bool, step: Step
) -> list[dict[str, Any]]:
    """One row for each contender: times in turn with the plain module, ratio, share of the matmul peak and memory; or why not.

    matmul: multiply-adds a second of a large matrix product here. peaks: measure memory too.
    """
    rows: dict[str, dict[str, Any]] = {}
    calls = {}
    for name in (MODULE, *contenders):
        step(f"{work.variant} x {work.batch}: {name}")
        rows[name] = {"contender": name, "variant": work.variant, "batch": work.batch, "size": work.size}
        rows[name] |= {"dtype": work.dtype, "device": work.device}
        absent = why_absent(name, work)
        if absent:
            rows[name]["absent"] = absent
            continue
        calls[name] = prepare(name, work)
        calls[name]()  # compiles
    step(f"{work.variant} x {work.batch}: in turn")
    seconds = interleaved(calls, rounds)
    expected, work_of_module = logits(calls[MODULE]), multiply_adds(MODULE, work) * work.batch
    for name, times in seconds.items():
        work_done = multiply_adds(name, work) * work.batch
        taken, times_as_fast = spread(times), ratio(seconds[MODULE], times)
        rows[name] |= {"multiply_adds": work_done, "seconds": asdict(taken), "rounds": rounds, "ratio": asdict(times_as_fast)}
        rows[name] |= {"ratio_at_equal_work": times_as_fast.median * work_done / work_of_module}
        rows[name] |= {"share_of_matmul_peak": work_done / taken.median / matmul}
        if name != "vit_pytorch":  # which is another network, with weights of its own
            rows[name]["difference"] = relative_l2(logits(calls[name]), expected)
        if peaks and memory.measurable():
            step(f"{work.variant} x {work.batch}: memory of {name}")
            rows[name]["peak_megabytes"] = memory.peak(name, work, count)
    return list(rows.values())


def import_time(repeats: int = 5) -> dict[str, float]:
    """Seconds that `import scalablevit_ref` takes in a fresh process, NumPy and einops with it and without; the best of some."""
    code = (
        "from time import perf_counter as t; a = t(); import numpy, einops; b = t(); import scalablevit_ref; print(b - a, t() - b)"
    )
    command = [sys.executable, "-c", code]
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats)]
    found = [[float(word) for word in line.split()] for line in printed]
    return {"total": min(a + b for a, b in found), "beyond_numpy_and_einops": min(b for _, b in found)}


def document(
    works: Sequence[Work], contenders: Sequence[str], *, rounds: int, count: int, full: bool, step: Step
) -> dict[str, Any]:
    """All figures. full: with memory, growth, import and conversion."""
    from scalablevit_ref.benchmark.conversion import conversion
    from scalablevit_ref.benchmark.growth import growth

    found: dict[str, Any] = {"machine": machine(count), "gpu": gpu()}
    step("matrix product")
    products = {kind: matmul_peak(*kind) for kind in dict.fromkeys((work.dtype, work.device) for work in works)}
    found["matmul_gflops"] = {" ".join(kind): 2 * product / 1e9 for kind, product in products.items()}
    found["forward"] = []
    for work in works:
        product = products[work.dtype, work.device]
        found["forward"] += forward_passes(work, contenders, matmul=product, rounds=rounds, count=count, peaks=full, step=step)
    if full:
        step("growth")
        found["growth"] = growth(works[0].variant)
        step("import")
        found["import"] = import_time()
        step("conversion")
        found["conversion"] = conversion()
    return found
