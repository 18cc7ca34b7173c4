"""A flow as a diagram, from top to bottom: every step in its row and columns, and every edge as an arrow with its letters."""

from __future__ import annotations

from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.diagram import MARGIN, Arrow, Box, Diagram, Grid, Point, Sum, Text
from scalablevit_ref.drawing.flow import Edge, Flow, Step
from scalablevit_ref.drawing.render import text_width
from scalablevit_ref.drawing.style import SMALL, TEXT

PADDING, LINE = 14, 20
"""Pixels beside the letters in a box, and from one line of letters to the next."""
GAP, FORK = 38, 14
"""Pixels between two rows, across which the arrows run, and pixels more where an arrow forks."""
BESIDE = 10
"""Pixels from an arrow to the letters beside it."""
GLYPH = 40
"""Pixels a side of the small maps."""

Columns = list[float]
"""The x at which each column begins, and at which the last one ends."""


def placed(flow: Flow, title: str, *subtitle: str) -> Diagram:
    """Everything in its place, without alternative text. It is `style.WIDTH` wide, or wider where the letters need it."""
    heading = max(text_width(title, style.TITLE, bold=True), *(text_width(words, SMALL) for words in subtitle))
    columns = _columns(flow, heading)
    diagram = Diagram(title, width=columns[-1] + MARGIN)
    top = diagram.heading(*subtitle)
    boxes: dict[Step, Box] = {}
    for row in range(max(step.row for step in flow.steps) + 1):
        steps = [step for step in flow.steps if step.row == row]
        height = max(_height(step) for step in steps)
        for step in steps:
            left, right = columns[step.first], columns[step.last + 1]
            width = right - left - 2 * MARGIN if step.wide else _shared_width(flow, step)
            boxes[step] = Box((left + right - width) / 2, top + (height - _height(step)) / 2, width, _height(step), step.hue)
        forks = any(_forks(edge, columns) for edge in flow.edges if edge.source.row == row)
        top += height + GAP + FORK * forks
    for step, box in boxes.items():
        _put(diagram, step, box)
    for edge in flow.edges:
        _connect(diagram, edge, boxes, columns)
    diagram.height = max(box.bottom for box in boxes.values()) + 16
    return diagram


def _columns(flow: Flow, heading: float) -> Columns:
    """Wide enough for the heading, the boxes and the letters beside the arrows."""
    widths = [max(style.WIDTH - 2 * MARGIN, heading) / flow.columns] * flow.columns
    needs = [(step.first, step.last, _width(step) + 2 * MARGIN) for step in flow.steps]
    for edge in flow.edges:
        first, last = (edge.source.first, edge.source.last) if edge.at is None else (edge.at, edge.at)
        letters = max(text_width(words, SMALL) for words in (edge.figures, edge.symbols))
        needs.append((first, last, 2 * (letters + BESIDE + 6)))
    for first, last, need in sorted(needs, key=lambda need: need[1] - need[0]):
        short = max(0, need - sum(widths[first : last + 1])) / (last + 1 - first)
        widths[first : last + 1] = [width + short for width in widths[first : last + 1]]
    return [MARGIN + sum(widths[:k]) for k in range(flow.columns + 1)]


def _lines(step: Step) -> list[tuple[str, float, bool]]:
    """Words, size and boldness of each line."""
    does = [(words, TEXT if "$" in words else SMALL, False) for words in step.does]
    return [(step.name, TEXT, True), *does] if step.name else does


def _glyph(step: Step) -> float:
    """Pixels that the small map takes at the left; lines less than 3 pixels apart would be no map."""
    return GLYPH + 10 if step.grid and 3 * max(step.grid) <= GLYPH else 0


def _width(step: Step) -> float:
    if step.total:
        return 2 * Sum.radius
    letters = max(text_width(words, size, bold=bold) for words, size, bold in _lines(step))
    return letters + 2 * PADDING * bool(step.hue) + _glyph(step)


def _height(step: Step) -> float:
    return 2 * Sum.radius if step.total else LINE * len(_lines(step)) + 12 * bool(step.hue)


def _shared_width(flow: Flow, step: Step) -> float:
    """Boxes over the same columns are equally wide."""
    alike = [s for s in flow.steps if s.hue and not s.wide and (s.first, s.last) == (step.first, step.last)]
    return max(map(_width, alike)) if step.hue else _width(step)


def _put(diagram: Diagram, step: Step, box: Box) -> None:
    if step.total:
        diagram.sums.append(Sum(box.middle, box.y + Sum.radius))
        return
    glyph = _glyph(step)
    if step.hue:
        diagram.boxes.append(box)
        if step.grid and glyph:
            rows, columns = step.grid
            cell = GLYPH / max(rows, columns)
            corner = box.x + PADDING, (box.y + box.bottom - cell * rows) / 2
            diagram.grids.append(Grid(*corner, cell * columns, cell * rows, rows, columns, step.hue))
    lines = _lines(step)
    top = (box.y + box.bottom - LINE * len(lines)) / 2
    for i, (words, size, bold) in enumerate(lines):
        diagram.texts.append(Text(box.middle + glyph / 2, top + LINE * i + 15, words, size=size, bold=bold))


def _connect(diagram: Diagram, edge: Edge, boxes: dict[Step, Box], columns: Columns) -> None:
    source, target = boxes[edge.source], boxes[edge.target]
    straight = _straight(edge, columns)
    x = source.middle if straight is None or edge.skip else straight
    rail, level = source.bottom + GAP, (target.y + target.bottom) / 2
    points: tuple[Point, ...]
    if edge.skip:
        beside = min(box.x for step, box in boxes.items() if edge.source.row < step.row < edge.target.row) - 2 * MARGIN
        points = ((x, rail), (beside, rail), (beside, level), (target.x, level))
    elif straight is not None:
        points = ((x, source.bottom), (x, target.y))
    elif edge.target.total:
        points = ((x, source.bottom), (x, level), (target.x if x < target.x else target.right, level))
    else:
        points = ((x, source.bottom), (x, rail), (target.middle, rail), (target.middle, target.y))
    diagram.arrows.append(Arrow(points))
    if edge.figures:
        diagram.texts.append(Text(x + BESIDE, source.bottom + 23, edge.figures, "left", SMALL))
        diagram.texts.append(Text(x - BESIDE, source.bottom + 23, edge.symbols, "right", SMALL, color="soft"))


def _middle(step: Step, columns: Columns) -> float:
    return (columns[step.first] + columns[step.last + 1]) / 2


def _straight(edge: Edge, columns: Columns) -> float | None:
    """The x at which an edge can go straight down, if it can: in the middle of the narrower of its two ends."""
    if edge.at is not None:
        return (columns[edge.at] + columns[edge.at + 1]) / 2
    for narrow, wide in ((edge.source, edge.target), (edge.target, edge.source)):
        x = _middle(narrow, columns)
        if x == _middle(wide, columns) or (wide.wide and columns[wide.first] <= x <= columns[wide.last + 1]):
            return x
    return None


def _forks(edge: Edge, columns: Columns) -> bool:
    return edge.skip or (not edge.target.total and _straight(edge, columns) is None)
