"""`scalablevit-ref bench`: how fast the backends are beside the authors' network in plain `torch.nn`."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from scalablevit_ref.backends.start import why_not_started
from scalablevit_ref.backends.threads import cores
from scalablevit_ref.benchmark.contenders import LIBRARIES, ModuleFailedError, Work
from scalablevit_ref.benchmark.measure import document
from scalablevit_ref.benchmark.results import bars, print_results
from scalablevit_ref.benchmark.results import page as markdown
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, say_written
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

QUICK = ("numpy", "torch", "jax", "cupy")
"""What is timed unless the user says otherwise: no compilation that takes minutes."""


def bench(
    variants: Annotated[str, typer.Option("--variants", help="Between commas.")] = "small",
    batch: Annotated[str, typer.Option(help="Images a forward pass, between commas.")] = "1",
    image_size: Annotated[
        int | None, typer.Option(help="Pixels a side; 224 (digits: 112) if not given.", min=1, show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}.")] = "float32",
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
    costly: CostlyOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture: .png, .svg or .pdf.")] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of Markdown; the picture on it gets a dark twin.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Time the backends beside the authors' network in plain `torch.nn`, in turn, on this machine.

    The plain module runs eagerly, `torch.compile` in one graph, JAX under `jax.jit`. All have the same threads, weights and images;
    runs of compilation and warming up do not count. Needs PyTorch: `pip install 'scalablevit-ref[torch]'`.
    """
    with bad_input_is_one_line():
        check_known("--dtype", [dtype], DTYPES)
        check_known("--device", [device], DEVICES)
        if dtype == "tf32" and device != "cuda":
            raise ValueError("--dtype tf32, the rounding of float32's products, is of NVIDIA GPUs: add --device cuda")
        names = (list(LIBRARIES) if full else list(QUICK)) if backends is None else _words(backends)
        check_known("--backends", names, LIBRARIES)
        works = _works(_words(variants), batch, image_size, dtype, device, costly=costly)
        _check_environment(device, threads, plot)
        check_folder("--plot", plot)
        check_folder("--page", page)
        dark = dark_twin(plot) if plot and page else None
        overwriting = remade((plot, dark), force=force)
        check_outputs((plot, dark, page), force=overwriting)
    try:
        with spinner(logged=True) as step:  # a run may take half an hour: its log says how far it is
            found = document(works, names, rounds=rounds, count=threads, full=full, step=step)
    except ModuleFailedError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    if as_json:
        print_json(found)
    else:
        print_results(Terminal(), found)
    with bad_input_is_one_line():
        outputs: dict[Path, bytes | None] = {}
        for path, theme in ((plot, "light"), (dark, "dark")):
            if path:
                outputs[path] = picture(bars(found), path.suffix, theme=theme)
        if page:
            pictures = [Path(os.path.relpath(path, page.parent)).as_posix() for path in outputs]
            outputs[page] = markdown(found, pictures).encode()
        write_contents(outputs, force=overwriting)
    if not as_json:
        say_written({plot: "its picture", dark: "the same for dark pages", page: "the page"})


def _words(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",")]


def _works(variants: list[str], batch: str, size: int | None, dtype: str, device: str, *, costly: bool = False) -> list[Work]:
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
    wide = "float64" if dtype == "float64" else "float32"
    for name, count in product(variants, batches):
        shape = (count, variant(name).in_chans, sizes[name], sizes[name])
        check_run(network_of(variant(name)), shape, dtype=wide, whole=True, costly=costly)
    return [Work(name, count, sizes[name], dtype, device) for name in variants for count in batches]


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
