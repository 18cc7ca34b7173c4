"""Proved errors, layer by layer, as a picture: each subject a line as thick as what is not known of it."""

from __future__ import annotations

import math
from itertools import groupby
from textwrap import wrap

from scalablevit_ref.certify.certificate import Certificate, Row
from scalablevit_ref.compare.error_chart import LEFT, LETTER, LETTERS, PLOT, RIGHT, TITLE_LETTERS, power_of_ten
from scalablevit_ref.cost import stage_of
from scalablevit_ref.drawing.diagram import MARGIN, Diagram, Line, Text, Tip
from scalablevit_ref.drawing.style import SMALL, TITLE
from scalablevit_ref.testing.arrays import EPS

HUES = ("iwsa", "ssa", "linear", "conv", "norm", "bad")
"""Colours of the subjects; those of more are dashed."""


def certificate_picture(found: Certificate, what: str) -> Diagram:
    """The chart under its title and what each line is."""
    shown = [row for row in found.rows if any(math.isfinite(error.l2.high) and error.l2.high > 0 for error in row.errors.values())]
    diagram = Diagram(f"Proved errors of {what}", alt=description(found, shown))
    top = 4.0
    for line in wrap(diagram.title, TITLE_LETTERS):
        top += 24
        diagram.texts.append(Text(MARGIN, top + 2, line, "left", TITLE, bold=True, literal=True))
    explained = f"‖output − truth‖ / ‖truth‖, log scale; a line is as thick as what is not known, at most {found.width:.0e}"
    for line in wrap(explained, LETTERS):
        top += 19
        diagram.note(MARGIN, top + 5, line, literal=True)
    for i, row in enumerate(shown):
        top += 19
        color, dashed = _look(i)
        diagram.lines.append(Line(((MARGIN, top), (MARGIN + 22, top)), color, 2, dashed))
        diagram.note(MARGIN + 30, top + 5, row.name, color="ink", literal=True)
    _put_chart(diagram, found, shown, top + 16)
    return diagram


def _look(i: int) -> tuple[str, bool]:
    return HUES[i % len(HUES)], i >= len(HUES)


def _put_chart(diagram: Diagram, found: Certificate, rows: list[Row], top: float) -> None:
    errors = [bound for row in rows for e in row.errors.values() for bound in (e.l2.low, e.l2.high) if 0 < bound < math.inf]
    low, high = math.floor(math.log10(min(errors, default=1.0))), math.floor(math.log10(max(errors, default=1.0))) + 1
    end, bottom = diagram.width - RIGHT, top + PLOT
    step = (end - LEFT) / len(found.taps)

    def y(error: float) -> float:
        return bottom - PLOT * (math.log10(max(error, 10.0**low)) - low) / (high - low)

    for power in range(low, high + 1, -(-(high - low) // 7)):
        diagram.lines.append(Line(((LEFT, y(10.0**power)), (end, y(10.0**power))), "rule", 1))
        diagram.texts.append(Text(LEFT - 8, y(10.0**power) + SMALL / 3, power_of_ten(power), "right", SMALL, color="soft"))
    at = 0
    for stage, members in groupby(found.taps, key=stage_of):
        count = len(list(members))
        middle, half = LEFT + step * (at + count / 2), LETTER * SMALL * len(stage) / 2
        if at:
            diagram.lines.append(Line(((LEFT + step * at, top), (LEFT + step * at, bottom + 6)), "rule", 1))
        if 2 * half <= step * count:
            diagram.texts.append(Text(middle, bottom + 1.5 * SMALL, stage, "center", SMALL, color="soft", literal=True))
        at += count
    diagram.texts.append(Text((LEFT + end) / 2, bottom + 3.2 * SMALL, "stage", "center", SMALL, color="soft"))
    for i, row in enumerate(rows):
        color, dashed = _look(i)
        places = [(j, row.errors[tap].l2) for j, tap in enumerate(found.taps) if tap in row.errors]
        seen = [(LEFT + step * (j + 0.5), bounds) for j, bounds in places if 0 < bounds.high < math.inf]
        for x, bounds in seen:  # where the bounds are apart
            if y(bounds.low) - y(bounds.high) > 1:
                diagram.lines.append(Line(((x, y(bounds.low)), (x, y(bounds.high))), color, 2))
        if seen[1:]:
            diagram.lines.append(Line(tuple((x, y(bounds.high)) for x, bounds in seen), color, 1.5, dashed))
    for j, tap in enumerate(found.taps):
        said = [f"{row.name}: {row.eps(tap).low:.4g} to {row.eps(tap).high:.4g} eps" for row in rows if tap in row.errors]
        diagram.tips.append(Tip(LEFT + step * j, top, step, PLOT, (tap, *said)))
    diagram.height = bottom + 3.2 * SMALL + 8


def description(found: Certificate, rows: list[Row]) -> str:
    """The chart in words."""
    lines = [f"Proved errors of {len(found.taps)} layers, {found.taps[0]} to {found.taps[-1]}, on a logarithmic scale."]
    for row in rows:
        eps = row.eps(row.worst)
        lines.append(f"{row.name} is at most {eps.high:.4g} eps, of {EPS[row.dtype]:.2g}, from the truth, at {row.worst}.")
    return " ".join(lines)
