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
from tests.support.marked import marked, with_marked

PAGE = ROOT / "docs" / "security.md"
MARK = "endurance: python -m tests.endurance --write"
LIBRARIES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}


def rows(page: str) -> dict[str, str]:
    """The rows that the page has: what, and what was done."""
    cells = (line.strip("|").split(" | ") for line in marked(page, MARK) if line.startswith("| "))
    return {what.strip(): done.strip() for what, done in cells if what.strip() != "what"}


def lines(page: str, outcomes: Mapping[str, Outcome]) -> list[str]:
    """The table, with these rows new, and on what it was measured."""
    found = rows(page) | {ROWS[name].what: outcome.done for name, outcome in outcomes.items()}
    table = [f"| {row.what} | {found.get(row.what, 'not run yet')} |" for row in ROWS.values()]
    return [f"Measured on {machine()}.", "", "| what | done |", "|---|---|", *table]


def machine() -> str:
    """In words, without a name or an address of it."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    )
    found = []
    for package, name in LIBRARIES.items():
        try:
            found.append(f"{name} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = [
        names[0] if names else platform.machine(),
        f"{cores} cores",
        platform.system(),
        f"Python {platform.python_version()}",
        *found,
    ]
    return f"{', '.join(words)}, on {dt.datetime.now(dt.UTC).date().isoformat()}"


def write(outcomes: Mapping[str, Outcome]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_marked(page, MARK, lines(page, outcomes)), encoding="utf-8")
