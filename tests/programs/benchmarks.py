"""`python -m tests.programs.benchmarks`: the site's pages and pictures of the benchmarks, and the goals of this project for speed.

Each `docs/benchmarks*.json` is the document of one run, `scalablevit-ref bench --full --json`. From it are made the page beside it,
which is `bench --page`'s with this project's goals at its end, and the pictures of that page for light and for dark pages.
`docs/benchmarks_gpu.json` is that of `python -m tests.gpu`, whose page is `tests.gpu.page`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalablevit_ref.benchmark.recommend import recommendation
from scalablevit_ref.benchmark.results import folded, page, plot, ran, table
from scalablevit_ref.drawing.style import dark_twin
from tests.gpu.page import gpu_page, pictured

DOCS = Path(__file__).parents[2] / "docs"

SPEED_GOALS = {"numpy": 0.9, "torch": 1.15, "jax": 1.15, "export.ort": 1.4}
"""How many times as fast as the plain module each contender should be, in float32 on a CPU."""

RECOMMENDED_GOALS = {"float32": 1.45, "bits16": 3.5}
"""How many times as fast as the plain module in float32 the way should be that is recommended, in float32 and in 16 bits."""

IMPORT_GOAL = 0.25
"""Seconds that `import scalablevit_ref` should take at most, NumPy and einops with it."""

CONVERSION_GOALS = {"ratio": 2.0, "megabytes_of_memory": 200.0, "inspect_seconds": 1.0}
"""What converting `large` should cost at most: times a durable copy, memory, and seconds of `inspect`."""


def goals(found: dict[str, Any]) -> Iterator[str]:
    """The parts of a page that hold a run's figures against the goals."""
    rows = []
    for row in ran(found):
        goal = SPEED_GOALS.get(row["contender"])
        if goal is not None and row["ratio"] is not None and (row["device"], row["dtype"]) == ("cpu", "float32"):
            times = row["ratio"]["median"]
            verdict = "reached" if times >= goal else f"{1 - times / goal:.0%} short"
            rows.append([f"{row['variant']} × {row['batch']}", row["contender"], f"{goal:.2f}", f"{times:.2f}", verdict])
    for item in recommendation(found, ran(found)) if "load" in found else ():
        for key, goal in RECOMMENDED_GOALS.items():
            way = item[key]
            if way and way["times_as_fast"] is not None:
                times, work = way["times_as_fast"], f"{item['variant']} × {item['batch']}"
                verdict = "reached" if times >= goal else f"{1 - times / goal:.0%} short"
                rows.append([work, f"recommended: {way['contender']} in {way['dtype']}", f"{goal:.2f}", f"{times:.2f}", verdict])
    if rows:
        what = "How many times as fast as the plain module this project wants each way to be on a CPU, beside what it is.\n"
        yield from folded("Goals for speed", what, table(["work", "contender", "goal", "found", ""], rows))
    if "import" in found:
        what = "What this project wants them to cost at most, beside what they do.\n"
        yield from folded("Goals for import and conversion", what, table(["what", "goal", "found", ""], list(_costs(found))))


def _costs(found: dict[str, Any]) -> Iterator[list[str]]:
    conversion = found["conversion"]
    costs = [("`import scalablevit_ref`, seconds", IMPORT_GOAL, found["import"]["total"])]
    names = {
        "ratio": "conversion, times a copy",
        "megabytes_of_memory": "conversion, MB of memory",
        "inspect_seconds": "`inspect`, seconds",
    }
    costs += [(name, CONVERSION_GOALS[key], conversion[key]) for key, name in names.items()]
    for name, goal, cost in costs:
        yield [name, f"{goal:g}", f"{cost:.3g}", "reached" if cost <= goal else f"{cost / goal - 1:.0%} over"]


def project_page(found: dict[str, Any], name: str) -> str:
    """The page `docs/NAME.md`."""
    pictures = [f"pictures/{name}.svg", f"pictures/{name}-dark.svg"]
    if on_gpu(found):
        return gpu_page(found, pictures)
    made = (
        f"All figures of this page are in `docs/{name}.json`, the document of one run of `scalablevit-ref bench --json`; "
        "`python -m tests.programs.benchmarks` makes the page from it.\n"
    )
    return "\n".join([page(found, pictures), *goals(found), made])


def project_picture(found: dict[str, Any]) -> dict[str, Any]:
    """The part of the document that the page's picture shows."""
    return pictured(found) if on_gpu(found) else found


def on_gpu(found: dict[str, Any]) -> bool:
    """Whether this is the document of `python -m tests.gpu`."""
    return "properties" in found


def main() -> None:
    """Write every page and its pictures."""
    for document in sorted(DOCS.glob("benchmarks*.json")):
        found = json.loads(document.read_text(encoding="utf-8"))
        picture = DOCS / "pictures" / f"{document.stem}.svg"
        plot(project_picture(found), picture, force=True)
        plot(project_picture(found), dark_twin(picture), theme="dark", force=True)
        document.with_suffix(".md").write_text(project_page(found, document.stem), encoding="utf-8")


if __name__ == "__main__":
    main()
