"""The browser that pages are looked at with. CI has one (`.ci/run` installs it); elsewhere these tests wait until there is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

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
