"""One document of a benchmark's figures: times taken in turn, what can be said of their ratio, and how costs grow."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend
from scalablevit_ref.backends.start import FAULTS, said
from scalablevit_ref.backends.threads import cores
from scalablevit_ref.benchmark.contenders import MODULE, Call, Contender, Work, allow_tf32, entered, failure, oracle
from scalablevit_ref.blocks import block
from scalablevit_ref.config import variant
from scalablevit_ref.cost import cost
from scalablevit_ref.parameters import block_kind, children, parameter_shapes
from scalablevit_ref.testing import EPS, random_images, random_params, relative_l2

PACKAGES = ("scalablevit-ref", "numpy", "einops", "torch", "triton", "jax", "cupy-cuda12x", "cupy-cuda13x", "vit-pytorch")
"""Packages whose versions the document has."""

PAUSE = {"cpu": 0.03, "cuda": 0.0}
"""Seconds between two runs, in which the idle threads of the library that ran last go to sleep and leave the cores to the next."""

SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the large matrix product, enough to fill a device of each kind."""

GROWTH_SIZES = (224, 448, 672, 896)
"""Sides of the images, in pixels, whose stage-0 maps of 56 to 224 tokens a side are timed."""


def document(
    works: Sequence[Work], contenders: Sequence[str], *, rounds: int, count: int | None, full: bool, step: Callable[[str], None]
) -> dict[str, Any]:
    """All figures of one run.

    Parameters
    ----------
    works
        The forward passes.
    contenders
        Of `contenders.LIBRARIES`, to be timed beside the plain module.
    rounds
        Runs of each, in turn.
    count
        The number of threads that all have; None is one a core.
    full
        Measure memory, growth, import and conversion too.
    step
        Is told what is being done.
    """
    with threads(count) as count:
        found: dict[str, Any] = {"machine": machine(count), "gpu": gpu()}
        step("matrix product")
        products = {kind: matmul_peak(*kind) for kind in dict.fromkeys((work.dtype, work.device) for work in works)}
        found["matmul_gflops"] = {" ".join(kind): 2 * product / 1e9 for kind, product in products.items()}
        found["forward"] = []
        for work in works:
            product = products[work.dtype, work.device]
            found["forward"] += forward_passes(work, contenders, matmul=product, rounds=rounds, count=count, peaks=full, step=step)
        if full:
            from scalablevit_ref.benchmark.processes import conversion, import_time

            step("growth")
            found["growth"] = growth(works[0].variant)
            step("import")
            found["import"] = import_time()
            step("conversion")
            found["conversion"] = conversion()
    return found


def machine(count: int) -> dict[str, Any]:
    """What ran and on what, with so many threads."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": count,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def gpu() -> str | None:
    """The GPU's name, or None."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """The same number of threads for every library: BLAS, PyTorch, the NumPy backend, and by the cores allowed JAX, if not begun.

    None is as many as there are cores; more is a ValueError. Yields the number.
    """
    at_hand = cores()
    count = count or len(at_hand)
    if count > len(at_hand):
        raise ValueError(f"threads must be at most {len(at_hand)}, the cores there are, got {count}")
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


def matmul_peak(dtype: str, device: str = "cpu", *, side: int | None = None, repeats: int = 8) -> float:
    """Multiply-adds a second of a square matrix product, the best of some runs and, on a CPU, of NumPy and PyTorch."""
    import torch

    allow_tf32(dtype)
    side = side or SIDES[device]
    place = {"device": device, "dtype": getattr(torch, Work("", 0, 0, dtype).held)}
    a, b = torch.randn(side, side, **place), torch.randn(side, side, **place)
    products: dict[str, Call] = {"torch": lambda: (a @ b)[0, 0].item()}
    if device == "cpu" and dtype != "bfloat16":
        x, y = a.numpy(), b.numpy()
        products["numpy"] = lambda: x @ y
    return side**3 / min(second for seconds in interleaved(products, repeats).values() for second in seconds)


def forward_passes(
    work: Work, contenders: Iterable[str], *, matmul: float, rounds: int, count: int, peaks: bool, step: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each contender: times in turn with the plain module, ratio, share of the matmul peak and memory; or why not.

    `matmul` is the multiply-adds a second of a large matrix product here, `peaks` says whether memory is measured too; the others
    are those of `document`.
    """
    names = list(dict.fromkeys((MODULE, *contenders)))
    return in_turn(work, names, *entered(names, work, step), matmul=matmul, rounds=rounds, count=count, peaks=peaks, step=step)


def in_turn(
    work: Work,
    names: Sequence[str],
    ready: Mapping[str, Contender],
    absent: Mapping[str, str],
    failed: dict[str, str],
    *,
    matmul: float,
    rounds: int,
    count: int,
    peaks: bool,
    step: Callable[[str], None],
) -> list[dict[str, Any]]:
    """What `forward_passes` gives, of contenders that have `entered`, the plain module among them."""
    module, expected = ready[MODULE], oracle(work)
    step(f"{work.variant} x {work.batch}: in turn")

    def fails(name: str, error: BaseException) -> None:
        failed[name] = failure(name, work, error)

    calls = {name: contender.run for name, contender in ready.items()}
    seconds = interleaved(calls, rounds, fails, pause=PAUSE[work.device])
    rows = []
    for name in names:
        row: dict[str, Any] = {"contender": name, **asdict(work)}
        rows.append(row)
        if name in absent or name in failed:
            row |= {"absent": absent[name]} if name in absent else {"failed": failed[name]}
            continue
        contender, taken, times_as_fast = ready[name], spread(seconds[name]), ratio(seconds[MODULE], seconds[name])
        row |= {
            "multiply_adds": contender.multiply_adds,
            "seconds": asdict(taken),
            "rounds": rounds,
            "ratio": asdict(times_as_fast),
            "ratio_at_equal_work": times_as_fast.median * contender.multiply_adds / module.multiply_adds,
            "share_of_matmul_peak": contender.multiply_adds / taken.median / matmul,
        }
        if name != "vit_pytorch":  # which is another network, with weights of its own
            row["difference"] = float(np.linalg.norm(contender.logits - module.logits) / np.linalg.norm(module.logits))
            row["error_eps"] = relative_l2(contender.logits[: len(expected)], expected) / EPS[work.held]
        if peaks:
            from scalablevit_ref.benchmark.processes import can_measure_memory, peak_megabytes, peak_megabytes_on_gpu

            if work.device != "cpu":
                peak = peak_megabytes_on_gpu(name, contender.run)
                row |= {} if peak is None else {"peak_megabytes": peak}
            elif can_measure_memory():
                step(f"{work.variant} x {work.batch}: memory of {name}")
                try:
                    row["peak_megabytes"] = peak_megabytes(name, work, count)
                except RuntimeError as error:
                    row["peak_failed"] = said(error)
    return rows


def interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    fails: Callable[[str, BaseException], None] | None = None,
    *,
    pause: float = PAUSE["cpu"],
) -> dict[str, list[float]]:
    """Seconds of each call in each round; within a round every call runs once, in a random order. Each is warmed up by two runs.

    A call that raises is left out from then on, and `fails` is told; not given: its exception ends the measurement. `pause` is
    how many seconds pass before each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}

    def run(name: str) -> None:
        try:
            calls[name]()
        except FAULTS as error:
            if fails is None:
                raise
            del seconds[name]
            fails(name, error)

    for name in calls:
        for _ in range(2):
            if name in seconds:
                run(name)
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(sorted(seconds), len(seconds)):
            time.sleep(pause)
            start = time.perf_counter()
            run(name)
            taken = time.perf_counter() - start
            if name in seconds:
                seconds[name].append(taken)
    return seconds


@dataclass(frozen=True)
class Spread:
    """A median, and the bounds that whoever gives it names."""

    median: float
    low: float
    high: float


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


def growth(name: str, library: str = "numpy", *, sizes: Sequence[int] = GROWTH_SIZES, rounds: int = 5) -> list[dict[str, Any]]:
    """How the cost of both kinds of block of stage 0 grows with the image.

    The `exponent` is p of time ~ tokensᵖ; `counted` is that of the multiply-adds.

    Parameters
    ----------
    name
        The variant.
    library
        The backend whose times are taken.
    sizes
        Sides of the images, in pixels.
    rounds
        Runs of each, in turn, of which the best counts.
    """
    config = variant(name)
    blocks = children(children(children(random_params(parameter_shapes(config), dtype="float32"))["stages"])["0"])
    sides = [size // config.patch_size for size in sizes]
    tokens = [side**2 for side in sides]
    maps = [to_backend(random_images((1, side, side, config.embed_dims[0]), dtype="float32"), library) for side in sides]
    any_size = replace(config, pad_windows=True)  # the later stages, which are not timed, need not take these images
    layers = [cost(any_size, size).layers for size in sizes]
    attention: dict[str, dict[str, Any]] = {
        "iwsa": {"window_size": config.window_sizes[0]},
        "ssa": {"sr_ratio": config.sr_ratios[0], "c_ratio": config.c_ratios[0], "values": config.ssa_values},
    }
    rows = []
    for i in range(min(2, config.depths[0])):
        kind, params = block_kind(i), to_backend(blocks[str(i)], library)
        options: dict[str, Any] = {"num_heads": config.num_heads[0], "norm_eps": config.norm_eps, **attention[kind]}
        calls = {str(side): partial(block, x, params, kind=kind, **options) for side, x in zip(sides, maps, strict=True)}
        seconds = [min(times) for times in interleaved(calls, rounds).values()]
        counted = [sum(layer.multiply_adds for layer in found if layer.name.startswith(f"stages.0.{i}.")) for found in layers]
        rows.append(
            {"kind": kind, "tokens": tokens, "seconds": seconds, "exponent": _slope(tokens, seconds)}
            | {"multiply_adds": counted, "counted": _slope(tokens, counted)}
        )
    return rows


def _slope(tokens: Sequence[float], figures: Sequence[float]) -> float:
    """The exponent of a power law through all points."""
    return float(np.polyfit(np.log(tokens), np.log(figures), 1)[0])
