"""The picture of the idea, from a config: what one query attends to, in IWSA's window and over SSA's whole map."""

from __future__ import annotations

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.drawing.diagram import MARGIN, Bar, Box, Diagram, Hue, Line, Marks, Text
from scalablevit_ref.drawing.facts import Stage, figures
from scalablevit_ref.drawing.style import SMALL, WIDTH
from scalablevit_ref.image_sizes import check_image_size
from scalablevit_ref.parameters import parameter_shapes

GAP, LINE = 24, 20
"""Pixels between the two maps, and from line to line."""

KEY = 4
"""Radius of a key, in pixels."""

SWATCH = 11
"""Pixels a side of what stands before a line of the legend."""


def idea_of_both(config: ScalableViTConfig, image_size: tuple[int, int], *, name: str) -> Diagram:
    """One token of the first stage asks: in IWSA its own window, with LIM across the border; in SSA few keys from everywhere.

    Arguments as of `draw`. Raises ValueError for a size that the network does not take, and for a first stage without an SSA block.
    """
    check_image_size(config, *image_size)
    if config.depths[0] < 2:
        raise ValueError(
            "the picture of the idea shows both kinds of attention, got a first stage of one block, which has IWSA only"
        )
    found = _Found(config, image_size)
    diagram = Diagram("One query, two kinds of attention")
    top = diagram.heading(
        f"{name}, first stage: a map of {figures(found.h, found.w)} tokens, {found.c} channels each.",
        f"How many times fewer products: than with all {found.h * found.w:,} tokens.",
    )
    bottom = max(_window(diagram, found, top), _map(diagram, found, top))
    diagram.height = bottom + 6
    diagram.alt = f"{diagram.title}, in the first stage of ScalableViT {name}: " + " ".join([*found.of_iwsa, *found.of_ssa])
    return diagram


class _Found(Stage):
    """The first stage, the token that asks, and what is said of both."""

    def __init__(self, config: ScalableViTConfig, image_size: tuple[int, int]) -> None:
        super().__init__(config, 0, image_size)
        shapes = parameter_shapes(config)
        self.wide_qk = shapes["stages.0.1.attn.q.weight"][0]
        self.wide_v = shapes["stages.0.1.attn.proj.weight"][1]
        rows, columns = (max(1, int(share * count)) for share, count in zip((0.75, 0.4), self.windows, strict=True))
        self.row, self.column = min(rows * self.p, self.h) - 1, min(columns * self.p, self.w) - 1  # the last token of its window
        self.side = (WIDTH - 2 * MARGIN - GAP) / 2
        self.token = self.side / max(self.h, self.w)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The middle of the token that asks, on a map at (x, y)."""
        return x + (self.column + 0.5) * self.token, y + (self.row + 0.5) * self.token

    @property
    def of_iwsa(self) -> tuple[str, ...]:
        keys = self.p * self.p
        return (
            f"In IWSA it compares itself with the {keys} tokens of its window.",
            "LIM adds a 3 × 3 convolution of the values, which reaches over the border.",
            f"{self.times(keys * 2 * self.c)} times fewer products than with all {self.h * self.w:,} tokens.",
        )

    @property
    def of_ssa(self) -> tuple[str, ...]:
        keys = self.keys[0] * self.keys[1]
        return (
            f"In SSA it compares itself with {keys} keys, each of {figures(self.s, self.s)} tokens: r_n = 1/{self.s**2}.",
            f"It does so in {self.wide_qk} channels, not {self.c}: r_c = {self.r_c:g}.",
            f"{self.times(keys * (self.wide_qk + self.wide_v))} times fewer products than with all {self.h * self.w:,} tokens.",
        )

    def times(self, products: int) -> str:
        """How many times fewer so many multiply-adds a query are than those of plain self-attention: q with k, and a with v."""
        return f"{self.h * self.w * 2 * self.c / products:.0f}"


def _window(diagram: Diagram, found: _Found, top: float) -> float:
    """Add IWSA's map at the left and what it shows; returns the y below."""
    x, y, p, token = MARGIN, top + 24, found.p, found.token
    first = found.row // p * p, found.column // p * p
    diagram.texts.append(Text(x, top + 12, "IWSA", "left", bold=True, color="iwsa"))
    _frame(diagram, found, x, y, p)
    _square(diagram, x + first[1] * token, y + first[0] * token, p * token, "iwsa")
    _square(diagram, x + (found.column - 1) * token, y + (found.row - 1) * token, 3 * token, "conv")
    diagram.marks.append(Marks((found.place(x, y),), "dot", 3, "ink"))
    words = (
        f"{p * p} keys: its window of {figures(p, p)}",
        "LIM: 3 × 3 values, over the border",
        f"{found.times(p * p * 2 * found.c)} times fewer products",
    )
    return _legend(diagram, x, y + found.h * token, ("iwsa", "conv", None), words)


def _map(diagram: Diagram, found: _Found, top: float) -> float:
    """Add SSA's map at the right and what it shows; returns the y below."""
    x, y, s, token = MARGIN + found.side + GAP, top + 24, found.s, found.token
    rows, columns = found.keys
    query = found.place(x, y)
    keys = [(x + (j + 0.5) * s * token, y + (i + 0.5) * s * token) for i in range(rows) for j in range(columns)]
    diagram.texts.append(Text(x, top + 12, "SSA", "left", bold=True, color="ssa"))
    _frame(diagram, found, x, y, s)
    diagram.lines += [Line((query, key), "ssa", 0.6) for key in keys]
    diagram.marks += [Marks(tuple(keys), "dot", KEY, "ssa"), Marks((query,), "dot", 4, "ink")]
    words = (
        f"{rows * columns} keys, each of {figures(s, s)} tokens:",
        f"$r_n = 1/{s * s}$ of the tokens",
        f"$r_c = {found.r_c:g}$ times as many channels",
        f"{found.times(rows * columns * (found.wide_qk + found.wide_v))} times fewer products",
    )
    return _legend(diagram, x, y + found.h * token, ("ssa", None, None, None), words)


def _frame(diagram: Diagram, found: _Found, x: float, y: float, unit: int) -> None:
    """Add the map, with a line after each `unit` tokens."""
    wide, high = found.w * found.token, found.h * found.token
    diagram.boxes.append(Box(x, y, wide, high))
    downs = [x + at * found.token for at in range(0, found.w + 1, unit)]
    diagram.lines += [Line(((at, y), (at, y + high)), "rule") for at in downs]
    acrosses = [y + at * found.token for at in range(0, found.h + 1, unit)]
    diagram.lines += [Line(((x, at), (x + wide, at)), "rule") for at in acrosses]


def _square(diagram: Diagram, x: float, y: float, side: float, hue: Hue) -> None:
    """Add a part of the map in its hue, whose edge lies over the map's lines."""
    diagram.bars.append(Bar(x, y, side, side, hue=hue, pale=True))
    corners = (x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y), (x + side, y)
    diagram.lines.append(Line(corners, hue, 1.6))


def _legend(diagram: Diagram, x: float, y: float, hues: tuple[Hue | None, ...], words: tuple[str, ...]) -> float:
    """Add the query's line and one for each of the words, with a sample of its hue; returns the y below."""
    diagram.marks.append(Marks(((x + SWATCH / 2, y + 17),), "dot", 4, "ink"))
    diagram.texts.append(Text(x + SWATCH + 7, y + 22, "the query", "left", SMALL))
    for i, (hue, said) in enumerate(zip(hues, words, strict=True), 1):
        if hue == "ssa":
            diagram.marks.append(Marks(((x + SWATCH / 2, y + 17 + LINE * i),), "dot", KEY, hue))
        elif hue:
            diagram.bars.append(Bar(x, y + 12 + LINE * i, SWATCH, SWATCH, hue=hue, pale=True))
        diagram.texts.append(Text(x + SWATCH + 7, y + 22 + LINE * i, said, "left", SMALL))
    return y + 22 + LINE * len(words) + 8
