"""`scalablevit-ref convert`: one checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from scalablevit_ref.checkpoints import load_checkpoint
from scalablevit_ref.checkpoints.convert import Converted, convert_file
from scalablevit_ref.checkpoints.errors import printable
from scalablevit_ref.checkpoints.layouts import LAYOUTS
from scalablevit_ref.checks import FLOATS, nearest_image_size
from scalablevit_ref.cli.errors import bad_input_is_one_line
from scalablevit_ref.cli.progress import bytes_bar
from scalablevit_ref.config import VARIANTS
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images
from scalablevit_ref.testing.tolerances import EPS, relative_l2

HUB_FILE = "model.safetensors"


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The checkpoint to read, of any layout.", show_default=False)],
    target: Annotated[
        Path,
        typer.Argument(metavar="DST", help="The file to write: .safetensors, .npz, .msgpack (Flax) or .pth.", show_default=False),
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="LAYOUT", help=f"{', '.join(LAYOUTS)}; official unless DST is .msgpack.", show_default=False),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"{', '.join(FLOATS)}; the file's own if not given.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help=f"What the weights are of: {', '.join(VARIANTS)}.", show_default=False)
    ] = None,
    strip_head: Annotated[bool, typer.Option("--strip-head", help="Leave the classifier out.")] = False,
    num_classes: Annotated[
        int | None, typer.Option(help="Refuse a checkpoint of another number of classes.", show_default=False)
    ] = None,
    use_ema: Annotated[bool, typer.Option(help="Prefer an EMA's weights where the file holds both.")] = True,
    config_json: Annotated[
        bool | None, typer.Option(help=f"Write config.json beside DST; on for {HUB_FILE}.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Run both files' networks in float64 and print the error.")] = False,
    sha256: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the SHA-256 of every tensor of DST.", show_default=False)
    ] = None,
) -> None:
    """Convert a checkpoint, losslessly unless --dtype is narrower. Nothing in SRC is executed; DST appears whole or not at all.

    Exit code 0 if done, 1 if --verify finds an error that the dtype does not explain, 2 for bad usage or a bad file.
    """
    with bad_input_is_one_line():
        with bytes_bar("converting") as progress:
            done = convert_file(
                source,
                target,
                layout=to,
                dtype=dtype,
                variant=variant,
                strip_head=strip_head,
                num_classes=num_classes,
                use_ema=use_ema,
                force=force,
                config_json=target.name == HUB_FILE if config_json is None else config_json,
                sha256=sha256,
                progress=progress,
            )
        _report(done, source, target)
        good = not verify or _verify(done, source, target, variant=variant, use_ema=use_ema)
    raise typer.Exit(0 if good else 1)


def _report(done: Converted, source: Path, target: Path) -> None:
    said = f"{done.parameters:,} parameters, {done.metadata['layout']} {done.metadata['dtype']} to {done.layout} {done.dtype}"
    typer.echo(f"{source} -> {target}")
    typer.echo(f"{said}, {done.metadata['variant'] or 'no published variant'}, told by {done.metadata['config_from']}")
    if done.metadata["ema"]:
        typer.echo("these are the EMA's weights; --no-use-ema takes the others")
    for what, names in (("left out", done.metadata["ignored"]), ("head stripped", done.dropped)):
        if names:
            typer.echo(printable(f"{what}: {', '.join(names)}"))


def _verify(done: Converted, source: Path, target: Path, *, variant: str | None, use_ema: bool) -> bool:
    """Both networks on one image in float64; whether they agree as far as the dtype lets them."""
    results = []
    size = next(n for n in (112, nearest_image_size(done.config, 224)) if nearest_image_size(done.config, n) == n)
    image = random_images((1, done.config.in_chans, size, size))
    for path, options in ((source, {"variant": variant, "use_ema": use_ema}), (target, {})):
        checkpoint = load_checkpoint(path, **options)  # type: ignore[arg-type]
        params = {name: checkpoint.params[name].astype(np.float64) for name in parameter_shapes(done.config)}
        run = stage_features if done.config.stage_norms else scalable_vit
        out = run(image, params, done.config)
        results.append(np.concatenate([np.ravel(x) for x in out]) if isinstance(out, tuple) else np.asarray(out))
        del checkpoint, params
    error = relative_l2(results[1], results[0])
    narrower = EPS[done.dtype] > EPS[done.metadata["dtype"]]
    good = error <= 64 * EPS[done.dtype] if narrower else error == 0
    console = Console(highlight=False)
    why = f"; {done.dtype} is narrower than {done.metadata['dtype']}" if narrower else ""
    console.print(f"verify: relative error {error:.2g} in float64 at {size} x {size}{why}", end="")
    console.print(" [green bold]agrees[/]" if good else " [red bold]DIFFERS[/]")
    return good
