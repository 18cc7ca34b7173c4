"""A diagram as data: letters, boxes, lines and maps at places in pixels; y grows downwards.

Words are made printable where they enter it, so that whatever draws a diagram, to whatever kind of file, has nothing to escape but
its own syntax.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from scalablevit_ref.drawing.style import SMALL, TEXT, TITLE, WIDTH
from scalablevit_ref.errors import printable

Hue = Literal["iwsa", "ssa", "linear", "conv", "norm"]
Anchor = Literal["left", "center", "right"]
MarkShape = Literal["dot", "ring", "cross"]
Point = tuple[float, float]

MARGIN = 12
"""Pixels around everything."""


@dataclass(frozen=True)
class Text:
    """One line of letters on the baseline (x, y), at whose left end, middle or right end x is.

    `$…$` is mathematics, unless the words are literal: those of a user, who may have a file of any name.
    """

    x: float
    y: float
    words: str
    anchor: Anchor = "center"
    size: float = TEXT
    bold: bool = False
    color: str = "ink"
    literal: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", printable(self.words))


@dataclass(frozen=True)
class Rectangle:
    """What has its upper left corner at (x, y)."""

    x: float
    y: float
    width: float
    height: float

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
class Box(Rectangle):
    """A box in its hue. Without a hue it is a panel, which stands behind a group."""

    hue: Hue | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Bar(Rectangle):
    """A bar of a chart, in its hue; `pale` with an edge around it."""

    hue: Hue
    pale: bool = False


@dataclass(frozen=True)
class Grid(Rectangle):
    """A map seen from above, cut by thin lines into `rows` x `columns` windows, the first of them filled."""

    rows: int
    columns: int
    hue: Hue


@dataclass(frozen=True)
class Picture(Rectangle):
    """Pixels, "h w rgb" from 0 to 1."""

    pixels: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Tip(Rectangle):
    """Where the report page says something of what the pointer is on, in one or more lines."""

    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(map(printable, self.lines)))


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
class Line:
    """Straight from point to point; `color` is a name of the theme's or `#rrggbb`, `width` in pixels."""

    points: tuple[Point, ...]
    color: str
    width: float = 1
    dashed: bool = False


@dataclass(frozen=True)
class Marks:
    """Points of a series as dots, rings or crosses of this radius."""

    points: tuple[Point, ...]
    shape: MarkShape
    radius: float
    color: str


@dataclass
class Diagram:
    """What is drawn, in the order of the lists, under a title of a few words."""

    title: str
    width: float = WIDTH
    height: float = 0
    alt: str = ""  # what the diagram shows, for who cannot see it
    pictures: list[Picture] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    tips: list[Tip] = field(default_factory=list)

    def __setattr__(self, name: str, value: object) -> None:
        """The title and the alternative text, whenever they are set, become printable."""
        super().__setattr__(name, printable(value) if isinstance(value, str) else value)

    def note(self, x: float, y: float, words: str, *, color: str = "soft", bold: bool = False, literal: bool = False) -> None:
        """Add a line of small letters that begins at x."""
        self.texts.append(Text(x, y, words, "left", SMALL, bold, color, literal))

    def heading(self, *subtitle: str, literal: bool = False) -> float:
        """Add the title and the lines under it at the upper left; returns the y below them."""
        self.texts.append(Text(MARGIN, 30, self.title, "left", TITLE, bold=True, literal=True))
        for i, words in enumerate(subtitle, 1):
            self.note(MARGIN, 30 + 21 * i, words, literal=literal)
        return 44 + 21 * len(subtitle)
