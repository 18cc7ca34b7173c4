"""What is measured in processes of its own: peak memory, the time of the import, and what converting a checkpoint costs."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

from scalablevit_ref.benchmark.contenders import RECORDED, Call, Work, forget_inputs, prepare

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def can_measure_memory() -> bool:
    """Whether this system tells a process its high-water mark and can set it back (Linux)."""
    return CLEAR.exists()


def peak_megabytes(name: str, work: Work, count: int) -> float:
    """Memory at the peak of a second forward pass, in MB, beyond what the process held before that pass. See `memory`."""
    return memory(name, work, count)["peak_megabytes"]


def memory(name: str, work: Work, count: int, folder: Path | None = None) -> dict[str, float]:
    """Memory of a second forward pass with `count` threads, in MB, in a process that does nothing else.

    The process's high-water mark is set back after a warm run. Files that were built before lie in `folder`.

    Returns
    -------
    dict
        `peak_megabytes` is what the pass takes beyond what the process held before it, `process_megabytes` all that the process
        holds at that peak: Python, libraries, weights in whatever form, and what a runtime keeps from pass to pass.

    Raises
    ------
    RuntimeError
        Where the process fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": str(count)}
    command = [sys.executable, "-m", __name__, name, *map(str, astuple(work)), *([str(folder)] if folder else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_memory(name: str, work: Work, folder: Path | None) -> dict[str, float]:
    run = prepare(name, work, folder)
    run()
    forget_inputs()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5", encoding="ascii")
    before = _held("VmRSS")
    run()
    peak = _held("VmHWM")
    return {"peak_megabytes": (peak - before) / 1e6, "process_megabytes": peak / 1e6}


def _held(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
    assert found
    return int(found[1]) * 1024


def peak_megabytes_on_gpu(name: str, run: Call) -> float | None:
    """GPU memory at the peak of a forward pass beyond what is held before it, as the library's own allocator tells it.

    The pools of CuPy and JAX keep the most that an earlier run needed. None for CUDA graphs, which own their memory for good.
    """
    if name == "cupy":
        import cupy

        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        run()
        return float(pool.total_bytes() - pool.used_bytes()) / 1e6
    if name == "jax":
        import jax

        found = jax.devices()[0].memory_stats()
        return float(found["peak_bytes_in_use"] - found["bytes_in_use"]) / 1e6
    if name.endswith(RECORDED):
        return None
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return float(torch.cuda.max_memory_allocated() - before) / 1e6


def import_time(repeats: int = 5) -> dict[str, float]:
    """Seconds that `import scalablevit_ref` takes, NumPy and einops with it and without; the best of some processes."""
    code = (
        "from time import perf_counter as t; a = t(); import numpy, einops; b = t(); import scalablevit_ref; print(b - a, t() - b)"
    )
    command = [sys.executable, "-c", code]
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats)]
    found = [[float(word) for word in line.split()] for line in printed]
    return {"total": min(a + b for a, b in found), "beyond_numpy_and_einops": min(b for _, b in found)}


_CONVERT = """
import json, re, resource, sys, time
def peak():
    try:  # getrusage counts what the parent held when it forked
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
start = peak()
from scalablevit_ref.checkpoints.inspect import inspect_file
from scalablevit_ref.checkpoints.convert import convert_file
from pathlib import Path
begin = time.perf_counter()
inspect_file(Path(sys.argv[1]))
inspected = time.perf_counter()
convert_file(sys.argv[1], sys.argv[2], force=True)
converted = time.perf_counter()
print(json.dumps([inspected - begin, converted - inspected, (peak() - start) / 1e6]))
"""
"""The program that inspects and converts a file: it measures its memory from before the first import."""


def conversion(name: str = "large", folder: str | os.PathLike[str] | None = None, *, repeats: int = 3) -> dict[str, Any]:
    """Convert a variant's `.pth` (written with torch) to safetensors and copy it, in turn; the best time of each.

    Parameters
    ----------
    name
        The variant.
    folder
        Where the files lie meanwhile; the system's own for such files if not given.
    repeats
        Processes, and copies.

    Returns
    -------
    dict
        `copy_seconds` is of a copy as durable as the conversion, written through to the disk; `plain_copy_seconds` of one that is
        not. `megabytes_of_memory` is the most that the converting process held, libraries included, beyond the bare interpreter.
    """
    from scalablevit_ref.checkpoints.save import save_checkpoint
    from scalablevit_ref.config import variant
    from scalablevit_ref.parameters import init_params

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, copy, target = (Path(temporary) / file for file in ("source.pth", "copy.pth", "target.safetensors"))
        config = variant(name)
        save_checkpoint(source, init_params(config), config)
        plain, durable, figures = [], [], []
        for _ in range(repeats):
            copy.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            start = time.perf_counter()
            shutil.copyfile(source, copy)
            plain.append(time.perf_counter() - start)
            with copy.open("rb+") as file:
                os.fsync(file.fileno())
            durable.append(time.perf_counter() - start)
            command = [sys.executable, "-c", _CONVERT, str(source), str(target)]
            figures.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        size = source.stat().st_size
    inspected, converted, memory = (min(figure[i] for figure in figures) for i in range(3))
    return {
        "variant": name,
        "megabytes": size / 1e6,
        "copy_seconds": min(durable),
        "plain_copy_seconds": min(plain),
        "convert_seconds": converted,
        "ratio": converted / min(durable),
        "inspect_seconds": inspected,
        "megabytes_of_memory": memory,
    }


if __name__ == "__main__":
    contender, variant_name, batch, size, dtype, device, *where = sys.argv[1:]
    asked = Work(variant_name, int(batch), int(size), dtype, device)
    sys.stdout.write(f"{json.dumps(_measure_memory(contender, asked, Path(where[0]) if where else None))}\n")
