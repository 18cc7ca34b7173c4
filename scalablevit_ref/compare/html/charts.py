"""The report page's chart: error by layer, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from scalablevit_ref.compare.mistakes.search import eps_said
from scalablevit_ref.compare.report import Report, Row
from scalablevit_ref.cost import stage_of
from scalablevit_ref.testing.arrays import Comparison

SERIES = {"propagated": "both networks from end to end", "isolated": "each layer on the same input"}

PLOT_HEIGHT, LANE = 250, 28
CHARACTER = 6.6
"""Width of a label's characters in pixels, about."""


def error_chart(report: Report, *, width: int, name: str) -> str:
    """SVG of every layer's errors on a log scale, at most `width` pixels wide; `name` keeps its ids apart from other charts'."""
    rows = report.rows
    low, high, zeros, unbounded, allowed = extent(report)
    left, right, top = 56, 62, 24
    plot = min(width - left - right, max(48 * len(rows), 220))
    above, below = LANE * unbounded, LANE * zeros
    bottom = top + above + PLOT_HEIGHT
    end, floor = left + plot, bottom + below
    step = plot / len(rows)
    parts = []

    def x(i: int) -> float:
        return left + step * (i + 0.5)

    def y(error: float) -> float:
        if not math.isfinite(error):
            return top + above / 2
        return bottom - PLOT_HEIGHT * (math.log10(error) - low) / (high - low) if error > 0 else bottom + below / 2

    def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(words: str, at: float, height: float, anchor: str = "middle", kind: str = "") -> None:
        parts.append(f'<text class="{kind}" x="{at:.1f}" y="{height:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    for power in range(low, high + 1, -(-(high - low) // 7)):
        line("grid", left, y(10.0**power), end, y(10.0**power))
        text(power_of_ten(power), left - 8, y(10.0**power) + 4, "end")
    if above:
        text("NaN, ∞", left - 8, y(math.inf) + 4, "end")
    if below:
        text("0", left - 8, y(0) + 4, "end")
        line("grid", left, floor, end, floor)
    text("eps", left - 8, top - 10, "end", "unit")
    taken = 0.0
    for first, last, label in groups(rows):
        middle, half = left + step * (first + last + 1) / 2, CHARACTER * len(label) / 2
        middle = max(min(middle, end + right - half), half)
        if first:
            line("grid", left + step * first, top, left + step * first, floor + 6)
        if middle - half >= taken:
            text(label, middle, floor + 18)
            taken = middle + half + 4
    if allowed:
        line("allowed", left, y(allowed), end, y(allowed))
        text("allowed", end + 6, y(allowed) - 2, "start")
        text(f"{allowed:g} eps", end + 6, y(allowed) + 11, "start")
    if report.first:
        at = next(i for i, row in enumerate(rows) if row.layer == report.first.layer)
        line("first", x(at), top - 4, x(at), floor)
        label = f"first to differ: {report.first.layer}"
        room = max(end + right - x(at), x(at) - left)
        label = label if CHARACTER * len(label) <= room else report.first.layer
        text(label, x(at), top - 10, "start" if room == end + right - x(at) else "end", "first")
    size = max(1.4, min(3.0, step / 2.4))
    for kind in SERIES:
        found = [(i, c.error) for i, row in enumerate(rows) if (c := getattr(row, kind))]
        for finite, run in groupby(found, key=lambda point: math.isfinite(point[1])):
            points = [(x(i), y(error)) for i, error in run]
            if finite and kind == "propagated":
                parts.append(f'<polyline class="{kind}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
            parts += [_mark(kind, a, b, size, finite) for a, b in points]
    for i, row in enumerate(rows):
        hit = f'x="{left + step * i:.1f}" y="{top}" width="{step:.1f}" height="{floor - top}"'
        parts.append(f'<rect class="hit" {hit}><title>{escape(_tip(row))}</title></rect>')
    text("layers, in the order of the network" if plot > 300 else "layers, in order", left + plot / 2, floor + 38, kind="unit")
    head = f'<title id="{name}-title">Error by layer</title><desc id="{name}-desc">{escape(description(report))}</desc>'
    size_said = f'width="{end + right}" height="{floor + 46}" viewBox="0 0 {end + right} {floor + 46}"'
    return f'<svg role="img" aria-labelledby="{name}-title {name}-desc" {size_said}>{head}{"".join(parts)}</svg>'


def _mark(kind: str, x: float, y: float, size: float, finite: bool) -> str:
    if not finite:
        size *= 1.8 if kind == "propagated" else 1  # so that neither hides the other
        x, y, side = x - size, y - size, 2 * size
        return f'<path class="{kind} cross" d="M{x:.1f} {y:.1f}l{side:.1f} {side:.1f}m0 {-side:.1f}l{-side:.1f} {side:.1f}"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size * (1.4 if kind == "propagated" else 1):.1f}"/>'


def power_of_ten(power: int) -> str:
    """A power of ten as it is written: 0.01, 1, 10, 10⁵."""
    if -2 <= power <= 2:
        return f"{10.0**power:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


class Extent(NamedTuple):
    """Of a report's errors: the powers of ten between which they lie, whether some are zero or not finite, what is allowed."""

    low: int
    high: int
    zeros: bool
    unbounded: bool
    allowed: float | None


def extent(report: Report) -> Extent:
    """What an axis for the errors of all layers has to span; the tolerance too, if there is one."""
    errors = [c.error for row in report.rows for c in (row.propagated, row.isolated) if c]
    allowed = report.tolerance if 0 < report.tolerance < math.inf else None
    powers = [math.log10(e) for e in [*errors, allowed or 1.0] if 0 < e < math.inf]
    unbounded = any(not math.isfinite(e) for e in errors)
    return Extent(math.floor(min(powers)), math.floor(max(powers)) + 1, any(e == 0 for e in errors), unbounded, allowed)


def groups(rows: Sequence[Row]) -> Iterator[tuple[int, int, str]]:
    """The first and the last layer of each stage, and what it is called."""

    def stage(row: Row) -> str:
        found = stage_of(row.layer)
        return found if found == "head" else f"stage {found}"

    at = 0
    for label, members in groupby(rows, key=stage):
        some = list(members)
        yield at, at + len(some) - 1, label if some[1:] else some[0].layer
        at += len(some)


def _tip(row: Row) -> str:
    lines = [f"{kind}: {eps_said(c.error)}" for kind, c in (("propagated", row.propagated), ("isolated", row.isolated)) if c]
    return "\n".join([row.layer, *lines])


def description(report: Report) -> str:
    """The chart in words."""

    def span(comparisons: list[Comparison]) -> str:
        finite = [c.error for c in comparisons if math.isfinite(c.error)]
        rest = len(comparisons) - len(finite)
        said = [f"from {eps_said(min(finite))} to {eps_said(max(finite))}"] if finite else []
        return " and ".join(said + ([f"NaN or infinite in {rest}"] if rest else []))

    rows = report.rows
    lines = [f"Errors of {len(rows)} layers, {rows[0].layer} to {rows[-1].layer}, on a logarithmic scale in eps."]
    for kind in SERIES:
        comparisons = [c for row in rows if (c := getattr(row, kind))]
        if comparisons:
            lines.append(f"The {kind} errors are {span(comparisons)}.")
    lines.append(f"Allowed are {report.tolerance:g} eps.")
    return " ".join([*lines, f"The first to differ is {report.first.layer}." if report.first else "No layer differs."])
