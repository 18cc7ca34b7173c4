"""`scalablevit-ref convert`: one checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from scalablevit_ref.checkpoints.convert import HUB_FILE, Converted, convert_file
from scalablevit_ref.checkpoints.layouts import LAYOUTS
from scalablevit_ref.checkpoints.port_files import PORT_LAYOUTS
from scalablevit_ref.checkpoints.writing import CONFIG_JSON
from scalablevit_ref.checks import FLOATS
from scalablevit_ref.cli.documents import print_json
from scalablevit_ref.cli.errors import bad_input_is_one_line
from scalablevit_ref.cli.outputs import check_runs, compared
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.cli.settings import HEADS_HELP, WINDOWS_HELP, ema_said, errors_in_flags, port_settings
from scalablevit_ref.config import VARIANTS, ScalableViTConfig
from scalablevit_ref.errors import printable


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The checkpoint to read, of any layout.", show_default=False)],
    target: Annotated[
        Path,
        typer.Argument(metavar="DST", help="To be written: .safetensors, .npz, .msgpack (Flax), .pth or .pt.", show_default=False),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="LAYOUT",
            help=f"{', '.join(LAYOUTS)}; official unless DST is .msgpack. Of a port's weights: {', '.join(PORT_LAYOUTS)}.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"{', '.join(FLOATS)}; the file's own if not given.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help=f"What the weights are of: {', '.join(VARIANTS)}.", show_default=False)
    ] = None,
    heads: Annotated[str | None, typer.Option(metavar="N[,N…]", help=HEADS_HELP, show_default=False)] = None,
    window_size: Annotated[str | None, typer.Option(metavar="P[,P…]", help=WINDOWS_HELP, show_default=False)] = None,
    strip_head: Annotated[bool, typer.Option("--strip-head", help="Leave the classifier out.")] = False,
    fold_scale: Annotated[
        bool, typer.Option("--fold-scale", help="One-way: fold SSA's r_c^-½ into q, for code that scales by d^-½.")
    ] = False,
    one_way: Annotated[
        bool, typer.Option("--one-way", help="Leave out what the other port lacks, and so change what is computed.")
    ] = False,
    num_classes: Annotated[
        int | None,
        typer.Option("--num-classes", "--num-classes-check", help="Refuse another number of classes.", show_default=False),
    ] = None,
    use_ema: Annotated[bool, typer.Option(help="Prefer an EMA's weights where the file holds both.")] = True,
    config_json: Annotated[
        bool | None,
        typer.Option(help=f"Write config.json beside DST; on for the official network's {HUB_FILE}.", show_default=False),
    ] = None,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Let NaN and infinite weights pass.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that exist, but not what a symbolic link points to.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Run both files' networks in float64 and print the error.")] = False,
    sha256: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the SHA-256 of every tensor of DST.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Convert a checkpoint, losslessly unless --dtype is narrower. Nothing in SRC is executed; DST appears whole or not at all.

    Exit code 0 if done, 1 if --verify finds an error that the dtype does not explain, 2 for bad usage or a bad file.
    """
    with bad_input_is_one_line(), errors_in_flags():
        options: dict[str, Any] = {"variant": variant, "use_ema": use_ema} | port_settings(heads, window_size)
        with bytes_bar("converting") as progress:
            done = convert_file(
                source,
                target,
                layout=to,
                dtype=dtype,
                strip_head=strip_head,
                fold_scale=fold_scale,
                one_way=one_way,
                num_classes=num_classes,
                force=force,
                allow_nonfinite=allow_nonfinite,
                config_json=config_json,
                sha256=sha256,
                progress=progress,
                check=check_runs if verify else None,
                **options,
            )
        found = compared(done, source, target, options) if verify else None
    if as_json:
        print_json(_document(done, source, target, found))
    else:
        _print(done, source, target, found)
    raise typer.Exit(0 if found is None or found["agrees"] else 1)


def _document(done: Converted, source: Path, target: Path, found: dict[str, Any] | None) -> dict[str, Any]:
    document = {"source": str(source), "target": str(target), "bytes": target.stat().st_size, "layout": done.layout}
    document |= {"dtype": done.dtype, "parameters": done.parameters, "head_stripped": done.dropped, "scale_folded": done.folded}
    document |= {"underflowed": done.underflowed, "overflowed": done.overflowed, "config_json": done.config_json}
    return document | {"metadata": done.metadata, "verify": found}


def _print(done: Converted, source: Path, target: Path, found: dict[str, Any] | None) -> None:
    said = f"{done.parameters:,} parameters, {done.metadata['layout']} {done.metadata['dtype']} to {done.layout} {done.dtype}"
    typer.echo(printable(f"{source} -> {target}"))
    if isinstance(done.config, ScalableViTConfig):
        said += f", {done.metadata['variant'] or 'no published variant'}, told by {done.metadata['config_from']}"
    typer.echo(said)
    if done.metadata["ema"]:
        typer.echo(f"these are the EMA's weights{ema_said(done.metadata)}")
    if done.folded:
        typer.echo("r_c is folded into q: run it with ssa_scale='head_dim'")
    for count, became in ((done.underflowed, "underflow to 0"), (done.overflowed, "overflow to infinity")):
        if count:
            typer.echo(f"{count:,} values {became} in {done.dtype}")
    if done.config_json == "stale":
        typer.echo(f"the {CONFIG_JSON} beside it is left as it was, and does not describe these weights")
    for what, names in (("left out", done.metadata["ignored"]), ("head stripped", done.dropped)):
        if names:
            typer.echo(printable(f"{what}: {', '.join(names)}"))
    if found:
        console = Console(highlight=False)
        why = f"; {done.dtype} is narrower than {done.metadata['dtype']}" if found["narrower"] else ""
        console.print(f"verify: relative error {found['error']:.2g} in float64 at {found['size']} x {found['size']}{why}", end="")
        console.print(" [green bold]agrees[/]" if found["agrees"] else " [red bold]DIFFERS[/]")
