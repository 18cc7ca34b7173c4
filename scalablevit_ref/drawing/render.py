"""Diagrams drawn by matplotlib and saved, with the same bytes every time.

Matplotlib is imported inside the functions, so that a command can name the extra that brings it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalablevit_ref.drawing.diagram import Arrow, Diagram, Grid, Point
from scalablevit_ref.drawing.remade import MARK
from scalablevit_ref.drawing.style import TEXT, THEMES, Theme, check_picture
from scalablevit_ref.files.writing import write_contents

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PX = 0.75
"""Points in a CSS pixel: matplotlib's sizes are in points."""

LETTERS = ["Inter of scalablevit_ref", "DejaVu Sans"]
"""Families of the letters: Latin and Greek from `fonts/`, as the site has them, all others from matplotlib."""

MATHS = "stix"
"""The letters of formulas, which are those of the site's."""


def save(diagram: Diagram, path: Path | str, *, theme: str = "light", force: bool = False) -> None:
    """Write a diagram as the file's name ends, with its alternative text inside and without a date: equal diagrams, equal bytes.

    The file appears whole or not at all.

    Parameters
    ----------
    diagram
        What is drawn.
    path
        Ends in .svg, .png or .pdf.
    theme
        "light" or "dark".
    force
        Overwrite an existing file, whose permissions are kept. A symbolic link is replaced, and what it points to left alone.

    Raises
    ------
    ValueError
        For another theme or ending.
    FileExistsError
        Unless `force`.
    ModuleNotFoundError
        Without matplotlib.
    OSError
        Where the file cannot be written.
    """
    path = Path(path)
    check_picture(path, theme)
    write_contents({path: picture(diagram, path.suffix, theme=theme)}, force=force)


def picture(diagram: Diagram, ending: str, *, theme: str = "light") -> bytes:
    """The bytes of the file that `save` writes. ending: .svg, .png or .pdf."""
    title, alt = diagram.title, diagram.alt
    with house_style():
        figure = drawn(diagram, THEMES[theme])
        if ending == ".svg":
            return _svg(figure, title, alt).replace("\n", f"\n<!-- Creator: {MARK} -->\n", 1).encode()
        stream = io.BytesIO()
        if ending == ".png":
            _write(figure, stream, format="png", dpi=192, metadata={"Software": MARK, "Title": title, "Description": alt})
        else:
            _write(figure, stream, format="pdf", metadata={"CreationDate": None, "Creator": MARK, "Title": title, "Subject": alt})
        return stream.getvalue()


@contextmanager
def house_style() -> Iterator[None]:
    """Within, matplotlib draws the house's letters, whatever its own settings are."""
    import matplotlib as mpl
    from matplotlib import style

    settings: Any = {
        "font.family": LETTERS,
        "mathtext.fontset": MATHS,
        "text.hinting": "none",  # as wide in a PNG as in an SVG
        "svg.fonttype": "path",
        "svg.hashsalt": "scalablevit-ref",
    }
    _bring_letters()
    with style.context("default"), mpl.rc_context(settings):
        yield


@cache
def _bring_letters() -> None:
    """Once in a process: matplotlib learns of the letters in `fonts/`, beside those that it knows."""
    from matplotlib.font_manager import fontManager

    for file in sorted((Path(__file__).parent / "fonts").glob("*.ttf")):
        fontManager.addfont(file)


def drawn(diagram: Diagram, theme: Theme) -> Figure:
    """The picture, apart from pyplot; call it within `house_style`."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

    figure = Figure(figsize=(diagram.width / 96, diagram.height / 96), dpi=96, facecolor=theme.page)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")

    def put(patch: object) -> None:
        axes.add_patch(patch).set_clip_on(False)  # type: ignore[arg-type]

    def line(*points: Point, color: str = theme.ink, width: float = 1.4, **more: Any) -> None:
        axes.plot(*zip(*points, strict=True), color=color, linewidth=width * PX, solid_joinstyle="round", clip_on=False, **more)

    def put_grid(grid: Grid) -> None:
        edge = theme.edge(grid.hue)
        wide, high = grid.width / grid.columns, grid.height / grid.rows
        put(Rectangle((grid.x, grid.y), grid.width, grid.height, facecolor=theme.page, edgecolor=edge, linewidth=1.3 * PX))
        put(Rectangle((grid.x, grid.y), wide, high, facecolor=edge, edgecolor=edge, linewidth=0))
        for i in range(1, grid.columns):
            line((grid.x + wide * i, grid.y), (grid.x + wide * i, grid.bottom), color=edge, width=0.6)
        for i in range(1, grid.rows):
            line((grid.x, grid.y + high * i), (grid.right, grid.y + high * i), color=edge, width=0.6)

    def put_arrow(arrow: Arrow) -> None:
        *_, (x0, y0), (x, y) = arrow.points
        length = abs(x - x0) + abs(y - y0)
        along = (x - x0) / length, (y - y0) / length
        back = x - 8 * along[0], y - 8 * along[1]
        wings = [(back[0] + side * along[1], back[1] + side * along[0]) for side in (4.5, -4.5)]
        put(Polygon([(x, y), *wings], facecolor=theme.ink, edgecolor="none"))
        line(*arrow.points[:-1], back)

    for picture in diagram.pictures:
        extent = (picture.x, picture.right, picture.bottom, picture.y)
        axes.imshow(picture.pixels, extent=extent, aspect="auto", interpolation="none")
    for box in diagram.boxes:
        edge, fill = getattr(theme, box.hue) if box.hue else (theme.panel, theme.panel)
        shape = f"round,pad=0,rounding_size={6 if box.hue else 10}"
        look: dict[str, Any] = {"facecolor": theme.page if box.dashed else fill, "edgecolor": edge, "linewidth": 1.3 * PX}
        dashes: Any = (0, (4, 3)) if box.dashed else "solid"
        put(FancyBboxPatch((box.x, box.y), box.width, box.height, shape, linestyle=dashes, **look))
    for bar in diagram.bars:
        edge, fill = getattr(theme, bar.hue)
        look = (
            {"facecolor": fill, "edgecolor": edge, "linewidth": 1.3 * PX} if bar.pale else {"facecolor": edge, "edgecolor": "none"}
        )
        put(Rectangle((bar.x, bar.y), bar.width, bar.height, **look))
    for grid in diagram.grids:
        put_grid(grid)
    for arrow in diagram.arrows:
        put_arrow(arrow)
    for total in diagram.sums:
        put(Circle((total.x, total.y), total.radius, facecolor=theme.page, edgecolor=theme.ink, linewidth=1.4 * PX))
        arm = total.radius - 4.5
        line((total.x - arm, total.y), (total.x + arm, total.y))
        line((total.x, total.y - arm), (total.x, total.y + arm))
    for rule in diagram.lines:
        dashes = (0, (5, 4)) if rule.dashed else "-"
        line(*rule.points, color=theme.edge(rule.color), width=rule.width, linestyle=dashes, solid_capstyle="butt")
    for marks in diagram.marks:
        color = theme.edge(marks.color)
        marker: Any = {"marker": "x" if marks.shape == "cross" else "o", "markersize": 2 * marks.radius * PX, "linestyle": "none"}
        line(*marks.points, color=color, markerfacecolor=theme.page if marks.shape == "ring" else color, **marker)
    for text in diagram.texts:
        weight = "bold" if text.bold else "normal"
        look = {"fontsize": text.size * PX, "fontweight": weight, "color": theme.edge(text.color)}
        axes.text(text.x, text.y, text.words, ha=text.anchor, va="baseline", parse_math=not text.literal, **look)
    axes.set(xlim=(0, diagram.width), ylim=(diagram.height, 0))
    return figure


@cache
def text_width(words: str, size: float = TEXT, *, bold: bool = False) -> float:
    """Pixels that a line of letters is wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    _bring_letters()
    letters = FontProperties(family=LETTERS, weight="bold" if bold else "normal", size=size, math_fontfamily=MATHS)
    return float(text_to_path.get_text_width_height_descent(words, letters, ismath="$" in words)[0])


def _write(figure: Figure, target: Any, **options: Any) -> None:
    """A letter that the font lacks, in a file's name, becomes a box without a word about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target, **options)


def _svg(figure: Figure, title: str, alt: str) -> str:
    """The picture as SVG text, an image to screen readers, with `<title>` and `<desc>`.

    Half of matplotlib's bytes: short names for the letters' outlines, places as attributes, hundredths of a point, no ids.
    """
    stream = io.StringIO()
    _write(figure, stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    tag, _, body = stream.getvalue().partition("<svg ")[2].partition(">")
    names = dict.fromkeys(re.findall(r'(?<=<path id=")[A-Z][^"]+', body))  # a font's, and the letter's number in it
    short = {name: f"g{i}" for i, name in enumerate(names)}
    body = re.sub(r'(?<=["#])[A-Z][^"]+(?=")', lambda found: short.get(found[0], found[0]), body)
    body = body.replace("<use xlink:href", "<use href")
    body = re.sub(r'transform="translate\(([\d.]+) 0\)"', lambda found: f'x="{float(found[1]):.0f}"', body)
    body = re.sub(r'(?<= d=")[^"]+', lambda path: _short(path[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", re.sub(r'<g id="[^"]+">', "<g>", body))
    words = f"<title>{escape(title)}</title>\n<desc>{escape(alt)}</desc>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<svg role="img" {tag}>\n{words}{body}'


def _short(path: str) -> str:
    """An outline in hundredths, without blanks around its commands."""
    path = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path.strip())
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", path)
