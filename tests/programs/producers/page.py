"""The two tables of `docs/converting.md`, from the recorded results."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.programs.producers.outcome import ASKED, LISTED, NAMED, READ, REMEDY

PAGE = Path(__file__).resolve().parents[3] / "docs" / "converting.md"
Rows = Sequence[Mapping[str, str]]

LONGEST = 120
"""Longest part of a refusal in the table, in characters."""


def producers(rows: Rows) -> str:
    """What was written by whom, and what came of it."""
    counts = Counter(row["result"] for row in rows)
    sentence = (
        f"{len(rows)} files of {len({row['library'] for row in rows})} producers. {counts[READ]} are read as they are, "
        f"{counts[ASKED]} with an option. {counts[REMEDY]} are refused with a line that was run, after which the weights are read, "
        f"and {counts[LISTED]} with the list of what they hold. {counts[NAMED]} hold no weights that could be read; the refusal "
        "says what they are."
    )
    lines = [
        f"| {row['library']}{_version(row)} | {_cell(row['writes'])} | {_cell(row['form'])} | {_result(row)} |" for row in rows
    ]
    return "\n".join([sentence, "", "| producer | what was saved | file | result |", "|---|---|---|---|", *lines])


def consumers(rows: Rows) -> str:
    """What we wrote, and by whom it was opened."""
    good = sum(row["result"] == "opened" for row in rows)
    sentence = f"{good} of {len(rows)} loading calls of other libraries give every weight bit for bit."
    lines = [
        f"| {row['library']}{_version(row)} | {_cell(row['reads'])} | {_cell(row['form'])} | {_cell(row['result'])} |"
        for row in rows
    ]
    return "\n".join([sentence, "", "| consumer | how it was opened | file | result |", "|---|---|---|---|", *lines])


def write(record: Mapping[str, Rows]) -> None:
    """Replace what stands between the markers."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


def written(text: str, record: Mapping[str, Rows]) -> str:
    """The page with these results between its markers. AssertionError where a marker is missing."""
    for name, table in (("producers", producers(record["rows"])), ("consumers", consumers(record["consumers"]))):
        mark = f"<!-- {name}: python -m tests.programs.producers -->"
        assert text.count(mark) == 1, f"{PAGE.name} has no place for {name}: {mark}"
        before, _, rest = text.partition(mark)
        text = f"{before}{mark}\n{table}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def _version(row: Mapping[str, str]) -> str:
    number = row["version"].partition("+")[0]
    return f" {number}" if re.match(r"\d", number) and row["library"] not in {"gzip", "tar", "zip"} else ""


def _cell(text: str) -> str:
    return re.sub(r"([|<*\[\]])(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\\1", text)  # but in code


def _result(row: Mapping[str, str]) -> str:
    if row["result"] == READ:
        return f"read; or with `{row['option']}`" if "option" in row else "read"
    if row["result"] == ASKED:
        return f"read with `{row['option']}`"
    if row["result"] == REMEDY:
        return f"refused; `{_cell(row['remedy'])}`"
    if row["result"] in {NAMED, LISTED}:
        words = row["said"].partition(": ")[2].replace("`", "")
        return f"refused: {_cell(words if len(words) <= LONGEST else words[: LONGEST - 1] + '…')}"
    return _cell(row["result"])
