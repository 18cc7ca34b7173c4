"""The page `docs/benchmarks.md`, from the document of a real run: `bench --page FILE`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scalablevit_ref.benchmark.contenders import MODULE
from scalablevit_ref.benchmark.plot import alt

GOALS = {"numpy": 1.0, "torch": 1.3, "torch.compile": 1.5, "jax": 1.0}
"""Times as fast as the plain module, on a CPU, that a contender should be."""

INTRODUCTION = """\
How fast and how large the specification is on each backend, beside the authors' network in plain `torch.nn` run eagerly
(`scalablevit_ref/adapters/plain.py`; its state dict is the official one). This page is written by `scalablevit-ref bench --full
--page FILE.md --plot FILE.svg --json > FILE.json` from one run, whose figures are all in that JSON document; nothing in it is
entered by hand.

All contenders have the same number of threads, the same random weights and the same images, and compute the same logits; they
run in turn in one process, in random order within each round. Times are medians with their quartiles. A ratio is how many times
as fast as the plain module, from the rounds' own pairs, with a 95 % confidence interval (bootstrap). vit_pytorch's network of
that name is another one with more multiply-adds: its ratio (*) is at an equal number of them. "Of peak" is the share of the rate of
a large matrix product that the multiply-adds reach, "peak MB" the memory of a second pass beyond what was held before it.
"""


def page(found: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """Markdown. pictures: the addresses of `plot`'s for light and for dark pages, as seen from the page."""
    names = dict.fromkeys(row["variant"] for row in found["forward"])
    parts = [f"# Benchmarks of {' and '.join(names)}\n", INTRODUCTION, *_machine(found), *doubts(found), "## Forward passes\n"]
    shown = [f"![{alt(found)}]({address}#only-{theme})" for address, theme in zip(pictures, ("light", "dark"), strict=False)]
    parts += ["\n".join(shown) + "\n"] if shown else []
    parts += [_forward(found["forward"]), *_goals(found["forward"])]
    return "\n".join([*parts, *_rest(found)])


def doubts(found: dict[str, Any]) -> list[str]:
    """A line about figures that cannot be, if there are some; a machine whose clock wanders may show a little over 100 %."""
    impossible = any(row.get("share_of_matmul_peak", 0) > 1.1 for row in found["forward"])
    said = "Far over 100 % of peak: the matrix product was measured while the machine did other work. Do not trust these times.\n"
    return [said] if impossible else []


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _machine(found: dict[str, Any]) -> Iterator[str]:
    m = found["machine"]
    yield (
        f"{m['date']}; {m['cpu']}, {m['cores']} cores, {m['threads']} threads; {m['system']}, Python {m['python']}; "
        + ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        + f"; GPU: {found['gpu'] or 'none, so that nothing was run on CUDA and CuPy was not run at all'}.\n"
    )
    for kind, rate in found["matmul_gflops"].items():
        yield f"A large matrix product in {kind}: {rate:.0f} GFLOP/s (a multiply-add is two).\n"


HEADINGS = ("ms/image", "quartiles", "times as fast", "95 %", "of peak", "peak MB")
"""Of `cells`. "of peak": the share of the rate of a large matrix product that the multiply-adds reach."""


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of a row that was run, as words."""
    seconds, ratio = row["seconds"], row["ratio"]
    each, low, high = (1e3 * seconds[key] / row["batch"] for key in ("median", "low", "high"))
    interval = f"{ratio['low']:.2f}–{ratio['high']:.2f}"
    if row["contender"] == MODULE:
        times, interval = "1", ""
    elif row["contender"] == "vit_pytorch":
        times, interval = f"{row['ratio_at_equal_work']:.2f}*", ""
    else:
        times = f"{ratio['median']:.2f}"
    memory = f"{row['peak_megabytes']:.0f}" if "peak_megabytes" in row else ""
    return [f"{each:.1f}", f"{low:.1f}–{high:.1f}", times, interval, f"{row['share_of_matmul_peak']:.0%}", memory]


def absences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was not run, and why, each once."""
    return list(dict.fromkeys(f"{r['contender']} ({r['variant']}): {r['absent']}" for r in rows if "absent" in r))


def _forward(rows: Sequence[dict[str, Any]]) -> str:
    ran = [row for row in rows if "absent" not in row]
    lines = [[f"{r['variant']} {r['size']}² × {r['batch']}", f"{r['dtype']} {r['device']}", r["contender"], *cells(r)] for r in ran]
    notes = "".join(f"- not run: {absence}\n" for absence in absences(rows))
    return table(["work", "in", "contender", *HEADINGS], lines) + (f"\n{notes}" if notes else "")


def _goals(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    lines = []
    for row in rows:
        goal = GOALS.get(row["contender"])
        if goal is None or "absent" in row or row["device"] != "cpu" or row["dtype"] != "float32":
            continue
        found = row["ratio"]["median"]
        verdict = "reached" if found >= goal else f"{1 - found / goal:.0%} short"
        lines.append([f"{row['variant']} × {row['batch']}", row["contender"], f"{goal:.1f}", f"{found:.2f}", verdict])
    if lines:
        yield "## Goals for speed\n"
        yield "How many times as fast as the plain module this project wants each backend to be on a CPU, beside what it is.\n"
        yield table(["work", "contender", "goal", "found", ""], lines)


def _rest(found: dict[str, Any]) -> Iterator[str]:
    if "growth" in found:
        yield "## Cost as the image grows\n"
        yield "The exponent p in cost ~ tokensᵖ of a block of stage 0 on NumPy, in time and in counted multiply-adds.\n"
        lines = [
            [row["kind"].upper(), ", ".join(map(str, row["tokens"])), f"{row['exponent']:.2f}", f"{row['counted']:.2f}"]
            for row in found["growth"]
        ]
        yield table(["block", "tokens", "time", "multiply-adds"], lines)
    if "import" in found:
        total, own = found["import"]["total"], found["import"]["beyond_numpy_and_einops"]
        yield "## Import and conversion\n"
        yield f"`import scalablevit_ref`: {total:.3f} s, of which {own:.3f} s beyond NumPy and einops (goal: 0.25 s).\n"
        c = found["conversion"]
        yield (
            f"`{c['variant']}` ({c['megabytes']:.0f} MB), `.pth` to safetensors: {c['convert_seconds']:.2f} s, "
            f"{c['ratio']:.2f} times a copy written through to the disk ({c['copy_seconds']:.2f} s; goal: 2), and "
            f"{c['megabytes_of_memory']:.0f} MB of memory (goal: 200); `inspect`: {c['inspect_seconds']:.2f} s (goal: 1).\n"
        )
