"""`scalablevit-ref diff`: which tensors of two checkpoints differ, and by how much."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from scalablevit_ref.checkpoints.download import as_given
from scalablevit_ref.checkpoints.inspect import Difference, differences
from scalablevit_ref.checkpoints.load import open_checkpoint
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import EmaOption
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.cli.terminal import Terminal, say
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.weights import Stated, Weights


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint, of any layout and format.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    variant: Annotated[
        str | None, typer.Option(help="What both are of, where the files do not say it.", show_default=False)
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Where in both files the weights lie, if they hold several networks: inspect lists them.",
            show_default=False,
        ),
    ] = None,
    use_ema: EmaOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Compare two checkpoints tensor by tensor, by official names, whatever their layouts, formats and dtypes.

    Two of the ports are compared by vit_pytorch's names.

    Exit code 0 if configuration and numbers are the same, 1 if they differ, 2 for bad usage or a bad file.
    """
    stated = Stated(variant=variant, key=key)
    with bad_input_is_one_line(), bytes_bar("comparing") as progress:
        with open_checkpoint(a, stated, use_ema=use_ema) as one, open_checkpoint(b, stated, use_ema=use_ema) as other:
            if one.layouts != other.layouts:
                differ = one.other_network or other.other_network
                raise CheckpointError(f"nothing to compare: one file's weights are a port's, of {differ}")
            params = one.comparable()
            found = differences(params, other.comparable(), progress)
        settings = _settings(one, other)
        dtypes = [one.metadata["dtype"], other.metadata["dtype"]]
    if as_json:
        document = {"a": as_given(a), "b": as_given(b), "same": not (found or settings), "dtypes": dtypes, "config": settings}
        print_json(document | {"tensors": len(params), "differences": [asdict(x) for x in found]})
    else:
        _print(found, settings, dtypes, len(params))
    raise typer.Exit(1 if found or settings else 0)


def _settings(a: Weights, b: Weights) -> dict[str, list[object]]:
    """The settings that differ, with both values; none where one file leaves some unknown."""
    if a.unknown or b.unknown:
        return {}
    return {name: [value, getattr(b.config, name)] for name, value in asdict(a.config).items() if value != getattr(b.config, name)}


def _print(found: list[Difference], settings: dict[str, list[object]], dtypes: list[str], tensors: int) -> None:
    for name, (a, b) in settings.items():
        say((name, "yellow"), f": {a} in A, {b} in B")
    if found:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
        table.add_column("tensor", overflow="fold")
        table.add_column("differs in", no_wrap=True)
        for heading in ("max |A - B|", "/ max |A|", "elements"):
            table.add_column(heading, justify="right", no_wrap=True)
        for x in found:
            numbers = [f"{x.largest:.2e}", f"{x.relative:.1e}"] if x.what == "values" else ["", ""]
            table.add_row(x.name, x.what, *numbers, f"{x.count / x.size:.1%}" if x.size else "")
        Terminal().print(table)
    if dtypes[0] != dtypes[1]:
        say(f"A is {dtypes[0]}, B is {dtypes[1]}: their numbers are compared.")
    if found or settings:
        say((f"{len(found)} of {tensors} tensors differ", "red bold"), ", and the configuration." if settings else ".")
    else:
        say(("The same", "green bold"), f": configuration and all {tensors} tensors.")
