"""The table in `docs/security.md`."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.endurance.outcome import Outcome
from tests.endurance.rows import ROWS
from tests.support.documents import ROOT
from tests.support.marked import with_marked

PAGE = ROOT / "docs" / "security.md"
MARK = "endurance: python -m tests.endurance --write"
LIBRARIES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}


def lines(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The table, and on what it was measured."""
    rows = [f"| {ROWS[name].what} | {outcome.done} |" for name, outcome in outcomes.items()]
    return [f"Measured on {machine()}.", "", "| what | done |", "|---|---|", *rows]


def machine() -> str:
    """In words, without a name or an address of it."""
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    found = []
    for package, name in LIBRARIES.items():
        try:
            found.append(f"{name} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = [names[0] if names else platform.machine(), f"{cores} cores", platform.system(), f"Python {platform.python_version()}", *found]
    return f"{', '.join(words)}, on {dt.datetime.now(dt.UTC).date().isoformat()}"


def write(outcomes: Mapping[str, Outcome]) -> None:
    PAGE.write_text(with_marked(PAGE.read_text(encoding="utf-8"), MARK, lines(outcomes)), encoding="utf-8")
