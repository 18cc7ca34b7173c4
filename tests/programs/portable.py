"""`python -m tests.programs.portable FOLDER [--write]`: the files of a release that other programs read, of the digits network.

Of each format and dtype one file with its record; the weights, which a StableHLO program is given; and three images with all that
the specification computes of them. `--write` puts the table of the files into `docs/portable.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import scalablevit_ref as sv
from scalablevit_ref import digits, portable
from tests.support.documents import ROOT
from tests.support.marked import with_marked

PAGE = ROOT / "docs" / "portable.md"
MARK = "portable: python -m tests.programs.portable FOLDER --write"
HEAD = ("file", "kB", "worst intermediate, eps", "logits, eps", "made with", "checked with")
IMAGES = slice(1, 4)
"""Images of the test split that the numbers are of."""


def release(folder: Path) -> dict[str, dict[str, Any]]:
    """Write all files; the records by file name."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    params, config = checkpoint.params, checkpoint.config
    name = f"digits-{version('scalablevit-ref')}"
    records = {}
    for dtype in portable.DTYPES:
        for ending in portable.FORMATS:
            path = folder / f"{name}.{dtype}{ending}"
            records[path.name] = portable.write(params, config, path, dtype=dtype, force=True)
            sys.stdout.write(f"{row(path, records[path.name])}\n")
            sys.stdout.flush()
        weights = sv.to_backend(params, "numpy", dtype)
        sv.save_checkpoint(folder / f"{name}.{dtype}.safetensors", weights, config, force=True)
    images = digits.preprocess(digits.test_images()[0][IMAGES], "float64")
    portable.write_expected(params, config, images, folder / f"{name}.expected.safetensors", force=True)
    return records


def row(path: Path, record: dict[str, Any]) -> str:
    """A line of the table."""
    checked = record["checked"]
    worst = f"{checked['worst']['eps']:.1f} (`{checked['worst']['tap']}`)"
    cells = [f"`{path.name}`", f"{path.stat().st_size / 1000:,.0f}", worst, f"{checked['logits_eps']:.1f}"]
    return f"| {' | '.join([*cells, record['made_with'], checked['with']])} |"


def main(arguments: Sequence[str]) -> None:
    """Write the files, and the table if asked."""
    folders = [argument for argument in arguments if argument != "--write"]
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        sys.exit("give one folder that is there")
    folder = Path(folders[0])
    records = release(folder)
    if "--write" in arguments:
        table = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}", *(row(folder / name, it) for name, it in records.items())]
        PAGE.write_text(with_marked(PAGE.read_text(encoding="utf-8"), MARK, table), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
