"""One picture of a run on the CPU: which way to run the network, how fast each is, and how exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalablevit_ref.benchmark.contenders import MODULE
from scalablevit_ref.drawing.diagram import MARGIN, Bar, Diagram, Hue, Line, Text
from scalablevit_ref.drawing.facts import several
from scalablevit_ref.drawing.style import SMALL, WIDTH
from scalablevit_ref.testing import EPS

WAYS: Mapping[str, tuple[str, ...]] = {
    "authors' module": (MODULE,),
    "PyTorch eager": ("torch",),
    "PyTorch compiled": ("torch.freezing", "torch.aoti", "torch.compile"),
    "ONNX Runtime": ("export.ort",),
    "OpenVINO": ("export.openvino",),
    "JAX": ("jax",),
    "NumPy": ("numpy",),
}
"""Ways to run the network, by the names that the picture has for them, and their contenders: the fastest of them is shown."""

ROW, BAR, GROUP, KIND = 23, 15, 38, 26
"""Pixels of a row, of its bar, and of the words above the rows of a work and above those of a dtype."""

LEFT, RATE, TIMES, ERROR = 148, 402, 472, WIDTH - MARGIN
"""Pixels from the left edge to where the bars begin, and to where the columns of figures end."""

LONGEST = 200
"""Pixels of the longest bar."""

Way = tuple[str, dict[str, Any]]
"""The name of a way and its row."""


def by_work(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[tuple[str, list[Way]]]]]:
    """The works that differ in their dtype alone, in words, and for each dtype the ways, the fastest first."""
    works: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        works.setdefault(f"{row['variant']}, {several(row['batch'], 'image')} of {row['size']}²", []).append(row)
    for words, own in works.items():
        kinds = []
        for dtype in dict.fromkeys(row["dtype"] for row in own):
            there = {row["contender"]: row for row in own if row["dtype"] == dtype}
            found = [
                (way, max((there[name] for name in names if name in there), key=rate))
                for way, names in WAYS.items()
                if not there.keys().isdisjoint(names)
            ]
            kinds.append((dtype, sorted(found, key=lambda one: -rate(one[1]))))
        yield words, kinds


def rate(row: Mapping[str, Any]) -> float:
    """Images a second."""
    return float(row["batch"] / row["seconds"]["median"])


def times_as_fast(row: Mapping[str, Any]) -> float | None:
    """As the plain module in float32 if that ran beside it, else as the module in the row's dtype. None in a disturbed run."""
    found = row.get("ratio_to_float32", row["ratio"])
    return None if found is None else float(found["median"])


def eps_in_words(eps: float) -> str:
    """With two digits."""
    return f"{eps:.2g} eps" if eps < 100 else f"{eps:,.0f} eps"


def figures(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Images a second, times as fast, and error, in words."""
    times, eps = times_as_fast(row), row.get("error_eps")
    return f"{rate(row):.1f}", "–" if times is None else f"{times:.2f} ×", "" if eps is None else eps_in_words(eps)


def ways(found: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> Diagram:
    """The picture. rows: those that ran."""
    machine = found["machine"]
    diagram = Diagram("Which way, how fast, how exact", alt=alt(rows))
    y = diagram.heading(f"{machine['cpu']}, {several(machine['threads'], 'thread')}")
    works = list(by_work(rows))
    most = max(row["batch"] / row["seconds"]["low"] for _, kinds in works for _, shown in kinds for _, row in shown)
    headings = [(RATE, "images/s"), (TIMES, "times"), *[(ERROR, "error")] * _have_errors(rows)]
    for end, words in headings:
        diagram.texts.append(Text(end, y + GROUP - 9, words, "right", SMALL, color="soft"))
    for words, kinds in works:
        y += GROUP
        diagram.note(MARGIN, y - 9, words, color="ink", bold=True)
        for dtype, shown in kinds:
            y += KIND
            diagram.note(MARGIN, y - 8, f"in {dtype}, where 1 eps is {EPS.get(dtype, EPS['float32']):.2g}")
            for way, row in shown:
                _put(diagram, way, row, y, most)
                y += ROW
    y += 14
    diagram.lines.append(Line(((MARGIN, y), (WIDTH - MARGIN, y)), "rule"))
    for words in legend(rows):
        y += 20
        diagram.note(MARGIN, y, words)
    diagram.height = y + MARGIN
    return diagram


def _put(diagram: Diagram, way: str, row: dict[str, Any], y: float, most: float) -> None:
    """Add a row of the picture, in which `most` images a second take the longest bar."""
    hue: Hue = "norm" if row["contender"] == MODULE else "iwsa" if row["dtype"] in ("float32", "float64") else "ssa"
    middle = y + ROW / 2
    median, low, high = (LONGEST * row["batch"] / row["seconds"][key] / most for key in ("median", "high", "low"))
    diagram.bars.append(Bar(LEFT, middle - BAR / 2, median, BAR, hue, pale=True))
    diagram.lines.append(Line(((LEFT + low, middle), (LEFT + high, middle)), hue, 2))
    diagram.texts.append(Text(LEFT - 8, middle + 5, way, "right", SMALL, literal=True))
    for end, words in zip((RATE, TIMES, ERROR), figures(row), strict=True):
        diagram.texts.append(Text(end, middle + 5, words, "right", SMALL))


def legend(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures mean, in lines."""
    base = "in float32" if any("ratio_to_float32" in row for row in rows) else "in the same numbers"
    times = f"times: as fast as the authors' module, run eagerly {base}"
    if any(times_as_fast(row) is None for row in rows):
        times = "no times: other processes were busy meanwhile"
    error = ["error: of the logits, ‖Δ‖ / ‖NumPy's in float64‖"] * _have_errors(rows)
    return [times, *error, "the line in a bar spans the quartiles"]


def _have_errors(rows: Sequence[dict[str, Any]]) -> bool:
    """Documents of earlier versions have none."""
    return any("error_eps" in row for row in rows)


def alt(rows: Sequence[dict[str, Any]]) -> str:
    """What the picture shows, in words."""
    said = []
    for words, kinds in by_work(rows):
        for dtype, shown in kinds:
            each = [f"{way} {', '.join(filter(None, figures(row)))}" for way, row in shown]
            said.append(f"{words} in {dtype}: {'; '.join(each)}")
    return f"Images a second of each way, times as fast as the authors' module, and error. {'. '.join(said)}."
