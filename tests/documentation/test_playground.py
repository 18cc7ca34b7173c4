"""The playground in a browser: its numbers and pictures are the package's, served and from the disk; a machine without npm."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.drawing.attention_weights import LayerAttention, attention_layers, layer_attention
from scalablevit_ref.drawing.style import MARK, VIRIDIS
from tests.support.browser import browser, launched, opened
from tests.support.site import DESKTOP, PHONE, complaints

npm = pytest.mark.skipif(shutil.which("npm") is None and "CI" not in os.environ, reason="npm is not installed")

CLOSE = 1e-4
"""Largest difference of a logit, and of a weight of the attention."""

READ = "#live[aria-busy=false]"
"""The page is there, when it has read what is drawn."""

DIGITS = """async () => {
  const live = document.getElementById("live"), all = []
  for (const button of document.querySelectorAll("#digits button")) {
    const before = live.found
    button.click()
    while (live.found === before) await new Promise(requestAnimationFrame)
    const { logits, probabilities, weights } = live.found
    const bars = [...document.querySelectorAll("#bars li")].map((bar) => bar.lastChild.textContent)
    const found = { title: button.title, said: document.getElementById("class").textContent, logits: [...logits], bars }
    if (all.length === 8) found.weights = Object.fromEntries(Object.entries(weights).map(([name, x]) => [name, [...x]]))
    all.push(found)
  }
  return all
}"""
"""Clicks each test image; gives what the page found, of the 8 with all weights."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def heard() -> list[list[str]]:
    return []


@pytest.fixture(scope="module")
def tab(server: str, chromium: Any, heard: list[list[str]]) -> Iterator[Any]:
    """The page from a server, which has read its first digit."""
    context = opened(chromium, viewport=DESKTOP)
    page = context.new_page()
    heard.append(complaints(page, server))
    page.goto(f"{server}playground.html")
    page.wait_for_selector(READ)
    yield page
    context.close()


@pytest.fixture(scope="module")
def attentions() -> dict[str, LayerAttention]:
    """Of the first 8 among the test images."""
    checkpoint, (images, labels) = sv.load_checkpoint(digits.CHECKPOINT), digits.test_images()
    x = digits.preprocess(images[np.flatnonzero(labels == 8)[:1]])
    return {one: layer_attention(x, checkpoint.params, checkpoint.config, one) for one in attention_layers(checkpoint.config)}


def shown(tab: Any) -> list[float]:
    """The figures of the sentence about the query, as shares."""
    return [float(figure) / 100 for figure in re.findall(r"([\d.]+) %", tab.inner_text("#query"))]


@browser
@npm
def test_the_test_digits_give_the_package_s_logits_and_attention(
    tab: Any, heard: list[list[str]], attentions: dict[str, LayerAttention]
) -> None:
    found = tab.evaluate(DIGITS)
    checkpoint, (images, labels) = sv.load_checkpoint(digits.CHECKPOINT), digits.test_images()
    assert [one["title"] for one in found] == [f"digit:{np.flatnonzero(labels == d)[0]}, a {d}" for d in range(10)]
    numbers = [int(np.flatnonzero(labels == d)[0]) for d in range(10)]
    logits = sv.scalable_vit(digits.preprocess(images[numbers]), checkpoint.params, checkpoint.config)
    assert np.abs(np.array([one["logits"] for one in found]) - logits).max() <= CLOSE
    assert [one["said"] for one in found] == [f"The network reads a {digit}." for digit in logits.argmax(1)]
    assert int((logits.argmax(1) != np.arange(10)).sum()) == 1
    assert "reads one of these ten wrongly" in tab.inner_text("article")
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    bars = np.array([[float(text.removesuffix(" %")) / 100 for text in one["bars"]] for one in found])
    assert np.abs(bars - shares).max() <= 0.0005 + CLOSE  # one decimal of a percent
    for name, expected in attentions.items():
        weights = np.array(found[8]["weights"][name]).reshape(expected.weights[0].shape)
        assert np.abs(weights - expected.weights[0]).max() <= CLOSE, name
    assert heard == [[]]


@browser
@npm
def test_each_block_shows_its_attention(tab: Any, attentions: dict[str, LayerAttention]) -> None:
    """By keyboard: a test image, each block, a token beside; each figure, the place that it says, and the colours on the map."""
    tab.focus("#digits button:nth-child(9)")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(READ)
    assert tab.inner_text("#class") == "The network reads a 8."
    for i, (name, found) in enumerate(attentions.items()):
        tab.select_option("#layer", index=i)
        assert tab.inner_text("#layer >> option >> nth=" + str(i)) == f"{name}: {found.kind.upper()}"
        assert tab.locator("#maps canvas").count() == found.heads
        tab.focus("#maps")
        row, column = map(int, re.findall(r"\d+", tab.inner_text("#query"))[:2])
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowUp")
        row, column = max(0, row - 1), min(found.tokens[1] - 1, column + 1)
        said, weights = tab.inner_text("#query"), found.weights[0, :, row, column]
        places = [np.unravel_index(np.argmax(head), head.shape) for head in weights]
        assert said.startswith(f"The query at row {row}, column {column} has {found.keys[0]} × {found.keys[1]} keys")
        assert (" of its window" in said) == (found.kind == "iwsa")
        assert re.findall(r"to row (\d+), column (\d+)", said) == [(str(i), str(j)) for i, j in places]
        largest = [*weights.max(axis=(1, 2)), 1 / weights[0].size]
        assert np.abs(np.array(shown(tab)) - largest).max() <= 0.0005 + CLOSE
        for head, (i, j) in enumerate(places):
            _check_colour(tab, found, (row, column), head, (int(i), int(j)))


def _check_colour(tab: Any, found: LayerAttention, query: tuple[int, int], head: int, key: tuple[int, int]) -> None:
    """The query has a frame; the largest key has viridis's last colour over the image, seen in its middle if that is not framed."""
    first, side = found.first_key(*query), found.stride * found.key_tokens
    corner = [first[axis] * found.stride + key[axis] * side for axis in (0, 1)]
    frame = [at * found.stride for at in query]
    right = max(digits.IMAGE_SIZE, found.tokens[1] * found.stride)
    seen = tab.evaluate(
        """([head, right, size, [y, x], [top, left]]) => {
          const canvas = document.querySelectorAll("#maps canvas")[head], scale = canvas.width / right
          const at = (y, x) => [...canvas.getContext("2d").getImageData(x * scale, y * scale, 1, 1).data].slice(0, 3)
          const grey = y < size && x < size ? document.getElementById("live").found.grey[size * y + x] : 128
          return { key: at(y, x), frame: at(top, left), grey }
        }""",
        [head, right, digits.IMAGE_SIZE, [at + side // 2 for at in corner], frame],
    )
    assert np.abs(np.array(seen["frame"]) - list(bytes.fromhex(MARK[1:]))).max() <= 2
    if not all(start <= at < start + side for start, at in zip(corner, frame, strict=True)):
        colour = [0.72 * channel + 0.28 * (128 + 0.6 * (seen["grey"] - 128)) for channel in bytes.fromhex(VIRIDIS[-1][1:])]
        assert np.abs(np.array(seen["key"]) - colour).max() <= 2


@browser
@npm
def test_a_pointer_draws_and_asks(tab: Any) -> None:
    """A stroke is read as a one, a ring as a zero, nothing as nothing; the token under the pointer is the query."""

    def draw(*points: tuple[float, float]) -> None:
        """In parts of the canvas."""
        tab.locator("#clear").click()
        box = tab.locator("#drawing").bounding_box()
        at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
        tab.mouse.move(*at[0])
        tab.mouse.down()
        for x, y in at[1:]:
            tab.mouse.move(x, y, steps=4)
        tab.mouse.up()

    tab.locator("#drawing").scroll_into_view_if_needed()
    draw((0.5, 0.08), (0.5, 0.92))
    tab.wait_for_selector(READ)
    assert tab.inner_text("#class") == "The network reads a 1."
    draw(*[(0.5 + 0.26 * math.sin(a), 0.5 - 0.42 * math.cos(a)) for a in np.linspace(0, 2 * math.pi, 25)])
    tab.wait_for_selector(READ)
    assert tab.inner_text("#class") == "The network reads a 0."
    tab.locator("#clear").click()
    tab.wait_for_selector(READ)
    assert tab.inner_text("#class").startswith("Nothing is drawn.")
    tab.select_option("#layer", index=1)
    tab.locator("#maps canvas").scroll_into_view_if_needed()
    place = tab.locator("#maps canvas").bounding_box()
    tab.mouse.move(place["x"] + place["width"] * 5.5 / 28, place["y"] + place["height"] * 20.5 / 28)
    assert tab.inner_text("#query").startswith("The query at row 20, column 5 ")


@browser
@npm
def test_it_runs_from_the_disk(site: Path, chromium: Any) -> None:
    context = opened(chromium, viewport=PHONE, color_scheme="dark")
    page = context.new_page()
    heard = complaints(page, site.as_uri())
    page.goto((site / "playground.html").as_uri())
    page.wait_for_selector(READ)
    checkpoint, (images, labels) = sv.load_checkpoint(digits.CHECKPOINT), digits.test_images()
    four = digits.preprocess(images[np.flatnonzero(labels == 4)[:1]])
    logits = page.evaluate("[...document.getElementById('live').found.logits]")
    assert np.abs(np.array(logits) - sv.scalable_vit(four, checkpoint.params, checkpoint.config)).max() <= CLOSE
    assert not page.is_visible("#state")
    for i in range(8):
        page.select_option("#layer", index=i)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert heard == []
    context.close()


@pytest.fixture
def bare(hooks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The site's hooks on a machine where nothing is kept from an earlier build."""
    monkeypatch.setattr(hooks.playground, "CACHE", tmp_path / "cache")
    return hooks


def missing(hooks: Any) -> str:
    """The page's line, where nothing is added to the site's files."""
    files: list[Any] = []
    hooks.on_files(files, None)
    assert files == []
    text: str = hooks.on_page_markdown("# Playground\n\n--8<-- playground\n", SimpleNamespace(url="playground.html"))
    assert "<script" not in text
    return text.removeprefix("# Playground\n\n").removesuffix("\n")


BEGIN = "**This copy of the site has no playground: when it was built, the machine had no "


def test_a_site_that_is_built_without_npm_says_so(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert missing(bare) == f"{BEGIN}npm, which fetches ONNX Runtime for browsers.**"


def test_a_site_whose_npm_fetches_nothing_says_so(bare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing(bare) == f"{BEGIN}ONNX Runtime for browsers: npm is installed, but did not fetch it.**"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_site_that_is_built_without_onnx_says_so(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare.playground, "find_spec", lambda name: None)
    assert missing(bare) == f"{BEGIN}onnx, which pip installs with scalablevit-ref[onnx].**"
