"""Make the files, read them, record what came of it and write the tables; `--page` only writes these."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.programs.producers import page
from tests.programs.producers.families import FAMILY_NAMES, QUIET, known, producers_of
from tests.programs.producers.outcome import BAD

RECORD = Path(__file__).resolve().parents[2] / "data" / "producers.json"


def print_family(name: str, only: str) -> None:
    """The rows of one family whose libraries are installed, as lines of JSON."""
    for found in producers_of(name, only):
        print(json.dumps(found, ensure_ascii=False), file=sys.__stdout__, flush=True)


def rows_of(name: str) -> list[dict[str, str]]:
    """The same, from a process of its own: some of these libraries cannot live in one. A row for a process that died."""
    command = [sys.executable, "-m", "tests.programs.producers", "--family", name]
    done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    if done.returncode:
        raise SystemExit(1)
    return rows


def measured(names: tuple[str, ...], recorded: dict[str, Any]) -> dict[str, Any]:
    """The record with these families' rows anew; what could not be made here stays as it was recorded."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    held = {(row["family"], row["name"]): row for row in [*recorded.get("rows", []), *recorded.get("consumers", [])]}
    for name in names:
        held |= {(name, row["name"]): {"family": name, **row, "date": today} for row in rows_of(name)}
    ordered = [held[place] for place in known() if place in held]
    return {
        "rows": [row for row in ordered if row["family"] != "consumers"],
        "consumers": [row for row in ordered if row["family"] == "consumers"],
    }


def main() -> int:
    """The exit code: 1 if a file is read wrongly or refused without a remedy, or what we write is not opened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--family", choices=FAMILY_NAMES)
    parser.add_argument("--only", default="", help="with --family: rows whose name holds this")
    a = parser.parse_args()
    if a.family:
        print_family(a.family, a.only)
        return 0
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if not a.page:
        record = measured(FAMILY_NAMES, record)
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write(record)
    bad = [row for row in [*record["rows"], *record["consumers"]] if row["result"] in BAD]
    for _row in bad:
        pass
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
