"""`scalablevit-ref compare`: where a port goes wrong first, by how much, and the likely mistake."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption
from scalablevit_ref.cli.progress import spinner
from scalablevit_ref.compare.report import Report, Row
from scalablevit_ref.compare.run import MODES
from scalablevit_ref.compare.run import compare as held_against
from scalablevit_ref.errors import printable
from scalablevit_ref.testing.arrays import Comparison
from scalablevit_ref.testing.traces import SUFFIXES, trace_images

MOST_ROWS = 12
"""Layers that differ are listed up to this number."""

FILES = (*SUFFIXES, ".onnx")
"""Endings of files that are candidates themselves."""


def compare(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE",
            help="package.module:name or file.py:name (a torch or Flax module, or what makes one), a trace (.npz, .safetensors) "
            "or a model (.onnx).",
            show_default=False,
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REFERENCE]", help="A trace to hold it against. Not given: the reference runs.", show_default=False
        ),
    ] = None,
    variant_name: Annotated[str | None, typer.Option("--variant", help="The network, where its weights do not tell.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE|random|own", help="Not given: a module gets random weights, behind which no mistake hides."),
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="FILE", help="Images b c h w: .npy, or a trace that holds some.")] = None,
    mode: Annotated[str, typer.Option(help=f"{', '.join(MODES)}.")] = "both",
    dtype: Annotated[
        str | None, typer.Option(help="What a module is converted to; own leaves it. Not given: float64.", show_default=False)
    ] = None,
    names: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON: from the names of layers to the candidate's.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="In eps of the dtype.", min=0, show_default=False)] = None,
    diagnosis: Annotated[bool, typer.Option(help="Look for the mistake.")] = True,
    costly: CostlyOption = False,
    all_layers: Annotated[bool, typer.Option("--all", help="List every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the errors by layer as a picture: .png, .svg or .pdf.")
    ] = None,
    theme: Annotated[str, typer.Option(metavar="light|dark", help="The picture is for a light or a dark page.")] = "light",
) -> None:
    """Hold a port of the network against the reference: which layer goes wrong first, by how much, and why.

    Exit code 0 if it agrees in every layer, 1 if it does not, 2 for what cannot be compared.
    """
    with bad_input_is_one_line():
        check_known("--mode", [mode], MODES)
        if plot:
            from scalablevit_ref.drawing.style import check_picture

            check_picture(plot, theme)
        check_folder("--plot", plot)
        check_folder("--html", html)
        against = f"{candidate} against {reference.name if reference else 'the reference'}"
        port = named_candidate(candidate)
        with spinner("the candidate") as step:
            report = held_against(
                port,
                reference=reference,
                variant=variant_name,
                weights=weights,
                images=None if images is None else trace_images(images),
                mode=mode,  # type: ignore[arg-type]
                dtype=dtype,
                names=None if names is None else _mapping(names),
                tolerance=tolerance,
                diagnosis=diagnosis,
                progress=step,
                costly=costly,
            )
        if html:
            from scalablevit_ref.compare.html.page import html as page

            html.write_text(page(report, title=against), encoding="utf-8")
        if plot:
            from scalablevit_ref.compare.error_chart import error_plot

            error_plot(report, plot, title=against, theme=theme)
    if as_json:
        print_json(report.to_json())
    else:
        print_report(Console(), report, every=all_layers)
    raise typer.Exit(0 if report.agrees else 1)


def named_candidate(text: str) -> Any:
    """The path of a trace or a model; or what `package.module:name` or `file.py:name` holds, called if it is a class or a factory.

    The module is the user's own and is run. Raises ValueError, ImportError or OSError in words for what is not there.
    """
    if Path(text).suffix in FILES:
        path = Path(text)
        if not path.exists():
            raise FileNotFoundError(f"{text}: there is no such file")
        return path
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f"candidate {text!r}: expected a file ({', '.join(FILES)}), package.module:name or file.py:name")
    module = _module(where)
    try:
        found = module
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ValueError(f"candidate: {where} has no {name!r}") from None
    return _made(found)


def _module(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        try:
            return importlib.import_module(where)
        finally:
            sys.path.pop(0)
    if not path.exists():
        raise FileNotFoundError(f"{where}: there is no such file")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # as `python FILE` does
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _made(found: Any) -> Any:
    """A class or a function without required arguments makes the candidate; another function is it."""
    if not inspect.isclass(found) and not inspect.isfunction(found):
        return found
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(found).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
    if not needed:
        return found()
    if inspect.isclass(found):
        raise ValueError(f"candidate: {found.__name__} needs {needed[0]}: name a function that makes the model")
    return found


def _mapping(path: Path) -> dict[str, str]:
    """Raises ValueError unless the file holds one JSON object of strings."""
    found: Any = None
    with suppress(ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"{path}: expected a JSON object from layers' names to the candidate's")
    return found


def print_report(console: Console, report: Report, *, every: bool = False) -> None:
    """The layers, the first to go wrong marked, and then the verdict and the diagnosis."""
    wrong = {row.layer for row in report.diverging}
    rows = [row for row in report.rows if every or row.layer in wrong]
    if rows:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
        table.add_column("layer", overflow="fold")
        for heading in ("propagated", "isolated"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("laid out as", no_wrap=True)
        for row in rows if every else rows[:MOST_ROWS]:
            table.add_row(*map(_shown, _cells(row)), style="red" if row.layer in wrong else "")
        console.print(table)
        if not every and len(rows) > MOST_ROWS:
            console.print(f"… and {len(rows) - MOST_ROWS} more layers that differ (--all lists every layer)", style="dim")
    verdict, *lines = str(report).split("\n")
    console.print(_shown(verdict, "bold green" if report.agrees else "bold red"))
    for line in lines:
        console.print(_shown(line))


def _shown(words: str, style: str = "") -> Text:
    """Words as they are: no markup of rich's, and no escape sequence of a terminal's."""
    return Text(printable(words), style)


def _cells(row: Row) -> list[str]:
    module = "" if row.module in (row.layer, "output") else f" ({row.module})"
    return [row.layer + module, _error(row.propagated), _error(row.isolated), row.layout]


def _error(comparison: Comparison | None) -> str:
    return "" if comparison is None else f"{comparison.error:.3g} eps"
