"""`python -m tests.programs.proof [--mutants | --certified | LIBRARY…]`: try properties and planted faults; write `docs/proof.md`.

With libraries, the properties are run on these alone, and the page keeps the other columns and the planted faults.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalablevit_ref.certify.bounds import Bounds
from scalablevit_ref.cli.proved import decimals
from tests.support.library import WHOLE_ON_TINYGRAD
from tests.support.marked import with_marked

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "proof.md"
MUTATION = ROOT / "docs" / "mutation.json"
CERTIFIED = ROOT / "docs" / "certified.json"
FLOAT64 = "proved errors of float64"
"""Mark of the part of the page that is written from `docs/certified.json`."""
SPELLING = {name: name.upper() for name in ("gelu", "iwsa", "lim", "mlp", "peg", "ssa")} | {
    "oracles": "oracle's",
    "norms gain": "norm's gain",
}
"""Of words that a test's name cannot spell."""
LIBRARIES = ("numpy", "torch", "array_api_strict", "jax", "cupy", "mlx", "tensorflow", "paddle", "tinygrad")
MUTANTS = "## Mutants"
INTRODUCTION = """---
hide: [toc]
---

# Proof

That the backends compute one function, and the right one, is shown by properties: statements that hold for every input, checked
on inputs that Hypothesis draws. This page is written by `python -m tests.programs.proof` from a real run; nothing in it is
entered by hand.

Errors are in eps of the dtype (float64: 2.2e-16), the largest over all examples, as max|Δ| / max|reference| unless said otherwise.
"Holds": it passed, and no error in eps applies. The tolerance is 64 eps unless the test says otherwise. Where a figure is larger,
the statement is ill-conditioned and its bound grows with the condition: a key bias's size (14), a LayerNorm's largest entry over
its deviation (23, 24), in 16 bits how far one rounding of each module moves an intermediate (4); the test's docstring derives it.
Blank: the property does not use this library.

The *oracle* is an independent network in plain `torch.nn` (`tests/support/oracle.py`), a *tap* a named intermediate.
`array_api_strict` runs the definitions alone, with none of the libraries' native operations; it has no dtypes of 16 bits (4).
`jax` runs under `jax.jit` with x64 on, and draws an eighth of the inputs, as `mlx`, `tensorflow` and `paddle` do; `tinygrad`, whose
compiler takes long for each, draws a fortieth, at least two. `cupy`, where there is no GPU, is a stand-in: NumPy's numbers, CuPy's
names and refusals, and CuPy's own kernels compiled for the host; it draws a quarter.

The errors of the properties are measured, against float64 or against PyTorch. How far NumPy in float64, which `verify` and
`compare` hold everything against, is itself from the exact result is proved by ball arithmetic, in eps, from below and from above;
[errors that are proved](certified.md) has the other libraries.

<!-- proved errors of float64 -->
<!-- end -->

Figures are of the profile `ci`: 25 inputs for each property, the same every time. `HYPOTHESIS_PROFILE=nightly python -m pytest
tests/properties` draws 500 new ones, `dev`, the default, eight.

## The properties
"""


def errors(libraries: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Worst error of each property test on each library, or on these, from a run of the `ci` profile."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/properties", "--worst-errors", str(report)]
        command += ["-k", " or ".join(libraries)] if libraries else []
        environment = os.environ | {"HYPOTHESIS_PROFILE": "ci", WHOLE_ON_TINYGRAD: "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            sys.exit("the properties do not hold: no page is written")
        rows: list[tuple[str, float | None]] = json.loads(report.read_text(encoding="utf-8"))
    return worst_of(rows)


def worst_of(rows: Iterable[tuple[str, float | None]]) -> dict[str, dict[str, float]]:
    """Of each test's worst error, those of the properties: test to library to error."""
    worst: dict[str, dict[str, float]] = defaultdict(dict)
    for node, error in rows:
        match = re.fullmatch(r"tests/properties/(\w+)\.py::(test_\d+\w*)(?:\[(.*)\])?", node)
        if match is None:
            continue
        test, parameters = f"{match[1]}:{match[2]}", (match[3] or "").split("-")
        library = next((name for name in parameters if name in LIBRARIES), "torch")
        worst[test][library] = max(worst[test].get(library, 0.0), error or 0.0)
    return worst


def page(worst: dict[str, dict[str, float]], kills: dict[str, dict[str, list[str]]]) -> str:
    """The page, from the errors and from what fails under each fault: library → fault → tests."""
    lines = [with_proved(INTRODUCTION), *_table({_key(test): errors for test, errors in _figures(worst).items()})]
    lines += ["", "## The planted faults", "", "Each is patched into the specification; the tests named fail.", ""]
    lines += [f"| fault | {' | '.join(kills)} |", f"|---|{'---|' * len(kills)}"]
    for fault in next(iter(kills.values())):
        found = [_some(faults[fault]) for faults in kills.values()]
        lines.append(f"| {fault} | {' | '.join(found)} |")
    return "\n".join([*lines, "", *_mutation()]) + "\n"


def with_columns(text: str, worst: dict[str, dict[str, float]], libraries: Sequence[str]) -> str:
    """The page, in which these libraries have these errors, and all else is as it was."""
    table, faults, rest = text.partition("## The planted faults")
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    (_, _, _, *names), *rows = ([cell.strip() for cell in line] for line in lines)
    known = dict[tuple[str, ...], dict[str, str]]()
    for number, subject, statement, *cells in rows:
        kept = {name: cell for name, cell in zip(names, cells, strict=True) if cell and name not in libraries}
        known[number, subject, statement] = kept
    for test, figures in _figures(worst).items():
        known.setdefault(_key(test), {}).update(figures)
    return "\n".join([with_proved(INTRODUCTION), *_table(known), "", faults + rest])


def _figures(worst: dict[str, dict[str, float]]) -> dict[str, dict[str, str]]:
    return {
        test: {library: _figure(error) for library, error in worst[test].items()}
        for test in sorted(worst, key=lambda name: name.partition(":")[2])
    }


def _key(test: str) -> tuple[str, str, str]:
    """Number, subject and statement of a property."""
    number, statement = _statement(test)
    return number, test.removeprefix("test_").partition(":")[0], statement


def _table(cells: Mapping[tuple[str, ...], Mapping[str, str]]) -> list[str]:
    present = {library for some in cells.values() for library in some}
    libraries = [library for library in LIBRARIES if library in present]
    lines = [f"| # | of | statement | {' | '.join(libraries)} |", f"|---|---|---|{'---|' * len(libraries)}"]
    return lines + [f"| {' | '.join([*key, *(some.get(library, '') for library in libraries)])} |" for key, some in cells.items()]


def with_proved(page: str) -> str:
    """The page with the proved errors of NumPy in float64 that `python -m tests.programs.certified` has found, for each network."""
    networks: dict[str, Any] = json.loads(CERTIFIED.read_text(encoding="utf-8"))["networks"]
    lines = []
    for name, found in networks.items():
        (row,) = (row for row in found["rows"] if (row["who"], row["dtype"]) == ("numpy", "float64"))
        logits, worst = (decimals(Bounds(*row["eps"][tap])) for tap in ("logits", row["worst"]))
        lines.append(f"- {name}: logits {logits}, worst tap {worst} (`{row['worst']}`)")
    return with_marked(page, FLOAT64, lines)


def _figure(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}" if error else "holds"


def _statement(test: str) -> tuple[str, str]:
    number, _, words = test.partition(":test_")[2].partition("_")
    return number.lstrip("0"), _spelled(words.replace("_", " "))


def _spelled(words: str) -> str:
    for plain, right in SPELLING.items():
        words = re.sub(rf"\b{plain}\b", right, words)
    return words


def _some(tests: list[str]) -> str:
    numbers = sorted({int(_statement(test)[0]) for test in tests})
    return f"{len(tests)} tests: properties {', '.join(map(str, numbers))}" if numbers else "**survives**"


def _mutation() -> list[str]:
    """What the last run of `python -m tests.programs.mutation --out docs/mutation.json` found."""
    if not MUTATION.exists():
        return []
    found: dict[str, Any] = json.loads(MUTATION.read_text(encoding="utf-8"))
    killed, equivalent = found["killed"], found["equivalent"]
    lines = [
        MUTANTS,
        "",
        "`python -m tests.programs.mutation --out docs/mutation.json` changes one expression at a time in `ops`,",
    ]
    lines += ["`attention`, `blocks`, `network`, `parameters` and `config`, and runs the suite:"]
    lines += [f"{killed} of {found['mutants']} mutants are killed"]
    share, left = killed / found["mutants"], len(found["survivors"])
    lines += [f"({share:.1%}), {len(equivalent)} change nothing that a test could see, {left} survive.", ""]
    lines += ["| no test can see | because |", "|---|---|"] if equivalent else []
    lines += [f"| `{key.replace('|', chr(92) + '|')}` | {reason} |" for key, reason in equivalent.items()]
    return [*lines, "", *(f"- survives: `{survivor}`" for survivor in found["survivors"])]


def main() -> None:
    """Measure, then write the page; with `--mutants` write its last section anew, from `docs/mutation.json`, and with `--certified`
    the proved errors of float64, from `docs/certified.json`.
    """
    from tests.programs.faults import kill_matrix

    if sys.argv[1:] == ["--certified"]:
        TARGET.write_text(with_proved(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
        return
    if sys.argv[1:] == ["--mutants"]:
        measured = TARGET.read_text(encoding="utf-8").partition(MUTANTS)[0].rstrip("\n")
        TARGET.write_text("\n".join([measured, "", *_mutation()]) + "\n", encoding="utf-8")
        return
    if sys.argv[1:]:
        TARGET.write_text(with_columns(TARGET.read_text(encoding="utf-8"), errors(sys.argv[1:]), sys.argv[1:]), encoding="utf-8")
        return
    worst = errors()
    kills = {library: kill_matrix(library) for library in ("numpy", "torch")}
    TARGET.write_text(page(worst, kills), encoding="utf-8")
    sys.stdout.write(f"wrote {TARGET.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
