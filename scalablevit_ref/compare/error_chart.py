"""A comparison's errors, layer by layer, as a diagram: on the report page, and as a picture of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap

from scalablevit_ref.compare.mistakes.search import eps_said
from scalablevit_ref.compare.report import Report, Row
from scalablevit_ref.cost import stage_of
from scalablevit_ref.drawing.diagram import MARGIN, Anchor, Diagram, Line, Marks, Point, Text, Tip
from scalablevit_ref.drawing.render import save
from scalablevit_ref.drawing.style import SMALL, TITLE, check_picture
from scalablevit_ref.errors import printable
from scalablevit_ref.files.writing import check_outputs
from scalablevit_ref.testing.arrays import Comparison

SERIES = {"propagated": "both networks from end to end", "isolated": "each layer on the same input"}
"""The two errors of a layer, and what is run to measure them."""

HUES = {"propagated": "iwsa", "isolated": "ssa"}
"""Colour of each series in the theme."""

PLOT, LANE = 250, 32
"""Pixels of the height of the powers of ten, and of the lanes of zeros below them and of NaN above them."""

LEFT, RIGHT = 62, 14
"""Pixels beside the plot."""

LETTER = 0.56
"""Width of a letter, about, as a share of the letters' size: the page's font is the reader's own."""

TITLE_LETTERS, LETTERS = 46, 78
"""Letters on a line of the picture's title, and on a line under it."""


def error_plot(
    report: Report, path: Path | str, *, title: str = "Error by layer", theme: str = "light", force: bool = False
) -> str:
    """Write a picture of every layer's errors in eps on a log scale; returns its alternative text. Path, theme, force: of `save`.

    Each layer has two, the propagated and the isolated one. The dashed line is the tolerance; the first layer to differ is named.
    """
    check_picture(Path(path), theme)
    check_outputs([path], force=force)
    diagram = error_picture(report, title)
    save(diagram, path, theme=theme, force=force)
    return diagram.alt


def error_picture(report: Report, title: str) -> Diagram:
    """The chart under its title, the verdict and what the marks mean."""
    diagram = Diagram(title, alt=description(report))
    top = 4
    for line in wrap(diagram.title, TITLE_LETTERS):
        top += 24
        diagram.texts.append(Text(MARGIN, top + 2, line, "left", TITLE, bold=True, literal=True))
    verdict = [str(report).splitlines()[0], *map(str, [*report.told, *report.nearest][:1])]
    if not report.agrees:  # else the verdict says it
        verdict.append(report.coverage)
    for line in (line for words in verdict for line in wrap(printable(words), LETTERS)):
        top += 19
        diagram.note(MARGIN, top + 5, line, literal=True)
    for kind in shown(report):
        top += 19
        diagram.marks.append(_marks(((MARGIN + 6, top + 4),), kind, 4))
        diagram.note(MARGIN + 18, top + 9, f"{kind}: {SERIES[kind]}", color="ink")
    diagram.note(MARGIN, top + 28, f"‖candidate − reference‖ / ‖reference‖ in eps of {report.dtype}, log scale")
    put_chart(diagram, report, top + 44, letters=SMALL)
    return diagram


def error_chart(report: Report, *, width: float, letters: float) -> Diagram:
    """The chart alone, at most `width` pixels wide, with letters of this size."""
    diagram = Diagram("Error by layer", width=width, alt=description(report))
    put_chart(diagram, report, 0, letters=letters)
    diagram.width = min(width, max(line.points[-1][0] for line in diagram.lines) + RIGHT)
    return diagram


def put_chart(diagram: Diagram, report: Report, top: float, *, letters: float) -> None:
    """Add the axes, the tolerance, the first layer to differ, and the errors; the diagram then ends below them."""
    rows, size = report.rows, letters
    low, high, zeros, unbounded, limit = _extent(report)
    top += 2.2 * size
    end = LEFT + min(diagram.width - LEFT - RIGHT, max(48 * len(rows), 220))
    bottom = top + LANE * unbounded + PLOT
    floor = bottom + LANE * zeros
    step = (end - LEFT) / len(rows)

    def x(i: int) -> float:
        return LEFT + step * (i + 0.5)

    def height(power: float) -> float:
        return bottom - PLOT * (power - low) / (high - low)

    def y(error: float) -> float:
        if not math.isfinite(error):
            return top + LANE / 2
        return height(math.log10(error)) if error > 0 else bottom + LANE / 2

    def text(x: float, y: float, words: str, anchor: Anchor = "center", color: str = "soft", *, bold: bool = False) -> None:
        diagram.texts.append(Text(x, y, words, anchor, size, bold, color, literal=True))

    def line(x1: float, y1: float, x2: float, y2: float, color: str = "rule", width: float = 1, *, dashed: bool = False) -> None:
        diagram.lines.append(Line(((x1, y1), (x2, y2)), color, width, dashed))

    ticks = {power_of_ten(power): height(power) for power in range(low, high + 1, -(-(high - low) // 7))}
    ticks |= ({"0": y(0)} if zeros else {}) | ({"NaN, ∞": y(math.inf)} if unbounded else {})
    for words, at in ticks.items():
        line(LEFT, at, end, at)
        text(LEFT - 8, at + size / 3, words, "right")
    text(LEFT - 8, top - size, "eps", "right")
    line(LEFT, floor, end, floor)

    stages = list(_stages(rows))
    narrow = any(label.startswith("stage") and step * (last - first + 1) < _width(label, size) for first, last, label in stages)
    taken = 0.0
    for begin, last, label in stages:
        words = label.removeprefix("stage ") if narrow else label
        half = _width(words, size) / 2
        middle = max(min(LEFT + step * (begin + last + 1) / 2, end + RIGHT - half), half)
        if begin:
            line(LEFT + step * begin, top, LEFT + step * begin, floor + 6)
        if middle - half >= taken:
            text(middle, floor + 1.5 * size, words)
            taken = middle + half + 4
    text((LEFT + end) / 2, floor + 3.2 * size, "stage" if narrow else "layers, in the order of the network")
    first = x(rows.index(report.first)) if report.first else end
    if limit:
        line(LEFT, y(limit), end, y(limit), "ink", dashed=True)
        at_left = first > (LEFT + end) / 2
        text(LEFT + 6 if at_left else end - 6, y(limit) - size / 3, f"allowed {limit:g} eps", "left" if at_left else "right")
    if report.first:
        line(first, top - 4, first, floor, "bad", 1.5)
        left, right = first - LEFT, end + RIGHT - first
        label = f"first to differ: {report.first.layer}"
        label = label if _width(label, size) <= max(left, right) else report.first.layer
        text(first, top - size, label, "left" if right >= left else "right", "bad", bold=True)

    radius = max(1.4, min(3.0, step / 4))
    for kind in SERIES:
        found = [(i, c.error) for i, row in enumerate(rows) if (c := getattr(row, kind))]
        for finite, run in groupby(found, key=lambda point: math.isfinite(point[1])):
            points = tuple((x(i), y(error)) for i, error in run)
            if finite and kind == "propagated" and points[1:]:
                diagram.lines.append(Line(points, HUES[kind], 1.5))
            diagram.marks.append(_marks(points, kind, radius, finite=finite))
    diagram.tips += [Tip(LEFT + step * i, top, step, floor - top, _tip(row)) for i, row in enumerate(rows)]
    diagram.height = floor + 3.2 * size + 8


def shown(report: Report) -> list[str]:
    """The series that the report has."""
    return [kind for kind in SERIES if any(getattr(row, kind) for row in report.rows)]


def _marks(points: tuple[Point, ...], kind: str, radius: float, *, finite: bool = True) -> Marks:
    """Of a series, so that where both lie on one point, neither hides the other."""
    if kind == "isolated":
        return Marks(points, "dot" if finite else "cross", radius, HUES[kind])
    return Marks(points, "ring" if finite else "cross", radius * (1.4 if finite else 1.8), HUES[kind])


def _width(words: str, size: float) -> float:
    return LETTER * size * len(words)


def power_of_ten(power: int) -> str:
    """A power of ten as it is written: 0.01, 1, 10, 10⁵."""
    if -2 <= power <= 2:
        return f"{10.0**power:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _extent(report: Report) -> tuple[int, int, bool, bool, float | None]:
    """The powers of ten between which all errors lie, whether some are zero or not finite, and what is allowed, if anything is."""
    errors = [c.error for row in report.rows for c in (row.propagated, row.isolated) if c]
    allowed = report.tolerance if 0 < report.tolerance < math.inf else None
    powers = [math.log10(e) for e in [*errors, allowed or 1.0] if 0 < e < math.inf]
    unbounded = any(not math.isfinite(e) for e in errors)
    return math.floor(min(powers)), math.floor(max(powers)) + 1, any(e == 0 for e in errors), unbounded, allowed


def _stages(rows: Sequence[Row]) -> Iterator[tuple[int, int, str]]:
    """The first and the last layer of each stage, and what it is called."""
    at = 0
    for stage, members in groupby(rows, key=lambda row: stage_of(row.layer)):
        some = list(members)
        label = stage if stage == "head" else f"stage {stage}"
        yield at, at + len(some) - 1, label if some[1:] else some[0].layer
        at += len(some)


def _tip(row: Row) -> tuple[str, ...]:
    return (row.layer, *(f"{kind}: {eps_said(c.error)}" for kind in SERIES if (c := getattr(row, kind))))


def description(report: Report) -> str:
    """The chart in words."""

    def span(comparisons: list[Comparison]) -> str:
        finite = [c.error for c in comparisons if math.isfinite(c.error)]
        rest = len(comparisons) - len(finite)
        said = [f"from {eps_said(min(finite))} to {eps_said(max(finite))}"] if finite else []
        return " and ".join(said + ([f"NaN or infinite in {rest}"] if rest else []))

    rows = report.rows
    lines = [f"Errors of {len(rows)} layers, {rows[0].layer} to {rows[-1].layer}, on a logarithmic scale in eps."]
    lines += [f"The {kind} errors are {span([c for row in rows if (c := getattr(row, kind))])}." for kind in shown(report)]
    lines.append(f"Allowed are {report.tolerance:g} eps.")
    lines += [f"{report.coverage[0].upper()}{report.coverage[1:]}."] if report.coverage else []
    return " ".join([*lines, f"The first to differ is {report.first.layer}." if report.first else "No layer differs."])
