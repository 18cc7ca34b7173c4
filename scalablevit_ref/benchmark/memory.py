"""Peak memory of one forward pass, beyond weights and images.

A process of its own for each figure, whose high-water mark is set back after a warm run.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
from pathlib import Path

from scalablevit_ref.benchmark.contenders import Call, Work, prepare

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measurable() -> bool:
    """Whether this system tells a process its high-water mark and can set it back (Linux)."""
    return CLEAR.exists()


def peak(name: str, work: Work, count: int) -> float:
    """Megabytes at the peak of a second forward pass beyond what the process held before it; on a GPU as the library counts."""
    environment = os.environ | {"OMP_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": str(count)}
    command = [sys.executable, "-m", __name__, name, work.variant, str(work.batch), str(work.size), work.dtype, work.device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout)


def _held(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
    assert found
    return int(found[1]) * 1024


def _measure(name: str, work: Work) -> float:
    run = prepare(name, work)
    run()
    gc.collect()
    if work.device != "cpu":
        return _measure_on_gpu(name, run)
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5", encoding="ascii")
    before = _held("VmRSS")
    run()
    return (_held("VmHWM") - before) / 1e6


def _measure_on_gpu(name: str, run: Call) -> float:
    """What the library's own allocator says: the pools of CuPy and JAX keep the most that the first run needed."""
    if name == "cupy":
        import cupy

        pool = cupy.get_default_memory_pool()
        return float(pool.total_bytes() - pool.used_bytes()) / 1e6
    if name == "jax":
        import jax

        found = jax.devices()[0].memory_stats()
        return float(found["peak_bytes_in_use"] - found["bytes_in_use"]) / 1e6
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return float(torch.cuda.max_memory_allocated() - before) / 1e6


if __name__ == "__main__":
    contender, variant, batch, size, dtype, device = sys.argv[1:]
    sys.stdout.write(f"{_measure(contender, Work(variant, int(batch), int(size), dtype, device)):.3f}\n")
