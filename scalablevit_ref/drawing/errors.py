"""A comparison's errors, layer by layer, as a picture."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from scalablevit_ref.compare.html.charts import SERIES, description, extent, groups, power_of_ten
from scalablevit_ref.compare.report import Report
from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.style import PX, SMALL, TITLE, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_LETTERS, LETTERS = 46, 78
"""On a line of the title, and under it."""

LEFT, RIGHT, PLOT, TITLE_LINE, LINE = 66, 14, 250, 24, 19
"""Pixels beside the plot, its height, and from line to line."""

LANE = 0.14
"""Height of the lane of zeros below the powers, and of that of NaN above them, as a share of theirs."""

STAGE = 56
"""Pixels that "stage 0" needs under the plot."""


def error_plot(report: Report, path: Path | str, *, title: str = "Error by layer", theme: str = "light") -> str:
    """Write a picture of every layer's errors in eps on a log scale; returns the picture's alternative text.

    Each layer has two: from end to end, and by itself. The dashed line is the tolerance; the first layer to differ is named.
    path: ends in .svg, .png or .pdf. theme: "light" or "dark". Raises as `style.check_picture` does.
    """
    path = Path(path)
    style.check_picture(path, theme)
    with style.themed(theme) as colors:
        alt = description(report)
        style.save(_figure(report, title, colors), path, title=title, alt=alt)
    return alt


def _figure(report: Report, title: str, colors: Theme) -> Figure:
    titles = wrap(title, TITLE_LETTERS)
    verdict = [str(report).splitlines()[0], *map(str, [*report.causes, *report.nearest][:1])]
    said = [line for words in verdict for line in wrap(words, LETTERS)]
    shown = {
        kind: (words, edge)
        for (kind, words), edge in zip(SERIES.items(), (colors.iwsa[0], colors.ssa[0]), strict=True)
        if any(getattr(row, kind) for row in report.rows)
    }
    under_title = 6 + TITLE_LINE * len(titles)
    top = under_title + 16 + LINE * (len(said) + len(shown)) + (34 if report.first else 10)
    height = top + PLOT + 46
    figure = style.figure(height=height)

    def text(x: float, y: float, words: str, size: float = SMALL, color: str = colors.ink, weight: str = "normal") -> None:
        at = x / style.WIDTH, 1 - y / height
        figure.text(*at, words, fontsize=size * PX, color=color, weight=weight, va="baseline", parse_math=False)

    for i, line in enumerate(titles):
        text(12, 30 + TITLE_LINE * i, line, TITLE, weight="bold")
    for i, line in enumerate(said):
        text(12, under_title + 22 + LINE * i, line, color=colors.soft)
    for i, (kind, (words, edge)) in enumerate(shown.items()):
        y = under_title + 26 + LINE * (len(said) + i)
        text(14, y, "●" if kind == "isolated" else "○", color=edge, weight="bold")
        text(30, y, f"{kind}: {words}")
    at = LEFT / style.WIDTH, 46 / height, 1 - (LEFT + RIGHT) / style.WIDTH, PLOT / height
    axes = figure.add_axes(at)
    _draw(axes, report, {kind: edge for kind, (_, edge) in shown.items()}, colors)
    return figure


def _draw(axes: Axes, report: Report, edges: dict[str, str], colors: Theme) -> None:
    """The lines and marks; y is the error's power of ten, with zeros in a lane below and NaN in one above."""
    rows = report.rows
    low, high, zeros, unbounded, limit = extent(report)
    lane = LANE * (high - low)
    below, above = lane * zeros, lane * unbounded

    def y(error: float) -> float:
        if not math.isfinite(error):
            return high + 0.7 * above
        return math.log10(error) if error > 0 else low - 0.7 * below

    ticks = {float(n): power_of_ten(n) for n in range(low, high + 1, -(-(high - low) // 7))}
    ticks |= {y(0): "0"} if below else {}
    ticks |= {y(math.inf): "NaN, ∞"} if above else {}
    axes.set(xlim=(-0.5, len(rows) - 0.5), ylim=(low - below, high + above), ylabel=f"error in eps of {report.dtype}")
    axes.yaxis.set_label_coords((24 - LEFT) / (style.WIDTH - LEFT - RIGHT), 0.5)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(length=0)
    for height in ticks:
        axes.axhline(height, color=colors.rule, linewidth=0.75, zorder=0)
    named = list(groups(rows))
    for first, _, _ in named[1:]:
        axes.axvline(first - 0.5, color=colors.rule, linewidth=0.75, zorder=0)
    step = (style.WIDTH - LEFT - RIGHT) / len(rows)
    if any(label.startswith("stage") and step * (last - first + 1) < STAGE for first, last, label in named):
        named = [(first, last, label.removeprefix("stage ")) for first, last, label in named]
        axes.set_xlabel("stage")
    axes.set_xticks([(first + last) / 2 for first, last, _ in named], [label for _, _, label in named])
    if limit:
        axes.axhline(y(limit), color=colors.ink, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
        axes.annotate(f"allowed {limit:g} eps", (0, y(limit)), (4, 4), textcoords="offset points", fontsize=SMALL * PX)
    if report.first:
        at = next(i for i, row in enumerate(rows) if row.layer == report.first.layer)
        axes.axvline(at, color=colors.ink, linewidth=1, zorder=1)
        right = at < len(rows) / 2
        axes.annotate(
            f"first: {report.first.layer}",
            *((at, 1), (0, 7)),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=SMALL * PX,
            weight="bold",
            parse_math=False,
        )
    size = max(2.2, min(5.0, 150 / len(rows)))
    for kind, edge in edges.items():
        points = [(i, c.error) for i, row in enumerate(rows) if (c := getattr(row, kind))]
        for finite, run in groupby(points, key=lambda point: math.isfinite(point[1])):
            x, heights = zip(*((i, y(error)) for i, error in run), strict=True)
            alone = kind == "isolated"
            axes.plot(
                x,
                heights,
                color=edge,
                linestyle="none" if alone or not finite else "-",
                linewidth=1.2,
                marker="o" if finite else "x",
                markersize=size if alone else size * (1.4 if finite else 2),
                markerfacecolor=edge if alone else colors.page,
                clip_on=False,
                zorder=3 if alone else 2,
            )
