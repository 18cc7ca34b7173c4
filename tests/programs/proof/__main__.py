"""Measure, then write the page."""

from __future__ import annotations

import sys

from tests.programs.faults import kill_matrix
from tests.programs.proof.measure import errors
from tests.programs.proof.page import TARGET, page, read
from tests.programs.proof.rows import found_by, rows_of, with_columns

if __name__ == "__main__":
    options = sys.argv[1:]
    if not options:
        rows = rows_of(errors())
        faults = {library: kill_matrix(library) for library in ("numpy", "torch")}
        TARGET.write_text(page(rows, found_by(faults)), encoding="utf-8")
    else:
        rows, found = read(TARGET.read_text(encoding="utf-8"))
        if options not in (["--mutants"], ["--certified"]):
            rows = with_columns(rows, errors(options), options)
        TARGET.write_text(page(rows, found), encoding="utf-8")
