"""Pictures of a whole network from its config: its architecture, and where its parameters and multiply-adds are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from textwrap import wrap
from typing import NamedTuple

from scalablevit_ref.config import MLP_HEAD_WIDTH, ScalableViTConfig, scaled_dim
from scalablevit_ref.cost import NOTE_ON_COUNTING, PUBLISHED, PUBLISHED_SIZE, Cost, LayerCost, LayerKind, cost, stage_of
from scalablevit_ref.drawing.diagram import MARGIN, Arrow, Bar, Box, Diagram, Grid, Hue, Text
from scalablevit_ref.drawing.facts import Stage, amount, figures, multiply_adds_said, plain, several
from scalablevit_ref.drawing.render import text_width
from scalablevit_ref.drawing.style import SMALL, TEXT, WIDTH
from scalablevit_ref.parameters import block_kind

PAD, LINE = 14, 19
"""Pixels inside a panel, and of a line of letters."""

BOX, BETWEEN = 28, 13
"""Pixels of the height of a layer's box, and of the arrow to the next."""

ASIDE, SIDE = 16, 64
"""Pixels between a stage's map and its boxes, and of the largest map's longer side; the other maps are to scale."""

MOST_BLOCKS = 3
"""Blocks of a stage up to which all are drawn; of more, the first two are."""

ROW, HIGH = 21, 13
"""Pixels of a row of the chart of the cost, and of its bars' height."""

NOTES = ("A block is x + attention(LayerNorm x), and then x + MLP(LayerNorm x).",)
NOTE_ON_V1 = "SSA is v1 here: its values have c′ channels, as its keys have."
NOTE_ON_MAPS = "The network's outputs are the maps behind the stages' last LayerNorms."

KINDS: dict[LayerKind, tuple[str, Hue]] = {
    "patch_embed": ("patch embedding", "conv"),
    "iwsa": ("IWSA", "iwsa"),
    "ssa": ("SSA", "ssa"),
    "mlp": ("MLP", "linear"),
    "peg": ("PEG", "conv"),
    "norm": ("LayerNorm", "norm"),
    "linear": ("Linear", "linear"),
}
"""What each kind of layer is called and its bars' hue, in the order of the chart's rows."""


class Part(NamedTuple):
    """A box of the architecture: its name, what it does, its hue, and whether it stands for several layers."""

    name: str
    does: str
    hue: Hue
    several: bool = False


class Group(NamedTuple):
    """A stage or the head: its parts in order, their cost, and of a stage its map."""

    name: str
    parts: list[Part]
    cost: Cost
    map: tuple[float, float] = (0, 0)  # width and height in pixels
    windows: tuple[int, int] = (1, 1)  # rows and columns into which the map is cut
    facts: tuple[str, ...] = ()  # the lines under the map, of which the first is its shape


def architecture(config: ScalableViTConfig, image_size: tuple[int, int], *, name: str) -> Diagram:
    """Every stage's map, its layers in order, and what they cost. Arguments as of `draw`; ValueError for an unfit size."""
    total = cost(config, image_size)
    groups = list(_groups(config, image_size, total))
    image = figures(*image_size, config.in_chans)
    notes = [*NOTES, *[NOTE_ON_V1] * (config.ssa_values == "scaled"), *[NOTE_ON_MAPS] * config.stage_norms]
    counted = f"{total.parameters:,} parameters, {multiply_adds_said(total)} multiply-adds"
    names = max(text_width(part.name, TEXT, bold=True) for group in groups for part in group.parts) + PAD + 12
    does = max(text_width(part.does, SMALL) for group in groups for part in group.parts) + PAD
    aside = max(SIDE, *(text_width(words, SMALL) for group in groups for words in group.facts)) + ASIDE
    diagram = Diagram(f"ScalableViT {name}", width=max(WIDTH, 2 * (MARGIN + PAD) + aside + names + does))
    y = diagram.heading(counted)
    middle = (aside + diagram.width) / 2
    flow = f"image of {image}"
    for group in groups:
        diagram.note(middle + 10, y + 16, flow, color="ink")
        diagram.arrows.append(Arrow(((middle, y), (middle, y + 25))))
        y = _panel(diagram, group, y + 25, aside, names)
        flow = group.facts[0] if group.facts else ""
    for i, note in enumerate(notes, 1):
        diagram.note(MARGIN, y + 4 + LINE * i, note)
    diagram.height = y + 4 + LINE * len(notes) + 14
    said = [
        f"{group.name}: " + ", ".join((*group.facts, *(f"{p.name} ({plain(p.does)})" for p in group.parts))) for group in groups
    ]
    diagram.alt = f"{diagram.title}, {counted}, for an image of {image}. {'. '.join(said)}. {' '.join(notes)}"
    return diagram


def _by_stage(layers: Iterable[LayerCost]) -> dict[str, Cost]:
    """The layers of each stage under its number, and those after the last stage under "head"."""
    groups: dict[str, list[LayerCost]] = {}
    for layer in layers:
        groups.setdefault(stage_of(layer.name), []).append(layer)
    return {stage: Cost(tuple(some)) for stage, some in groups.items()}


def _groups(config: ScalableViTConfig, image_size: tuple[int, int], total: Cost) -> Iterator[Group]:
    costs = _by_stage(total.layers)
    stages = [Stage(config, k, image_size) for k in range(config.num_stages)]
    scale = SIDE / max(stages[0].h, stages[0].w)
    for stage in stages:
        facts = (stage.shape, several(stage.heads, "head"), f"MLP of {int(stage.c * config.mlp_ratios[stage.k])}")
        windows = stage.windows if scale * stage.p >= 3 else (1, 1)  # lines less than 3 pixels apart would be no map
        glyph = scale * stage.w, scale * stage.h
        yield Group(f"Stage {stage.k}", list(_parts(stage)), costs[str(stage.k)], glyph, windows, facts)
    if config.stage_norms and config.head == "none":
        return
    mean = f"over {stage.h * stage.w} tokens: {stage.c} features"
    parts = [Part("Mean" if config.stage_norms else "LayerNorm, mean", mean, "norm"), *_head(config)]
    yield Group("Head", parts, costs.get("head", Cost(())))


def _parts(stage: Stage) -> Iterator[Part]:
    kernel, depth = 2 * stage.stride - 1, stage.config.depths[stage.k]
    yield Part("Patch embedding", f"{kernel} × {kernel}, stride {stage.stride}, LayerNorm", "conv")
    shown = depth if depth <= MOST_BLOCKS else 2
    for i in range(shown):
        kind = block_kind(i)
        yield Part(f"{kind.upper()} block {i}", _windows(stage) if kind == "iwsa" else _keys(stage), kind)
        if i == 0:
            yield Part("PEG", "adds a depthwise 3 × 3", "conv")
    if shown < depth:
        kinds = [block_kind(i) for i in range(shown, depth)]
        does = f"{kinds.count('iwsa')} IWSA and {kinds.count('ssa')} SSA, in turn" if kinds[2:] else "IWSA and SSA"
        yield Part(f"Blocks {shown} {'to' if kinds[2:] else 'and'} {depth - 1}", does, "norm", several=True)
    if stage.config.stage_norms:
        yield Part("LayerNorm", f"norm_list.{stage.k}", "norm")


def _windows(stage: Stage) -> str:
    rows, columns = stage.windows
    return f"{several(rows * columns, 'window')} of {stage.p} × {stage.p}{', with zeros' * stage.padded}"


def _keys(stage: Stage) -> str:
    keys = f"$s$ = {stage.s}: {stage.keys[0] * stage.keys[1]} keys"
    if stage.s > 1:
        return f"{keys}; $r_c$ = {stage.r_c:g}: $c′$ = {scaled_dim(stage.c, stage.heads, stage.r_c)}"
    return keys if stage.r_c == 1 or stage.config.ssa_scale == "head_dim" else f"{keys}; $r_c$ = {stage.r_c:g} in the scale"


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
    left, right, top = MARGIN + PAD, diagram.width - MARGIN - PAD, y + 33
    counted = f"{amount(group.cost.parameters)} parameters, {amount(group.cost.multiply_adds)} multiply-adds"
    diagram.texts.append(Text(left, y + 21, group.name, "left", bold=True))
    diagram.texts.append(Text(right, y + 21, counted, "right", SMALL, color="soft"))
    step = BOX + BETWEEN
    under_map = top + group.map[1] + 8
    bottom = max(top + len(group.parts) * step - BETWEEN, under_map + LINE * len(group.facts))
    diagram.boxes.append(Box(MARGIN, y, diagram.width - 2 * MARGIN, bottom + PAD - y))
    if group.facts:
        diagram.grids.append(Grid(left, top, *group.map, *group.windows, "iwsa"))
    for i, words in enumerate(group.facts):
        diagram.note(left, under_map + LINE * (i + 0.75), words, color="ink")
    boxes = [
        Box(left + aside, top + step * i, right - left - aside, BOX, part.hue, part.several) for i, part in enumerate(group.parts)
    ]
    for part, box in zip(group.parts, boxes, strict=True):
        diagram.boxes.append(box)
        diagram.texts.append(Text(box.x + PAD, box.y + 19.5, part.name, "left", bold=True))
        diagram.note(box.x + names, box.y + 19.5, part.does, color="ink")
    for above, below in pairwise(boxes):
        diagram.arrows.append(Arrow(((above.middle, above.bottom), (below.middle, below.y))))
    return bottom + PAD


class CostRow(NamedTuple):
    """A kind of layer, or a count: what the two columns say, and how much their bars stand for (none without a hue)."""

    name: str
    said: tuple[str, str]
    counts: tuple[int, int] = (0, 0)
    hue: Hue | None = None

    @classmethod
    def of(cls, name: str, part: Cost, hue: Hue | None = None) -> CostRow:
        return cls(name, (amount(part.parameters), amount(part.multiply_adds)), (part.parameters, part.multiply_adds), hue)


def cost_chart(config: ScalableViTConfig, image_size: tuple[int, int], *, name: str) -> Diagram:
    """Parameters and multiply-adds by stage and kind of layer, and the totals beside the authors' where they published some.

    Arguments as of `draw`; the authors' figures are known by the name. Raises ValueError for a size that does not fit.
    """
    total = cost(config, image_size)
    published = name in PUBLISHED and image_size == PUBLISHED_SIZE
    panels = [*_stage_costs(total), _totals(config, total, name if published else None)]
    rows = [row for _, rows in panels for row in rows]
    pixels = figures(*image_size)
    diagram = Diagram(f"Cost of ScalableViT {name}")
    y = diagram.heading(f"parameters, and multiply-adds for one image of {pixels} pixels")
    names = max(text_width(row.name, SMALL) for row in rows) + 2 * PAD
    room = (diagram.width - 2 * MARGIN - names) / 2
    most = [max(row.counts[i] for row in rows) for i in (0, 1)]
    longest = room - PAD - 8 - max(text_width(words, SMALL) for row in rows if row.hue for words in row.said)
    columns = [MARGIN + names + room * i for i in (0, 1)]
    for x, words in zip(columns, ("parameters", "multiply-adds"), strict=True):
        diagram.note(x, y + 8, words)
    y += 18
    for head, rows in panels:
        diagram.boxes.append(Box(MARGIN, y, diagram.width - 2 * MARGIN, ROW * (len(rows) + 1) + 16))
        for i, row in enumerate((head, *rows)):
            line = y + 22 + ROW * i
            diagram.texts.append(Text(MARGIN + PAD, line, row.name, "left", SMALL if i else TEXT, bold=not i))
            for x, words, count, largest in zip(columns, row.said, row.counts, most, strict=True):
                length = longest * count / largest if row.hue else 0
                if length and row.hue:
                    diagram.bars.append(Bar(x, line - HIGH + 2, length, HIGH, row.hue))
                if words:
                    diagram.note(x + length + 6 * bool(length), line, words, color="ink", bold=not i)
        y = diagram.boxes[-1].bottom + 8
    notes = wrap(NOTE_ON_COUNTING, 78) if published else []
    for i, words in enumerate(notes, 1):
        diagram.note(MARGIN, y + 18 * i, words)
    diagram.height = y + 18 * len(notes) + 12
    said = ["; ".join(f"{row.name}: {' and '.join(filter(None, row.said))}" for row in (head, *rows)) for head, rows in panels]
    diagram.alt = f"{diagram.title}: parameters, and multiply-adds for an image of {pixels} pixels. {'. '.join(said)}."
    return diagram


def _stage_costs(total: Cost) -> Iterator[tuple[CostRow, list[CostRow]]]:
    """For each stage its sums with their shares of the network's, and its kinds of layers."""

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.0%}" if part / whole >= 0.005 or not part else "<1%"

    for stage, part in _by_stage(total.layers).items():
        rows = []
        for kind, (called, hue) in KINDS.items():
            layers = tuple(layer for layer in part.layers if layer.kind == kind)
            if layers:
                rows.append(CostRow.of(f"{called} × {len(layers)}" if layers[1:] else called, Cost(layers), hue))
        head = CostRow.of("Head" if stage == "head" else f"Stage {stage}", part)
        parameters = f"{head.said[0]} ({share(part.parameters, total.parameters)})"
        multiply_adds = f"{head.said[1]} ({share(part.multiply_adds, total.multiply_adds)})"
        yield head._replace(said=(parameters, multiply_adds)), rows


def _totals(config: ScalableViTConfig, total: Cost, published: str | None) -> tuple[CostRow, list[CostRow]]:
    """The network's own counts and, for what the authors counted under this name, the same by their rule, and theirs."""

    def by_their_rule(what: str, counted: Cost) -> CostRow:
        return CostRow(what, (f"{counted.parameters / 1e6:.2f} M", f"{counted.module_multiply_adds / 1e9:.2f} G"))

    rows = [CostRow("in attention products", ("", amount(total.attention_multiply_adds)))]
    if published:
        parameters, multiply_adds, _ = PUBLISHED[published]
        rows.append(by_their_rule("by the authors' rule", total))
        rows.append(by_their_rule("the same with SSA v1", cost(replace(config, ssa_values="scaled"), PUBLISHED_SIZE)))
        rows.append(CostRow("the authors' table", (f"{parameters} M", f"{multiply_adds} G")))
    return CostRow("Total", (f"{total.parameters:,}", multiply_adds_said(total))), rows
