"""A run's figures as people read them: on a terminal, as a page of Markdown, as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text as Words

from scalablevit_ref.benchmark.contenders import MODULE
from scalablevit_ref.drawing.diagram import Bar, Diagram, Hue, Line, Text
from scalablevit_ref.drawing.facts import several
from scalablevit_ref.drawing.render import save
from scalablevit_ref.drawing.style import SMALL, WIDTH

HEADINGS = ("ms/image", "quartiles", "times as fast", "95 %", "of peak", "peak MB")
"""Of `cells`. "of peak": the share of the rate of a large matrix product that the multiply-adds reach."""

INTRODUCTION = """\
How fast and how large the specification is on each backend, beside the authors' network in plain `torch.nn` run eagerly
(`scalablevit_ref/adapters/plain.py`; its state dict is the official one). This page is written by `scalablevit-ref bench` from
one run; nothing in it is entered by hand.

All contenders have the same number of threads, the same random weights and the same images, and compute the same logits; they
run in turn in one process, in random order within each round. Times are medians with their quartiles. A ratio is how many times
as fast as the plain module, from the rounds' own pairs, with a 95 % confidence interval (bootstrap). vit_pytorch's network of
that name is another one with more multiply-adds: its ratio (*) is at an equal number of them. "Of peak" is the share of the rate of
a large matrix product that the multiply-adds reach, "peak MB" the memory of a second pass beyond what was held before it.
"""

ERROR = """\
"Error" is ‖logits − NumPy's‖ / ‖NumPy's‖ of the first images, in eps of the dtype: NumPy computes in float64 from the weights and
images before they are rounded.
"""

ROW, BAR, GROUP = 24, 18, 34
"""Pixels of a contender's row in the picture, of its bar, and of the words above a group of rows."""

LEFT, RIGHT = 118, 16
"""Pixels for the contenders' names, and beside the plot."""


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of a row that was run, as words under `HEADINGS`."""
    ratio = row["ratio"]
    each, low, high = (milliseconds(row, key) for key in ("median", "low", "high"))
    times, interval = f"{ratio['median']:.2f}", f"{ratio['low']:.2f}–{ratio['high']:.2f}"
    if row["contender"] == MODULE:
        times, interval = "1", ""
    elif row["contender"] == "vit_pytorch":
        times, interval = f"{row['ratio_at_equal_work']:.2f}*", ""
    memory = f"{row['peak_megabytes']:.0f}" if "peak_megabytes" in row else ""
    return [each, f"{low}–{high}", times, interval, f"{row['share_of_matmul_peak']:.0%}", memory]


def milliseconds(row: dict[str, Any], key: str = "median") -> str:
    """Of one image."""
    each = 1e3 * row["seconds"][key] / row["batch"]
    return f"{each:.1f}" if each >= 10 else f"{each:.3g}"


def error(row: dict[str, Any]) -> str:
    """In eps, or nothing where it was not measured."""
    eps = row.get("error_eps")
    return "" if eps is None else f"{eps:.2g}" if eps < 100 else f"{eps:,.0f}"


def ran(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were run."""
    return [row for row in found["forward"] if not {"absent", "failed"} & set(row)]


def doubts(found: dict[str, Any]) -> list[str]:
    """A line about figures that cannot be, if there are some; a machine whose clock wanders may show a little over 100 %."""
    said = "Far over 100 % of peak: the matrix product was measured while the machine did other work. Do not trust these times."
    return [said] * any(row["share_of_matmul_peak"] > 1.1 for row in ran(found))


def absences(found: dict[str, Any]) -> list[str]:
    """What was not run or not measured, and why, each once."""
    heads = {"absent": "not run: ", "failed": "failed: ", "peak_failed": "memory not measured: "}
    rows = found["forward"]
    said = [f"{head}{r['contender']} ({r['variant']}): {r[what]}" for r in rows for what, head in heads.items() if what in r]
    return list(dict.fromkeys(said))


def print_results(console: Console, found: dict[str, Any]) -> None:
    """Print a run's figures for a terminal."""
    machine = found["machine"]
    console.print(f"{found['gpu'] or machine['cpu']}, {machine['threads']} threads")
    for kind, rate in found["matmul_gflops"].items():
        console.print(f"large matrix product in {kind}: {rate:.0f} GFLOP/s")
    console.print(_terminal_table(ran(found)))
    if any(row["contender"] == "vit_pytorch" for row in ran(found)):
        console.print("* another network: at an equal number of multiply-adds", style="dim")
    for doubt in doubts(found):
        console.print(doubt, style="yellow")
    for absence in absences(found):
        console.print(absence, style="dim")
    for row in found.get("growth", []):
        power = f"time ~ tokens^{row['exponent']:.2f} (multiply-adds ^{row['counted']:.2f})"
        console.print(f"{row['kind'].upper()} {power}")
    if "import" in found:
        seconds, c = found["import"]["total"], found["conversion"]
        console.print(f"import {seconds:.3f} s; {c['variant']} converted in {c['ratio']:.2f} x a copy")


def _terminal_table(rows: list[dict[str, Any]]) -> Table:
    """A line for each row; a column of memory if that was measured. Headings of two words take two lines: 80 columns hold all."""
    headings = HEADINGS if any("peak_megabytes" in row for row in rows) else HEADINGS[:-1]
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("work", overflow="fold")
    found.add_column("contender", no_wrap=True)
    for heading in headings:
        words = Words(heading.replace(" ", "\n", 1) if len(heading) > 5 else heading)
        found.add_column(words, justify="right", no_wrap=True)
    before = ""
    for row in rows:
        work = f"{row['variant']} x {row['batch']}"
        found.add_row("" if work == before else work, row["contender"], *cells(row)[: len(headings)])
        before = work
    return found


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page(found: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """A page of Markdown.

    Parameters
    ----------
    found
        The run's document.
    pictures
        The addresses, as seen from the page, of `plot`'s pictures for light and for dark pages.
    """
    names = dict.fromkeys(row["variant"] for row in found["forward"])
    parts = [f"# Benchmarks of {' and '.join(names)}\n", INTRODUCTION, *_machine(found), *(f"{line}\n" for line in doubts(found))]
    parts.append("## Forward passes\n")
    if pictures:
        themes = zip(pictures, ("light", "dark"), strict=False)
        parts.append("".join(f"![{alt(found)}]({address}#only-{theme})\n" for address, theme in themes))
    measured = any("error_eps" in row for row in ran(found))
    parts += [ERROR] * measured
    rows = [[*_page_row(row), *[error(row)] * measured] for row in ran(found)]
    parts.append(table(["work", "in", "contender", *HEADINGS, *["error, eps"] * measured], rows))
    if absences(found):
        parts.append("".join(f"- {line}\n" for line in absences(found)))
    return "\n".join([*parts, *_rest(found)])


def _page_row(row: dict[str, Any]) -> list[str]:
    work = f"{row['variant']} {row['size']}² × {row['batch']}"
    return [work, f"{row['dtype']} {row['device']}", row["contender"], *cells(row)]


def _machine(found: dict[str, Any]) -> Iterator[str]:
    m = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    graphics = found["gpu"] or "none, so that nothing was run on CUDA and CuPy was not run at all"
    yield (
        f"{m['date']}; {m['cpu']}, {m['cores']} cores, {m['threads']} threads; {m['system']}, Python {m['python']}; {versions}; "
        f"GPU: {graphics}.\n"
    )
    for kind, rate in found["matmul_gflops"].items():
        yield f"A large matrix product in {kind}: {rate:.0f} GFLOP/s (a multiply-add is two).\n"


def _rest(found: dict[str, Any]) -> Iterator[str]:
    """What only a full run measures."""
    if "growth" in found:
        yield "## Cost as the image grows\n"
        yield "The exponent p in cost ~ tokensᵖ of a block of stage 0 on NumPy, in time and in counted multiply-adds.\n"
        rows = [
            [row["kind"].upper(), ", ".join(map(str, row["tokens"])), f"{row['exponent']:.2f}", f"{row['counted']:.2f}"]
            for row in found["growth"]
        ]
        yield table(["block", "tokens", "time", "multiply-adds"], rows)
    if "import" in found:
        total, own = found["import"]["total"], found["import"]["beyond_numpy_and_einops"]
        yield "## Import and conversion\n"
        yield f"`import scalablevit_ref`: {total:.3f} s, of which {own:.3f} s beyond NumPy and einops.\n"
        c = found["conversion"]
        yield (
            f"`{c['variant']}` ({c['megabytes']:.0f} MB), `.pth` to safetensors: {c['convert_seconds']:.2f} s, "
            f"{c['ratio']:.2f} times a copy written through to the disk ({c['copy_seconds']:.2f} s), and "
            f"{c['megabytes_of_memory']:.0f} MB of memory; `inspect`: {c['inspect_seconds']:.2f} s.\n"
        )


def plot(found: dict[str, Any], path: Path, *, theme: str = "light", force: bool = False) -> None:
    """Write a picture of images a second. See `drawing.render.save`."""
    save(bars(found), path, theme=theme, force=force)


def bars(found: dict[str, Any]) -> Diagram:
    """Images a second: one bar for each contender, a group for each work."""
    machine = found["machine"]
    diagram = Diagram("Images a second", alt=alt(found))
    y = diagram.heading(f"{found['gpu'] or machine['cpu']}, {machine['threads']} threads")
    most: float = 1.3 * max(row["batch"] / row["seconds"]["low"] for row in ran(found))

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * rate / most

    for work, rows in groupby(ran(found), key=_work):
        y += GROUP
        diagram.note(LEFT, y - 9, work, color="ink", bold=True)
        for row in rows:
            _put_bar(diagram, row, y, [x(row["batch"] / row["seconds"][key]) for key in ("median", "high", "low")])
            y += ROW
    diagram.lines.append(Line(((LEFT, y + 4), (WIDTH - RIGHT, y + 4)), "soft"))
    for rate in _ticks(most):
        diagram.lines.append(Line(((x(rate), y + 4), (x(rate), y + 9)), "soft"))
        diagram.texts.append(Text(x(rate), y + 24, f"{rate:g}", size=SMALL))
    under = "images a second; the line spans the quartiles"
    diagram.texts.append(Text((LEFT + WIDTH - RIGHT) / 2, y + 44, under, size=SMALL, color="soft"))
    diagram.height = y + 56
    return diagram


def _put_bar(diagram: Diagram, row: dict[str, Any], y: float, ends: Sequence[float]) -> None:
    """Add a contender's row. ends: the x of its median, and of the slowest and the fastest quarter."""
    other = row["contender"] in (MODULE, "vit_pytorch")  # what is measured against, and another network
    hue: Hue = "norm" if other else "iwsa"
    middle = y + ROW / 2
    times = "" if other else f"  ({row['ratio']['median']:.2f} ×)"
    diagram.bars.append(Bar(LEFT, middle - BAR / 2, ends[0] - LEFT, BAR, hue, pale=True))
    diagram.lines.append(Line(((ends[1], middle), (ends[2], middle)), hue, 2))
    diagram.texts.append(Text(LEFT - 9, middle + 5, _name(row), "right", SMALL))
    diagram.note(max(ends) + 9, middle + 5, f"{row['batch'] / row['seconds']['median']:.1f}{times}", color="ink")


def _ticks(most: float) -> list[float]:
    """At most seven round numbers from 0, in steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(most / 6))
    step = next(power * digit for digit in (1, 2, 5, 10) if most / (power * digit) <= 6)
    return [step * i for i in range(math.floor(most / step) + 1)]


def alt(found: dict[str, Any]) -> str:
    """What the picture shows, in words."""
    said = []
    for work, rows in groupby(ran(found), key=_work):
        rates = [f"{_name(row)} {row['batch'] / row['seconds']['median']:.1f}" for row in rows]
        said.append(f"{work}: {', '.join(rates)}")
    return f"Images a second of each contender. {'; '.join(said)}."


def _name(row: dict[str, Any]) -> str:
    return "torch.nn" if row["contender"] == MODULE else str(row["contender"])


def _work(row: dict[str, Any]) -> str:
    return f"{row['variant']}, {several(row['batch'], 'image')} of {row['size']}², {row['dtype']} on {row['device']}"
