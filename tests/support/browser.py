"""The browser that pages are looked at with. CI has one (`.ci/run` installs it); elsewhere these tests wait until there is."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="none of chromium, chromium-browser and google-chrome is installed"
)
