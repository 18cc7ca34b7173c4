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

from scalablevit_ref.checkpoints.infer import UNSEEN
from scalablevit_ref.checkpoints.inspect import Inspection, inspect_file
from scalablevit_ref.checkpoints.port_files import UNSEEN as PORT_UNSEEN
from scalablevit_ref.checkpoints.port_files import OpenedPort
from scalablevit_ref.checkpoints.recognise import OTHER_NETWORK
from scalablevit_ref.cli.documents import print_json
from scalablevit_ref.cli.errors import bad_input_is_one_line
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.cli.settings import HEADS_HELP, WINDOWS_HELP, ema_said, errors_in_flags, in_flags, port_settings
from scalablevit_ref.config import VARIANTS
from scalablevit_ref.errors import printable

TOLD_BY = {
    "config": "as given",
    "metadata": "stored in the file",
    "variant": "as given",
    "args.model": "named by args.model in the file",
    "shapes": "the one whose shapes fit",
}


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pth, .safetensors, .npz or Flax .msgpack.", show_default=False)],
    variant: Annotated[
        str | None, typer.Option(help=f"What the weights are of: {', '.join(VARIANTS)}.", show_default=False)
    ] = None,
    heads: Annotated[str | None, typer.Option(metavar="N[,N…]", help=HEADS_HELP, show_default=False)] = None,
    window_size: Annotated[str | None, typer.Option(metavar="P[,P…]", help=WINDOWS_HELP, show_default=False)] = None,
    use_ema: Annotated[bool, typer.Option(help="Prefer an EMA's weights where the file holds both.")] = True,
    sha256: Annotated[bool, typer.Option("--sha256", help="List the SHA-256 of every tensor, by official name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Say what a checkpoint file is: layout, variant, dtype, parameters, wrapper, prefixes, and what it leaves open.

    Nothing in the file is executed. Exit code 0 if its network is known, 1 if weights are there but not what they are of,
    2 for bad usage or a file that is no checkpoint.
    """
    with bad_input_is_one_line(), errors_in_flags(), bytes_bar("hashing") as progress:
        settings = port_settings(heads, window_size)
        found = inspect_file(file, variant=variant, use_ema=use_ema, sha256=sha256, progress=progress, **settings)
    if as_json:
        print_json(_document(file, found))
    else:
        _print(file, found)
    raise typer.Exit(0 if found.opened and not _untold(found) else 1)


def _untold(found: Inspection) -> bool:
    """Whether these are a port's weights whose settings nobody told."""
    return isinstance(found.opened, OpenedPort) and not found.opened.told


def _document(file: Path, found: Inspection) -> dict[str, Any]:
    document: dict[str, Any] = {"file": str(file), "bytes": file.stat().st_size, "format": found.format, "layout": found.layout}
    config, metadata = (found.opened.config, found.opened.metadata) if found.opened else (None, {})
    document |= {"variant": metadata.get("variant"), "config_from": metadata.get("config_from")}
    document |= {
        "config": asdict(config) if config and not _untold(found) else None,
        "problem": found.problem and in_flags(found.problem),
        "open": _left_open(found),
    }
    document |= {"dtype": found.dtypes[0] if len(found.dtypes) == 1 else found.dtypes, "parameters": found.parameters}
    document |= {"wrapper": found.wrapper, "prefixes": found.prefixes, "ignored": found.ignored}
    tensors = {name: {"shape": list(shape)} for name, shape in found.shapes.items()}
    return document | {"metadata": metadata, "tensors": tensors} | ({"sha256": found.sha256} if found.sha256 is not None else {})


def _left_open(found: Inspection) -> str | None:
    """What no shape tells and the file does not say."""
    if _untold(found):
        return f"{PORT_UNSEEN}; --heads and --window-size tell them"
    by_shapes = found.opened and found.opened.metadata.get("config_from") == "shapes"
    return f"{UNSEEN}; taken from the variant" if by_shapes else None


def _print(file: Path, found: Inspection) -> None:
    console = Console()
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    dtypes = ", ".join(found.dtypes)
    lines = {
        "file": f"{file}",
        "format": f"{found.format}, {file.stat().st_size / 1e6:,.1f} MB",
        "layout": found.layout or "unknown",
    }
    lines |= {"network": OTHER_NETWORK} if found.of_a_port else {}
    if isinstance(found.opened, OpenedPort):
        lines |= _of_a_port(found.opened)
    elif found.opened:
        config, told = found.opened.config, found.opened.metadata
        lines["variant"] = f"{told['variant'] or 'none of the published'} ({TOLD_BY[told['config_from']]})"
        lines["head"] = f"{config.head}, {config.num_classes} classes" if config.num_classes else config.head
        lines["SSA"] = {"unscaled": "v3 (values keep c channels)", "scaled": "v1 (values have c' channels)"}[config.ssa_values]
    lines |= {"EMA": f"yes{ema_said(found.opened.metadata)}"} if found.opened and found.opened.metadata["ema"] else {}
    lines["parameters"] = f"{found.parameters:,} in {len(found.shapes)} tensors, {dtypes}"
    lines |= {"wrapper": found.wrapper} if found.wrapper else {}
    lines |= {"prefixes": " ".join(found.prefixes)} if found.prefixes else {}
    lines |= {"left out": ", ".join(found.ignored)} if found.ignored else {}
    if open_ := _left_open(found):
        lines["not told"] = open_
    for name, value in lines.items():
        table.add_row(name, Text(printable(value)))
    if found.problem:
        table.add_row("problem", Text(in_flags(found.problem), "yellow"))
    console.print(table)
    for name, digest in (found.sha256 or {}).items():
        typer.echo(f"{digest}  {printable(name)}")


def _of_a_port(opened: OpenedPort) -> dict[str, str]:
    """What the shapes say of a port's network, and what is told beside."""
    config = opened.config
    lines = {"stages": f"{' / '.join(map(str, config.depth))} layers from {config.dim} channels"}
    lines |= {"head": f"linear, {config.num_classes} classes"}
    if opened.told:
        windows = " / ".join("whole map" if size is None else str(size) for size in config.window_size)  # type: ignore[union-attr]
        lines |= {"heads": " / ".join(map(str, config.heads)), "windows": windows}  # type: ignore[arg-type]
    return lines
