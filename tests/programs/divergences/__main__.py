"""Measure, then write the page; with `--page` only the latter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.programs.divergences.counts import counts
from tests.programs.divergences.measure import FULL, SAMPLE, measured
from tests.programs.divergences.page import write

FIGURES = Path(__file__).resolve().parents[3] / "docs" / "divergences.json"

if __name__ == "__main__":
    if sys.argv[1:] != ["--page"]:
        figures = measured(FULL) | {"sample": measured(SAMPLE), "counts": counts()}
        FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    write(figures)
