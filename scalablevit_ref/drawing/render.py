"""Diagrams as matplotlib's figures, and how wide it sets letters."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.diagram import Diagram, Point
from scalablevit_ref.drawing.style import PX, TEXT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawn(diagram: Diagram, theme: Theme) -> Figure:
    """The picture; call it within `style.themed`."""
    from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

    figure = style.figure(width=diagram.width, height=diagram.height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, diagram.width), ylim=(diagram.height, 0))
    axes.axis("off")

    def put(patch: object) -> None:
        axes.add_patch(patch).set_clip_on(False)  # type: ignore[arg-type]

    def rule(*points: Point, color: str = theme.ink, width: float = 1.4) -> None:
        axes.plot(*zip(*points, strict=True), color=color, linewidth=width * PX, solid_joinstyle="round", clip_on=False)

    for box in diagram.boxes:
        edge, fill = getattr(theme, box.hue) if box.hue else (theme.panel, theme.panel)
        shape = f"round,pad=0,rounding_size={6 if box.hue else 10}"
        put(
            FancyBboxPatch(
                (box.x, box.y),
                box.width,
                box.height,
                shape,
                facecolor=theme.page if box.dashed else fill,
                edgecolor=edge,
                linewidth=1.3 * PX,
                linestyle=(0, (4, 3)) if box.dashed else "solid",
            )
        )
    for bar in diagram.bars:
        put(Rectangle((bar.x, bar.y), bar.width, bar.height, facecolor=getattr(theme, bar.hue)[0], edgecolor="none"))
    for grid in diagram.grids:
        edge, _ = getattr(theme, grid.hue)
        put(Rectangle((grid.x, grid.y), grid.width, grid.height, facecolor=theme.page, edgecolor=edge, linewidth=1.3 * PX))
        cell = grid.width / grid.columns, grid.height / grid.rows
        put(Rectangle((grid.x, grid.y), *cell, facecolor=edge, edgecolor=edge, linewidth=0))
        for i in range(1, grid.columns):
            x = grid.x + cell[0] * i
            rule((x, grid.y), (x, grid.y + grid.height), color=edge, width=0.6)
        for i in range(1, grid.rows):
            y = grid.y + cell[1] * i
            rule((grid.x, y), (grid.x + grid.width, y), color=edge, width=0.6)
    for arrow in diagram.arrows:
        *_, (x0, y0), (x, y) = arrow.points
        length = abs(x - x0) + abs(y - y0)
        along = (x - x0) / length, (y - y0) / length
        back = x - 8 * along[0], y - 8 * along[1]
        wings = [(back[0] + side * along[1], back[1] + side * along[0]) for side in (4.5, -4.5)]
        put(Polygon([(x, y), *wings], facecolor=theme.ink, edgecolor="none"))
        rule(*arrow.points[:-1], back)
    for total in diagram.sums:
        put(Circle((total.x, total.y), total.radius, facecolor=theme.page, edgecolor=theme.ink, linewidth=1.4 * PX))
        arm = total.radius - 4.5
        rule((total.x - arm, total.y), (total.x + arm, total.y))
        rule((total.x, total.y - arm), (total.x, total.y + arm))
    for text in diagram.texts:
        axes.text(
            text.x,
            text.y,
            text.words,
            fontsize=text.size * PX,
            fontweight="bold" if text.bold else "normal",
            ha=text.anchor,
            va="baseline",
            color=getattr(theme, text.color),
        )
    return figure


@cache
def text_width(words: str, size: float = TEXT, *, bold: bool = False) -> float:
    """Pixels that a line of letters is wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    letters = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(words, letters, ismath="$" in words)[0])
