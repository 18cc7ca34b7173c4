"""CUDA kernels on the host: their own source, compiled as C++, one thread after the other.

A kernel's lanes of a row become one lane (`LANES` = 1), so that the shuffles between lanes are all that is not run.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HOST = """
#include <cmath>
#include <cstdlib>
using std::erfc; using std::exp; using std::fmax; using std::sqrt;
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, blockDim, threadIdx, gridDim;
#define __global__
#define __device__ static
static REAL __shfl_xor_sync(unsigned, REAL, int) { std::abort(); }
"""
LAUNCHER = """
extern "C" void launch_{name}(unsigned grid, unsigned block, {declared}) {{
    gridDim.x = grid; blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) {name}({given});
}}
"""
SIGNATURE = re.compile(r'extern "C" __global__ void (\w+)\((?:\s*//[^\n]*)?([^)]*)\)')


def signatures(code: str) -> dict[str, list[tuple[str, str]]]:
    """Each kernel's parameters, as (type, name)."""
    found = {}
    for name, declared in SIGNATURE.findall(code):
        pairs = [re.fullmatch(r"(.*?)\s*(\w+)", " ".join(part.split())) for part in declared.split(",")]
        found[name] = [(pair[1], pair[2]) for pair in pairs if pair]
    return found


@cache
def built(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels as a library of the host's."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("CuPy's stand-in runs its kernels through a C++ compiler: install g++ or clang++")
    launchers = [
        LAUNCHER.format(name=name, declared=", ".join(map(" ".join, pairs)), given=", ".join(word for _, word in pairs))
        for name, pairs in signatures(code).items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text("\n".join([HOST, code, *launchers]), encoding="utf-8")
        command = [compiler, "-O1", "-std=c++17", "-shared", "-fPIC", "-DLANES=1", *options, str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))
