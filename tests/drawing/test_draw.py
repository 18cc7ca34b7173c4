"""`scalablevit-ref draw`: the pictures say what the config and a run say, nothing overlaps, and equal pictures are equal bytes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref import attention, blocks, ops
from scalablevit_ref.cli import app
from scalablevit_ref.config import VARIANTS, ScalableViTConfig
from scalablevit_ref.cost import Cost
from scalablevit_ref.drawing import draw, style
from scalablevit_ref.drawing.diagram import Arrow, Bar, Box, Diagram, Text
from scalablevit_ref.drawing.facts import amount, plain
from scalablevit_ref.drawing.idea import idea_of_both
from scalablevit_ref.drawing.layer_pictures import layer_diagram
from scalablevit_ref.drawing.network_pictures import architecture, cost_chart
from scalablevit_ref.drawing.render import PX, drawn, house_style
from scalablevit_ref.parameters import children

pytestmark = pytest.mark.usefixtures("as_in_production")

SIZES = {"digits": (112, 112), "mmdet_small": (250, 340)}
"""The images that each variant is drawn for; those of the detection backbone fill neither its windows nor its tiles."""


def size_of(name: str) -> tuple[int, int]:
    return SIZES.get(name, (224, 224))


def layers_of(config: ScalableViTConfig) -> list[str]:
    """Both attentions of the first stage and the last, and all else that is drawn of the last, where the numbers are longest."""
    last = config.num_stages - 1
    attentions = [f"stages.{k}.{i}.attn" for k in (0, last) for i in (0, 1)]
    return [*attentions, f"patch_embeds.{last}", f"pos_block.{last}", f"stages.{last}.0.mlp", f"stages.{last}.1"]


def diagrams_of(config: ScalableViTConfig, name: str, size: tuple[int, int]) -> Iterator[Diagram]:
    yield architecture(config, size, name=name)
    yield cost_chart(config, size, name=name)
    for layer in layers_of(config):
        yield layer_diagram(config, layer, size, name=name)


def words_of(diagram: Diagram) -> list[str]:
    return [text.words for text in diagram.texts]


class Rectangle:
    """Left, top, right and bottom in pixels, y downwards."""

    def __init__(self, left: float, top: float, right: float, bottom: float, name: str = "") -> None:
        self.left, self.top, self.right, self.bottom, self.name = left, top, right, bottom, name

    def overlap(self, other: Rectangle) -> float:
        """Pixels that one would have to move to be free of the other; below zero, how far they are apart."""
        across = min(self.right, other.right) - max(self.left, other.left)
        return min(across, min(self.bottom, other.bottom) - max(self.top, other.top))

    def within(self, other: Rectangle) -> float:
        """Pixels to the nearest border of what it is in; below zero, how far it stands out."""
        return min(self.left - other.left, self.top - other.top, other.right - self.right, other.bottom - self.bottom)

    def shrunk(self, by: float) -> Rectangle:
        return Rectangle(self.left + by, self.top + by, self.right - by, self.bottom - by, self.name)


def box(shape: Box) -> Rectangle:
    return Rectangle(shape.x, shape.y, shape.right, shape.bottom)


@cache
def ink(words: str, size: float, bold: bool, anchor: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the letters that matplotlib puts at (0, 0)."""
    return (drawn_ink if "$" in words else told)(words, size, bold, anchor)


def told(words: str, size: float, bold: bool, anchor: str) -> tuple[float, float, float, float]:
    """The extent that matplotlib tells."""
    with house_style():
        figure = Figure(dpi=96)
        text = figure.text(0, 0, words, fontsize=size * PX, fontweight="bold" if bold else "normal", ha=anchor, va="baseline")
        extent = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    return extent.x0, -extent.y1, extent.x1, -extent.y0


def drawn_ink(words: str, size: float, bold: bool, anchor: str) -> tuple[float, float, float, float]:
    """Of mathematics as it is drawn, and half a pixel around it: matplotlib below 3.11 tells an extent 1.7 pixels larger."""
    with house_style():
        figure = Figure((16, 1), dpi=192)
        figure.text(0.5, 0.5, words, fontsize=size * PX, fontweight="bold" if bold else "normal", ha=anchor, va="baseline")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    inked = np.asarray(canvas.buffer_rgba())[..., :3].min(axis=-1) < 250
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    assert columns[0] > 0, words  # no wider than the canvas
    assert columns[-1] < 3071, words
    return columns[0] / 2 - 768.5, rows[0] / 2 - 48.5, columns[-1] / 2 - 767, rows[-1] / 2 - 47


def letters(diagram: Diagram, measured: Callable[..., tuple[float, float, float, float]] = ink) -> list[Rectangle]:
    """Where the ink of each text is."""
    found = []
    for text in diagram.texts:
        left, top, right, bottom = measured(text.words, text.size, text.bold, text.anchor)
        found.append(Rectangle(text.x + left, text.y + top, text.x + right, text.y + bottom, text.words))
    return found


def faults(diagram: Diagram) -> Iterator[str]:
    """Everything that stands in the way of something else, or half outside of it."""
    canvas = Rectangle(0, 0, diagram.width, diagram.height)
    texts, boxes = letters(diagram), [box(b) for b in diagram.boxes if b.hue]
    panels = [box(b) for b in diagram.boxes if not b.hue]
    grids = [Rectangle(g.x, g.y, g.x + g.width, g.y + g.height) for g in diagram.grids]
    bars = [Rectangle(b.x, b.y, b.x + b.width, b.y + b.height) for b in diagram.bars]
    sums = [Rectangle(s.x - s.radius, s.y - s.radius, s.x + s.radius, s.y + s.radius) for s in diagram.sums]
    legs = [
        Rectangle(min(x, x2), min(y, y2), max(x, x2), max(y, y2), f"{arrow.points}")
        for arrow in diagram.arrows
        for (x, y), (x2, y2) in pairwise(arrow.points)
    ]
    for thing in (*texts, *boxes, *panels, *grids, *bars, *sums, *legs):
        if thing.within(canvas) < 4:
            yield f"{thing.name!r} stands out of the picture"
    for one, other in combinations((*texts, *grids, *bars, *sums), 2):
        if one.overlap(other) > -1:
            yield f"{one.name!r} is on {other.name!r}"
    for one, other in combinations(boxes, 2):
        if one.overlap(other) > 0:
            yield f"two boxes overlap at {one.left}, {one.top}"
    for thing in (*texts, *grids, *bars):
        for around in (*boxes, *panels):
            if thing.overlap(around) > 0 and thing.within(around) < 2:
                yield f"{thing.name!r} stands out of its box"
    for leg in legs:
        for thing in texts:
            if leg.overlap(thing) > -1:
                yield f"a line crosses {thing.name!r}"
        for thing in (*boxes, *sums, *grids):
            if leg.overlap(thing.shrunk(1)) >= 0:
                yield f"a line crosses a box: {leg.name}"


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_overlaps_or_stands_out(name: str) -> None:
    found = {d.alt[:60]: list(faults(d)) for d in diagrams_of(sv.variant(name), name, size_of(name))}
    assert not {what: wrong for what, wrong in found.items() if wrong}


@pytest.mark.parametrize(("name", "size"), [("large", (448, 1792)), ("small", (2240, 224)), ("mmdet_small", (801, 1333))])
def test_nothing_overlaps_for_other_images(name: str, size: tuple[int, int]) -> None:
    config = sv.variant(name)
    diagrams = [architecture(config, size, name=name), cost_chart(config, size, name=name)]
    diagrams += [layer_diagram(config, f"stages.0.{i}.attn", size, name=name) for i in (0, 1)]
    assert [list(faults(d)) for d in diagrams] == [[], [], [], []]


@pytest.mark.parametrize(
    ("name", "size"), [("small", (224, 224)), ("base", (448, 224)), ("mmdet_small", (801, 1333)), ("digits", (112, 112))]
)
def test_the_idea(name: str, size: tuple[int, int]) -> None:
    """The query is the last of its window, whose border LIM crosses; every key has a line; nothing stands out or is on letters."""
    config = sv.variant(name)
    diagram = idea_of_both(config, size, name=name)
    canvas = Rectangle(0, 0, diagram.width, diagram.height)
    words = letters(diagram)
    assert min(word.within(canvas) for word in words) >= 4
    assert max(one.overlap(other) for one, other in combinations(words, 2)) <= -1
    window, lim = diagram.bars[:2]
    assert lim.width / window.width == pytest.approx(3 / config.window_sizes[0])
    assert lim.right > window.right
    assert lim.bottom > window.bottom
    keys = next(marks for marks in diagram.marks if marks.color == "ssa").points
    rows, columns = (-(-side // config.patch_size) // config.sr_ratios[0] for side in size)
    assert len(keys) == rows * columns == sum(line.color == "ssa" for line in diagram.lines)
    assert f"{rows * columns} keys" in diagram.alt
    tokens = -(-size[0] // config.patch_size) * -(-size[1] // config.patch_size)
    c, params = config.embed_dims[0], sv.parameter_shapes(config)
    wide = params["stages.0.1.attn.q.weight"][0] + params["stages.0.1.attn.proj.weight"][1]
    assert f"{2 * c * tokens / (rows * columns * wide):.0f} times fewer products" in words_of(diagram)


def test_one_picture_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one thing, a layer, the cost or the idea, got the cost and the idea"):
        draw(sv.variant("digits"), tmp_path / "x.svg", name="digits", cost=True, idea=True)
    config = sv.ScalableViTConfig(**(vars(sv.variant("digits")) | {"depths": (1, 2, 2, 2)}))
    with pytest.raises(ValueError, match="a first stage of one block"):
        idea_of_both(config, (112, 112), name="x")


def test_letters_are_where_the_diagram_says() -> None:
    """The measurements above are of the picture that is saved."""
    diagram = layer_diagram(sv.variant("small"), "stages.0.1.attn", (224, 224), name="small")
    with house_style():
        figure = drawn(diagram, style.THEMES["light"])
        renderer = FigureCanvasAgg(figure).get_renderer()
        extents = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for extent, expected in zip(extents, letters(diagram, told), strict=True):
        extent_down = (extent.x0, diagram.height - extent.y1, extent.x1, diagram.height - extent.y0)
        assert np.allclose(extent_down, (expected.left, expected.top, expected.right, expected.bottom), atol=1)


def test_the_measurements_find_what_is_in_the_way() -> None:
    diagram = layer_diagram(sv.variant("small"), "stages.0.1.attn", (224, 224), name="small")
    text, shape = diagram.texts[-1], diagram.boxes[0]
    spoilt = [
        replace(diagram, width=diagram.width - 30),
        replace(diagram, texts=[*diagram.texts, replace(text, x=text.x + 20)]),
        replace(diagram, texts=[*diagram.texts, replace(text, x=shape.x + 20, y=shape.y + 30)]),
        replace(diagram, boxes=[*diagram.boxes, replace(shape, y=shape.y + 40)]),
        replace(diagram, arrows=[*diagram.arrows, Arrow(((shape.middle, 0), (shape.middle, diagram.height)))]),
    ]
    assert all(list(faults(d)) for d in spoilt)


RUNS = [
    ("small", "stages.0.0"),
    ("small", "stages.0.1"),
    ("small", "stages.3.1"),
    ("small_0", "stages.3.1"),
    ("large", "stages.1.1"),
    ("mmdet_small", "stages.0.0"),
    ("mmdet_small", "stages.0.1"),
    ("mmdet_small", "stages.3.0"),
    ("digits", "stages.2.1"),
]


@pytest.mark.parametrize(("name", "block"), RUNS)
def test_an_attention_has_the_shapes_of_a_run(name: str, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, size = sv.variant(name), size_of(name)
    diagram = layer_diagram(config, f"{block}.attn", size, name=name)
    ran: dict[str, list[tuple[int, ...]]] = {}
    scales: list[float] = []
    for op in ("linear", "conv2d", "gelu"):
        monkeypatch.setattr(attention, op, recorded(getattr(attention, op), ran.setdefault(op, []), scales))
    run(config, block, size, recorded(ops.attention, ran.setdefault("attention", []), scales))

    (q, k, v), z = ran["attention"][:3], ran["attention"][3]
    heads, wide, wide_v = q[-3], q[-3] * q[-1], v[-3] * v[-1]
    x, out = ran["linear"][0][:3], ran["linear"][-1]
    if int(block[-1]) % 2:
        reduced = [shape for op in ("conv2d", "gelu") for shape in ran[op]]
        shapes = [out, *reduced, (q[-2], wide), (k[-2], wide), (v[-2], wide_v), (heads, q[-2], k[-2]), (z[-2], wide_v), out]
    else:
        full, windows = ran["conv2d"][0], q[0] * q[1]
        cut = (windows, q[-2], wide)
        padded = [out, out] if full != out else []
        assert (3, *cut) == (3, windows, config.window_sizes[int(block[7])] ** 2, out[-1])
        shapes = [full, (3, *full), full, (3, *cut), cut, full, full, full, out, *padded]
        assert x[:2] == full[:2]
    assert sorted(figures(diagram)) == sorted(" × ".join(map(str, shape)) for shape in shapes)
    assert any(f"{scales[0] ** -2:g}^{{-1/2}}" in words for words in words_of(diagram))


def recorded(op: Callable[..., Any], shapes: list[tuple[int, ...]], scales: list[float]) -> Callable[..., Any]:
    """The op, which writes down the shape of what it puts out, without the batch; attention, those of q, k and v before it."""

    def run(*arrays: Any, **settings: Any) -> Any:
        out = op(*arrays, **settings)
        scales.extend([settings["scale"]] if "scale" in settings else [])
        shapes.extend(tuple(x.shape[1:]) for x in ((*arrays, out) if "scale" in settings else (out,)))
        return out

    return run


def run(config: ScalableViTConfig, block: str, size: tuple[int, int], attend: Callable[..., Any]) -> None:
    """The block's attention on zeros."""
    _, k, i = (int(word) if word.isdigit() else -1 for word in block.split("."))
    shape = next(layer.output_shape for layer in sv.cost(config, size).layers if layer.name == f"{block}.attn")
    prefix = f"{block}.attn."
    shapes = {name.removeprefix(prefix): s for name, s in sv.parameter_shapes(config).items() if name.startswith(prefix)}
    params = {name: np.zeros(s, np.float32) for name, s in shapes.items()}
    x, heads = np.zeros((1, *shape), np.float32), config.num_heads[k]
    if i % 2:
        s, r_c = config.sr_ratios[k], config.c_ratios[k]
        values, scale = config.ssa_values, config.ssa_scale
        sv.ssa(x, params, num_heads=heads, sr_ratio=s, c_ratio=r_c, values=values, scale=scale, attend=attend)
    else:
        sv.iwsa(x, params, num_heads=heads, window_size=config.window_sizes[k], pad=config.pad_windows, attend=attend)


def figures(diagram: Diagram) -> list[str]:
    """The shapes beside the arrows."""
    return [text.words for text in diagram.texts if text.anchor == "left" and re.fullmatch(r"[0-9]+( × [0-9]+)+", text.words)]


def test_a_block_adds_what_its_branches_come_from() -> None:
    alt = layer_diagram(sv.variant("small"), "stages.1.1", (224, 448), name="small").alt
    told = [
        "x gives MAP to norm1 and the sum.",
        "norm1 (LayerNorm, eps 1e-6) gives MAP to attn.",
        "attn (SSA: 1568 queries, 98 keys, 4 heads) gives MAP to the sum.",
        "the sum gives MAP to norm2 and the sum.",
        "norm2 (LayerNorm, eps 1e-6) gives MAP to mlp.",
        "mlp (Linear 128 → 512, GELU, Linear 512 → 128) gives MAP to the sum.",
        "the sum gives MAP to output.",
    ]
    assert alt.endswith(" ".join(told).replace("MAP", "28 × 56 × 128"))


@pytest.mark.parametrize("k", [0, 2])
def test_a_patch_embedding_and_a_peg_are_the_convolutions_that_run(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sv.variant("mmdet_small")
    ran: list[tuple[dict[str, Any], tuple[int, ...]]] = []

    def conv2d(x: Any, weight: Any, bias: Any, **settings: Any) -> Any:
        ran.append((settings, weight.shape))
        return ops.conv2d(x, weight, bias, **settings)

    monkeypatch.setattr(blocks, "conv2d", conv2d)
    params = children({name: np.zeros(s, np.float32) for name, s in sv.parameter_shapes(config).items()})
    before = np.zeros((1, 32, 32, params["patch_embeds"][f"{k}.proj.weight"].shape[1]), np.float32)
    out = blocks.patch_embed(before, children(params["patch_embeds"])[str(k)], patch_size=2 if k else 4)
    blocks.peg(out, children(params["pos_block"])[str(k)])
    (patch, (c, c_in, kernel, _)), (peg, (_, _, depthwise, _)) = ran
    words = words_of(layer_diagram(config, f"patch_embeds.{k}", (224, 224), name="mmdet_small"))
    assert f"convolution {kernel} × {kernel}, {c_in} → {c}," in words
    assert f"stride {patch['stride']}, padding {patch['padding']}" in words
    assert "LayerNorm, eps 1e-5" in words
    words = words_of(layer_diagram(config, f"pos_block.{k}", (224, 224), name="mmdet_small"))
    assert peg["groups"] == c
    assert f"depthwise {depthwise} × {depthwise}, padding {peg['padding']}" in words


@pytest.mark.parametrize("name", VARIANTS)
def test_the_architecture_has_the_configs_numbers(name: str) -> None:
    config, size = sv.variant(name), size_of(name)
    total = sv.cost(config, size)
    diagram = architecture(config, size, name=name)
    words = [plain(text) for text in words_of(diagram)]
    assert any(f"{total.parameters:,} parameters" in line for line in words)
    maps = [layer.output_shape for layer in total.layers if layer.kind == "patch_embed"]
    shapes = [" × ".join(map(str, shape)) for shape in maps]
    ends = bool(shapes[-1:]) and "Head" in words
    assert [line for line in words if line in shapes] == [shape for shape in shapes for _ in range(2)][: None if ends else -1]
    starts = [words.index(f"Stage {k}") for k in range(config.num_stages)]
    sections = [words[a:b] for a, b in pairwise([*starts, words.index("Head") if ends else len(words)])]
    for k, section in enumerate(sections):
        text = " | ".join(section)
        assert f"{config.num_heads[k]} head" in text
        assert f"MLP of {int(config.embed_dims[k] * config.mlp_ratios[k])}" in text
        kernel = sv.parameter_shapes(config)[f"patch_embeds.{k}.proj.weight"][-1]
        assert f"{kernel} × {kernel}, stride {(kernel + 1) // 2}" in text
        assert f"windows of {config.window_sizes[k]} ×" in text or f"1 window of {config.window_sizes[k]} ×" in text
        assert (
            f"s = {config.sr_ratios[k]}: {(maps[k][0] // config.sr_ratios[k]) * (maps[k][1] // config.sr_ratios[k])} keys" in text
        )
        if config.sr_ratios[k] > 1:
            assert text.endswith("80") or f"c′ = {sv.parameter_shapes(config)[f'stages.{k}.1.attn.q.weight'][0]}" in text
        assert (f"norm_list.{k}" in text) == config.stage_norms
        mine = Cost(tuple(layer for layer in total.layers if re.match(rf"(?!head)[a-z_]+\.{k}(\.|$)", layer.name)))
        assert section[1] == f"{amount(mine.parameters)} parameters, {amount(mine.multiply_adds)} multiply-adds"
        assert blocks_of(section) == config.depths[k]
    assert ends == (config.head != "none")
    assert (f" → {config.num_classes}" in words[-2]) == ends


def blocks_of(section: list[str]) -> int:
    """How many blocks a stage's boxes stand for; those behind the first are counted by their numbers and by their kinds."""
    single = [line for line in section if re.fullmatch(r"(IWSA|SSA) block \d+", line)]
    rest = 0
    for i, line in enumerate(section):
        if found := re.fullmatch(r"Blocks (\d+) (?:to|and) (\d+)", line):
            assert int(found[1]) == len(single)
            rest = int(found[2]) - int(found[1]) + 1
            kinds = re.fullmatch(r"(\d+) IWSA and (\d+) SSA, in turn", section[i + 1])
            assert rest == (int(kinds[1]) + int(kinds[2]) if kinds else 2)
    return len(single) + rest


def test_a_stage_of_an_odd_depth_is_told_truly() -> None:
    config = sv.variant("small", depths=(1, 3, 5, 2))
    words = words_of(architecture(config, (224, 224), name="odd"))
    assert words.count("SSA block 1") == 3
    assert words.count("IWSA block 2") == 1
    at = words.index("Blocks 2 to 4")
    assert words[at + 1] == "2 IWSA and 1 SSA, in turn"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bars_add_up(name: str) -> None:
    config, size = sv.variant(name), size_of(name)
    total = sv.cost(config, size)
    diagram = cost_chart(config, size, name=name)
    assert ("Head" in words_of(diagram)) == (not config.stage_norms)
    left = min(bar.x for bar in diagram.bars)
    for bars, whole in (
        ([bar for bar in diagram.bars if bar.x == left], total.parameters),
        ([bar for bar in diagram.bars if bar.x != left], total.multiply_adds),
    ):
        longest = max(bar.width for bar in bars)
        biggest = next(text.words for text in diagram.texts for bar in bars if bar.width == longest and beside(text, bar))
        assert count(biggest) * sum(bar.width for bar in bars) / longest == pytest.approx(whole, rel=0.006)
        for bar in bars:
            said = next(count(text.words) for text in diagram.texts if beside(text, bar))
            assert said == pytest.approx(bar.width / longest * count(biggest), rel=0.02)


def beside(text: Text, bar: Bar) -> bool:
    return text.x == bar.x + bar.width + 6 and bar.y < text.y <= bar.y + bar.height


def count(words: str) -> float:
    number, *unit = words.split()
    return float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit[0]] if unit else float(number)


def test_the_authors_figures_stand_beside_the_counted() -> None:
    words = words_of(cost_chart(sv.variant("small"), (224, 224), name="small"))
    at = words.index("by the authors' rule")
    assert words[at - 5 : at + 9] == [
        *("Total", "32,000,472", "4.265 G", "in attention products", "172 M"),
        *("by the authors' rule", "32.00 M", "4.11 G"),
        *("the same with SSA v1", "32.38 M", "4.16 G"),
        *("the authors' table", "32.4 M", "4.2 G"),
    ]
    assert "the authors' table" not in words_of(cost_chart(sv.variant("small"), (448, 448), name="small"))
    assert "the authors' table" not in words_of(cost_chart(sv.variant("digits"), (112, 112), name="digits"))


@pytest.mark.parametrize("theme", style.THEMES)
@pytest.mark.parametrize(
    "options", [{}, {"cost": True}, {"idea": True}, {"layer": "stages.0.1.attn"}], ids=["architecture", "cost", "idea", "ssa"]
)
def test_the_svg_is_an_image_with_words(theme: str, options: dict[str, Any], tmp_path: Path) -> None:
    alt = draw(sv.variant("digits"), tmp_path / "x.svg", name="digits", image_size=(112, 112), theme=theme, **options)
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.get("role") == "img"
    assert [root[i].tag for i in (0, 1)] == [f"{space}title", f"{space}desc"]
    assert root[1].text == alt
    assert "digits" in alt
    assert root.find(f".//{space}text") is None  # letters are outlines: no font is needed
    assert set(re.findall(r"https?://[^\"<>]+", text)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    used = {use.get("href") for use in root.iter(f"{space}use")}
    assert used == {f"#{path.get('id')}" for path in root.iter(f"{space}path") if path.get("id")}
    colors = set(re.findall("#[0-9a-f]{6}", text))
    assert colors <= set(palette(theme))
    assert style.THEMES[theme].page in colors


def palette(theme: str) -> list[str]:
    return [color for value in vars(style.THEMES[theme]).values() for color in ([value] if isinstance(value, str) else value)]


def test_png_and_pdf_are_written_alike_every_time(tmp_path: Path) -> None:
    for ending, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        files = [tmp_path / f"{i}{ending}" for i in (0, 1)]
        alts = [draw(sv.variant("small"), file, name="small", layer="pos_block.0") for file in files]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert files[0].read_bytes().startswith(magic)
    with Image.open(tmp_path / "0.png") as image:
        assert image.size == (1120, 696)
        assert image.info["Description"] == alts[0]


def test_the_committed_pictures_are_what_the_script_makes(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "docs"
    found = importlib.util.spec_from_file_location("pictures", folder / "pictures.py")
    assert found
    assert found.loader
    pictures = importlib.util.module_from_spec(found)
    found.loader.exec_module(pictures)
    pictures.from_config(tmp_path)
    made = sorted(tmp_path.iterdir())
    assert len(made) == 2 * len(pictures.FROM_CONFIG)
    for file in made:
        assert file.read_bytes() == (folder / "pictures" / file.name).read_bytes(), file.name
        assert file.stat().st_size < 110_000


def test_letters_are_legible_and_hues_keep_apart() -> None:
    """WCAG's contrast, and the CIELAB distance of bars as the colour-blind see them (Machado et al. 2009, severity 1)."""
    blind = [
        np.eye(3),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
        np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
    ]
    for theme in style.THEMES.values():
        hues = [theme.iwsa, theme.ssa, theme.linear, theme.conv, theme.norm]
        for ground in (theme.page, theme.panel):
            assert min(contrast(color, ground) for color in (theme.ink, theme.soft)) > 4.5
            assert min(contrast(edge, ground) for edge, _ in hues) > 3
            assert min(contrast(edge, ground) for edge, _ in (theme.good, theme.bad)) > 4.5  # letters of a verdict
        assert min(contrast(theme.ink, fill) for _, fill in (*hues, theme.good, theme.bad)) > 7
        assert min(contrast(edge, fill) for edge, fill in (theme.good, theme.bad)) > 4.5
        for sight in blind:
            seen = [lab(sight @ linear(edge)) for edge, _ in hues]
            assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 15


def test_viridis_is_matplotlib_s() -> None:
    """Its ten colours exactly, near it between them, no value darker than a smaller one, and none like the colour of marks."""
    shares, tenths = np.linspace(0, 1, 1001), np.linspace(0, 1, len(style.VIRIDIS))
    theirs = mpl.colormaps["viridis"]
    assert np.array_equal((255 * style.viridis(tenths)).round(), (255 * theirs(tenths)[:, :3]).round())
    assert abs(style.viridis(shares) - theirs(shares)[:, :3]).max() < 0.07
    seen = np.array([lab(linear("#" + bytes(rgb).hex())) for rgb in (255 * style.viridis(shares[::20])).round().astype(np.uint8)])
    assert (np.diff(seen[:, 0]) > 0).all()
    assert min(np.linalg.norm(seen - lab(linear(style.MARK)), axis=1)) > 60


def linear(color: str) -> np.ndarray:
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    xyz = xyz / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["draw", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_writes_the_picture_and_says_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "x.svg"
    code, out, err = command("digits", "-o", str(file), "--layer", "stages.3.0.attn", "--image-size", "112x448", "--theme", "dark")
    assert (code, err) == (0, "")
    assert out == f"{file}: stages.3.0.attn of digits, images of 112 x 448 pixels\n"
    assert str(ET.parse(file).getroot()[1].text).startswith(
        "IWSA: interactive window self-attention: stages.3.0.attn of ScalableViT digits, for an image of 112 × 448 pixels"
    )
    assert style.THEMES["dark"].page in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smal", "-o", "x.svg"], "unknown variant 'smal' (did you mean 'small'"),
        (["small", "-o", "x.gif"], "must end in .svg, .png or .pdf, got 'x.gif'"),
        (["small", "-o", "missing/x.svg"], "missing/x.svg"),
        (["small", "-o", "x.svg", "--theme", "drak"], "unknown theme 'drak' (did you mean 'dark'?); there are light, dark"),
        (["small", "-o", "x.svg", "--layer", "stages.0.2"], "unknown layer 'stages.0.2' (did you mean"),
        (
            ["small", "-o", "x.svg", "--layer", "norm"],
            "stages.K.I.mlp for the stages K = 0 to 3, whose last blocks I are 1, 1, 19, 1",
        ),
        (
            ["small", "-o", "x.svg", "--layer", "stages.0.0", "--cost"],
            "a layer, the cost or the idea, got the cost and",
        ),
        (["small", "-o", "x.svg", "--image-size", "225"], "nearest sizes that work are 224"),
        (["small", "-o", "x.svg", "--image-size", "large"], "--image-size must be a number of pixels or HEIGHTxWIDTH"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("scalablevit-ref: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(style, "find_spec", lambda name: None)
    code, _, err = command("small", "-o", str(tmp_path / "x.svg"))
    assert (code, err) == (2, "scalablevit-ref: pictures need matplotlib: pip install 'scalablevit-ref[plot]'\n")


def test_importing_the_command_does_not_load_matplotlib() -> None:
    code = "import sys; import scalablevit_ref.cli, scalablevit_ref.drawing; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
