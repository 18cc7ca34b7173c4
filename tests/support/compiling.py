"""How JAX and tinygrad compile in the tests: quickly, whatever their code takes to run, and what was compiled before not again."""

from __future__ import annotations

import mmap
import os
import zlib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}
"""A Flax module of 400 operations, each compiled by itself, takes 11 seconds of processor time without these, 7 with them."""


def compile_quickly() -> None:
    """Set what JAX and tinygrad read from the environment when they are imported, here and in the processes that tests start.

    What is compiled is kept in `.jax_cache` and `.tinygrad_cache`, which takes a third off the time of the tests on JAX in the next
    run; tinygrad would keep it in the user's folder. `sharded.py` runs with all of XLA's optimisation.
    """
    os.environ.setdefault("CACHEDB", str(KERNELS))
    library = find_spec("jaxlib")
    if library is None or library.origin is None or os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS"):
        return
    flags = [f"--{flag}={value}" for flag, value in FLAGS.items() if in_library(flag, Path(library.origin).parent)]
    kept = ROOT / ".jax_cache" / processor()
    os.environ |= {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip(),
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(kept)),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def in_library(flag: str, folder: Path) -> bool:
    """Whether this XLA has the option: its library holds the name, as a string of its own. An unknown one ends the process."""
    for file in folder.glob("*.so"):
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"\0%b\0" % flag.encode()) >= 0:
                return True
    return False


def processor() -> str:
    """A name for what this machine's processor can do: compiled code is for one that can do the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "any"
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return f"{zlib.crc32(''.join(features).encode()):08x}"


KERNELS = ROOT / ".tinygrad_cache" / processor() / "kernels.db"
"""Where tinygrad keeps what it has compiled."""
