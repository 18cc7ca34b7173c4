"""`scalablevit-ref bench`: how fast the backends are beside the authors' network in plain `torch.nn`."""

from __future__ import annotations

import importlib
import math
import os
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from scalablevit_ref.backends.start import why_not_started
from scalablevit_ref.backends.threads import cores
from scalablevit_ref.benchmark import recommend as recommended
from scalablevit_ref.benchmark.contenders import LIBRARIES, ModuleFailedError, Work
from scalablevit_ref.benchmark.measure import document
from scalablevit_ref.benchmark.recommend import recommendation
from scalablevit_ref.benchmark.results import chart, print_recommendation, print_results, ran
from scalablevit_ref.benchmark.results import page as markdown
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, parse_side, say_written
from scalablevit_ref.cli.progress import spinner
from scalablevit_ref.cli.summary import size_of
from scalablevit_ref.cli.terminal import Terminal, complain
from scalablevit_ref.config import variant
from scalablevit_ref.drawing.remade import remade
from scalablevit_ref.drawing.render import picture
from scalablevit_ref.drawing.style import ENDINGS, dark_twin
from scalablevit_ref.files.writing import check_outputs, write_contents
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import check_run

DTYPES = ("float32", "tf32", "float64", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")

QUICK = ("numpy", "torch", "jax", "cupy", "export.ort", "export.openvino")
"""What is timed unless the user says otherwise: no compilation that takes minutes."""

UNITS = {"s": 1, "m": 60, "h": 3600}
"""Seconds in a unit of time."""


def bench(
    variants: Annotated[str, typer.Option("--variants", help="Between commas.")] = "small",
    batch: Annotated[
        str | None,
        typer.Option(help="Images a forward pass, between commas; 1 if not given, with --recommend 1,8.", show_default=False),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|NxN", help="Pixels a side; 224 (digits: 112) if not given.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help=f"Of {', '.join(DTYPES)}, between commas; float32 if not given, with --recommend float32,bfloat16.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for an NVIDIA GPU.")] = "cpu",
    backends: Annotated[
        str | None,
        typer.Option(help=f"Of {', '.join(LIBRARIES)}, between commas. Not given: {', '.join(QUICK)}; with --full, all."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each, in turn.", min=3)] = 11,
    threads: Annotated[int | None, typer.Option(help="Of every library alike; not given: one a core.", min=1)] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Measure memory, growth, import and conversion too, and compile for PyTorch (minutes).")
    ] = False,
    recommend: Annotated[
        bool, typer.Option("--recommend", help="Say which way is fastest here, and its code; with --full also of what is compiled.")
    ] = False,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Wait at most so long (90s, 10m) until other processes leave the cores alone.",
            show_default=False,
        ),
    ] = None,
    costly: CostlyOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture: .png, .svg or .pdf.")] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of Markdown; the picture on it gets a dark twin.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Time the backends beside the authors' network in plain `torch.nn`, in turn, on this machine.

    The plain module runs eagerly, `torch.compile` in one graph, JAX under `jax.jit`, MLX under `mx.compile`. All have the same
    threads, weights and images; runs of compilation and warming up do not count. Where other processes take the cores meanwhile
    there are times but no ratios.
    Needs PyTorch: `pip install 'scalablevit-ref[torch]'`.
    """
    with bad_input_is_one_line():
        dtypes = _words(dtype or ("float32,bfloat16" if recommend else "float32"))
        check_known("--dtype", dtypes, DTYPES)
        check_known("--device", [device], DEVICES)
        if "tf32" in dtypes and device != "cuda":
            raise ValueError("--dtype tf32, the rounding of float32's products, is of NVIDIA GPUs: add --device cuda")
        if recommend and device != "cpu":
            raise ValueError("--recommend is about the CPU: leave --device out")
        names = _contenders(full=full, recommend=recommend) if backends is None else _words(backends)
        check_known("--backends", names, LIBRARIES)
        patience = _seconds(wait) if wait is not None else 0.0
        batches = batch or ("1,8" if recommend else "1")
        works = _works(_words(variants), batches, parse_side(image_size, "bench"), dtypes, device, costly=costly)
        _check_environment(device, threads, plot)
        check_folder("--plot", plot)
        check_folder("--page", page)
        dark = dark_twin(plot) if plot and page else None
        overwriting = remade((plot, dark), force=force)
        check_outputs((plot, dark, page), force=overwriting)
    try:
        with spinner(logged=True) as step:  # a run may take half an hour: its log says how far it is
            whole = full and not recommend
            found = document(works, names, rounds=rounds, count=threads, full=whole, step=step, patience=patience)
    except ModuleFailedError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    if recommend:
        found["recommendation"] = recommendation(found, ran(found))
    if as_json:
        print_json(found)
    elif recommend:
        print_recommendation(Terminal(), found)
    else:
        print_results(Terminal(), found)
    with bad_input_is_one_line():
        outputs: dict[Path, bytes | None] = {}
        for path, theme in ((plot, "light"), (dark, "dark")):
            if path:
                outputs[path] = picture(chart(found), path.suffix, theme=theme)
        if page:
            pictures = [Path(os.path.relpath(path, page.parent)).as_posix() for path in outputs]
            outputs[page] = markdown(found, pictures).encode()
        write_contents(outputs, force=overwriting)
    if not as_json:
        say_written({plot: "its picture", dark: "the same for dark pages", page: "the page"})


def _words(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",")]


def _contenders(*, full: bool, recommend: bool) -> list[str]:
    """Who is timed where the user names nobody."""
    if recommend:
        return [*recommended.QUICK, *(recommended.COMPILED if full else ())]
    return list(LIBRARIES if full else QUICK)


def _seconds(text: str) -> float:
    """A time such as 90, 90s, 10m or 1h, in seconds. Raises ValueError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise ValueError(f"--wait must be a time such as 90s or 10m, got {text!r}")
    return seconds


def _works(
    variants: list[str], batch: str, size: int | None, dtypes: list[str], device: str, *, costly: bool = False
) -> list[Work]:
    """All forward passes asked for. Raises ValueError."""
    sizes = {name: size or size_of(name, None)[0] for name in variants}
    for name in variants:
        check_image_size(variant(name), sizes[name], sizes[name])
    try:
        batches = [int(word) for word in batch.split(",")]
    except ValueError:
        batches = [0]
    if min(batches) < 1:
        raise ValueError(f"--batch must be numbers of at least 1 between commas, got {batch!r}")
    wide = "float64" if "float64" in dtypes else "float32"
    for name, count in product(variants, batches):
        shape = (count, variant(name).in_chans, sizes[name], sizes[name])
        check_run(network_of(variant(name)), shape, dtype=wide, whole=True, costly=costly)
    return [Work(name, count, sizes[name], dtype, device) for name in variants for count in batches for dtype in dtypes]


def _check_environment(device: str, threads: int | None, plot: Path | None) -> None:
    """Raise before any work for what this machine does not have. ValueError, ModuleNotFoundError."""
    if threads and threads > len(cores()):
        raise ValueError(f"--threads must be at most {len(cores())}, the cores there are, got {threads}")
    for package, extra in (("torch", "torch"), *([("matplotlib", "plot")] if plot else [])):
        if not find_spec(package):
            raise ModuleNotFoundError(f"bench needs {package}: pip install 'scalablevit-ref[{extra}]'")
    if plot:
        importlib.import_module("matplotlib.figure")  # whether it starts is known before minutes of timing
    if (why := why_not_started("torch")) is not None:
        raise ImportError(f"bench needs torch, which {why}")
    if plot and plot.suffix not in ENDINGS:
        raise ValueError(f"--plot must end in .png, .svg or .pdf, got {str(plot)!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch finds no CUDA device")
