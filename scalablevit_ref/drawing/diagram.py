"""A diagram as data: boxes, letters, lines and small maps at places in pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.style import SMALL, TEXT, TITLE

Hue = Literal["iwsa", "ssa", "linear", "conv", "norm"]
Anchor = Literal["left", "center", "right"]
Point = tuple[float, float]

MARGIN = 12
"""Pixels around everything."""


@dataclass(frozen=True)
class Text:
    """One line of letters on the baseline (x, y), at whose left end, middle or right end x is. `$…$` is mathematics."""

    x: float
    y: float
    words: str
    anchor: Anchor = "center"
    size: float = TEXT
    bold: bool = False
    color: Literal["ink", "soft"] = "ink"


@dataclass(frozen=True)
class Box:
    """A rectangle whose upper left corner is (x, y). Without a hue it is a panel, which stands behind a group."""

    x: float
    y: float
    width: float
    height: float
    hue: Hue | None = None
    dashed: bool = False

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in its hue, whose upper left corner is (x, y)."""

    x: float
    y: float
    width: float
    height: float
    hue: Hue


@dataclass(frozen=True)
class Arrow:
    """An arrow: level or upright from point to point, with a head at the last."""

    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sum:
    """A plus in a circle around (x, y)."""

    x: float
    y: float
    radius: float = 11


@dataclass(frozen=True)
class Grid:
    """A map seen from above: a rectangle cut by thin lines into `rows` x `columns` windows, the first of them filled."""

    x: float
    y: float
    width: float
    height: float
    rows: int
    columns: int
    hue: Hue


@dataclass
class Diagram:
    """What is drawn, the panels first; y grows downwards.

    title, alt: as `style.save` takes them.
    """

    title: str
    width: float = style.WIDTH
    height: float = 0
    alt: str = ""
    texts: list[Text] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)

    def heading(self, *subtitle: str) -> float:
        """Put the title and the lines under it at the top left; returns the y below them."""
        self.texts.append(Text(MARGIN, 30, self.title, "left", TITLE, bold=True))
        y = 30.0
        for words in subtitle:
            y += 21
            self.texts.append(Text(MARGIN, y, words, "left", SMALL, color="soft"))
        return y + 14


def plain(words: str) -> str:
    """Letters for what stands between dollars: `$Z\\!: n \\times c$` is `Z: n × c`."""
    for mathematics, letters in _LETTERS.items():
        words = words.replace(mathematics, letters)
    return re.sub(r"[\\${}]", "", words)


_LETTERS = {r"\,": " ", r"\!": "", r"\mathrm": "", r"^{\top}": "ᵀ", "^{-1/2}": "^-½", r"\times": "×", r"\cdot": "·"}
"""In this order."""
