"""The attention viewer in a browser: what it says of a token is what the specification computes, and nothing is fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.drawing import attention_page as module
from scalablevit_ref.drawing.attention_maps import AttentionPicture
from scalablevit_ref.drawing.attention_page import attention_page, save_page
from scalablevit_ref.drawing.attention_weights import LayerAttention, layer_attention
from tests.support.browser import browser, launched, opened

LAYERS = ("stages.0.0", "stages.1.1", "stages.2.1")


@pytest.fixture(scope="module")
def attentions() -> dict[str, LayerAttention]:
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    x = digits.preprocess(digits.test_images()[0][75:76])
    return {layer: layer_attention(x, checkpoint.params, checkpoint.config, layer) for layer in LAYERS}


def picture(found: LayerAttention, *said: str) -> AttentionPicture:
    return AttentionPicture(found, np.full((112, 112), 0.25), (4, 3), tuple(range(found.heads)), True, said)


def expected(found: LayerAttention, row: int, column: int, head: int | None) -> str:
    """The sentence of the page."""
    weights = found.weights[0, :, row, column].mean(0) if head is None else found.weights[0, head, row, column]
    i, j = np.unravel_index(np.argmax(weights), weights.shape)
    whose = "the heads' mean gives" if head is None else f"head {head} gives"
    keys = f"{found.keys[0]} × {found.keys[1]} keys" + (" of its window" if found.kind == "iwsa" else "")
    most = f"{whose} most, {100 * weights.max():.1f} %, to row {i}, column {j} of {keys}"
    return f"The query at row {row}, column {column}: {most}. An even share is {100 / weights.size:.1f} %."


@browser
def test_it_says_what_the_specification_computes(attentions: dict[str, LayerAttention], tmp_path: Path) -> None:
    """Where the pointer is, after an arrow key, and of each head; no error, no request but for the file itself."""
    with launched() as chromium:
        for layer, found in attentions.items():
            save_page(picture(found), tmp_path / f"{layer}.html")
            page = opened(chromium, viewport={"width": 390, "height": 900}).new_page()
            wrong: list[Any] = []
            asked: list[str] = []
            page.on("pageerror", lambda error, wrong=wrong: wrong.append(error))
            page.on("console", lambda message, wrong=wrong: wrong.append(message.text))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto((tmp_path / f"{layer}.html").as_uri())
            none = None if found.heads > 1 else 0
            assert page.inner_text("#says") == expected(found, 4, 3, none)
            box, (rows, columns) = page.locator("#map").bounding_box(), found.tokens
            page.mouse.move(box["x"] + box["width"] * 2.5 / columns, box["y"] + box["height"] * 5.5 / rows)
            assert page.inner_text("#says") == expected(found, 5, 2, none)
            page.focus("#map")
            page.keyboard.press("ArrowRight")
            assert page.inner_text("#says") == expected(found, 5, 3, none)
            for head in range(found.heads):
                page.get_by_role("radio", name=f"head {head}").check()
                assert page.inner_text("#says") == expected(found, 5, 3, head)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            drawn = page.evaluate("[...document.getElementById('map').getContext('2d').getImageData(1, 1, 1, 1).data]")
            assert drawn[3] == 255
            assert not wrong
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_words_of_others_are_text(attentions: dict[str, LayerAttention]) -> None:
    text = attention_page(picture(attentions["stages.0.0"], "<script>alert(1)</script>\x1b[31m"))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "\x1b" not in text
    assert len(re.findall("<script", text)) == 2


def test_the_data_are_the_weights(attentions: dict[str, LayerAttention]) -> None:
    """To half a step."""
    text = attention_page(picture(attentions["stages.1.1"]))
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    found = np.frombuffer(module.base64.b64decode(data["weights"]), "<u2") / module.STEPS
    weights = attentions["stages.1.1"].weights[0]
    assert np.abs(found.reshape(weights.shape) - weights).max() <= 0.5001 / module.STEPS


def test_too_many_weights_are_refused(attentions: dict[str, LayerAttention], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WEIGHTS", 10)
    with pytest.raises(ValueError, match="weights, more than 10: take a smaller image"):
        attention_page(picture(attentions["stages.0.0"]))
