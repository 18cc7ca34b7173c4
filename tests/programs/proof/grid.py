"""The head of the page: three figures, and a coloured grid of all properties on all libraries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from tests.programs.proof.measure import LIBRARIES, ROOT
from tests.programs.proof.rows import SURVIVES, Faults, Row, figure

MUTATION = ROOT / "docs" / "mutation.json"
STATEMENTS = {
    1: "the network, its blocks and its ops are the oracle's",
    2: "convolutions and linear layers are exact on integers",
    3: "float32 is float64 at every tap",
    4: "16 bits keep their dtype at every tap",
    5: "an image of a batch is that image alone",
    6: "image and kernels transposed: the same logits",
    7: "map and kernel flipped: the output flipped",
    8: "IWSA without LIM is multi-head attention in each window",
    9: "IWSA without LIM: windows may be permuted",
    10: "IWSA without LIM: so may the tokens of a window",
    11: "LIM adds the projected convolution of the values",
    12: "a window reaches itself and one pixel around",
    13: "a NaN reaches its window and the neighbours",
    14: "a key bias changes nothing",
    15: "a value bias shifts the output by its projection",
    16: "zero queries give the mean of the window",
    17: "heads may be permuted",
    18: "scales move from q to k, and from v to proj",
    19: "SSA without reduction is multi-head attention",
    20: "SSA with reduction is PyTorch's own functions in a row",
    21: "SSA: tiles may be permuted",
    22: "SSA's reduction is one dense convolution",
    23: "LayerNorm leaves the variance v / (v + ε)",
    24: "a constant added to a token is added to the output",
    25: "zero proj and fc2 leave the identity",
    26: "a norm's gain and shift fold into the next layer",
    27: "with all branches zero only the trunk is left",
    28: "gradients are the oracle's, and the slopes",
    29: "compile, export and vmap change nothing",
    30: "checkpoints: names, bits and axes come back",
    31: "any memory layout gives the same",
    32: "a wrong shape is refused by its name",
}
"""Each property in a few words; the table has its tests."""

SMALL, TOLERANCE = 8, 64
"""Bounds in eps: above the second one a property has a bound of its own."""

SHADES = {
    "exact": ("✓", "holds; no error in eps applies"),
    "small": ("4.1", f"worst error up to {SMALL} eps"),
    "medium": ("26", f"up to {TOLERANCE} eps"),
    "large": ("94", "larger, within a bound that is derived"),
    "unused": ("–", "not on this library"),
}
"""Each class of a cell with what the legend shows and says."""


def shade(error: float | None) -> str:
    if error is None:
        return "unused"
    return "exact" if not error else "small" if error <= SMALL else "medium" if error <= TOLERANCE else "large"


def head(rows: Sequence[Row], faults: Faults) -> list[str]:
    """The three figures and the grid."""
    mutation: dict[str, Any] = json.loads(MUTATION.read_text(encoding="utf-8"))
    libraries, properties = used(rows), by_number(rows)
    everywhere = sum({name for row in some for name in row.errors} >= set(libraries) for some in properties.values())
    found = sum(SURVIVES not in by.values() for by in faults.values())
    killed, mutants, equivalent, survivors = (mutation[key] for key in ("killed", "mutants", "equivalent", "survivors"))
    where = f"{everywhere} of them on all {len(libraries)} libraries"
    left = f"{len(survivors)} survive" if survivors else f"the other {len(equivalent)} change nothing that a test could see"
    return [
        '<div class="grid cards" markdown>',
        "",
        f"- **{len(properties)} properties** hold, {where}. [Each test](#the-properties)",
        f"- **{found} of {len(faults)} planted faults** are found by the properties. [Each fault](#the-planted-faults)",
        f"- **{killed:,} of {mutants:,} mutants** are killed by the tests; {left}. [Mutants](#mutants)",
        "",
        "</div>",
        "",
        *grid(properties, libraries),
    ]


def used(rows: Iterable[Row]) -> list[str]:
    """The libraries that have a column."""
    present = {library for row in rows for library in row.errors}
    return [library for library in LIBRARIES if library in present]


def by_number(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The tests of each property."""
    properties: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        properties[row.number].append(row)
    return dict(properties)


def grid(properties: dict[int, list[Row]], libraries: Sequence[str]) -> list[str]:
    """As HTML: each cell leads to the row of the table that has the worst error."""
    legend = "".join(f'<span><b class="{name}">{sign}</b> {words}</span>' for name, (sign, words) in SHADES.items())
    columns = "".join(f'<th scope="col">{name.replace("_", "_<wbr>")}</th>' for name in libraries)
    box = '<div class="scrolled" role="region" tabindex="0" aria-label="Each property on each library">'
    lines = [f'<p class="shades">{legend}</p>', box, '<table class="properties">']
    lines += [f'<thead><tr><th scope="col">property</th>{columns}</tr></thead>', "<tbody>"]
    for number, rows in properties.items():
        cells = "".join(_cell(rows, library) for library in libraries)
        lines.append(f'<tr><th scope="row"><b>{number}</b> {escape(STATEMENTS[number])}</th>{cells}</tr>')
    return [*lines, "</tbody>", "</table>", "</div>"]


def _cell(rows: Sequence[Row], library: str) -> str:
    """The worst error of a property's tests on a library."""
    tried = [row for row in rows if library in row.errors]
    worst = max(tried, key=lambda row: row.errors[library], default=rows[0])
    error = worst.errors.get(library)
    name = shade(error)
    said = f"at most {figure(error)} eps: {worst.statement}" if error else SHADES[name][1]
    sign = figure(error) if error else SHADES[name][0]
    return f'<td class="{name}"><a href="#{worst.id}" title="{escape(f"{library}: {said}")}">{sign}</a></td>'
