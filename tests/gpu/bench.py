"""The benchmark on the GPU: each work is compiled in processes of its own, all beside each other; then one at a time is timed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scalablevit_ref.backends.threads import cores

from scalablevit_ref.benchmark.contenders import MODULE, Work
from scalablevit_ref.benchmark.measure import gpu, machine, matmul_peak
from tests.gpu.processes import last_words, line_of, python, stopped_at

PRECISIONS = ("bfloat16", "float32", "tf32", "float16")
BATCHES = (64, 1, 8)
WORKS = tuple(Work("small", batch, 224, dtype, "cuda") for batch in BATCHES for dtype in PRECISIONS)

AT_ONCE = ("torch", "cupy", "torch.replay", "module.replay")
"""Contenders of one process that have nothing to compile, or little."""

COMPILED = (("jax",), ("torch.compile", "torch.graphs"), ("module.compile", "module.graphs"))
"""Contenders that are compiled in one process."""

FIRST = (("bfloat16", 64), ("float32", 64), ("bfloat16", 1))
"""What is compiled first. What there is no time for is missing at the end."""

LATEST = 0.3
"""The share of the time for compiling after which nothing new begins to compile."""

XLA = "--xla_gpu_enable_triton_gemm=false"
"""XLA is spared its trials of Triton's products. With 64 images it was not ready in two minutes all the same (JAX 0.11, H200)."""

ROUNDS = 15

GRACE = 4.0
"""Seconds that a process gets to end what no exception can stop, such as XLA's compilation."""

LONGEST = 15.0
"""Seconds that the timing of one process may take."""


@dataclass
class Job:
    """A process: what it is asked, whether it is ready, and what it found."""

    work: Work
    contenders: Sequence[str]
    log: Path
    process: subprocess.Popen[str] | None = None
    ready: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)

    def missing(self, why: str) -> list[dict[str, Any]]:
        return [{"contender": name, **asdict(self.work), "failed": why} for name in self.contenders]


def asked() -> list[tuple[Work, Sequence[str]]]:
    """Each process's work and contenders, in the order in which they begin; each has the plain module to itself, for its ratios."""
    first = [work for dtype, batch in FIRST for work in WORKS if (work.dtype, work.batch) == (dtype, batch)]
    rest = [work for work in WORKS if work not in first]
    compiled = [[(work, group) for work in works for group in COMPILED] for works in (first, rest)]
    found = [*compiled[0], *((work, AT_ONCE) for work in WORKS), *compiled[1]]
    return [(work, group) for work, group in found if (group, work.dtype) != (("jax",), "tf32")]


def run(
    until: float,
    folder: Path,
    *,
    what: Iterable[tuple[Work, Sequence[str]]] | None = None,
    rounds: int = ROUNDS,
    side: int | None = None,
) -> dict[str, Any]:
    """The benchmark's document, with the rows that were ready and timed before that moment; the others say why they are not.

    Three quarters of the time are for compiling. `what` is `asked()` if not given, `side` that of the large matrix product.
    """
    begun = time.time()
    compiled, latest = (begun + share * 0.78 * (until - begun) for share in (1, LATEST))
    jobs = [Job(*one, folder / f"bench-{i}.log") for i, one in enumerate(asked() if what is None else what)]
    with ExitStack() as stack:
        with ThreadPoolExecutor(max(1, len(cores()) * 3 // 4)) as pool:  # each has threads of its own too
            for job in jobs:
                pool.submit(prepare, job, stack, latest if job.contenders in COMPILED else compiled, compiled, until, rounds)
        found: dict[str, Any] = {"machine": machine(len(cores())), "gpu": gpu()}
        kinds = dict.fromkeys((job.work.dtype, job.work.device) for job in jobs)
        peaks = {kind: matmul_peak(*kind, side=side) for kind in kinds}
        found["matmul_gflops"] = {" ".join(kind): 2 * peak / 1e9 for kind, peak in peaks.items()}
        for job in jobs:
            if not job.ready:
                job.rows = job.missing(why_not_ready(job))
            elif time.time() > until:
                job.rows = job.missing("not timed: no time left")
            else:
                job.rows = timed(job, peaks[job.work.dtype, job.work.device])
    works = dict.fromkeys(job.work for job in jobs)
    found["forward"] = [row for work in works for row in merged([job for job in jobs if job.work == work])]
    return found


def prepare(job: Job, stack: ExitStack, latest: float, compiled: float, until: float, rounds: int) -> None:
    """Start the job's process, unless it is later than `latest`, and wait until it is ready, at most until `compiled`."""
    if time.time() > latest:
        return
    words = {"work": asdict(job.work), "contenders": list(job.contenders), "rounds": rounds, "until": compiled}
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": "4"} | ({"XLA_FLAGS": XLA} if job.work.device == "cuda" else {})
    ends = until + LONGEST  # whoever is timed last
    job.process = stack.enter_context(python(["-m", "tests.gpu.worker", json.dumps(words)], ends, job.log, **environment))
    with stopped_at(job.process, compiled + GRACE):
        job.ready = bool(line_of(job.process))


def why_not_ready(job: Job) -> str:
    """In words."""
    if job.process is None:
        return "not begun: no time left"
    return "not compiled in time" if job.process.wait() < 0 else last_words(job.log)


def timed(job: Job, peak: float) -> list[dict[str, Any]]:
    """The rows of a job that is ready."""
    assert job.process is not None
    assert job.process.stdin is not None
    with stopped_at(job.process, time.time() + LONGEST), suppress(BrokenPipeError):
        job.process.stdin.write(f"{peak}\n")
        job.process.stdin.flush()
        line = line_of(job.process)
        if line:
            rows: list[dict[str, Any]] = json.loads(line)
            return rows
    return job.missing(f"failed while it was timed: {last_words(job.log)}")


def merged(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The rows of one work: the plain module's once, where it was fastest."""
    rows = [row for job in jobs for row in job.rows]
    module = sorted((row for row in rows if row["contender"] == MODULE), key=lambda row: float(row["seconds"]["median"]))[:1]
    return module + [row for row in rows if row["contender"] != MODULE]
