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

from scalablevit_ref.benchmark.chart import ways
from scalablevit_ref.benchmark.contenders import MODULE
from scalablevit_ref.benchmark.recommend import COMPILED, lines
from scalablevit_ref.drawing.diagram import Bar, Diagram, Hue, Line, Text
from scalablevit_ref.drawing.facts import several
from scalablevit_ref.drawing.render import save
from scalablevit_ref.drawing.style import SMALL, WIDTH

HEADINGS = ("ms/image", "quartiles", "times as fast", "95 %", "of peak", "peak MB")
"""Of `cells`. "of peak": the share of the rate of a large matrix product that the multiply-adds reach."""

COSTS = ("error, eps", "build, s", "start, s", "process MB")
"""Of `costs`."""

FIRST = """\
Which way to run the network is fastest, and how exact each is. `scalablevit-ref bench --recommend` says what is fastest on your
machine, with the line of code for it.
"""

INTRODUCTION = """\
The authors' module is their network in plain `torch.nn`, run eagerly (`scalablevit_ref/adapters/plain.py`; its state dict is the
official one). This page is written by `scalablevit-ref bench` from one run; nothing in it is entered by hand.

All contenders have the same number of threads, the same random weights and the same images, and compute the same logits; they
run in turn in one process, in random order within each round. Times are medians with their quartiles. A ratio is how many times
as fast as the plain module in the same numbers, from the rounds' own pairs, with a 95 % confidence interval (bootstrap).
vit_pytorch's network of that name is another one with more multiply-adds: its ratio (*) is at an equal number of them. "Of peak" is
the share of the rate of a large matrix product that the multiply-adds reach, "peak MB" the memory of a second pass beyond what was
held before it, "process MB" all that a process holds at that peak which runs nothing else. "Build" are the seconds for a file that
is made once (`export` and `module` with a runtime's name, `aoti`), "start" those from the weights, or from that file, to the first
logits: what is compiled each time is in them. A run during which other processes took more than a tenth of the cores' time has no
ratios.

| contender | what runs |
| --- | --- |
| `module` | the plain module, eagerly |
| `torch`, `numpy`, `cupy` | ours on PyTorch, NumPy and CuPy, eagerly |
| `jax` | ours under `jax.jit` |
| `.compile` | `torch.compile` in one graph |
| `.freezing` | the same with the weights as constants |
| `.aoti` | a package of AOTInductor, likewise: of ours what `adapters.torch.ScalableViT(…).compiled()` makes |
| `export.ort`, `export.openvino` | the ONNX file of `adapters.onnx.export`, in ONNX Runtime and in OpenVINO |
| `module.ort`, `module.openvino` | the ONNX file that `torch.onnx.export` makes of the plain module |
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
    if ratio is None:  # of a disturbed run
        times, interval = "–", ""
    elif row["contender"] == MODULE:
        times, interval = "1", ""
    else:
        times, interval = f"{ratio['median']:.2f}", f"{ratio['low']:.2f}–{ratio['high']:.2f}"
    if ratio is not None and row["contender"] == "vit_pytorch":
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


def costs(row: dict[str, Any]) -> list[str]:
    """What a row says beside its speed, as words under `COSTS`; nothing where it was not measured."""
    figures = [row.get(key) for key in ("build_seconds", "start_seconds")]
    seconds = ["" if x is None else f"{x:.1f}" if x < 100 else f"{x:.0f}" for x in figures]
    return [error(row), *seconds, f"{row['process_megabytes']:.0f}" if "process_megabytes" in row else ""]


def multiplies_with(machine: dict[str, Any]) -> str:
    """What the processor has for products, where that is known."""
    there = machine.get("products")
    if not there or not any(there.values()):
        return ""
    has, lacks = ([name for name, found in there.items() if found is wanted] for wanted in (True, False))
    return f"the processor has {', '.join(has)}" + (f"; it has no {', no '.join(lacks)}" if lacks else "")


def ran(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were run."""
    return [row for row in found["forward"] if not {"absent", "failed"} & set(row)]


def doubts(found: dict[str, Any]) -> list[str]:
    """A line about figures that cannot be, if there are some; a machine whose clock wanders may show a little over 100 %."""
    said = "Far over 100 % of peak: the matrix product was measured while the machine did other work. Do not trust these times."
    load = found.get("load", {})
    lines = [said] * any(row["share_of_matmul_peak"] > 1.1 for row in ran(found))
    if load.get("gave_up_waiting"):
        lines.append(f"The machine was not quiet after {load['waited_seconds']:.0f} s of waiting.")
    for work in load.get("works", []):
        if work["disturbed"]:
            what = f"{work['variant']} × {work['batch']}"
            lines.append(
                f"Disturbed, so that there are times and no ratios ({what}): {'; '.join(work['disturbed'])}. Add --wait 10m."
            )
    return lines


def absences(found: dict[str, Any]) -> list[str]:
    """What was not run or not measured, and why, each once."""
    heads = {"absent": "not run: ", "failed": "failed: ", "peak_failed": "memory not measured: "}
    rows = found["forward"]
    said = [f"{head}{r['contender']} ({r['variant']}): {r[what]}" for r in rows for what, head in heads.items() if what in r]
    return list(dict.fromkeys(said))


def print_results(console: Console, found: dict[str, Any]) -> None:
    """Print a run's figures for a terminal."""
    machine = found["machine"]
    console.print(f"{found['gpu'] or machine['cpu']}, {several(machine['threads'], 'thread')}")
    for kind, rate in found["matmul_gflops"].items():
        console.print(f"large matrix product in {kind}: {rate:.0f} GFLOP/s")
    if units := multiplies_with(machine):
        console.print(units)
    console.print(_terminal_table(ran(found)))
    console.print(_table_of_costs(ran(found)))
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


def print_recommendation(console: Console, found: dict[str, Any]) -> None:
    """Print what is fastest, for a terminal, and what was not run; of a disturbed run the times."""
    machine = found["machine"]
    console.print(f"{machine['cpu']}, {several(machine['threads'], 'thread')}")
    if units := multiplies_with(machine):
        console.print(units)
    for line in lines(found["recommendation"]):
        console.print(line, soft_wrap=True)
    if any(item["disturbed"] for item in found["recommendation"]):
        console.print(_terminal_table(ran(found)))
    for absence in absences(found):
        console.print(absence, style="dim", soft_wrap=True)
    untried = [name for name in COMPILED if name not in {row["contender"] for row in found["forward"]}]
    if untried:
        console.print(f"not tried: {', '.join(untried)}, which compiles for minutes: add --full", style="dim")


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
        work = _work_in_columns(row, rows)
        found.add_row("" if work == before else work, row["contender"], *cells(row)[: len(headings)])
        before = work
    return found


def _work_in_columns(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The work of a row, with its dtype where there are several."""
    dtype = f" {row['dtype']}" if len({one["dtype"] for one in rows}) > 1 else ""
    return f"{row['variant']} x {row['batch']}{dtype}"


def _table_of_costs(rows: list[dict[str, Any]]) -> Table:
    """A line for each row: the error, and the seconds and the memory to get there. Columns that are empty are left out."""
    filled = [i for i in range(len(COSTS)) if any(costs(row)[i] for row in rows)]
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("work", overflow="fold")
    found.add_column("contender", no_wrap=True)
    for i in filled:
        found.add_column(Words(COSTS[i]), justify="right", no_wrap=True)
    before = ""
    for row in rows:
        work = _work_in_columns(row, rows)
        found.add_row("" if work == before else work, row["contender"], *(costs(row)[i] for i in filled))
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
    parts = [f"# Benchmarks of {' and '.join(names)}\n", FIRST, *(f"{line}\n" for line in doubts(found))]
    if pictures:
        themes = zip(pictures, ("light", "dark"), strict=False)
        words = chart(found).alt
        parts.append("".join(f"![{words}]({address}#only-{theme})\n" for address, theme in themes))
    parts += [*_machine(found), *folded("How it was measured", INTRODUCTION, ERROR)]
    headings = ["work", "in", "contender", *HEADINGS, *COSTS]
    rows = [[*_page_row(row), *costs(row)] for row in ran(found)]
    filled = [i for i in range(len(headings)) if i < 9 or any(row[i] for row in rows)]
    lines = [table([headings[i] for i in filled], [[row[i] for i in filled] for row in rows])]
    if absences(found):
        lines.append("".join(f"- {line}\n" for line in absences(found)))
    parts += folded("All forward passes", *lines)
    if "growth" in found:
        parts += folded("Cost as the image grows", *_growth(found))
    if "import" in found:
        parts += folded("Import and conversion", *_import_and_conversion(found))
    return "\n".join(parts)


def folded(summary: str, *parts: str) -> list[str]:
    """Parts of a page behind a line that opens them, on a site of mkdocs and on a page of GitHub."""
    return [f'<details markdown="1">\n<summary>{summary}</summary>\n', *parts, "</details>\n"]


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
    if units := multiplies_with(m):
        yield f"For products {units}.\n"
    for kind, rate in found["matmul_gflops"].items():
        yield f"A large matrix product in {kind}: {rate:.0f} GFLOP/s (a multiply-add is two).\n"


def _growth(found: dict[str, Any]) -> Iterator[str]:
    yield "The exponent p in cost ~ tokensᵖ of a block of stage 0 on NumPy, in time and in counted multiply-adds.\n"
    rows = [
        [row["kind"].upper(), ", ".join(map(str, row["tokens"])), f"{row['exponent']:.2f}", f"{row['counted']:.2f}"]
        for row in found["growth"]
    ]
    yield table(["block", "tokens", "time", "multiply-adds"], rows)


def _import_and_conversion(found: dict[str, Any]) -> Iterator[str]:
    total, own = found["import"]["total"], found["import"]["beyond_numpy_and_einops"]
    yield f"`import scalablevit_ref`: {total:.3f} s, of which {own:.3f} s beyond NumPy and einops.\n"
    c = found["conversion"]
    yield (
        f"`{c['variant']}` ({c['megabytes']:.0f} MB), `.pth` to safetensors: {c['convert_seconds']:.2f} s, "
        f"{c['ratio']:.2f} times a copy written through to the disk ({c['copy_seconds']:.2f} s), and "
        f"{c['megabytes_of_memory']:.0f} MB of memory; `inspect`: {c['inspect_seconds']:.2f} s.\n"
    )


def plot(found: dict[str, Any], path: Path, *, theme: str = "light", force: bool = False) -> None:
    """Write the picture of a run. See `drawing.render.save`."""
    save(chart(found), path, theme=theme, force=force)


def chart(found: dict[str, Any]) -> Diagram:
    """The picture of a run: of one on the CPU `chart.ways`, of one on a GPU `bars`."""
    rows = ran(found)
    return bars(found) if any(row["device"] != "cpu" for row in rows) else ways(found, rows)


def bars(found: dict[str, Any]) -> Diagram:
    """Images a second: one bar for each contender, a group for each work."""
    machine = found["machine"]
    diagram = Diagram("Images a second", alt=alt(found))
    y = diagram.heading(f"{found['gpu'] or machine['cpu']}, {several(machine['threads'], 'thread')}")
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
