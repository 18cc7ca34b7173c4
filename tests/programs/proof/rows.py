"""What was measured, as the page has it: a row for each test of a property, and for each planted fault."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

SPELLING = {name: name.upper() for name in ("gelu", "iwsa", "lim", "mlp", "peg", "ssa")} | {
    "nan": "NaN",
    "oracles": "oracle's",
    "norms gain": "norm's gain",
}
"""Of words that a test's name cannot spell."""

Faults = dict[str, dict[str, str]]
"""Each planted fault with what finds it on each library, in words."""

SURVIVES = "**survives**"


@dataclass(frozen=True)
class Row:
    """A test of a property. errors: the worst one on each library that it uses, in eps; 0 where no error in eps applies."""

    number: int
    subject: str
    statement: str
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Of its place on the page."""
        return "p" + re.sub(r"[^a-z0-9]+", "-", f"{self.number} {self.subject} {self.statement}".lower())


def figure(error: float) -> str:
    return f"{float(f'{error:.2g}'):g}" if error else "holds"


def row_of(test: str) -> Row:
    """Without errors. test: `test_ops:test_01_gelu_is_the_exact_one`."""
    subject, _, name = test.removeprefix("test_").partition(":test_")
    number, _, words = name.partition("_")
    statement = words.replace("_", " ")
    for plain, right in SPELLING.items():
        statement = re.sub(rf"\b{plain}\b", right, statement)
    return Row(int(number), subject, statement)


def rows_of(worst: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """In the page's order."""
    return ordered(replace(row_of(test), errors=errors) for test, errors in worst.items())


def ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.number, row.statement.lower(), row.subject))


def with_columns(rows: Iterable[Row], worst: Mapping[str, Mapping[str, float]], libraries: Collection[str]) -> list[Row]:
    """The rows in which these libraries have these errors, and all else is as it was."""
    kept = {row.id: replace(row, errors={k: v for k, v in row.errors.items() if k not in libraries}) for row in rows}
    for new in rows_of(worst):
        known = kept.get(new.id, new)
        kept[new.id] = replace(known, errors={**known.errors, **new.errors})
    return ordered(kept.values())


def found_by(kills: Mapping[str, Mapping[str, list[str]]]) -> Faults:
    """From what fails under each fault: library to fault to tests."""
    faults = next(iter(kills.values()))
    return {fault: {library: _some(found[fault]) for library, found in kills.items()} for fault in faults}


def _some(tests: list[str]) -> str:
    numbers = sorted({row_of(test).number for test in tests})
    return f"{len(tests)} tests: properties {', '.join(map(str, numbers))}" if numbers else SURVIVES
