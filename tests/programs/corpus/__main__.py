"""`python -m tests.programs.corpus [PORT …] [--only WORDS] [--write]`: what the comparator says of every planted mistake."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.programs.corpus.planted import NAMES, Planted, built, judged, planted_in
from tests.programs.corpus.read import READ

DOCS = Path(__file__).resolve().parents[3] / "docs"
DOCUMENT = DOCS / "corpus.json"

SIZE = 12
"""Planted mistakes that one process compares: what a framework compiles once serves them all."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ports", nargs="*", help=f"Of {', '.join(NAMES)}; not given: all.")
    parser.add_argument("--only", default="", help="Those whose names hold these words.")
    parser.add_argument("--write", action="store_true", help="Write docs/corpus.json and docs/corpus.md.")
    parser.add_argument("--missing", action="store_true", help="Those that docs/corpus.json does not have.")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return _worked(arguments.worker)
    works = [
        (port, planted.name)
        for port in arguments.ports or NAMES
        for planted in (*planted_in(port)[0], *planted_in(port)[1])
        if arguments.only in planted.name
    ]
    if arguments.missing:
        works = [work for work in works if work not in {(row["port"], row["name"]) for row in _earlier()}]
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for some in pool.map(_in_a_process, _chunks(works)):
            rows += some
            if arguments.write:
                _written(rows)
    _say(json.dumps(summed(rows), indent=2))
    return 0


def _earlier() -> list[dict[str, Any]]:
    """The rows of the document as it is."""
    found: list[dict[str, Any]] = json.loads(DOCUMENT.read_text(encoding="utf-8"))["rows"] if DOCUMENT.exists() else []
    return found


def _written(rows: list[dict[str, Any]]) -> None:
    """Put these rows into the document, in the place of earlier ones of the same mistakes, and make the page from it."""
    from tests.programs.corpus.page import page

    known = {(row["port"], row["name"]): row for row in (*_earlier(), *rows)}
    order = [(port, planted.name) for port in NAMES for some in planted_in(port) for planted in some]
    kept = [known[key] for key in order if key in known]
    by_port = {port: summed([row for row in kept if row["port"] == port]) for port in dict.fromkeys(row["port"] for row in kept)}
    document = {"summary": summed(kept), "by_port": by_port, "rows": kept}
    DOCUMENT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (DOCS / "corpus.md").write_text(page(document), encoding="utf-8")


def _chunks(works: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Works of one port together, SIZE at a time."""
    return [
        [work for work in works if work[0] == port][start : start + SIZE]
        for port in dict.fromkeys(port for port, _ in works)
        for start in range(0, sum(work[0] == port for work in works), SIZE)
    ]


def _in_a_process(works: list[tuple[str, str]]) -> list[dict[str, Any]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.programs.corpus", "--worker", json.dumps(works)]
    rows = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                rows.append(row)
                _say(line_of(row))
    missing = [name for port, name in works if name not in [row["name"] for row in rows]]
    return [*rows, *({"port": works[0][0], "name": name, "verdict": "crashed", "right": False} for name in missing)]


def _worked(text: str) -> int:
    """Compare these, a line of JSON each."""
    import scalablevit_ref as sv
    from scalablevit_ref.testing import compare

    if "torch" in sys.modules or any("torch" in port for port, _ in json.loads(text)):
        import torch

        torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    config = sv.variant("digits")
    for port, name in json.loads(text):
        mistakes, right = planted_in(port)
        planted: Planted = next(planted for planted in (*mistakes, *right) if planted.name == name)
        with tempfile.TemporaryDirectory() as folder:
            candidate = built(port, planted, Path(folder), config)
            start = time.perf_counter()
            found: Any
            try:
                found = compare(candidate, **{"variant": config, **planted.options})
            except Exception as error:  # what is said of it is judged
                found = error
        seconds = time.perf_counter() - start
        row = {
            "port": port,
            "name": name,
            "planted": planted not in right,
            "expected": list(planted.layer),
            "cause_is": planted.cause,
        }
        _say(json.dumps({**row, **asdict(judged(planted, found, READ.get((port, name), ""))), "seconds": round(seconds, 2)}))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line_of(row: dict[str, Any]) -> str:
    """One row for the terminal."""
    if not row.get("planted", True):
        marks = "right port: " + ("agrees" if row["verdict"] == "agrees" else f"NO, {row['verdict']}")
    else:
        marks = f"layer {'yes' if row['layer'] else 'NO'}, cause {'yes' if row['cause'] else 'NO'}"
        marks += f", FALSE x {len(row['false'])}" if row["false"] else ""
        marks += " AGREES" if row["verdict"] == "agrees" else ""
    return f"{row['port']}: {row['name']}: {marks}, {row['seconds']:.1f} s"


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the issue asks for, as numbers."""
    planted = [row for row in rows if row.get("planted", True)]
    right = [row for row in rows if not row.get("planted", True)]
    return {
        "ports": len({row["port"] for row in rows}),
        "mistakes": len(planted),
        "layer": sum(bool(row.get("layer")) for row in planted),
        "cause": sum(bool(row.get("cause")) for row in planted),
        "cause or step": sum(bool(row.get("cause") or (row.get("layer") and row.get("step"))) for row in planted),
        "causes read": sum(bool(row.get("read")) for row in planted),
        "false causes": sum(bool(row.get("false")) for row in planted),
        "refused": sum(row["verdict"] == "refused" for row in planted),
        "crashed": sum(row["verdict"] == "crashed" for row in rows),
        "wrong ports called right": sum(row["verdict"] == "agrees" for row in planted),
        "right ports": len(right),
        "right ports not called right": sum(row["verdict"] != "agrees" for row in right),
        "median seconds": statistics.median(row["seconds"] for row in rows if "seconds" in row) if rows else 0,
        "longest seconds": max((row["seconds"] for row in rows if "seconds" in row), default=0),
    }


if __name__ == "__main__":
    sys.exit(main())
