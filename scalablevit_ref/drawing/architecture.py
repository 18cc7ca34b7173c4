"""The whole network from its config: every stage's map, its layers in order, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from scalablevit_ref.config import MLP_HEAD_WIDTH, ScalableViTConfig, scaled_dim
from scalablevit_ref.cost import Cost, cost
from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.counts import amount, by_stage, figures, multiply_adds_said
from scalablevit_ref.drawing.diagram import MARGIN, Arrow, Box, Diagram, Grid, Hue, Text, plain
from scalablevit_ref.drawing.render import text_width
from scalablevit_ref.drawing.style import SMALL, TEXT
from scalablevit_ref.image_sizes import map_sizes
from scalablevit_ref.parameters import block_kind

PAD, ASIDE = 14, 16
"""Pixels inside a panel, and between a stage's map at the left and its boxes."""
HEIGHT, BETWEEN, LINE = 28, 13, 19
"""Pixels of a box, of the arrow to the next, and of a line of letters."""
SIDE = 64
"""Pixels of the largest map's longer side; the others are to scale, and lines less than 3 pixels apart are left out."""

MOST_BLOCKS = 3
"""Blocks of a stage that are all drawn; of more, the first two are."""

NOTES = ("A block is x + attention(LayerNorm x), and then x + MLP(LayerNorm x).",)
NOTE_ON_V1 = "SSA is v1 here: its values have c′ channels, as its keys have."
NOTE_ON_MAPS = "The network's outputs are the maps behind the stages' last LayerNorms."


class Part(NamedTuple):
    """A box: its name, what it does, its hue, and whether it stands for several layers."""

    name: str
    does: str
    hue: Hue
    several: bool = False


class Group(NamedTuple):
    """A stage or the head: its parts in order, and their cost; a stage's map too.

    glyph: the small map's width and height in pixels. windows: into how many rows and columns it is cut.
    facts: the lines under it, of which the first is the map's shape.
    """

    name: str
    parts: list[Part]
    cost: Cost
    glyph: tuple[float, float] = (0, 0)
    windows: tuple[int, int] = (1, 1)
    facts: tuple[str, ...] = ()


def architecture(config: ScalableViTConfig, image_size: tuple[int, int], *, name: str) -> Diagram:
    """The picture of a network; `name` is what it is called there. image_size: pixels, (height, width).

    Raises ValueError for a size that the network does not take.
    """
    total = cost(config, image_size)
    groups = list(_groups(config, image_size, total))
    image = figures(*image_size, config.in_chans)
    notes = [*NOTES, *[NOTE_ON_V1] * (config.ssa_values == "scaled"), *[NOTE_ON_MAPS] * config.stage_norms]
    counted = f"{total.parameters:,} parameters, {multiply_adds_said(total)} multiply-adds"
    names = max(text_width(part.name, TEXT, bold=True) for group in groups for part in group.parts) + PAD + 12
    does = max(text_width(part.does, SMALL) for group in groups for part in group.parts) + PAD
    aside = max(SIDE, *(text_width(words, SMALL) for group in groups for words in group.facts)) + ASIDE
    diagram = Diagram(f"ScalableViT {name}", width=max(style.WIDTH, 2 * (MARGIN + PAD) + aside + names + does))
    y = diagram.heading(counted)
    middle = (aside + diagram.width) / 2
    flow = f"image of {image}"
    for group in groups:
        diagram.texts.append(Text(middle + 10, y + 16, flow, "left", SMALL))
        diagram.arrows.append(Arrow(((middle, y), (middle, y + 25))))
        y = _panel(diagram, group, y + 25, aside, names)
        flow = group.facts[0] if group.facts else ""
    y += 4
    for note in notes:
        y += LINE
        diagram.texts.append(Text(MARGIN, y, note, "left", SMALL, color="soft"))
    diagram.height = y + 14
    said = [
        f"{group.name}: " + ", ".join((*group.facts, *(f"{p.name} ({plain(p.does)})" for p in group.parts))) for group in groups
    ]
    diagram.alt = f"{diagram.title}, {counted}, for an image of {image}. {'. '.join(said)}. {' '.join(notes)}"
    return diagram


def _groups(config: ScalableViTConfig, image_size: tuple[int, int], total: Cost) -> Iterator[Group]:
    costs = by_stage(total.layers)
    scale = SIDE / max(map_sizes(config, max(image_size)))
    for k, (h, w) in enumerate(zip(*(map_sizes(config, side) for side in image_size), strict=True)):
        p, heads, c = config.window_sizes[k], config.num_heads[k], config.embed_dims[k]
        hidden = int(c * config.mlp_ratios[k])
        facts = (figures(h, w, c), f"{heads} head{'s' * (heads > 1)}", f"MLP of {hidden}")
        windows = (-(-h // p), -(-w // p))
        cut = windows if scale * p >= 3 else (1, 1)
        yield Group(f"Stage {k}", list(_stage(config, k, h, w)), costs[str(k)], (scale * w, scale * h), cut, facts)
    if config.stage_norms and config.head == "none":
        return
    mean = f"over {h * w} tokens: {c} features"
    parts = [Part("Mean" if config.stage_norms else "LayerNorm, mean", mean, "norm"), *_head(config)]
    yield Group("Head", parts, costs.get("head", Cost(())))


def _stage(config: ScalableViTConfig, k: int, h: int, w: int) -> Iterator[Part]:
    stride, depth = config.patch_size if k == 0 else 2, config.depths[k]
    kernel = 2 * stride - 1
    yield Part("Patch embedding", f"{kernel} × {kernel}, stride {stride}, LayerNorm", "conv")
    shown = depth if depth <= MOST_BLOCKS else 2
    for i in range(shown):
        kind = block_kind(i)
        does = _windows(config, k, h, w) if kind == "iwsa" else _keys(config, k, h, w)
        yield Part(f"{kind.upper()} block {i}", does, kind)
        if i == 0:
            yield Part("PEG", "adds a depthwise 3 × 3", "conv")
    if shown < depth:
        kinds = [block_kind(i) for i in range(shown, depth)]
        does = f"{kinds.count('iwsa')} IWSA and {kinds.count('ssa')} SSA, in turn" if kinds[2:] else "IWSA and SSA"
        yield Part(f"Blocks {shown} {'to' if kinds[2:] else 'and'} {depth - 1}", does, "norm", several=True)
    if config.stage_norms:
        yield Part("LayerNorm", f"norm_list.{k}", "norm")


def _windows(config: ScalableViTConfig, k: int, h: int, w: int) -> str:
    p = config.window_sizes[k]
    count = -(-h // p) * -(-w // p)
    padded = ", with zeros" if h % p or w % p else ""
    return f"{count} window{'s' * (count > 1)} of {p} × {p}{padded}"


def _keys(config: ScalableViTConfig, k: int, h: int, w: int) -> str:
    s, r_c, c = config.sr_ratios[k], config.c_ratios[k], config.embed_dims[k]
    keys = f"$s$ = {s}: {(h // s) * (w // s)} keys"
    if s > 1:
        return f"{keys}; $r_c$ = {r_c:g}: $c'$ = {scaled_dim(c, config.num_heads[k], r_c)}"
    return keys if r_c == 1 or config.ssa_scale == "head_dim" else f"{keys}; $r_c$ = {r_c:g} in the scale"


def _head(config: ScalableViTConfig) -> Iterator[Part]:
    wide, classes = config.num_features, config.num_classes
    if config.head == "mlp":
        yield Part("Linear", f"head.0: {wide} → {MLP_HEAD_WIDTH}", "linear")
        yield Part("LayerNorm, GELU", "head.1, head.2", "norm")
        if classes:
            yield Part("Linear", f"head.3: {MLP_HEAD_WIDTH} → {classes}", "linear")
    elif config.head == "linear" and classes:
        yield Part("Linear", f"head: {wide} → {classes}", "linear")


def _panel(diagram: Diagram, group: Group, y: float, aside: float, names: float) -> float:
    """Draw a stage or the head, with its boxes `aside` of its left edge; returns the y below it."""
    panel = Box(MARGIN, y, diagram.width - 2 * MARGIN, 0)
    left, top = panel.x + PAD, y + 33
    counted = f"{amount(group.cost.parameters)} parameters, {amount(group.cost.multiply_adds)} multiply-adds"
    diagram.texts.append(Text(left, y + 21, group.name, "left", bold=True))
    diagram.texts.append(Text(panel.right - PAD, y + 21, counted, "right", SMALL, color="soft"))
    step = HEIGHT + BETWEEN
    height = max(len(group.parts) * step - BETWEEN, group.glyph[1] + 8 + LINE * len(group.facts))
    diagram.boxes.append(Box(panel.x, y, panel.width, top - y + height + PAD))
    if group.facts:
        wide, high = group.glyph
        diagram.grids.append(Grid(left, top, wide, high, *group.windows, "iwsa"))
    for i, words in enumerate(group.facts):
        diagram.texts.append(Text(left, top + group.glyph[1] + 8 + LINE * (i + 0.75), words, "left", SMALL))
    boxes = [Box(left + aside, top + step * i, panel.right - PAD - left - aside, HEIGHT) for i in range(len(group.parts))]
    for part, box in zip(group.parts, boxes, strict=True):
        box = replace(box, hue=part.hue, dashed=part.several)
        diagram.boxes.append(box)
        diagram.texts.append(Text(box.x + PAD, box.y + 19.5, part.name, "left", bold=True))
        diagram.texts.append(Text(box.x + names, box.y + 19.5, part.does, "left", SMALL))
    for above, below in pairwise(boxes):
        diagram.arrows.append(Arrow(((above.middle, above.bottom), (below.middle, below.y))))
    return top + height + PAD
