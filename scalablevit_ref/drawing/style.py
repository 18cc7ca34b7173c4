"""How every picture and the report page look: colours for light and for dark pages, letter sizes in CSS pixels, viridis."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from scalablevit_ref.config import near_matches

ENDINGS = (".svg", ".png", ".pdf")
"""Of the files to which a picture can be written."""

WIDTH = 560
"""Width of a picture in pixels: it fits a page's column as it is, and on a phone 360 pixels wide it shrinks by a third."""

TEXT, SMALL, TITLE = 15, 13.5, 18
"""Letter sizes in pixels at that width. Nothing is smaller than SMALL, which is 8.7 pixels on that phone."""


@dataclass(frozen=True)
class Theme:
    """Colours as `#rrggbb`. A pair is an edge and a fill: the edge is legible on the page and on the fill, the ink on both."""

    page: str  # the background, which is the page's
    panel: str  # the ground behind a group of things
    ink: str  # letters
    soft: str  # letters that stand back
    rule: str  # lines that only separate
    iwsa: tuple[str, str]  # the first series of a chart, too
    ssa: tuple[str, str]  # the second
    linear: tuple[str, str]  # linear layers and MLPs
    conv: tuple[str, str]  # convolutions
    norm: tuple[str, str]  # norms and activations
    good: tuple[str, str]  # a verdict
    bad: tuple[str, str]

    def edge(self, name: str) -> str:
        """The colour of that name, of a pair its edge; `#rrggbb` is its own."""
        color: str | tuple[str, str] = name if name.startswith("#") else getattr(self, name)
        return color if isinstance(color, str) else color[0]

    def css(self) -> str:
        """The colours as CSS variables: `--page`, …, `--iwsa`, `--iwsa-fill`, …"""
        names = [field.name for field in fields(self)]
        pairs = {f"{name}-fill": value[1] for name in names if isinstance(value := getattr(self, name), tuple)}
        return " ".join(f"--{name}: {color};" for name, color in ({name: self.edge(name) for name in names} | pairs).items())


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
        good=("#17623a", "#eaf5ee"),
        bad=("#a1221e", "#fcefed"),
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
        good=("#85d9a6", "#16281d"),
        bad=("#ff9d94", "#321918"),
    ),
}
"""`light` is white, `dark` is mkdocs-material's slate. The edges differ in lightness too, so that the colour-blind can tell them
apart."""

VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Ten colours of matplotlib's viridis at equal steps. It stays in order without colour and for the colour-blind."""

MARK = "#ff4fa3"
"""Colour of what is marked on a map in viridis; no colour of viridis is near it."""


def viridis(shares: np.ndarray) -> np.ndarray:
    """Colours "... rgb" from 0 to 1 for shares "..." from 0 to 1, in lines between the ten of `VIRIDIS`."""
    table = np.array([list(bytes.fromhex(color[1:])) for color in VIRIDIS]) / 255
    steps = np.linspace(0, 1, len(VIRIDIS))
    return np.stack([np.interp(shares, steps, channel) for channel in table.T], axis=-1)


def check_picture(path: Path, theme: str) -> None:
    """Raise before any work what `render.save` would raise after it: a wrong theme or ending, no matplotlib.

    Raises
    ------
    ValueError
        For a theme that is not one of `THEMES`, and a file whose name does not end in one of `ENDINGS`.
    ModuleNotFoundError
        Without matplotlib.
    """
    if theme not in THEMES:
        raise ValueError(f"unknown theme {theme!r}{near_matches(theme, THEMES)}; there are {', '.join(THEMES)}")
    if path.suffix not in ENDINGS:
        raise ValueError(f"a picture's file must end in .svg, .png or .pdf, got {str(path)!r}")
    if not find_spec("matplotlib"):
        raise ModuleNotFoundError("pictures need matplotlib: pip install 'scalablevit-ref[plot]'")


def dark_twin(path: Path) -> Path:
    """Where the picture for dark pages lies beside the one for light pages."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")
