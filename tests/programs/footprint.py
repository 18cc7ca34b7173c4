"""What is written where: `python -m tests.programs.footprint [--write]` runs each command under the recorder and prints a table.

`--write` puts it into `docs/security.md`. Without strace only Python's own events are seen, and the page is not written.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters import onnx
from tests.support.documents import ROOT
from tests.support.footprints import CACHES, COMMANDS, PROGRAMS, Command, files, footprint, of_caches, unlisted
from tests.support.marked import with_marked
from tests.support.recorder import Footprint, with_strace, without_network

PAGE = ROOT / "docs" / "security.md"
MARK = "footprint: python -m tests.programs.footprint --write"


def row(command: Command, seen: Footprint) -> str:
    """One line of the table."""
    paths = {path for path in seen.left | seen.passing if not path.startswith("Python's")}  # of libraries: once, and then no more
    beside = ", ".join(listed.who for listed in of_caches(paths))
    programs = ", ".join(f"`{name}`" for name in sorted(seen.programs))
    return f"| `{command.words}` | {', '.join(f'`{name}`' for name in command.writes)} | {beside} | {programs} |"


def caches() -> list[str]:
    """What the names in the table's third column stand for, and the programs."""
    rows = [f"- {listed.who}: {listed.said}, {listed.why}." for listed in CACHES]
    return [*rows, *(f"- `{name}`: {why}." for name, why in PROGRAMS.items())]


def main(arguments: Sequence[str]) -> None:
    """Run, print, and write if asked; end with 1 if a command did what is not listed."""
    lines = ["| `scalablevit-ref` … | writes | beside that | programs |", "|---|---|---|---|"]
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
        onnx.export(checkpoint.params, checkpoint.config, model, image_size=digits.IMAGE_SIZE)
        for i, command in enumerate(COMMANDS):
            if missing := command.missing():
                bad.append(f"{command.words}: needs {', '.join(missing)}")
                continue
            place = Path(folder) / f"{i}"
            files(place, model)
            seen = footprint(command, place)
            bad += [f"{command.words}: {what}" for what in unlisted(command, seen)]
            bad += [f"{command.words}: exit code {seen.code}: {seen.error}"] * (seen.code != command.code)
            lines.append(row(command, seen))
    sys.stdout.write("\n".join([*lines, "", *caches(), ""]))
    if not (with_strace() and without_network()):
        bad.append("there is no strace here, or the network cannot be taken away")
    if "--write" in arguments and not bad:
        PAGE.write_text(with_marked(PAGE.read_text(encoding="utf-8"), MARK, [*lines, "", *caches()]), encoding="utf-8")
    sys.exit("\n".join(bad) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
