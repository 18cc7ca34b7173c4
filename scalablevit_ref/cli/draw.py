"""`scalablevit-ref draw`: a variant's architecture, the data flow of one of its layers, or its cost, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import ForceOption, JsonOption
from scalablevit_ref.cli.summary import size_of
from scalablevit_ref.cli.terminal import say
from scalablevit_ref.config import VARIANTS, variant
from scalablevit_ref.drawing.remade import remade


def draw(
    name: Annotated[str, typer.Argument(metavar="VARIANT", help=f"One of {', '.join(VARIANTS)}.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="To be written: .svg, .png or .pdf.", show_default=False)
    ],
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Draw one layer's data flow: stages.0.1.attn, stages.0.1.mlp, stages.0.1 (a block), pos_block.0, patch_embeds.0.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Pixels, height before width; 224 (digits: 112) if not given.", show_default=False),
    ] = None,
    theme: Annotated[str, typer.Option(metavar="light|dark", help="For a light or a dark page.")] = "light",
    cost: Annotated[bool, typer.Option("--cost", help="Draw parameters and multiply-adds by stage and kind of layer.")] = False,
    idea: Annotated[bool, typer.Option("--idea", help="Draw what one token attends to, in IWSA and in SSA.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw a variant's architecture, one of its layers, its cost or the idea behind it. The file holds an alternative text.

    Nothing is run: all is told from the configuration, for one image. Needs matplotlib: `pip install 'scalablevit-ref[plot]'`.
    """
    with bad_input_is_one_line():
        from scalablevit_ref.drawing import draw as drawn

        force = bool(remade([output], force=force))
        size = size_of(name, image_size)
        alt = drawn(variant(name), output, name=name, image_size=size, layer=layer, cost=cost, idea=idea, theme=theme, force=force)
    if as_json:
        print_json({"file": str(output), "variant": name, "image_size": size, "alt": alt})
    else:
        what = layer or ("cost" if cost else "idea" if idea else "architecture")
        say(f"{output}: {what} of {name}, images of {size[0]} x {size[1]} pixels")
