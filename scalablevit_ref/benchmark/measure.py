"""One document of a benchmark's figures: times taken in turn, what can be said of their ratio, and how costs grow."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend
from scalablevit_ref.backends.start import FAULTS, said
from scalablevit_ref.backends.threads import cores
from scalablevit_ref.benchmark.contenders import LEAVES_FILES, MODULE, Call, Contender, Work, allow_tf32, entered, failure, oracle
from scalablevit_ref.benchmark.load import LIMIT, disturbances, load_now, others, ticks, unserved, wait_until_quiet
from scalablevit_ref.blocks import block
from scalablevit_ref.config import variant
from scalablevit_ref.cost import cost
from scalablevit_ref.parameters import block_kind, children, parameter_shapes
from scalablevit_ref.testing import EPS, random_images, random_params, relative_l2

PACKAGES = (
    *("scalablevit-ref", "numpy", "einops", "torch", "triton", "jax", "cupy-cuda12x", "cupy-cuda13x", "mlx"),
    *("tensorflow", "tensorflow-cpu", "paddlepaddle", "tinygrad"),
    *("onnx", "onnxscript", "onnxruntime", "openvino", "vit-pytorch"),
)
"""Packages whose versions the document has."""

UNITS = {"AVX-512": "avx512f", "AVX-512-BF16": "avx512_bf16", "AMX-BF16": "amx_bf16"}
"""What a processor multiplies with, and Linux' flag for it."""

CPUINFO = Path("/proc/cpuinfo")

WORK = tuple(field.name for field in fields(Work))
"""What a row says of its work."""

COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that says where PyTorch's compiler keeps what it has compiled."""

PAUSE = {"cpu": 0.03, "cuda": 0.0}
"""Seconds between two runs, in which the idle threads of the library that ran last go to sleep and leave the cores to the next."""

SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the large matrix product, enough to fill a device of each kind."""

GROWTH_SIZES = (224, 448, 672, 896)
"""Sides of the images, in pixels, whose stage-0 maps of 56 to 224 tokens a side are timed."""


def document(
    works: Sequence[Work],
    contenders: Sequence[str],
    *,
    rounds: int,
    count: int | None,
    full: bool,
    step: Callable[[str], None],
    patience: float = 0.0,
) -> dict[str, Any]:
    """All figures of one run.

    Parameters
    ----------
    works
        The forward passes. Those that differ in their dtype alone are timed in turn with each other.
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
    patience
        Seconds that are waited, in all, for other processes to leave the cores alone.
    """
    with threads(count) as count, files_of(contenders) as folder:
        found: dict[str, Any] = {"machine": machine(count), "gpu": gpu()}
        wait = Wait(patience)
        wait.until_quiet(step)
        step("matrix product")
        products = {kind: matmul_peak(*kind) for kind in dict.fromkeys((work.dtype, work.device) for work in works)}
        found["matmul_gflops"] = {" ".join(kind): 2 * product / 1e9 for kind, product in products.items()}
        found["forward"], found["load"] = [], {"limit": LIMIT, "works": []}
        for group in groups(works):
            rows, load = forward_passes(
                group,
                contenders,
                products=products,
                rounds=rounds,
                count=count,
                peaks=full,
                step=step,
                folder=folder,
                wait=wait,
            )
            found["forward"] += rows
            found["load"]["works"].append(load)
        found["load"] |= wait.told() | {"disturbed": any(load["disturbed"] for load in found["load"]["works"])}
        if full:
            from scalablevit_ref.benchmark.processes import conversion, import_time

            step("growth")
            found["growth"] = growth(works[0].variant)
            step("import")
            found["import"] = import_time()
            step("conversion")
            found["conversion"] = conversion()
    return found


def groups(works: Iterable[Work]) -> list[list[Work]]:
    """The works that differ in their dtype alone lie together."""
    found: dict[Work, list[Work]] = {}
    for work in works:
        found.setdefault(replace(work, dtype=""), []).append(work)
    return list(found.values())


class Wait:
    """The patience of a run, which all its waits share.

    Parameters
    ----------
    patience
        Seconds; none is nobody waits.
    """

    def __init__(self, patience: float) -> None:
        self.patience, self.left, self.waited, self.gave_up = patience, patience, 0.0, False

    def until_quiet(self, step: Callable[[str], None]) -> None:
        """Wait until other processes leave the cores alone, or until there is no patience left."""
        if self.left > 0:
            seconds, quiet = wait_until_quiet(self.left, step)
            self.waited, self.left = self.waited + seconds, self.left - seconds
            self.gave_up = self.gave_up or not quiet
            if not quiet:
                step(f"not quiet after {self.waited:.0f} s of waiting: it begins all the same")

    def told(self) -> dict[str, Any]:
        """For the document: nothing where nobody was to wait."""
        return {"waited_seconds": self.waited, "gave_up_waiting": self.gave_up} if self.patience else {}


@contextmanager
def files_of(contenders: Iterable[str]) -> Iterator[Path | None]:
    """A folder for this run's files, or None if no contender leaves any.

    PyTorch's compiler keeps in it what it compiles: nothing of an earlier run shortens its time.
    """
    if not any(name.endswith(LEAVES_FILES) for name in contenders):
        yield None
        return
    before = os.environ.get(COMPILER_CACHE)
    with TemporaryDirectory(prefix="scalablevit-bench-") as folder:
        os.environ[COMPILER_CACHE] = str(Path(folder) / "inductor")
        try:
            yield Path(folder)
        finally:
            os.environ.pop(COMPILER_CACHE) if before is None else os.environ.update({COMPILER_CACHE: before})


def machine(count: int) -> dict[str, Any]:
    """What ran and on what, with so many threads."""
    model, flags = platform.processor(), ""
    if CPUINFO.exists():
        lines = [line.partition(":") for line in CPUINFO.read_text(encoding="utf-8").splitlines()]
        told = {key.strip(): value.strip() for key, _, value in lines}
        model, flags = told.get("model name", model), told.get("flags", told.get("Features", ""))
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": model,
        "products": {name: flag in flags.split() for name, flag in UNITS.items()},
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
    """Multiply-adds a second of a square matrix product: the best of some runs and, on a CPU, of NumPy's, PyTorch's and oneDNN's.

    oneDNN multiplies in what PyTorch compiles and in OpenVINO; on an AMD EPYC it is twice as fast as the MKL of eager PyTorch.
    """
    import torch

    from scalablevit_ref.backends.torch import linear

    allow_tf32(dtype)
    side = side or SIDES[device]
    place = {"device": device, "dtype": getattr(torch, Work("", 0, 0, dtype).held)}
    a, b = torch.randn(side, side, **place), torch.randn(side, side, **place)
    products: dict[str, Call] = {"torch": lambda: (a @ b)[0, 0].item()}
    if device == "cpu" and dtype != "bfloat16":
        x, y = a.numpy(), b.numpy()
        products["numpy"] = lambda: x @ y
        if dtype == "float32":
            products["onednn"] = lambda: linear(a, b)
    return side**3 / min(second for seconds in interleaved(products, repeats).values() for second in seconds)


@dataclass(frozen=True)
class Entrants:
    """Who has entered for a work: those who did it once, why others cannot, and what others raised."""

    work: Work
    names: Sequence[str]
    ready: Mapping[str, Contender]
    absent: Mapping[str, str]
    failed: dict[str, str]

    @property
    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each contender with the beginning of its row, in their order."""
        for name in self.names:
            row: dict[str, Any] = {"contender": name, **asdict(self.work)}
            why = {"absent": self.absent.get(name), "failed": self.failed.get(name)}
            yield name, row | {key: said for key, said in why.items() if said is not None}


def forward_passes(
    works: Sequence[Work],
    contenders: Iterable[str],
    *,
    products: Mapping[tuple[str, str], float],
    rounds: int,
    count: int,
    peaks: bool,
    step: Callable[[str], None],
    folder: Path | None,
    wait: Wait,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row for each contender and dtype: times in turn, ratio, share of the matmul peak and memory; or why not. And the load.

    The works differ in their dtype alone. `products` are the multiply-adds a second of a large matrix product here for each dtype
    and device, `peaks` says whether memory is measured too, `folder` is where files lie that are built; the others are those of
    `document`.
    """
    names = list(dict.fromkeys((MODULE, *contenders)))
    entrants = [Entrants(work, names, *entered(names, work, step, folder)) for work in works]
    wait.until_quiet(step)
    rows, load = together(entrants, products=products, rounds=rounds, count=count, step=step)
    if peaks:
        ready = {(one.work.dtype, name): contender for one in entrants for name, contender in one.ready.items()}
        for row in rows:
            if not {"absent", "failed"} & set(row):
                contender = ready[row["dtype"], row["contender"]]
                row |= _memory(row["contender"], Work(**{key: row[key] for key in WORK}), contender, count, folder, step)
    return rows, load


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
    """The rows of contenders that have `entered` for one work on a GPU, the plain module among them.

    `matmul` is the multiply-adds a second of a large matrix product here; the others are those of `forward_passes`.
    """
    entrants = Entrants(work, names, ready, absent, failed)
    rows, _ = together([entrants], products={(work.dtype, work.device): matmul}, rounds=rounds, count=count, step=step)
    if peaks:
        for row in rows:
            if not {"absent", "failed"} & set(row):
                row |= _memory(row["contender"], work, ready[row["contender"]], count, None, step)
    return rows


def together(
    entrants: Sequence[Entrants],
    *,
    products: Mapping[tuple[str, str], float],
    rounds: int,
    count: int,
    step: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of all who have entered, timed in turn, and how busy the machine was meanwhile with other work.

    Where it was too busy there are times and no ratios, which are None then.
    """
    first = entrants[0].work
    for one in entrants:
        oracle(one.work)
    step(f"{first.variant} x {first.batch}: in turn")
    calls = {f"{i} {name}": contender.run for i, one in enumerate(entrants) for name, contender in one.ready.items()}

    def fails(key: str, error: BaseException) -> None:
        i, _, name = key.partition(" ")
        entrants[int(i)].failed[name] = failure(name, entrants[int(i)].work, error)

    before = load_now() if first.device == "cpu" else None
    begin, processor = ticks(), dict[str, list[float]]()
    seconds = interleaved(calls, rounds, fails, pause=PAUSE[first.device], processor=processor)
    during = others(begin, ticks()) if first.device == "cpu" else None
    idle = None
    if count == 1 and first.device == "cpu":
        idle = unserved((x for taken in seconds.values() for x in taken), (x for key in seconds for x in processor[key]))
    why = disturbances(before, during, idle)
    load = {"variant": first.variant, "batch": first.batch, "size": first.size, "before": before, "during": during}
    load |= {"unserved": idle, "disturbed": why}
    rows = []
    float32 = next((f"{i} {MODULE}" for i, one in enumerate(entrants) if one.work.dtype == "float32"), None)
    for i, one in enumerate(entrants):
        module, expected = one.ready[MODULE], oracle(one.work)
        for name, row in one.rows:
            rows.append(row)
            if {"absent", "failed"} & set(row):
                continue
            contender, taken = one.ready[name], seconds[f"{i} {name}"]
            times_as_fast = None if why else ratio(seconds[f"{i} {MODULE}"], taken)
            row |= {
                "multiply_adds": contender.multiply_adds,
                "seconds": asdict(spread(taken)),
                "processor_seconds": float(np.median(processor[f"{i} {name}"])),
                "rounds": rounds,
                "ratio": times_as_fast and asdict(times_as_fast),
                "ratio_at_equal_work": times_as_fast and times_as_fast.median * contender.multiply_adds / module.multiply_adds,
                "share_of_matmul_peak": contender.multiply_adds / spread(taken).median / products[one.work.dtype, one.work.device],
                "start_seconds": contender.start_seconds,
            }
            if len(entrants) > 1 and float32 is not None and name != "vit_pytorch":
                row["ratio_to_float32"] = None if why else asdict(ratio(seconds[float32], taken))
            if contender.build_seconds is not None:
                row["build_seconds"] = contender.build_seconds
            if name != "vit_pytorch":  # which is another network, with weights of its own
                row["difference"] = float(np.linalg.norm(contender.logits - module.logits) / np.linalg.norm(module.logits))
                row["error_eps"] = relative_l2(contender.logits[: len(expected)], expected) / EPS[one.work.held]
    return rows, load


def _memory(
    name: str, work: Work, contender: Contender, count: int, folder: Path | None, step: Callable[[str], None]
) -> dict[str, Any]:
    """What a row says of memory."""
    from scalablevit_ref.benchmark.processes import can_measure_memory, memory, peak_megabytes_on_gpu

    if work.device != "cpu":
        peak = peak_megabytes_on_gpu(name, contender.run)
        return {} if peak is None else {"peak_megabytes": peak}
    if not can_measure_memory():
        return {}
    step(f"{work.variant} x {work.batch}: memory of {name}")
    try:
        return memory(name, work, count, folder)
    except RuntimeError as error:
        return {"peak_failed": said(error)}


def interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    fails: Callable[[str, BaseException], None] | None = None,
    *,
    pause: float = PAUSE["cpu"],
    processor: dict[str, list[float]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call in each round; within a round every call runs once, in a random order. Each is warmed up by two runs.

    A call that raises is left out from then on, and `fails` is told; not given: its exception ends the measurement. `pause` is
    how many seconds pass before each run. `processor` gets the seconds that all threads together ran, likewise.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    processor = {} if processor is None else processor
    processor |= {name: [] for name in calls}

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
            start, ran = time.perf_counter(), process_time()
            run(name)
            taken, worked = time.perf_counter() - start, process_time() - ran
            if name in seconds:
                seconds[name].append(taken)
                processor[name].append(worked)
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
