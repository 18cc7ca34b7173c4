"""`scalablevit-ref inspect`: what a checkpoint file is, told without running or loading it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalablevit_ref.checkpoints.inspect import Inspection, inspect_file
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import EmaOption, HeadsOption, JsonOption, VariantOption, WindowsOption, ema_said, per_stage
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.errors import option, printable
from scalablevit_ref.weights import Stated


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pth, .safetensors, .npz or Flax .msgpack.", show_default=False)],
    variant: VariantOption = None,
    heads: HeadsOption = None,
    window_size: WindowsOption = None,
    use_ema: EmaOption = True,
    sha256: Annotated[bool, typer.Option("--sha256", help="List the SHA-256 of every tensor, by official name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a checkpoint file is: layout, variant, dtype, parameters, wrapper, prefixes, and what it leaves open.

    Nothing in the file is executed. Exit code 0 if its network is known, 1 if weights are there but not what they are of,
    2 for bad usage or a file that is no checkpoint.
    """
    with bad_input_is_one_line(), bytes_bar("hashing") as progress:
        windows = per_stage("--window-size", window_size)
        stated = Stated(variant=variant, heads=per_stage("--heads", heads), window_size=windows)
        found = inspect_file(file, stated, use_ema=use_ema, sha256=sha256, progress=progress)
    if as_json:
        print_json(_document(file, found))
    else:
        _print(file, found)
    raise typer.Exit(0 if found.weights and not found.weights.unknown else 1)


def _document(file: Path, found: Inspection) -> dict[str, Any]:
    weights = found.weights
    metadata = weights.metadata if weights else {}
    document: dict[str, Any] = {"file": str(file), "bytes": file.stat().st_size, "format": found.format, "layout": found.layout}
    document |= {"variant": metadata.get("variant"), "config_from": metadata.get("config_from")}
    document |= {
        "config": asdict(weights.config) if weights and not weights.unknown else None,
        "problem": found.problem.in_flags() if found.problem else None,
        "open": _left_open(found),
    }
    document |= {"dtype": found.dtypes[0] if len(found.dtypes) == 1 else found.dtypes, "parameters": found.parameters}
    document |= {"wrapper": found.wrapper, "prefixes": found.prefixes, "ignored": found.ignored}
    tensors = {name: {"shape": list(shape)} for name, shape in found.shapes.items()}
    return document | {"metadata": metadata, "tensors": tensors} | ({"sha256": found.sha256} if found.sha256 is not None else {})


def _left_open(found: Inspection) -> str | None:
    """What no shape shows and the file does not store."""
    if found.weights and found.weights.unknown:
        names = found.weights.unknown
        return f"{' and '.join(names)} show in no shape; {' and '.join(option(name).flag for name in names)} tell them"
    return found.weights.assumed if found.weights else None


def _print(file: Path, found: Inspection) -> None:
    console = Console()
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    lines: dict[str, str | None] = {
        "file": f"{file}",
        "format": f"{found.format}, {file.stat().st_size / 1e6:,.1f} MB",
        "layout": found.layout or "unknown",
        "network": found.other_network,
    }
    if found.weights:
        metadata = found.weights.metadata
        lines |= found.weights.facts() | {"EMA": f"yes{ema_said(metadata)}" if metadata["ema"] else None}
    lines |= {
        "parameters": f"{found.parameters:,} in {len(found.shapes)} tensors, {', '.join(found.dtypes)}",
        "wrapper": found.wrapper,
        "prefixes": " ".join(found.prefixes),
        "left out": ", ".join(found.ignored),
        "not told": _left_open(found),
    }
    for name, value in lines.items():
        if value:
            table.add_row(name, Text(printable(value)))
    if found.problem:
        table.add_row("problem", Text(found.problem.in_flags(), "yellow"))
    console.print(table)
    for name, digest in (found.sha256 or {}).items():
        typer.echo(f"{digest}  {printable(name)}")
