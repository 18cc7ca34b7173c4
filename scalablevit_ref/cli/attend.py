"""`scalablevit-ref attend`: where one layer's attention goes on one image, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from scalablevit_ref import digits
from scalablevit_ref.checkpoints.in_one_dtype import load_in_one_dtype
from scalablevit_ref.cli.bad_input import bad_input_is_one_line
from scalablevit_ref.cli.json_output import print_json
from scalablevit_ref.cli.options import CostlyOption, ForceOption, JsonOption, KeyOption, parse_side, say_written
from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.drawing.remade import remade
from scalablevit_ref.errors import printable
from scalablevit_ref.files.writing import check_outputs
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD, load_image
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import init_params
from scalablevit_ref.run_cost import check_run

DIGIT = "digit:"
"""What an image of the embedded ones begins with."""

USUAL_SIZE = 224
"""Pixels a side to which an image file is brought, unless the user says otherwise."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey (ITU-R BT.601)."""

MOST_LETTERS = 32
"""Letters of a file's name that the picture shows; a longer name loses its middle."""


def attend(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="An image file (official preprocessing), or digit:N, the N-th of the 370 embedded test images, from 0.",
            show_default=False,
        ),
    ],
    layer: Annotated[str, typer.Option(help="Which block: stages.K.I. Odd I is SSA, even I is IWSA.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write a picture: .svg, .png or .pdf.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page on which to point at a token and see its keys.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A checkpoint. Not given: for digit:N the embedded one.", show_default=False)
    ] = None,
    key: KeyOption = None,
    variant_name: Annotated[
        str | None, typer.Option("--variant", help="This variant with untrained weights; with --weights: what the file holds.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,COLUMN|mean",
            help="The token that asks, from 0,0; mean is all of them (SSA). Not given: a digit's most inked, else the middle.",
            show_default=False,
        ),
    ] = None,
    heads: Annotated[str, typer.Option(metavar="all|mean|N", help="Each head and their mean, their mean, or one head.")] = "all",
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|NxN", help="Pixels a side of the image that a file becomes; 224 if not given.", show_default=False),
    ] = None,
    theme: Annotated[str, typer.Option(metavar="light|dark", help="For a light or a dark page.")] = "light",
    seed: Annotated[int, typer.Option(help="Of untrained weights.", min=0)] = 0,
    force: ForceOption = False,
    costly: CostlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw where a layer's attention goes, laid over the image, and say what the picture shows.

    Of SSA: what one query gives to each reduced key, and what each key receives from all queries. Of IWSA: the windows, what the
    query gives inside its own, and how much LIM adds to that, which is where windows interact.
    A picture needs matplotlib: `pip install 'scalablevit-ref[plot]'`.
    """
    from scalablevit_ref.drawing.attention_maps import AttentionPicture
    from scalablevit_ref.drawing.attention_page import save_page
    from scalablevit_ref.drawing.attention_weights import layer_attention
    from scalablevit_ref.drawing.style import check_picture

    with bad_input_is_one_line():
        if output is None and html is None:
            raise ValueError("what is to be written? -o takes a picture's file, --html a page's")
        if output is not None:
            check_picture(output, theme)
        read = None if image.startswith(DIGIT) else Path(image)
        force = bool(remade([file for file in (output, html) if file], force=force))
        check_outputs([output, html], inputs=(read, weights), force=force)
        config, params, what = _network(image, weights, variant_name, key, seed)
        x, grey, name = _image(image, config, parse_side(image_size, "the official preprocessing"), costly=costly)
        found = layer_attention(x, params(), config, layer, costly=costly)
        prediction = "" if weights is None and variant_name else _prediction(found.logits[0], config, image)
        shown, each = _heads(heads, found.heads)
        asks = _query(query, grey if image.startswith(DIGIT) else None, found.tokens, found.stride)
        picture = AttentionPicture(found, grey, asks, shown, each, (name + prediction, what))
        if output is not None:
            picture.save(output, theme=theme, force=force)
        if html is not None:
            save_page(picture, html, force=force)
    if as_json:
        files = {"file": str(output) if output else None, "html": str(html) if html else None}
        print_json(files | {"layer": layer, "of": name, "weights": what, "alt": picture.alt})
    else:
        say_written({output: picture.alt, html: f"a page of {picture.title}"})


def _network(
    image: str, weights: Path | None, variant_name: str | None, key: str | None, seed: int
) -> tuple[ScalableViTConfig, Callable[[], dict[str, np.ndarray]], str]:
    """The config, what gives the parameters in float32, and where they are from."""
    if weights is None and variant_name is not None:
        config = variant(variant_name)
        return config, partial(init_params, config, seed), f"{variant_name}, untrained (seed {seed}): the maps tell nothing"
    if weights is None and not image.startswith(DIGIT):
        raise ValueError("which network? --weights reads it, --variant takes untrained weights")
    checkpoint = load_in_one_dtype(weights or digits.CHECKPOINT, variant=variant_name, key=key)
    what = f"weights of {_short(weights.name)}" if weights else "the embedded digits checkpoint"
    return checkpoint.config, lambda: {name: x.astype("float32") for name, x in checkpoint.params.items()}, what


def _image(image: str, config: ScalableViTConfig, size: int | None, *, costly: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """The network's input "1 c h w", the same in grey from 0 to 1, and what it is called."""
    channels = 1 if image.startswith(DIGIT) else 3
    if config.in_chans != channels:
        raise ValueError(f"{image} has {channels} channel{'s' * (channels > 1)}, the network takes {config.in_chans}")
    if image.startswith(DIGIT):
        if size:
            raise ValueError(f"--image-size is for image files; a digit has {digits.IMAGE_SIZE} pixels a side")
        check_image_size(config, digits.IMAGE_SIZE, digits.IMAGE_SIZE)
        images, labels = digits.test_images()
        number = image.removeprefix(DIGIT)
        if not number.isdecimal() or int(number) >= len(images):
            raise ValueError(f"IMAGE must be digit:N with N from 0 to {len(images) - 1}, or a file, got {image!r}")
        x = digits.preprocess(images[int(number)][None])
        return x, x[0, 0] * digits.STD + digits.MEAN, f"{image}, a {labels[int(number)]}"
    size = size or USUAL_SIZE
    check_image_size(config, size, size)
    check_run(network_of(config), (1, config.in_chans, size, size), costly=costly)  # before an image of that size is made
    x = load_image(image, size)
    colors = x * np.reshape(IMAGENET_STD, (3, 1, 1)) + np.reshape(IMAGENET_MEAN, (3, 1, 1))
    return x[None], np.tensordot(LUMA, colors, 1), _short(Path(image).name)


def _prediction(logits: np.ndarray, config: ScalableViTConfig, image: str) -> str:
    if not config.num_classes or config.head == "none":
        return ""
    shares = np.exp(logits - logits.max())
    words = ": read as" if image.startswith(DIGIT) else ": class"
    return f"{words} {shares.argmax()}, probability {shares.max() / shares.sum():.2f}"


def _heads(text: str, count: int) -> tuple[tuple[int, ...], bool]:
    """Which heads, and whether each has a panel of its own."""
    if text in ("all", "mean"):
        return tuple(range(count)), text == "all"
    if not text.isdecimal():
        raise ValueError(f"--heads must be all, mean or a head's number, got {text!r}")
    return (int(text),), False


def _query(text: str | None, ink: np.ndarray | None, tokens: tuple[int, int], stride: int) -> tuple[int, int] | None:
    """Row and column of the token that asks; None for the mean over all. ink: of a digit, "h w"."""
    if text == "mean":
        return None
    if text is None:
        if ink is None:
            return tokens[0] // 2, tokens[1] // 2
        rows, columns = (np.arange(count) * stride for count in tokens)
        inked = np.add.reduceat(np.add.reduceat(ink, rows, axis=0), columns, axis=1)
        row, column = np.unravel_index(np.argmax(inked), tokens)
        return int(row), int(column)
    words = text.split(",")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--query must be ROW,COLUMN or mean, got {text!r}")
    return int(words[0]), int(words[1])


def _short(name: str) -> str:
    """A file's name as the picture shows it."""
    line = printable(name)
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS // 2 - 1]}…{line[-MOST_LETTERS // 2 :]}"
