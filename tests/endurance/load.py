"""Threads, processes and long runs: the same bits, and no growth."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.save import WRITERS as SUFFIXES
from scalablevit_ref.testing import random_images, random_params
from tests.endurance.commands import TINY
from tests.endurance.outcome import Outcome, share
from tests.support.cupy_stand_in import cupy_stand_in
from tests.support.waiting import HANGS

THREADS = 16
CALLS = 40
"""Calls of each thread, of backends that a seed draws."""

PASSES = 2000
"""Forward passes, of all backends together."""

LOADS = 500
"""Loads, of all formats together."""

GROWTH = 2 << 20
"""Bytes that the process may grow between the second quarter of a long run and the last one: less than 5 kB a pass."""

HELD = 50
"""Calls of each function between two looks at what Python's objects hold: tracemalloc makes them slow."""

PARAMS = random_params(sv.parameter_shapes(TINY), dtype="float32")
IMAGES = random_images((2, 1, 112, 112), dtype="float32")


@contextmanager
def backends() -> Iterator[dict[str, Callable[[], bytes]]]:
    """Each library that is installed, as a function that computes the network and gives the bits of its logits."""
    with ExitStack() as stack:
        stack.enter_context(cupy_stand_in())
        names = [name for name in ("numpy", "torch", "jax") if find_spec(name)] + ["cupy"]
        moved = {name: (sv.to_backend(IMAGES, name), sv.to_backend(PARAMS, name)) for name in names}
        yield {name: partial(bits, *moved[name]) for name in names}


def bits(images: Any, params: Any) -> bytes:
    return bytes(sv.to_numpy(sv.scalable_vit(images, params, TINY)).tobytes())


def threads(much: float) -> Outcome:
    """All threads at once, each with another order of libraries; between two passes it writes a checkpoint and reads it."""
    outcome, calls = Outcome(), share(CALLS, much)
    with backends() as computes, tempfile.TemporaryDirectory() as temporary:
        expected = {name: compute() for name, compute in computes.items()}
        gate = threading.Barrier(THREADS)

        def work(number: int) -> None:
            rng, path = random.Random(number), Path(temporary) / f"{number}.safetensors"
            gate.wait()
            for i in range(calls):
                name = rng.choice(list(computes))
                if computes[name]() != expected[name]:
                    outcome.wrong.append(f"thread {number}, call {i}: other bits on {name}")
                if i % 10 == 0:
                    sv.save_checkpoint(path, PARAMS, TINY, force=True)
                    found = sv.load_checkpoint(path).params
                    if any((found[name] != x).any() for name, x in PARAMS.items()):
                        outcome.wrong.append(f"thread {number}, call {i}: other weights")

        def noted(number: int) -> None:
            try:
                work(number)
            except BaseException as error:
                outcome.wrong.append(f"thread {number}: {type(error).__name__}: {error}")

        running = [threading.Thread(target=noted, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(HANGS)
        if any(thread.is_alive() for thread in running):
            outcome.wrong.append("threads wait for each other")
    libraries = ", ".join(said(name) for name in computes)
    outcome.done = f"{THREADS * calls} passes on {libraries}, and {THREADS * -(-calls // 10)} checkpoints written and read"
    return outcome


def said(name: str) -> str:
    return {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "cupy": "CuPy's stand-in"}[name]


# Processes

CHILD = """
import hashlib, multiprocessing, os, sys, threading
{environment}
from tests.endurance import load

name, how, setting = sys.argv[1:]

def child(pipe):
    pipe.send(hashlib.sha256(load.once(name)).hexdigest())

if __name__ == "__main__":
    if setting == "one thread" and name == "torch":
        import torch
        torch.set_num_threads(1)
    expected = hashlib.sha256(load.once(name)).hexdigest()
    if name == "openblas":
        threading.Thread(target=load.multiply_for_ever, daemon=True).start()
    receive, send = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context(how)
    target, args = (child, (send,)) if how == "fork" else (load.child, (send, name))
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    print(process.pid, flush=True)
    print("equal" if receive.recv() == expected else "other bits", flush=True)
    os._exit(0)
"""
"""A library, a start method and a setting. It says the number of the process that it starts, and what that one computed."""

LARGE = (16, 1, 224, 224)
"""Images that are worth several threads in each library."""


def once(name: str) -> bytes:
    """One pass of a library, large enough for its threads to start; of NumPy a product of its own, for OpenBLAS's threads."""
    if name == "openblas":
        return product().tobytes()
    if name == "torch":
        import torch

        torch.softmax(torch.ones(64, 1000, 100), -1)  # the pass alone may be too small for its threads
        torch.ones(1500, 1500) @ torch.ones(1500, 1500)
    images = random_images(LARGE, dtype="float32")
    return bits(sv.to_backend(images, name), sv.to_backend(PARAMS, name))


def product(size: int = 1000) -> Any:
    import numpy as np

    x = np.random.default_rng(0).random((size, size))
    return x @ x


def multiply_for_ever() -> None:
    while True:
        product(2000)


def child(pipe: Any, name: str) -> None:
    """In a process that is started anew."""
    pipe.send(hashlib.sha256(once(name)).hexdigest())


def ends(name: str, how: str, setting: str = "", environment: str = "", idle: float = 20) -> str:
    """What came of it: "equal", "other bits", "hangs", or an error. A process hangs that has used no time for `idle` seconds."""
    command = [sys.executable, "-c", CHILD.format(environment=environment), name, how, setting]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    number, still = "", "hangs"
    if select.select([process.stdout], [], [], max(60.0, idle))[0]:
        number, still = process.stdout.readline().strip(), ""
    if still:
        process.kill()
        process.communicate()
        return still
    if not number:
        return f"fails: {process.communicate()[1].strip().splitlines()[-1:]}"
    used, since = -1.0, time.monotonic()
    while process.poll() is None:
        now = used_by(int(number))
        if now is None or now > used:
            used, since = now or used, time.monotonic() if now is not None else since
        if time.monotonic() - since > idle:
            os.kill(int(number), 9)
            process.kill()
            process.communicate()
            return "hangs"
        time.sleep(0.2)
    out, error = process.communicate()
    return out.strip() or f"fails: {error.strip().splitlines()[-1:]}"


def used_by(number: int) -> float | None:
    """Processor time of a process, in ticks; None if there is none."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return float(fields[11]) + float(fields[12])


def libraries() -> list[str]:
    return [name for name in ("numpy", "torch", "jax") if find_spec(name)]


def spawned(much: float) -> Outcome:
    """`spawn` and `forkserver`, from a process that has computed with the library."""
    outcome = Outcome()
    runs = [(name, how) for name in libraries() for how in (("spawn", "forkserver") if much >= 1 else ("spawn",))]
    for name, how in runs:
        if (found := ends(name, how, idle=HANGS)) != "equal":
            outcome.wrong.append(f"{said(name)}, {how}: {found}")
    outcome.done = f"{', '.join(dict.fromkeys(how for _, how in runs))}, on {', '.join(map(said, libraries()))}: equal bits"
    return outcome


REMEDIES = {
    "torch": ("one thread", "", "`torch.set_num_threads(1)` before the first pass"),
    "openblas": ("", "os.environ['OPENBLAS_NUM_THREADS'] = '1'", "`OPENBLAS_NUM_THREADS=1` before NumPy is loaded"),
}
"""By what a fork works after all: a setting, lines that come first, and how the page says it."""


def forks(much: float) -> Outcome:
    """A fork after use of a library may hang in that library: measured. NumPy's backend must not, nor a fork with its remedy."""
    outcome, measured = Outcome(), []
    for name in (*libraries(), "openblas"):
        found = ends(name, "fork") if much >= 1 or name == "numpy" else ""
        word = "OpenBLAS, while another thread multiplies" if name == "openblas" else said(name)
        if name == "numpy" and found != "equal":
            outcome.wrong.append(f"NumPy, fork: {found}")
        if name in REMEDIES and name in (*libraries(), "openblas"):
            setting, environment, remedy = REMEDIES[name]
            if (after := ends(name, "fork", setting, environment, idle=HANGS)) != "equal":
                outcome.wrong.append(f"{word}, fork with {remedy}: {after}")
            found += f" (with {remedy} {after})"
        measured.append(f"{word}: {found}")
    outcome.done = "; ".join(measured)
    return outcome


# Long runs


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def grown(what: str, works: list[Callable[[], object]], count: int) -> tuple[list[str], int]:
    """What grew when these were called in turn, so often in all; and by how many bytes the process did.

    Memory is the median of a quarter of the run: of the second one, after all is warm, and of the last.
    """
    for work in works * 3:
        work()
    gc.collect()
    files, living, sizes = descriptors(), threading.active_count(), []
    for i in range(count):
        works[i % len(works)]()
        sizes.append(resident())
    gc.collect()
    quarter = max(1, count // 4)
    more = int(statistics.median(sizes[-quarter:]) - statistics.median(sizes[quarter : 2 * quarter]))
    wrong = [f"{what}: {more:,} bytes more"] if more > GROWTH else []
    wrong += [f"{what}: {descriptors() - files} descriptors more"] if descriptors() > files else []
    wrong += [f"{what}: {threading.active_count() - living} threads more"] if threading.active_count() > living else []
    return wrong, more


def held(what: str, works: list[Callable[[], object]], count: int = HELD) -> list[str]:
    """What Python's own objects hold on to between two rounds of these, as tracemalloc sees it: less than 500 bytes a call."""
    tracemalloc.start()
    try:
        for work in works * count:  # caches of a bounded size fill
            work()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            for work in works:
                work()
        gc.collect()
        more = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return [f"{what}: Python holds {more:,} bytes more"] if more > 500 * count * len(works) else []


def passes(much: float) -> Outcome:
    """On each library, with one image and with two."""
    outcome = Outcome()
    with backends() as computes:
        works: list[Callable[[], object]] = list(computes.values())
        count = share(PASSES, much)
        outcome.wrong, more = grown("passes", works, count)
        outcome.wrong += held("passes", works, HELD) if much >= 0.1 else []
    outcome.done = (
        f"{count:,} on {', '.join(said(name) for name in computes)}: {max(0, more) / 1e6:.1f} MB, no descriptor, no thread more"
    )
    return outcome


def loads(much: float) -> Outcome:
    """Of sound files, and of the same files without their last bytes, which are refused."""
    outcome, count = Outcome(), share(LOADS, much)
    works: list[Callable[[], object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        suffixes = [suffix for suffix in SUFFIXES if suffix != ".pt" and (suffix != ".h5" or find_spec("h5py"))]
        for suffix in suffixes:
            path = Path(temporary) / f"x{suffix}"
            layout = {".msgpack": "channels_last", ".h5": "keras", ".pdparams": "paddle"}.get(suffix, "official")
            sv.save_checkpoint(path, PARAMS, TINY, layout=layout)
            works.append(partial(sv.load_checkpoint, path))
        if find_spec("onnx"):
            from scalablevit_ref.adapters.onnx import export

            export(PARAMS, TINY, Path(temporary) / "x.onnx", image_size=112)
            works.append(partial(sv.load_checkpoint, Path(temporary) / "x.onnx"))
            suffixes.append(".onnx")
        for path in sorted(Path(temporary).glob("x.*")):
            damaged = path.with_name(f"damaged{path.suffix}")
            damaged.write_bytes(path.read_bytes()[:-40])
            works.append(partial(refused, damaged))
        outcome.wrong, more = grown("loads", works, max(count, 4 * len(works)))
        outcome.wrong += held("loads", works, HELD // 5) if much >= 0.1 else []
    said_of = f"{max(count, 4 * len(works))} of {', '.join(suffixes)}, half of them damaged"
    outcome.done = f"{said_of}: {max(0, more) / 1e6:.1f} MB, no descriptor more"
    return outcome


def refused(path: Path) -> None:
    try:
        sv.load_checkpoint(path)
    except sv.CheckpointError:
        return
    raise AssertionError(f"{path.name} is read without its end")
