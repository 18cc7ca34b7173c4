"""Square maps in rows, with scales below them: how attention maps lie on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scalablevit_ref.drawing import style
from scalablevit_ref.drawing.style import PX, SMALL, TITLE, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT, HALF = 0.72, 0.5
"""Share of a map's colour where it lies over the image, which in grey has the rest; a grey for what is no image."""

FLAT = 0.6
"""What is left of the image's contrast under a map, so that black and white hardly change the map's colours."""

FRAME, BORDER = "#ff4fa3", "#ffffff"
"""Of the query and its window, which no colour of viridis is near, and of all windows. Both have a black rim."""

SMALLEST = 9
"""Pixels a side that a frame has at least."""

SMALL_PANEL = 100
"""Pixels a side up to which a panel has frames of thinner lines."""

MARGIN, GAP, LINE = 12, 14, 19
"""Pixels around the picture, between panels, and from line to line."""

LABEL, SCALE = 42, 40
"""Pixels of two lines above a panel, and of a scale below it."""


@dataclass(frozen=True)
class Panel:
    """A map, pixel for pixel as the image.

    above: a line, and one that stands back. pixels: "h w rgb". largest: the share at which the scale ends; None has no scale.
    mark: a share that is marked on it. seen: left, right, top and bottom of the part that is seen; None is all of it.
    frames: left, top and side of what is framed. windows: pixels a side.
    """

    above: tuple[str, str]
    pixels: np.ndarray
    largest: float | None = None
    mark: float = 0.0
    seen: tuple[float, float, float, float] | None = None
    frames: tuple[tuple[float, float, float], ...] = ()
    windows: float | None = None


def spread(values: np.ndarray, side: int, corner: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Values "kh kw" as squares of `side` pixels, the first at this corner of a map of this shape; NaN around them."""
    pixels = np.full(shape, np.nan)
    squares = np.kron(values, np.ones((side, side)))
    part = pixels[corner[0] : corner[0] + squares.shape[0], corner[1] : corner[1] + squares.shape[1]]
    part[...] = squares[: part.shape[0], : part.shape[1]]
    return pixels


def over(grey: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """Values from 0 to `largest` in viridis over the grey image, "h w rgb"; where they are NaN the image alone."""
    import matplotlib as mpl

    colors = mpl.colormaps["viridis"](np.nan_to_num(values) / (largest or 1))[..., :3]
    under = HALF + FLAT * (grey - HALF)
    mixed = HEAT * colors + (1 - HEAT) * under[..., None]
    return np.where(np.isnan(values)[..., None], grey[..., None], mixed)


def figure(
    title: str, said: Sequence[str], top: Sequence[Panel], heads: Sequence[Panel], legend: Sequence[str], colors: Theme
) -> Figure:
    """A title, a row of three places, the heads in a grid with one scale, and a legend; call it within `style.themed`."""
    columns = next(n for n, most in ((3, 3), (4, 8), (6, 24), (8, len(heads))) if len(heads) <= most)
    wide, narrow = _side(3), _side(columns)
    first = 48 + LINE * len(said)
    second = first + LABEL + wide + SCALE + 8
    step = narrow + 28
    end = second + (-(-len(heads) // columns) * step + SCALE - 4 if heads else -6)
    page = _Page(style.figure(height=end + LINE * len(legend) + 6), colors)
    page.text(MARGIN, 30, title, TITLE, bold=True)
    for i, line in enumerate(said):
        page.text(MARGIN, 52 + LINE * i, line, soft=True)
    for i, panel in enumerate(top):
        x = MARGIN + i * (wide + GAP)
        page.text(x, first + 17, panel.above[0], bold=True)
        page.text(x, first + 17 + LINE, panel.above[1], soft=True)
        page.panel(panel, x, first + LABEL, wide)
        if panel.largest is not None:
            page.scale(panel, x, first + LABEL + wide + 8, wide)
    for i, panel in enumerate(heads):
        x, y = MARGIN + i % columns * (narrow + GAP), second + i // columns * step
        page.text(x, y + 15, panel.above[0])
        page.panel(panel, x, y + 20, narrow)
    if heads:
        page.scale(heads[0], MARGIN, end - SCALE + 4, min(len(heads), columns) * (narrow + GAP) - GAP)
    for i, line in enumerate(legend):
        page.text(MARGIN, end + 12 + LINE * i, line, soft=True)
    return page.figure


def _side(columns: int) -> float:
    return (style.WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns


class _Page:
    """A figure on which things are put by pixels from its upper left corner."""

    def __init__(self, figure: Figure, colors: Theme) -> None:
        self.figure, self.colors = figure, colors
        self.width, self.height = (float(inches) * 96 for inches in figure.get_size_inches())

    def text(
        self, x: float, y: float, words: str, size: float = SMALL, *, bold: bool = False, soft: bool = False, anchor: str = "left"
    ) -> None:
        color = self.colors.soft if soft else self.colors.ink
        weight = "bold" if bold else "normal"
        at = x / self.width, 1 - y / self.height
        self.figure.text(*at, words, fontsize=size * PX, color=color, weight=weight, ha=anchor, va="baseline", parse_math=False)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        axes = self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=self.colors.rule, linewidth=0.75)
        return axes

    def panel(self, panel: Panel, x: float, y: float, side: float) -> None:
        from matplotlib.patches import Rectangle

        h, w = panel.pixels.shape[:2]
        axes = self.axes(x, y, side, side)
        axes.imshow(panel.pixels, extent=(0, w, h, 0), interpolation="none")
        left, right, top, bottom = panel.seen or (0, w, 0, h)
        axes.set(xlim=(left, right), ylim=(bottom, top))
        if panel.windows and panel.seen is None:
            for position in np.arange(panel.windows, max(h, w), panel.windows):
                for line in (axes.axhline, axes.axvline):
                    line(position, color="black", linewidth=1.7)
                    line(position, color=BORDER, linewidth=0.7)
        for left_, top_, size in panel.frames:
            grow = max(0.0, SMALLEST * (right - left) / side - size) / 2
            square = (left_ - grow, top_ - grow), size + 2 * grow, size + 2 * grow
            for color, width in (("black", 3.2), (FRAME, 1.7)) if side > SMALL_PANEL else (("black", 2.0), (FRAME, 1.0)):
                axes.add_patch(Rectangle(*square, fill=False, edgecolor=color, linewidth=width, joinstyle="miter", zorder=3))

    def scale(self, panel: Panel, x: float, y: float, width: float) -> None:
        """From 0 to the panel's largest value, in the colours that it has over a middle grey."""
        largest = panel.largest or 1.0
        axes = self.axes(x, y, width, 10)
        steps = np.linspace(0, largest, 256)[None]
        axes.imshow(
            over(np.full(steps.shape, HALF), steps, largest), extent=(0, largest, 0, 1), aspect="auto", interpolation="none"
        )
        if 0 < panel.mark < largest:
            for color, wide in (("black", 3.2), ("white", 1.4)):
                axes.axvline(panel.mark, color=color, linewidth=wide)
        self.text(x, y + 25, "0", soft=True)
        self.text(x + width, y + 25, f"{100 * largest:.3g} %", soft=True, anchor="right")
