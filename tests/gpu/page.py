"""`docs/benchmarks_gpu.md`, from the document of one run of `python -m tests.gpu`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from scalablevit_ref.benchmark.contenders import MODULE
from scalablevit_ref.benchmark.results import alt, doubts, error, milliseconds, ran, table

INTRODUCTION = """\
What ran on an NVIDIA GPU: the properties, the comparison of `small` with NumPy in float64, and forward passes of `small`. This page
is made from one run of `python -m tests.gpu`; nothing in it is entered by hand.
"""

SPEED = """\
Each time is the median of some runs, each of which is waited for. × is how many times as fast as the eager plain module in the same
dtype, in the process where that was fastest: where hundreds of kernels are launched one by one, the processor that launches them
sets the time, and processes differ by half. A CUDA graph launches all at once. The error is ‖logits − NumPy's‖ / ‖NumPy's‖ of the
first images, in eps of the arrays' dtype; NumPy computes in float64 from weights and images that are not rounded. "Of peak" is the
share of a large matrix product's rate that the multiply-adds reach. MB is the memory of a pass beyond weights and images. These
three are of the largest batch that ran. JAX runs with `XLA_FLAGS=--xla_gpu_enable_triton_gemm=false`, which spares it trials of
Triton's products.
"""

VERIFY = """\
The largest error of any intermediate of `small` on two images of 224², ‖Δ‖ / ‖reference‖ in eps of the dtype, and where it is.
PyTorch's float32 is measured without TF32.
"""

PROPERTIES = """\
The [properties](proof.md) with the arrays of each library on the GPU, and the tests of the CuPy backend on CuPy itself. JAX gets a
quarter of the drawn inputs.
"""

CONTENDERS = {
    "module": "the authors' network in plain `torch.nn`, eager",
    "torch": "ours on PyTorch, eager",
    "cupy": "ours on CuPy",
    "jax": "ours on JAX, under `jax.jit`",
    "module.replay": "the plain module's eager kernels in a CUDA graph",
    "torch.replay": "ours on PyTorch, eager kernels in a CUDA graph",
    "module.compile": "the plain module, `torch.compile`",
    "torch.compile": "ours, `torch.compile`",
    "module.graphs": "the plain module, compiled, in a CUDA graph",
    "torch.graphs": "ours, compiled, in a CUDA graph",
}
"""In the order of the tables."""

GOALS = (
    ("bfloat16", 64, "torch.compile", MODULE, 1.5),
    ("bfloat16", 64, "torch.graphs", MODULE, 1.5),
    ("float32", 64, "cupy", "torch", 0.7),
)
"""dtype, batch, contender, whom it is held against, and how many times as fast it should be."""


def gpu_page(found: dict[str, Any], pictures: Sequence[str]) -> str:
    """The page; `pictures` are the addresses of that for light and that for dark pages."""
    parts = ["# Benchmarks on a GPU\n", INTRODUCTION, *_machine(found)]
    parts += [f"{line}\n" for line in doubts(found)]
    parts += ["## Speed\n", *_speed(found, pictures)]
    parts += ["## Against NumPy in float64\n", *_verify(found)]
    parts += ["## The properties\n", *_properties(found)]
    return "\n".join(parts)


def pictured(found: dict[str, Any]) -> dict[str, Any]:
    """The part of the document that the picture shows: the largest batch."""
    rows = ran(found)
    most = max(row["batch"] for row in rows)
    return found | {"forward": sorted((row for row in rows if row["batch"] == most), key=_by_dtype)}


def _by_dtype(row: dict[str, Any]) -> tuple[int, int]:
    return ["float32", "tf32", "bfloat16", "float16"].index(row["dtype"]), list(CONTENDERS).index(row["contender"])


def _machine(found: dict[str, Any]) -> Iterator[str]:
    m = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    yield f"{m['date']}; {found['gpu']}; {m['cpu']}, {m['cores']} cores; {m['system']}, Python {m['python']}; {versions}.\n"


def _speed(found: dict[str, Any], pictures: Sequence[str]) -> Iterator[str]:
    yield SPEED
    shown = pictured(found)
    yield "".join(f"![{alt(shown)}]({path}#only-{theme})\n" for path, theme in zip(pictures, ("light", "dark"), strict=False))
    yield from _goals(found)
    rows = sorted(ran(found), key=_by_dtype)
    for dtype, of_dtype in groupby(rows, key=lambda row: str(row["dtype"])):
        yield f"### {dtype}\n"
        rate = found["matmul_gflops"][f"{dtype} cuda"] / 1e3
        if dtype == "tf32":
            yield "Float32 arrays; PyTorch may round the factors of products and convolutions to ten bits.\n"
        yield f"A large matrix product: {rate:.3g} TFLOP/s.\n"
        yield _table(list(of_dtype))
    lines = list(_missing(found))
    if lines:
        yield "What was not run, or failed (`.compile` is `torch.compile`, `.replay` and `.graphs` are in a CUDA graph):\n"
        yield "".join(lines)


def _table(rows: list[dict[str, Any]]) -> str:
    batches = sorted({row["batch"] for row in rows})
    cells = {(row["contender"], row["batch"]): row for row in rows}
    headings = ["", *(word for b in batches for word in (f"{b}: ms/image", "×")), "of peak", "error, eps", "MB"]
    lines = []
    for name, words in CONTENDERS.items():
        own = [cells.get((name, batch)) for batch in batches]
        largest = next((row for row in reversed(own) if row), None)
        if largest is None:
            continue
        times = [word for row in own for word in (_time(row, cells[MODULE, row["batch"]]) if row else ("", ""))]
        memory = f"{largest['peak_megabytes']:,.0f}" if "peak_megabytes" in largest else ""
        lines.append([words, *times, f"{largest['share_of_matmul_peak']:.0%}", error(largest), memory])
    return table(headings, lines)


def _time(row: dict[str, Any], module: dict[str, Any]) -> tuple[str, str]:
    return milliseconds(row), f"{module['seconds']['median'] / row['seconds']['median']:.2f}"


def _missing(found: dict[str, Any]) -> Iterator[str]:
    """A line for each reason why something was not run: who, and which works."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for row in found["forward"]:
        for what in {"absent", "failed"} & set(row):
            works = reasons.setdefault(row[what], {})
            works.setdefault(f"{row['dtype']} × {row['batch']}", []).append(f"`{row['contender']}`")
    for reason, by_work in reasons.items():
        groups: dict[str, list[str]] = {}
        for work, names in by_work.items():
            groups.setdefault(", ".join(names), []).append(work)
        said = [f"{names} ({', '.join(works)})" for names, works in groups.items()]
        yield f"- {reason}. {'; '.join(said)}\n"


def _goals(found: dict[str, Any]) -> Iterator[str]:
    rows = {(row["dtype"], row["batch"], row["contender"]): row for row in ran(found)}
    lines = []
    for dtype, batch, name, against, goal in GOALS:
        pair = [rows.get((dtype, batch, one)) for one in (against, name)]
        if all(pair):
            base, own = (row["seconds"]["median"] for row in pair if row)
            verdict = "reached" if base / own >= goal else f"{1 - base / own / goal:.0%} short"
            lines.append([CONTENDERS[name], CONTENDERS[against], f"{dtype} × {batch}", f"{goal}", f"{base / own:.2f}", verdict])
    if lines:
        yield "What this project wants, and what was found, in times as fast:\n"
        yield table(["who", "against", "work", "goal", "found", ""], lines)


def _verify(found: dict[str, Any]) -> Iterator[str]:
    yield VERIFY
    lines = []
    for row in found["verify"]["rows"]:
        what = f"{row['backend']} {row['dtype']}"
        if why := row.get("absent") or row.get("failed"):
            lines.append([what, "absent" if "absent" in row else "failed", "", why])
        else:
            verdict = "agrees" if row["agrees"] else "**differs**"
            lines.append([what, verdict, f"{row['worst_error_eps']:.2g} of {row['tolerance_eps']}", f"`{row['worst_tap']}`"])
    yield table(["", "", "error, eps", "at"], lines)
    if found["verify"]["failed"]:
        yield "".join(f"- {line}\n" for line in found["verify"]["failed"])


def _properties(found: dict[str, Any]) -> Iterator[str]:
    p = found["properties"]
    yield PROPERTIES
    names = {"torch": "PyTorch", "jax": "JAX", "cupy": "CuPy"}
    lines = [
        [names[name], str(own["passed"]), str(own["failed"]), "" if own["worst_eps"] is None else f"{own['worst_eps']:.3g}"]
        for name, own in p["libraries"].items()
    ]
    yield table(["", "passed", "failed", "worst error beside the oracle, eps"], lines)
    if not p["complete"]:
        yield f"The run was stopped before it had ended ({p['ended']}); what is counted had ended.\n"
    if p["failed"]:
        yield "".join(f"- failed: `{one['test']}`\n" for one in p["failed"])
