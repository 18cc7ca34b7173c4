"""`scalablevit-ref bench`: how fast the backends are beside the authors' network in plain `torch.nn`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from scalablevit_ref.benchmark.contenders import LIBRARIES, Work
from scalablevit_ref.benchmark.results import HEADINGS, absences, cells, doubts, ran
from scalablevit_ref.benchmark.results import page as markdown
from scalablevit_ref.benchmark.results import plot as draw
from scalablevit_ref.checks import check_image_size
from scalablevit_ref.cli.documents import print_json
from scalablevit_ref.cli.errors import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.progress import spinner
from scalablevit_ref.cli.summary import size_of
from scalablevit_ref.config import variant
from scalablevit_ref.drawing.style import ENDINGS, dark_twin

DTYPES = ("float32", "float64", "bfloat16", "float16")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture: .png, .svg or .pdf.")] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of Markdown; the picture on it gets a dark twin.")
    ] = None,
) -> None:
    """Time the backends beside the authors' network in plain `torch.nn`, in turn, on this machine.

    The plain module runs eagerly, `torch.compile` in one graph, JAX under `jax.jit`. All have the same threads, weights and images;
    runs of compilation and warming up do not count. Needs PyTorch: `pip install 'scalablevit-ref[torch]'`.
    """
    with ExitStack() as limits:
        with bad_input_is_one_line():
            check_known("--dtype", [dtype], DTYPES)
            check_known("--device", [device], DEVICES)
            names = (list(LIBRARIES) if full else list(QUICK)) if backends is None else _words(backends)
            check_known("--backends", names, LIBRARIES)
            works = _works(_words(variants), batch, image_size, dtype, device)
            _check_environment(device, plot)
            check_folder("--plot", plot)
            check_folder("--page", page)
            from scalablevit_ref.benchmark.measure import document
            from scalablevit_ref.benchmark.measure import threads as equal_threads

            count = limits.enter_context(equal_threads(threads))
        with spinner(logged=True) as step:  # a run may take half an hour: its log says how far it is
            found = document(works, names, rounds=rounds, count=count, full=full, step=step)
    if as_json:
        print_json(found)
    else:
        _print(found)
    with bad_input_is_one_line():
        if plot:
            draw(found, plot)
        if plot and page:
            draw(found, dark_twin(plot), theme="dark")
        if page:
            pictures = [Path(os.path.relpath(path, page.parent)).as_posix() for path in (plot, dark_twin(plot))] if plot else []
            page.write_text(markdown(found, pictures), encoding="utf-8")


def _words(text: str) -> list[str]:
    """Those between commas."""
    return [word.strip() for word in text.split(",")]


def _works(variants: list[str], batch: str, size: int | None, dtype: str, device: str) -> list[Work]:
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
    return [Work(name, count, sizes[name], dtype, device) for name in variants for count in batches]


def _check_environment(device: str, plot: Path | None) -> None:
    for package, extra in (("torch", "torch"), *([("matplotlib", "plot")] if plot else [])):
        if not find_spec(package):
            raise ModuleNotFoundError(f"bench needs {package}: pip install 'scalablevit-ref[{extra}]'")
    if plot and plot.suffix not in ENDINGS:
        raise ValueError(f"--plot must end in .png, .svg or .pdf, got {str(plot)!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch finds no CUDA device")


def _print(found: dict[str, Any]) -> None:
    console, machine = Console(), found["machine"]
    console.print(f"{found['gpu'] or machine['cpu']}, {machine['threads']} threads", highlight=False)
    for kind, rate in found["matmul_gflops"].items():
        console.print(f"large matrix product in {kind}: {rate:.0f} GFLOP/s", highlight=False)
    console.print(_table(ran(found)))
    if any(row["contender"] == "vit_pytorch" for row in ran(found)):
        console.print("* another network: at an equal number of multiply-adds", style="dim")
    for doubt in doubts(found):
        console.print(doubt, style="yellow", highlight=False)
    for absence in absences(found):
        console.print(absence, style="dim", highlight=False)
    for row in found.get("growth", []):
        power = f"time ~ tokens^{row['exponent']:.2f} (multiply-adds ^{row['counted']:.2f})"
        console.print(f"{row['kind'].upper()} {power}", highlight=False)
    if "import" in found:
        seconds, c = found["import"]["total"], found["conversion"]
        console.print(f"import {seconds:.3f} s; {c['variant']} converted in {c['ratio']:.2f} x a copy", highlight=False)


def _table(rows: list[dict[str, Any]]) -> Table:
    """A line for each row; a column of memory if that was measured. Headings of two words take two lines: 80 columns hold all."""
    headings = HEADINGS if any("peak_megabytes" in row for row in rows) else HEADINGS[:-1]
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("work", overflow="fold")
    found.add_column("contender", no_wrap=True)
    for heading in headings:
        found.add_column(heading.replace(" ", "\n", 1) if len(heading) > 5 else heading, justify="right", no_wrap=True)
    before = ""
    for row in rows:
        work = f"{row['variant']} x {row['batch']}"
        found.add_row("" if work == before else work, row["contender"], *cells(row)[: len(headings)])
        before = work
    return found
