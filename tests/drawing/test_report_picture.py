"""The picture of a report: it is of the report that is in the documentation, and small; a browser can take it again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit_ref.drawing.style import THEMES, dark_twin
from tests.programs.report_picture import END, KEY, PICTURE, REPORT, SCALE, WIDTH, picture, shown
from tests.support.browser import browser, launched

TEXT = REPORT.read_text(encoding="utf-8")
MOST = 150_000
"""Bytes of a picture."""

PICTURES = {"light": PICTURE, "dark": dark_twin(PICTURE)}


def check(drawn: bytes, theme: str, report: str) -> None:
    """It is of this report, on a page of the theme's colour, and letters are on it."""
    assert len(drawn) <= MOST
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.text[KEY] == shown(report)  # type: ignore[attr-defined]
        assert image.width == SCALE * WIDTH
        assert image.height > image.width / 2
        pixels = np.asarray(image.convert("RGB")).astype(int)
    page, ink = (np.array(list(bytes.fromhex(color[1:]))) for color in (THEMES[theme].page, THEMES[theme].ink))
    assert abs(pixels[0, 0] - page).max() <= 8
    for rows in np.array_split(pixels, 4):  # from its head to its end
        assert (abs(rows - ink).max(-1) <= 24).sum() > 1000


@pytest.mark.parametrize("theme", PICTURES)
def test_the_committed_picture_is_of_the_committed_report(theme: str) -> None:
    """After a change of the report: `python -m tests.programs.report_picture`."""
    check(PICTURES[theme].read_bytes(), theme, TEXT)


def test_another_report_is_another_picture() -> None:
    """Unless it differs only behind what the picture shows, as in how long it took."""
    assert shown(TEXT.replace("interleaved", "mixed")) != shown(TEXT)
    assert shown(TEXT + " ") == shown(TEXT)
    with pytest.raises(ValueError, match="not found"):
        shown(TEXT.replace(END, ""))


@browser
def test_the_picture_can_be_taken_again(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(TEXT.replace("interleaved", "mixed"), encoding="utf-8")
    with launched() as chromium:
        check(picture(chromium, report, "dark"), "dark", report.read_text(encoding="utf-8"))
