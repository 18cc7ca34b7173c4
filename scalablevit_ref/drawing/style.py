"""How every picture looks and is saved: colours for light and dark pages, sizes in CSS pixels, the same bytes every time.

Matplotlib is imported inside the functions, so that a command can name the extra that brings it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalablevit_ref.config import near_matches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png", ".pdf")
WIDTH = 560
"""Pixels a picture is wide: it fits a page's column as it is, and on a phone 360 pixels wide it shrinks by a third."""
TEXT, SMALL, TITLE = 15, 13.5, 18
"""Letter sizes in pixels at that width; nothing is smaller than SMALL, which is 8.7 pixels on that phone."""


@dataclass(frozen=True)
class Theme:
    """Colours as `#rrggbb`. Each hue is an (edge, fill) pair: the edge is legible on the page and on the fill, the ink on both.

    page: the background, which is the page's. panel: behind a group of things. ink, soft: text, and text that stands back.
    rule: lines that only separate.
    iwsa, ssa: the two attentions; linear: linear layers and MLPs; conv: convolutions; norm: norms and activations.
    """

    page: str
    panel: str
    ink: str
    soft: str
    rule: str
    iwsa: tuple[str, str]
    ssa: tuple[str, str]
    linear: tuple[str, str]
    conv: tuple[str, str]
    norm: tuple[str, str]


PX = 0.75
"""Points in a CSS pixel: matplotlib's sizes are in points."""

THEMES = {
    "light": Theme(
        page="#ffffff",
        panel="#f5f6f8",
        ink="#1d2125",
        soft="#59626c",
        rule="#c9ced4",
        iwsa=("#1270bf", "#e1effa"),
        ssa=("#a84300", "#fdebdd"),
        linear=("#00574a", "#ddf2ec"),
        conv=("#6d2567", "#f6e7f5"),
        norm=("#6b747e", "#eceef1"),
    ),
    "dark": Theme(
        page="#1e2129",
        panel="#272b35",
        ink="#e6e9ec",
        soft="#aab2bc",
        rule="#4a505c",
        iwsa=("#5ea9ea", "#1d3a52"),
        ssa=("#f3a972", "#4a2f1b"),
        linear=("#7fdfc2", "#1a4037"),
        conv=("#f0c6ed", "#432c44"),
        norm=("#929ba6", "#343943"),
    ),
}
"""`light` is white, `dark` is mkdocs-material's slate. The edges differ in lightness too, so that they keep apart for the
colour-blind."""


def check_picture(path: Path, theme: str) -> None:
    """Raise before any work: ValueError for a theme or an ending that is not known, ModuleNotFoundError without matplotlib."""
    if theme not in THEMES:
        raise ValueError(f"unknown theme {theme!r}{near_matches(theme, THEMES)}; there are {', '.join(THEMES)}")
    _check_ending(path)
    if not find_spec("matplotlib"):
        raise ModuleNotFoundError("pictures need matplotlib: pip install 'scalablevit-ref[plot]'")


def _check_ending(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise ValueError(f"a picture's file must end in .svg, .png or .pdf, got {str(path)!r}")


def dark_twin(path: Path) -> Path:
    """Where the picture for dark pages lies beside the one for light pages."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")


@contextmanager
def themed(theme: str) -> Iterator[Theme]:
    """Within, matplotlib draws in the theme's colours and the house's letters, whatever its own settings are.

    with themed("dark") as colors:
        figure = figure(width=WIDTH, height=300)
        …
        save(figure, path, title="…", alt="…")
    """
    import matplotlib as mpl
    from matplotlib import style

    colors = THEMES[theme]
    settings: Any = {
        "figure.facecolor": colors.page,
        "savefig.facecolor": colors.page,
        "axes.facecolor": colors.page,
        "axes.edgecolor": colors.soft,
        "axes.labelcolor": colors.ink,
        "axes.titlecolor": colors.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": TEXT * PX,
        "axes.labelsize": TEXT * PX,
        "xtick.color": colors.soft,
        "ytick.color": colors.soft,
        "xtick.labelcolor": colors.ink,
        "ytick.labelcolor": colors.ink,
        "xtick.labelsize": SMALL * PX,
        "ytick.labelsize": SMALL * PX,
        "legend.fontsize": SMALL * PX,
        "legend.frameon": False,
        "text.color": colors.ink,
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": TEXT * PX,
        "mathtext.fontset": "dejavusans",
        "text.hinting": "none",  # as wide in a PNG as in an SVG
        "svg.fonttype": "path",
        "svg.hashsalt": "scalablevit-ref",
    }
    with style.context("default"), mpl.rc_context(settings):
        yield colors


def figure(*, width: float = WIDTH, height: float) -> Figure:
    """An empty figure of that many CSS pixels, apart from pyplot. Call it, and `save`, within `themed`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 96, height / 96), dpi=96)


def save(figure: Figure, path: Path | str, *, title: str, alt: str) -> None:
    """Write the picture as its name ends, with its alternative text inside, and without a date: equal pictures, equal bytes.

    title: a few words. alt: what the picture shows, for who cannot see it.
    Raises ValueError for another ending than .svg, .png or .pdf.
    """
    path = Path(path)
    _check_ending(path)
    if path.suffix == ".svg":
        path.write_text(svg(figure, title=title, alt=alt), encoding="utf-8")
    elif path.suffix == ".png":
        _write(figure, path, dpi=192, metadata={"Software": None, "Title": title, "Description": alt})
    else:
        _write(figure, path, metadata={"CreationDate": None, "Title": title, "Subject": alt})


def svg(figure: Figure, *, title: str, alt: str) -> str:
    """The picture as SVG text, an image to screen readers, with `<title>` and `<desc>`."""
    stream = io.StringIO()
    _write(figure, stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _compact(stream.getvalue().partition("<svg ")[2], f"<title>{escape(title)}</title>\n<desc>{escape(alt)}</desc>")


def _write(figure: Figure, target: Any, **options: Any) -> None:
    """A letter that the font lacks, in a file's name, becomes a box without a word about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target, **options)


def _compact(body: str, words: str) -> str:
    """Half of matplotlib's bytes: short names for the letters' outlines, places as attributes, hundredths of a point, no ids."""
    tag, _, body = body.partition(">")
    names = dict.fromkeys(re.findall(r'(?<=<path id=")DejaVu[^"]+', body))
    short = {name: f"g{i}" for i, name in enumerate(names)}
    body = re.sub(r'(?<=["#])DejaVu[^"]+(?=")', lambda found: short[found[0]], body).replace("<use xlink:href", "<use href")
    body = re.sub(r'transform="translate\(([\d.]+) 0\)"', lambda found: f'x="{float(found[1]):.0f}"', body)
    body = re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", path[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", re.sub(r'<g id="[^"]+">', "<g>", body))
    return f'<?xml version="1.0" encoding="utf-8"?>\n<svg role="img" {tag}>\n{words}{body}'
