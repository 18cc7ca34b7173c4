"""A data flow as a diagram: steps in rows and columns, and between them arrows that bear shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from scalablevit_ref.drawing.diagram import MARGIN, Arrow, Box, Diagram, Grid, Hue, Sum, Text
from scalablevit_ref.drawing.facts import plain
from scalablevit_ref.drawing.render import text_width
from scalablevit_ref.drawing.style import SMALL, TEXT, TITLE, WIDTH

PADDING, LINE = 14, 20
"""Pixels beside the letters in a box, and from one line of letters to the next."""

GAP, FORK = 38, 14
"""Pixels between two rows, across which the arrows run, and pixels more where an arrow forks."""

BESIDE = 10
"""Pixels from an arrow to the letters beside it."""

GLYPH = 40
"""Pixels of the longer side of a step's small map."""

Span = tuple[int, int]
"""The first and the last of some columns."""

Shape = tuple[str, str]
"""A tensor's shape in figures, which stand at an arrow's right, and in symbols, which stand at its left."""

Rows = Sequence[Sequence["Step"]]
"""Steps from top to bottom; a step stands in its columns."""


@dataclass(frozen=True, eq=False)
class Step:
    """What happens in one place: a name in bold, what it does, and a box in its hue; without a hue there is no box."""

    name: str = ""
    does: tuple[str, ...] = ()
    hue: Hue | None = None
    gives: Shape | Mapping[int, Shape] = ("", "")  # the shape of what it gives, or that of what it gives in each column
    span: Span = (0, 0)  # the columns over which it stands
    wide: bool = False  # as wide as these, so that it meets the edges of all of them
    total: bool = False  # a sum, drawn as a plus in a circle
    adds: Step | None = None  # what the sum also takes, past the steps between
    grid: tuple[int, int] | None = None  # rows and columns of windows or tiles, shown as a small map at its left

    @cached_property
    def lines(self) -> list[tuple[str, float, bool]]:
        """Words, size and boldness of each line."""
        does = [(words, TEXT if "$" in words else SMALL, False) for words in self.does]
        return [(self.name, TEXT, True), *does] if self.name else does

    @property
    def map_width(self) -> float:
        """Pixels that the small map takes at the left; lines less than 3 pixels apart would be no map."""
        return GLYPH + 10 if self.grid and 3 * max(self.grid) <= GLYPH else 0

    @cached_property
    def width(self) -> float:
        """Pixels that it needs."""
        if self.total:
            return 2 * Sum.radius
        letters = max(text_width(words, size, bold=bold) for words, size, bold in self.lines)
        return letters + 2 * PADDING * bool(self.hue) + self.map_width

    @property
    def height(self) -> float:
        return 2 * Sum.radius if self.total else LINE * len(self.lines) + (12 if self.hue else 2)

    def told(self, *, full: bool = False) -> str:
        """Its name without mathematics, and in full what it does."""
        if self.total:
            return "the sum"
        name, *rest = (plain(words).rstrip(",") for words, _, _ in self.lines)
        return f"{name} ({', '.join(rest)})" if full and rest else name


class Edge(NamedTuple):
    """From a step to one below it."""

    source: Step
    target: Step
    shape: Shape  # of the tensor
    leaves: Span  # in the middle of these columns it leaves its source
    skip: bool = False  # past the steps between, at their left


def edges_of(rows: Rows) -> list[Edge]:
    """A step takes what the nearest step above gives, in each of its columns; sums also take what they add."""
    edges: list[Edge] = []
    nearest: dict[int, Step] = {}
    for row in rows:
        for step in row:
            columns: dict[Step, list[int]] = {}
            for column in range(step.span[0], step.span[1] + 1):
                if column in nearest:
                    columns.setdefault(nearest[column], []).append(column)
            order = [source for above in rows for source in above if source in columns]
            edges += [_edge(source, step, columns[source]) for source in order]
        nearest |= {column: step for step in row for column in range(step.span[0], step.span[1] + 1)}
    return edges + [Edge(step.adds, step, ("", ""), step.adds.span, skip=True) for row in rows for step in row if step.adds]


def _edge(source: Step, target: Step, columns: list[int]) -> Edge:
    given = source.gives if isinstance(source.gives, Mapping) else {source.span[0]: source.gives}
    span = (columns[0], columns[-1]) if source.wide else source.span
    return Edge(source, target, given.get(columns[0], ("", "")), span)


def told(rows: Rows) -> str:
    """The flow in sentences, for the alternative text."""
    sentences, edges = [], edges_of(rows)
    for step in (step for row in rows for step in row):
        out = [edge for edge in edges if edge.source is step]
        if out:
            shapes = " and ".join(edge.shape[0] for edge in out if edge.shape[0])
            sentences.append(f"{step.told(full=True)} gives {shapes} to {' and '.join(edge.target.told() for edge in out)}.")
    return " ".join(sentences)


def placed(rows: Rows, title: str, *subtitle: str) -> Diagram:
    """Everything in its place, without alternative text. It is `style.WIDTH` wide, or wider where the letters need it."""
    edges, steps = edges_of(rows), [step for row in rows for step in row]
    heading = max(text_width(title, TITLE, bold=True), *(text_width(words, SMALL) for words in subtitle))
    columns = _columns(steps, edges, heading)
    diagram = Diagram(title, width=columns[-1] + MARGIN)
    top = diagram.heading(*subtitle)
    boxes: dict[Step, Box] = {}
    for row in rows:
        height = max(step.height for step in row)
        for step in row:
            alike = [other.width for other in steps if other.hue and not other.wide and other.span == step.span]
            room = columns[step.span[1] + 1] - columns[step.span[0]] - 2 * MARGIN
            width = room if step.wide else max(alike) if step.hue else step.width
            x = _middle(columns, step.span) - width / 2
            boxes[step] = Box(x, top + (height - step.height) / 2, width, step.height, step.hue)
        forks = any(edge.skip or not (edge.target.total or _straight(columns, edge)) for edge in edges if edge.source in row)
        top += height + GAP + FORK * forks
    for step, box in boxes.items():
        _put(diagram, step, box)
    for edge in edges:
        _connect(diagram, edge, boxes, columns)
    diagram.height = max(box.bottom for box in boxes.values()) + 16
    return diagram


def _columns(steps: Sequence[Step], edges: Sequence[Edge], heading: float) -> list[float]:
    """The x at which each column begins and the last one ends: wide enough for heading, boxes and the letters beside arrows."""
    count = 1 + max(step.span[1] for step in steps)
    widths = [max(WIDTH - 2 * MARGIN, heading) / count] * count
    needs = [(step.span, step.width + 2 * MARGIN) for step in steps]
    needs += [(edge.leaves, 2 * (max(text_width(words, SMALL) for words in edge.shape) + BESIDE + 6)) for edge in edges]
    for (first, last), need in sorted(needs, key=lambda need: need[0][1] - need[0][0]):
        short = max(0, need - sum(widths[first : last + 1])) / (last + 1 - first)
        widths[first : last + 1] = [width + short for width in widths[first : last + 1]]
    return [MARGIN + sum(widths[:k]) for k in range(count + 1)]


def _middle(columns: list[float], span: Span) -> float:
    return (columns[span[0]] + columns[span[1] + 1]) / 2


def _straight(columns: list[float], edge: Edge) -> bool:
    """Whether it can go straight down: it meets the target in the middle, or a wide target anywhere."""
    x, (first, last) = _middle(columns, edge.leaves), edge.target.span
    return x == _middle(columns, edge.target.span) or (edge.target.wide and columns[first] <= x <= columns[last + 1])


def _put(diagram: Diagram, step: Step, box: Box) -> None:
    if step.total:
        diagram.sums.append(Sum(box.middle, box.y + Sum.radius))
        return
    if step.hue:
        diagram.boxes.append(box)
    if step.hue and step.grid and step.map_width:
        rows, columns = step.grid
        cell = GLYPH / max(rows, columns)
        corner = box.x + PADDING, (box.y + box.bottom - cell * rows) / 2
        diagram.grids.append(Grid(*corner, cell * columns, cell * rows, rows, columns, step.hue))
    top = (box.y + box.bottom - LINE * len(step.lines)) / 2
    for i, (words, size, bold) in enumerate(step.lines):
        diagram.texts.append(Text(box.middle + step.map_width / 2, top + LINE * i + 15, words, size=size, bold=bold))


def _connect(diagram: Diagram, edge: Edge, boxes: Mapping[Step, Box], columns: list[float]) -> None:
    """Add an edge's arrow, and beside it the shape."""
    source, target, x = boxes[edge.source], boxes[edge.target], _middle(columns, edge.leaves)
    rail, level = source.bottom + GAP, (target.y + target.bottom) / 2
    if edge.skip:
        left = min(box.x for box in boxes.values() if source.y < box.y < target.y) - 2 * MARGIN
        points = [(x, rail), (left, rail), (left, level), (target.x, level)]
    elif _straight(columns, edge):
        points = [(x, source.bottom), (x, target.y)]
    elif edge.target.total:
        points = [(x, source.bottom), (x, level), (target.x if x < target.x else target.right, level)]
    else:
        points = [(x, source.bottom), (x, rail), (target.middle, rail), (target.middle, target.y)]
    diagram.arrows.append(Arrow(tuple(points)))
    figures, symbols = edge.shape
    if figures:
        diagram.note(x + BESIDE, source.bottom + 23, figures, color="ink")
        diagram.texts.append(Text(x - BESIDE, source.bottom + 23, symbols, "right", SMALL, color="soft"))
