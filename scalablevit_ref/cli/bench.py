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
from scalablevit_ref.benchmark.page import HEADINGS, absences, cells, doubts
from scalablevit_ref.benchmark.page import page as markdown
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.documents import print_json
from scalablevit_ref.cli.progress import spinner
from scalablevit_ref.config import variant
from scalablevit_ref.image_sizes import check_image_size

DTYPES = ("float32", "float64", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
QUICK = ("numpy", "torch", "jax", "cupy")

_WITHOUT_MEMORY = ("work", "contender", *HEADINGS[:-1])


def bench(
    variants: Annotated[str, typer.Option("--variants", help="Between commas.")] = "small",
    batch: Annotated[str, typer.Option(help="Images a forward pass, between commas.")] = "1",
    image_size: Annotated[int, typer.Option(help="Pixels a side.", min=1)] = 224,
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
            works = _works(variants, batch, image_size, dtype, device)
            contenders = _contenders(backends, full=full)
            _check_environment(device, plot)
            check_folder("--plot", plot)
            check_folder("--page", page)
            from scalablevit_ref.benchmark.timing import threads as equal_threads

            count = limits.enter_context(equal_threads(threads))
        found = _measured(works, contenders, rounds=rounds, count=count, full=full)
    if as_json:
        print_json(found)
    else:
        _print(found)
    with bad_input_is_one_line():
        _write(found, plot, page)


def _write(found: dict[str, Any], plot: Path | None, page: Path | None) -> None:
    from scalablevit_ref.benchmark.plot import plot as draw
    from scalablevit_ref.drawing.style import dark_twin

    if plot:
        draw(found, plot)
    if plot and page:
        draw(found, dark_twin(plot), theme="dark")
    if page:
        pictures = [Path(os.path.relpath(path, page.parent)).as_posix() for path in (plot, dark_twin(plot))] if plot else []
        page.write_text(markdown(found, pictures), encoding="utf-8")


def _measured(works: list[Work], contenders: list[str], **options: Any) -> dict[str, Any]:
    """The document, with a word on standard error about what is being done."""
    from scalablevit_ref.benchmark.report import document

    with spinner(logged=True) as step:  # a run may take half an hour: its log says how far it is
        return document(works, contenders, step=step, **options)


def _works(variants: str, batch: str, size: int, dtype: str, device: str) -> list[Work]:
    """All forward passes asked for. Raises ValueError."""
    check_known("--dtype", [dtype], DTYPES)
    check_known("--device", [device], DEVICES)
    names = [word.strip() for word in variants.split(",")]
    for name in names:
        check_image_size(variant(name), size, size)
    try:
        batches = [int(word) for word in batch.split(",")]
    except ValueError:
        batches = [0]
    if min(batches) < 1:
        raise ValueError(f"--batch must be numbers of at least 1 between commas, got {batch!r}")
    return [Work(name, count, size, dtype, device) for name in names for count in batches]


def _contenders(backends: str | None, *, full: bool) -> list[str]:
    if backends is None:
        return list(LIBRARIES) if full else list(QUICK)
    names = [word.strip() for word in backends.split(",")]
    check_known("--backends", names, LIBRARIES)
    return names


def _check_environment(device: str, plot: Path | None) -> None:
    for package, extra in (("torch", "torch"), *([("matplotlib", "plot")] if plot else [])):
        if not find_spec(package):
            raise ModuleNotFoundError(f"bench needs {package}: pip install 'scalablevit-ref[{extra}]'")
    if plot and plot.suffix not in (".png", ".svg", ".pdf"):
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
    headings = ("work", "contender", *HEADINGS) if any("peak_megabytes" in row for row in found["forward"]) else _WITHOUT_MEMORY
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("work", "contender") else "right", no_wrap=True)
    ran = [row for row in found["forward"] if "absent" not in row]
    for row, before in zip(ran, [None, *ran], strict=False):
        work, last = (f"{r['variant']} x {r['batch']}" if r else "" for r in (row, before))
        table.add_row(*("" if work == last else work, row["contender"], *cells(row))[: len(headings)])
    console.print(table)
    if any(row["contender"] == "vit_pytorch" for row in ran):
        console.print("* another network: at an equal number of multiply-adds", style="dim")
    for doubt in doubts(found):
        console.print(doubt.strip(), style="yellow", highlight=False)
    for absence in absences(found["forward"]):
        console.print(f"not run: {absence}", style="dim", highlight=False)
    for row in found.get("growth", []):
        console.print(
            f"{row['kind'].upper()} time ~ tokens^{row['exponent']:.2f} (multiply-adds ^{row['counted']:.2f})", highlight=False
        )
    if "import" in found:
        c = found["conversion"]
        console.print(
            f"import {found['import']['total']:.3f} s; {c['variant']} converted in {c['ratio']:.2f} x a copy", highlight=False
        )
