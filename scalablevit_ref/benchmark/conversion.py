"""What converting a checkpoint costs: time beside that of copying the file, and memory beyond the interpreter's start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scalablevit_ref.checkpoints.save import save_checkpoint
from scalablevit_ref.config import variant
from scalablevit_ref.parameters import init_params

_PROGRAM = """
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


def conversion(name: str = "large", folder: str | os.PathLike[str] | None = None, *, repeats: int = 3) -> dict[str, Any]:
    """Convert a variant's `.pth` (written with torch) to safetensors and copy it, in turn; the best time of each.

    copy_seconds is of a copy as durable as the conversion, written through to the disk; plain_copy_seconds of one that is not.
    megabytes_of_memory: the most that the converting process held, libraries included, beyond the bare interpreter.
    """
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
            command = [sys.executable, "-c", _PROGRAM, str(source), str(target)]
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
