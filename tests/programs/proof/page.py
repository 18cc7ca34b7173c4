"""The page, written from rows, and read again to rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from scalablevit_ref.benchmark.results import folded
from scalablevit_ref.certify.bounds import Bounds
from scalablevit_ref.cli.proved import decimals
from tests.programs.proof.grid import MUTATION, head, used
from tests.programs.proof.measure import ROOT
from tests.programs.proof.rows import Faults, Row, figure

TARGET = ROOT / "docs" / "proof.md"
CERTIFIED = ROOT / "docs" / "certified.json"
INTRODUCTION = """---
hide: [toc]
---

# Proof

All libraries compute one function, and the right one. Three things show it: properties that hold for every input that was drawn,
faults that the properties find, and mutants that the tests kill.
"""
READING = """
## How to read it

A *property* is a statement about every input, for example: a flipped map gives a flipped output. Hypothesis draws the inputs: 25
for each property, the same ones in every run (profile `ci`). `HYPOTHESIS_PROFILE=nightly python -m pytest tests/properties` draws
500 new ones; `dev`, the default, draws eight.

- **Errors** are in eps of the dtype (float64: 2.2e-16), the largest over all inputs, as max|Δ| / max|reference| unless the test
  says otherwise. A cell of the grid has the worst of all tests of a property, and leads to that test.
- **The tolerance** is 64 eps unless the test says otherwise. A larger error is allowed where the statement is ill-conditioned: its
  bound grows with the condition, and a docstring derives it. The condition is how far one rounding of each module moves a tap (1;
  in 16 bits 4), a key bias's size (14), a LayerNorm's largest entry over its deviation (23, 24).
- **The oracle** is an independent network in plain `torch.nn` (`tests/support/oracle.py`). A *tap* is a named intermediate.

| library | how it is run | share of the inputs |
|---|---|---|
| `numpy`, `torch` | as they are | all |
| `array_api_strict` | the definitions alone, with no native operation of a library; it has no dtypes of 16 bits (4) | all |
| `jax` | under `jax.jit`, with x64 on | an eighth |
| `cupy` | without a GPU a stand-in: NumPy's numbers, CuPy's names and refusals, its kernels compiled for the host | a quarter |
| `mlx`, `tensorflow`, `paddle` | as they are; `paddle` computes in no dtype of 16 bits on a CPU (4) | an eighth |
| `tinygrad` | as it is; its compiler takes long for each input | a fortieth, at least two |

`python -m tests.programs.proof` writes this page from a real run. Nothing in it is entered by hand.

## The reference itself

The errors above are measured, against float64 or against PyTorch. NumPy in float64 is what `verify` and `compare` hold everything
against. Its own distance from the exact result is proved by ball arithmetic, in eps, from below and from above:
"""


def page(rows: Sequence[Row], faults: Faults) -> str:
    """From the errors, from what finds the faults, and from `docs/certified.json` and `docs/mutation.json`."""
    parts = [INTRODUCTION, *head(rows, faults), READING, *proved()]
    parts += ["", "[Errors that are proved](certified.md) has the other libraries.", ""]
    parts += ["## The properties", "", "Each is one test or more. The worst error of each test, in eps:", ""]
    parts += folded(f"The {len(rows)} tests", "\n".join(_properties(rows)), "")
    parts += ["## The planted faults", "", "Each is patched into the specification; the properties named turn red.", ""]
    parts += folded(f"The {len(faults)} faults", "\n".join(_faults(faults)), "")
    return "\n".join([*parts, *_mutants()])


def read(text: str) -> tuple[list[Row], Faults]:
    """What the page was written from."""
    properties, _, rest = text.partition("## The properties")[2].partition("## The planted faults")
    (_, _, _, *libraries), *cells = _table(properties)
    rows = []
    for number, subject, statement, *found in cells:
        errors = {name: 0.0 if cell == "holds" else float(cell) for name, cell in zip(libraries, found, strict=True) if cell}
        rows.append(Row(int(re.sub(r"<.*?>", "", number)), subject, statement, errors))
    (_, *libraries), *cells = _table(rest.partition("## Mutants")[0])
    return rows, {fault: dict(zip(libraries, found, strict=True)) for fault, *found in cells}


def _table(text: str) -> Iterator[list[str]]:
    """The cells of each row, of the heading first."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return ([cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")] for line in lines)


def proved() -> list[str]:
    """The errors of NumPy in float64 that `python -m tests.programs.certified` has found, for each network."""
    networks: dict[str, Any] = json.loads(CERTIFIED.read_text(encoding="utf-8"))["networks"]
    lines = []
    for name, found in networks.items():
        (row,) = (row for row in found["rows"] if (row["who"], row["dtype"]) == ("numpy", "float64"))
        logits, worst = (decimals(Bounds(*row["eps"][tap])) for tap in ("logits", row["worst"]))
        lines.append(f"- {name}: logits {logits}, worst tap {worst} (`{row['worst']}`)")
    return lines


def _properties(rows: Sequence[Row]) -> Iterator[str]:
    libraries = used(rows)
    yield f"| # | of | statement | {' | '.join(libraries)} |"
    yield f"|---|---|---|{'---|' * len(libraries)}"
    for row in rows:
        cells = (figure(row.errors[name]) if name in row.errors else "" for name in libraries)
        yield f'| <span id="{row.id}">{row.number}</span> | {row.subject} | {row.statement} | {" | ".join(cells)} |'


def _faults(faults: Faults) -> Iterator[str]:
    libraries = list(next(iter(faults.values())))
    yield f"| fault | {' | '.join(libraries)} |"
    yield f"|---|{'---|' * len(libraries)}"
    for fault, found in faults.items():
        yield f"| {fault} | {' | '.join(found[library] for library in libraries)} |"


def _mutants() -> list[str]:
    """What the last run of `python -m tests.programs.mutation --out docs/mutation.json` found."""
    found: dict[str, Any] = json.loads(MUTATION.read_text(encoding="utf-8"))
    killed, mutants, equivalent, survivors = (found[key] for key in ("killed", "mutants", "equivalent", "survivors"))
    lines = [
        "## Mutants",
        "",
        "`python -m tests.programs.mutation --out docs/mutation.json` changes one expression at a time in `ops`,",
        "`attention`, `blocks`, `network`, `parameters` and `config`, and runs the tests. A mutant is killed if a test fails:",
        f"{killed:,} of {mutants:,} are ({killed / mutants:.1%}).",
        f"{len(equivalent)} change nothing that a test could see, {len(survivors)} survive.",
        "",
        *(f"- survives: `{survivor}`" for survivor in survivors),
    ]
    table = ["| no test can see | because |", "|---|---|"]
    table += [f"| `{key.replace('|', chr(92) + '|')}` | {reason} |" for key, reason in equivalent.items()]
    return lines + (folded(f"The {len(equivalent)} that no test can see", "\n".join(table), "") if equivalent else [])
