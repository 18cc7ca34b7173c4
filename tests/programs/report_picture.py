"""`python -m tests.programs.report_picture`: `docs/examples/report.html` as a reader sees it, for light pages and for dark ones.

The picture ends where the likely mistakes do. A Chromium draws it, and letters are other pixels on another machine. So the picture
holds the SHA-256 of the part of the report that it shows, and a test compares that.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scalablevit_ref.drawing.style import THEMES, dark_twin
from tests.support.browser import launched, opened

DOCS = Path(__file__).resolve().parents[2] / "docs"
REPORT = DOCS / "examples" / "report.html"
PICTURE = DOCS / "pictures" / "report.png"
END = '<section aria-labelledby="inside-0">'
"""What follows in the report is not in the picture."""

KEY = "SHA-256 of the report"
WIDTH, SCALE, COLOURS = 860, 2, 64
"""Of the window in CSS pixels, pixels in one of these, and how many colours are kept."""


def shown(report: str) -> str:
    """The SHA-256 of what the picture shows. Raises ValueError for a report without the part that follows."""
    return hashlib.sha256(report[: report.index(END)].encode()).hexdigest()


def picture(chromium: Any, report: Path, theme: str) -> bytes:
    """The bytes of a PNG file."""
    context = opened(chromium, viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE, color_scheme=theme)
    tab = context.new_page()
    tab.goto(report.as_uri())
    height = tab.evaluate("(end) => document.querySelector(end).getBoundingClientRect().top", "[aria-labelledby=inside-0]")
    drawn = tab.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height}, full_page=True)
    context.close()
    notes, stream = PngInfo(), io.BytesIO()
    notes.add_text(KEY, shown(report.read_text(encoding="utf-8")))
    few = Image.open(io.BytesIO(drawn)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(stream, "png", optimize=True, pnginfo=notes)
    return stream.getvalue()


if __name__ == "__main__":
    with launched() as browser:
        for theme, path in zip(THEMES, (PICTURE, dark_twin(PICTURE)), strict=True):
            path.write_bytes(picture(browser, REPORT, theme))
