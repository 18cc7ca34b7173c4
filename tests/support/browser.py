"""The browser that pages are looked at with. CI has one (`.ci/run` installs it); elsewhere these tests wait until there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import HANGS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="none of chromium, chromium-browser and google-chrome is installed"
)


def chromium(path: Path, *options: str, dark: bool = False) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    command += [f"--user-data-dir={path.parent / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    return subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=HANGS, check=True)


@contextmanager
def launched() -> Iterator[Any]:
    """The browser, driven by playwright."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "CI needs a browser: chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * HANGS)
        yield started
        started.close()


def opened(chromium: Any, **options: Any) -> Any:
    """A context of the browser, whose pages may take as long as they like."""
    context = chromium.new_context(**options)
    context.set_default_timeout(1000 * HANGS)
    return context


def contrast(pair: str) -> float:
    """WCAG 2's ratio of two colours, "rgb(…);rgb(…)", from their relative luminances. The first may be translucent, "rgba(…)"."""
    letters, behind = ([float(value) for value in re.findall(r"[\d.]+", colour)] for colour in pair.split(";"))
    *letters, opacity = (*letters, 1.0)[:4]
    seen = [opacity * over + (1 - opacity) * under for over, under in zip(letters, behind, strict=True)]

    def luminance(colour: list[float]) -> float:
        shares = (value / 255 for value in colour)
        red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted(map(luminance, (seen, behind)))
    return (high + 0.05) / (low + 0.05)
