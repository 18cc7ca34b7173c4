"""An attention viewer as one HTML file: point at a token and see its keys, head by head. Nothing is fetched."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.drawing.attention_maps import AttentionPicture
from scalablevit_ref.drawing.attention_weights import LayerAttention
from scalablevit_ref.drawing.html import document
from scalablevit_ref.drawing.style import MARK, VIRIDIS
from scalablevit_ref.errors import printable
from scalablevit_ref.files.writing import write_contents

MOST_WEIGHTS = 8_000_000
"""Most weights that a page holds, 2.7 bytes each: those of `small` at 224 pixels are at most 614,656."""

STEPS = 65535
"""Weights are kept as whole numbers of this many steps from 0 to 1."""

HERE = Path(__file__).parent


def save_page(picture: AttentionPicture, path: Path | str, *, force: bool = False) -> None:
    """Write the page; the picture's query is the one that it begins with.

    Parameters
    ----------
    picture
        What `attend` draws of the layer.
    path
        Of the HTML file, which appears whole or not at all.
    force
        Overwrite an existing file.

    Raises
    ------
    ValueError
        For more than `MOST_WEIGHTS` weights.
    FileExistsError
        Unless `force`.
    OSError
        Where the file cannot be written.
    """
    write_contents({Path(path): attention_page(picture).encode()}, force=force)


def attention_page(picture: AttentionPicture) -> str:
    """The whole file as text. Raises ValueError for more than `MOST_WEIGHTS` weights."""
    found = picture.found
    if found.weights[0].size > MOST_WEIGHTS:
        raise ValueError(f"{found.layer} has {found.weights[0].size:,} weights, more than {MOST_WEIGHTS:,}: take a smaller image")
    title = escape(printable(picture.title))
    said = "".join(f"<p>{escape(printable(words))}</p>\n" for words in picture.said)
    choices = [(head, f"head {head}") for head in range(found.heads)]
    if found.heads > 1:
        choices.insert(0, (-1, "mean of the heads"))
    heads = "".join(
        f'<label><input type="radio" name="head" value="{value}"{" checked" * (value == choices[0][0])}> {words}</label>\n'
        for value, words in choices
    )
    data = json.dumps(_data(picture), separators=(",", ":"))
    scripts = "".join((HERE / name).read_text(encoding="utf-8") for name in ("attention_map.js", "attention_page.js"))
    body = (
        f'{said}<p id="how">Point at a token, or use the arrow keys: the colours are what it gives to each of its keys.</p>\n'
        f"<fieldset><legend>Of which head</legend>\n{heads}</fieldset>\n"
        f'<canvas id="map" tabindex="0" role="img" aria-label="{escape(picture.alt)}"></canvas>\n'
        '<p id="scale"><span>0</span><i></i><span id="most"></span></p>\n<p id="says" aria-live="polite"></p>\n'
        f'<script type="application/json" id="data">{data}</script>\n<script>{scripts}</script>\n'
    )
    return document(title, (HERE / "attention_page.css").read_text(encoding="utf-8"), body, scripts=True)


def _data(picture: AttentionPicture) -> dict[str, Any]:
    """What the script reads: the image "h w" in bytes, the weights "heads h w kh kw" in pairs of bytes, both in base64."""
    found = picture.found
    middle = found.tokens[0] // 2, found.tokens[1] // 2
    return {
        "layer": layer_facts(found),
        "look": look(picture.image),
        "query": picture.query or middle,
        "image": _base64(np.clip(np.rint(255 * picture.image), 0, 255).astype("u1")),
        "weights": _base64(np.rint(STEPS * found.weights[0].astype("f8")).astype("<u2")),
    }


def layer_facts(found: LayerAttention) -> dict[str, Any]:
    """What `AttentionMap` of `attention_map.js` must know of a layer."""
    sizes = {"heads": found.heads, "tokens": found.tokens, "keys": found.keys}
    return {
        "name": found.layer,
        "kind": found.kind,
        "stride": found.stride,
        "span": found.span,
        "keyTokens": found.key_tokens,
    } | sizes


def look(image: np.ndarray) -> dict[str, Any]:
    """What `AttentionMap` must know of an image "h w", and its colours."""
    return {"size": image.shape, "colors": VIRIDIS, "frame": MARK}


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
