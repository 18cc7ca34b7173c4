"""What a page's figures were measured on, by the programs that use one core."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine(packages: Iterable[str]) -> str:
    """What it was measured on and with, in words, and when."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    words = [*cpu[:1], "one core", platform.system(), f"Python {platform.python_version()}", *found]
    return f"{', '.join(words)}; {dt.datetime.now(dt.UTC).date().isoformat()}"
