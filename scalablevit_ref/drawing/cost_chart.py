"""Where a network's parameters and multiply-adds are: a bar for each kind of layer of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.cost import PUBLISHED, PUBLISHED_SIZE, Cost, LayerKind, cost
from scalablevit_ref.drawing.counts import amount, by_stage, figures, multiply_adds_said
from scalablevit_ref.drawing.diagram import MARGIN, Bar, Box, Diagram, Hue, Text
from scalablevit_ref.drawing.render import text_width
from scalablevit_ref.drawing.style import SMALL, TEXT

KINDS: dict[LayerKind, tuple[str, Hue]] = {
    "patch_embed": ("patch embedding", "conv"),
    "iwsa": ("IWSA", "iwsa"),
    "ssa": ("SSA", "ssa"),
    "mlp": ("MLP", "linear"),
    "peg": ("PEG", "conv"),
    "norm": ("LayerNorm", "norm"),
    "linear": ("Linear", "linear"),
}
"""What each kind of layer is called and its bars' hue, in the order of the rows."""

PAD, ROW, HIGH = 14, 21, 13
"""Pixels inside a panel, of a row, and of a bar's height."""

NOTES = (
    "The authors' multiply-adds leave the attention products out. They fit a count",
    "with one more for each element that a module puts out (biases and norms).",
)


class Row(NamedTuple):
    """A kind of layer, or a count: what the two columns say, and how much their bars stand for (none without a hue)."""

    name: str
    said: tuple[str, str]
    counts: tuple[int, int] = (0, 0)
    hue: Hue | None = None


def cost_chart(config: ScalableViTConfig, image_size: tuple[int, int], *, name: str) -> Diagram:
    """Parameters and multiply-adds by stage and kind, and the totals beside the authors' where they published some.

    image_size: pixels, (height, width). name: what the picture calls the network, and by which the authors' figures are known.

    Raises ValueError for a size that the network does not take.
    """
    total = cost(config, image_size)
    panels = [*_stages(total), *_totals(config, image_size, total, name)]
    pixels = figures(*image_size)
    diagram = Diagram(f"Cost of ScalableViT {name}")
    y = diagram.heading(f"parameters, and multiply-adds for one image of {pixels} pixels")
    names = max(text_width(row.name, SMALL) for _, rows in panels for row in rows) + 2 * PAD
    room = (diagram.width - 2 * MARGIN - names) / 2
    largest = [max(row.counts[i] for _, rows in panels for row in rows) for i in (0, 1)]
    longest = room - PAD - 8 - max(text_width(row.said[i], SMALL) for _, rows in panels for row in rows for i in (0, 1) if row.hue)
    columns = [MARGIN + names + room * i for i in (0, 1)]
    for x, words in zip(columns, ("parameters", "multiply-adds"), strict=True):
        diagram.texts.append(Text(x, y + 8, words, "left", SMALL, color="soft"))
    y += 18
    for head, rows in panels:
        diagram.boxes.append(Box(MARGIN, y, diagram.width - 2 * MARGIN, ROW * (len(rows) + 1) + 16))
        for i, row in enumerate((head, *rows)):
            line = y + 22 + ROW * i
            size, bold = (SMALL, False) if i else (TEXT, True)
            diagram.texts.append(Text(MARGIN + PAD, line, row.name, "left", size, bold=bold))
            for x, words, count, most in zip(columns, row.said, row.counts, largest, strict=True):
                length = longest * count / most if row.hue else 0
                if length and row.hue:
                    diagram.bars.append(Bar(x, line - HIGH + 2, length, HIGH, row.hue))
                if words:
                    diagram.texts.append(Text(x + length + 6 * bool(length), line, words, "left", SMALL, bold=bold))
        y = diagram.boxes[-1].bottom + 8
    published = name in PUBLISHED and image_size == PUBLISHED_SIZE
    for words in NOTES if published else ():
        y += 18
        diagram.texts.append(Text(MARGIN, y, words, "left", SMALL, color="soft"))
    diagram.height = y + 12
    said = ". ".join(_told(head, rows) for head, rows in panels)
    diagram.alt = f"{diagram.title}: parameters, and multiply-adds for an image of {pixels} pixels. {said}."
    return diagram


def _told(head: Row, rows: list[Row]) -> str:
    return "; ".join(f"{row.name}: {' and '.join(filter(None, row.said))}" for row in (head, *rows))


def _stages(total: Cost) -> Iterator[tuple[Row, list[Row]]]:
    for stage, part in by_stage(total.layers).items():
        rows = []
        for kind, (called, hue) in KINDS.items():
            layers = tuple(layer for layer in part.layers if layer.kind == kind)
            if layers:
                label = f"{called} × {len(layers)}" if layers[1:] else called
                rows.append(_row(label, Cost(layers), hue))
        shares = part.parameters / total.parameters, part.multiply_adds / total.multiply_adds
        head = _row("Head" if stage == "head" else f"Stage {stage}", part)
        parameters, multiply_adds = (f"{said} ({_percent(share)})" for said, share in zip(head.said, shares, strict=True))
        yield head._replace(said=(parameters, multiply_adds)), rows


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 or not share else "<1%"


def _row(name: str, part: Cost, hue: Hue | None = None) -> Row:
    return Row(name, (amount(part.parameters), amount(part.multiply_adds)), (part.parameters, part.multiply_adds), hue)


def _totals(config: ScalableViTConfig, image_size: tuple[int, int], total: Cost, name: str) -> Iterator[tuple[Row, list[Row]]]:
    """The network's own counts and, for the images that the authors counted, the same by their rule, and theirs."""

    def by_their_rule(what: str, counted: Cost) -> Row:
        return Row(what, (f"{counted.parameters / 1e6:.2f} M", f"{counted.module_multiply_adds / 1e9:.2f} G"))

    rows = [Row("in attention products", ("", amount(total.attention_multiply_adds)))]
    if name in PUBLISHED and image_size == PUBLISHED_SIZE:
        parameters, multiply_adds, _ = PUBLISHED[name]
        rows.append(by_their_rule("by the authors' rule", total))
        rows.append(by_their_rule("the same with SSA v1", cost(replace(config, ssa_values="scaled"), image_size)))
        rows.append(Row("the authors' table", (f"{parameters} M", f"{multiply_adds} G")))
    yield Row("Total", (f"{total.parameters:,}", multiply_adds_said(total))), rows
