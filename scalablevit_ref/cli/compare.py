"""`scalablevit-ref compare`: where a port goes wrong first, by how much, and the likely mistake."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from scalablevit_ref.certify.before import check_certified
from scalablevit_ref.certify.compared import Prover
from scalablevit_ref.checkpoints.download import is_on_hub
from scalablevit_ref.cli.bad_input import bad_input_is_one_line, check_folder, check_known
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, say_written
from scalablevit_ref.cli.progress import spinner
from scalablevit_ref.cli.proved import print_proved
from scalablevit_ref.cli.standard_output import ports_output_apart
from scalablevit_ref.cli.terminal import Terminal, styled
from scalablevit_ref.compare.capture.own_code import own_code
from scalablevit_ref.compare.names_file import read_names
from scalablevit_ref.compare.report import Report, Row
from scalablevit_ref.compare.run import MODES
from scalablevit_ref.compare.run import compare as held_against
from scalablevit_ref.config import near_matches
from scalablevit_ref.drawing.remade import remade
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.files.writing import check_outputs, write_contents
from scalablevit_ref.testing.arrays import EPS, Comparison
from scalablevit_ref.testing.traces import SUFFIXES, trace_images

MOST_ROWS = 12
"""Mistakes, and kinds of layers that nothing explains, are listed up to this number."""

INDENT = "  "
"""What stands before a line that says more of the one before it."""

FILES = (*SUFFIXES, ".onnx", ".xml")
"""Endings of files that are candidates themselves."""


def compare(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE",
            help="package.module:name or file.py:name (a torch or Flax module or a JAX function, or what makes one), "
            "a trace (.npz, .safetensors) or a model (.onnx, .xml).",
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
        typer.Option(metavar="FILE|random|own", help="Not given: a module gets random weights, which hide no mistake."),
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="FILE", help="Images b c h w: .npy, or a trace that holds some.")] = None,
    mode: Annotated[str, typer.Option(help=f"{', '.join(MODES)}.")] = "both",
    dtype: Annotated[
        str | None, typer.Option(help="What a module is converted to; own leaves it. Not given: float64.", show_default=False)
    ] = None,
    names: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON: from the names of layers to the candidate's.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="In eps of the dtype.", min=0, show_default=False)] = None,
    diagnosis: Annotated[bool, typer.Option(help="Look for the mistake.")] = True,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="A module keeps its own weights and its own dtype; the reference has --weights.")
    ] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Prove the errors of the layers too, as the command `certify` does.")
    ] = False,
    costly: CostlyOption = False,
    all_layers: Annotated[bool, typer.Option("--all", help="List every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the errors by layer as a picture: .png, .svg or .pdf.")
    ] = None,
    theme: Annotated[str, typer.Option(metavar="light|dark", help="The picture is for a light or a dark page.")] = "light",
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="Of what the port itself raises, print its traceback too.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Hold a port of the network against the reference: which layer goes wrong first, by how much, and why.

    Exit code 0 if it agrees in every layer, 1 if it does not, 2 for what cannot be compared.
    """
    with bad_input_is_one_line(traceback=with_traceback):
        check_known("--mode", [mode], MODES)
        if certify:
            check_certified("--certify")
        if plot:
            from scalablevit_ref.drawing.style import check_picture

            check_picture(plot, theme)
        check_folder("--plot", plot)
        check_folder("--html", html)
        overwriting = remade((html, plot), force=force)
        check_outputs((html, plot), inputs=(*_files(candidate, weights), reference, images, names), force=overwriting)
        against = f"{candidate} against {reference.name if reference else 'the reference'}"
        here = Path.cwd()
        with ports_output_apart():
            port = named_candidate(candidate)
        if Path.cwd() != here:  # a port's doing; the files are meant from where they were named
            reference, images, names = (None if path is None else here / path for path in (reference, images, names))
            weights = weights if weights in (None, "random", "own") or is_on_hub(weights) else str(here / weights)
        with ports_output_apart(), spinner("the candidate") as step:
            report = held_against(
                port,
                reference=reference,
                variant=variant_name,
                weights=weights,
                images=None if images is None else trace_images(images),
                mode=mode,  # type: ignore[arg-type]
                dtype=dtype,
                names=None if names is None else read_names(names),
                tolerance=tolerance,
                diagnosis=diagnosis,
                progress=step,
                costly=costly,
                as_it_is=as_it_is,
                certify=Prover() if certify else None,
            )
        outputs: dict[Path, bytes | None] = {}
        os.chdir(here)
        if html:
            from scalablevit_ref.compare.html.page import html as page

            outputs[html] = page(report, title=against).encode()
        if plot:
            from scalablevit_ref.compare.error_chart import error_picture
            from scalablevit_ref.drawing.render import picture

            outputs[plot] = picture(error_picture(report, against), plot.suffix, theme=theme)
        write_contents(outputs, force=overwriting)
    if as_json:
        print_json(report.to_json())
    else:
        print_report(Terminal(), report, every=all_layers)
        if report.certificate:
            print_proved(Terminal(), report.certificate, report.first.layer if report.first else None)
        say_written({html: "the report", plot: "its picture"})
    raise typer.Exit(0 if report.agrees else 1)


def _files(candidate: str, weights: str | None) -> list[Path]:
    """The files of a candidate and of weights, as the command line names them."""
    file = candidate if Path(candidate).suffix in FILES else candidate.rpartition(":")[0]
    return [Path(text) for text in (file, weights) if text and text not in ("random", "own")]


def named_candidate(text: str) -> Any:
    """The path of a trace or a model; or what `package.module:name` or `file.py:name` holds, called if it is a class or a factory.

    The module is the user's own and is run. Raises ValueError, ImportError or OSError in words for what is not there, CaptureError
    for what the module itself raises.
    """
    if Path(text).suffix in FILES:
        open_regular(text, "a trace or a model").close()
        return Path(text)
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f"candidate {text!r}: expected a file ({', '.join(FILES)}), package.module:name or file.py:name")
    module = _module(where)
    found: Any = module
    for part in name.split("."):
        with own_code(f"looking for {name} in {where}"):
            try:
                found = getattr(found, part)
            except AttributeError:
                some = [known for known in dir(found) if not known.startswith("_")]
                raise CaptureError(f"candidate: {where} has no {name!r}{near_matches(part, some)}") from None
    return _made(found, f"making {text}")


def _module(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix != ".py":
        with _importable_from(Path.cwd()):  # as `python -m` does
            return _imported(where)
    open_regular(path, "a Python file").close()  # which importing it would wait for
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with _importable_from(path.parent.resolve()), own_code(f"importing {where}"):  # as `python FILE` does
        spec.loader.exec_module(module)
    return module


def _imported(name: str) -> ModuleType:
    """Raises ModuleNotFoundError for a module that is not there, CaptureError for what one that is there raises."""
    missing: ModuleNotFoundError | None = None
    with own_code(f"importing {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            missing = error
    assert missing is not None
    raise missing


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """While open, modules of this folder come before all others, whatever they do to the search path themselves."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(entry)


def _made(found: Any, doing: str) -> Any:
    """A class or a function without required arguments makes the candidate; another function is it."""
    if not inspect.isclass(found) and not inspect.isfunction(found):
        return found
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    with own_code(doing):  # a class may have a metaclass
        parameters = inspect.signature(found).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
    if not needed:
        with own_code(doing):
            return found()
    if inspect.isclass(found):
        raise ValueError(f"candidate: {found.__name__} needs {needed[0]}: name a function that makes the model")
    return found


def print_report(console: Console, report: Report, *, every: bool = False) -> None:
    """A row for each mistake, or of `every` layer those that go wrong marked; then the verdict and the diagnosis."""
    wrong = {row.layer for row in report.diverging}
    rows = [(row, 0) for row in report.rows] if every else [] if report.unsteady else report.mistakes()
    if rows:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
        table.add_column("layer", overflow="fold")
        for heading in ("propagated", "isolated", "relative"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("laid out as", no_wrap=True)
        for row, more in rows if every else rows[:MOST_ROWS]:
            table.add_row(*map(styled, _cells(row, more)), style="red" if row.layer in wrong else "")
        console.print(table)
        if not every and len(rows) > MOST_ROWS:
            console.print(f"… and {len(rows) - MOST_ROWS} more kinds of layers that differ (--all lists every layer)", style="dim")
    verdict, *lines = str(report).split("\n")
    console.print(styled((verdict, "bold green" if report.agrees else "bold red")))
    for line in lines:
        _print_line(console, line)


def _print_line(console: Console, line: str) -> None:
    """A line of a report; what is wrapped of an indented one is indented too."""
    indent = INDENT if line.startswith(INDENT) else ""
    *parts, last = styled(line.removeprefix(indent)).wrap(console, console.width - len(indent))
    for part in parts:
        part.rstrip()
    for part in (*parts, last):
        console.print(styled(indent) + part)


def _cells(row: Row, more: int) -> list[str]:
    module = "" if row.module in (row.layer, "output") else f" ({row.module})"
    others = f" and {more} more" if more else ""
    relative = f"{row.own.error * EPS[row.own.dtype]:.2g}"
    return [row.layer + module + others, _error(row.propagated), _error(row.isolated), relative, row.layout]


def _error(comparison: Comparison | None) -> str:
    return "" if comparison is None else f"{comparison.error:.3g} eps"
