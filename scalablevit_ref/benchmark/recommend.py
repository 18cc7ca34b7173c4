"""Which way is fastest on this machine: read from a run's document, with the line of code for each way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalablevit_ref.benchmark.chart import eps_in_words, rate, times_as_fast
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE

LINES = {
    "numpy": ("import scalablevit_ref as sv", "logits = sv.scalable_vit(images, params, config)"),
    "jax": (
        "import jax, scalablevit_ref as sv",
        "params = sv.to_backend(params, 'jax'{dtype})",
        "logits = jax.jit(sv.scalable_vit, static_argnums=2)(images, params, config)",
    ),
    "torch": (
        "from scalablevit_ref.adapters.torch import ScalableViT",
        "network = ScalableViT(config, params=params){to}.eval()",
    ),
    "torch.aoti": (
        "from scalablevit_ref.adapters.torch import ScalableViT",
        "network = ScalableViT(config, params=params){to}.compiled()",
    ),
    "export.ort": (
        "from scalablevit_ref.adapters import onnx",
        "onnx.export(params, config, '{name}.onnx', image_size={size}, batch={batch}{dtype})",
        "network = onnx.session('{name}.onnx')",
    ),
    "export.openvino": (
        "from scalablevit_ref.adapters import onnx, openvino",
        "onnx.export(params, config, '{name}.onnx', image_size={size}, batch={batch})",
        "network = openvino.session('{name}.onnx'{dtype})",
    ),
}
"""How each way is run, of `params`, `config` and `images`. Only these are recommended: the others are run for comparison."""

QUICK = ("numpy", "torch", "jax", "export.ort", "export.openvino")
"""What a recommendation times: nothing that compiles for minutes."""

COMPILED = ("torch.aoti",)
"""What it times too where the user has the minutes."""

WIDE, NARROW = ("float32",), ("bfloat16", "float16")


def recommendation(found: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest way of each work in float32, and in 16 bits if that is faster.

    Parameters
    ----------
    found
        The run's document.
    rows
        Its rows that ran.

    Returns
    -------
    list
        For each batch one item: what is recommended in `float32` and in `bits16`, or None, each with its contender, its speed, its
        error, its seconds to start, and its `code`. A way whose error is above the tolerance of the tests is not recommended.
        `disturbed` says why the figures cannot be held against each other, where they cannot.
    """
    disturbed = {(one["variant"], one["batch"], one["size"]): one["disturbed"] for one in found["load"]["works"]}
    works: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        works.setdefault((row["variant"], row["batch"], row["size"]), []).append(row)
    items = []
    for (name, batch, size), own in works.items():
        wide, narrow = _fastest(own, WIDE), _fastest(own, NARROW)
        if wide and narrow and rate(narrow) <= rate(wide):
            narrow = None
        work = {"variant": name, "batch": batch, "size": size}
        items.append(
            work
            | {"limit_eps": NETWORK_TOLERANCE["float32"], "disturbed": disturbed.get((name, batch, size), [])}
            | {key: row and _said(row) for key, row in (("float32", wide), ("bits16", narrow))}
        )
    return items


def _fastest(rows: Sequence[dict[str, Any]], dtypes: Sequence[str]) -> dict[str, Any] | None:
    able = [
        row
        for row in rows
        if row["contender"] in LINES and row["dtype"] in dtypes and row["error_eps"] <= NETWORK_TOLERANCE[row["dtype"]]
    ]
    return max(able, key=rate, default=None)


def _said(row: dict[str, Any]) -> dict[str, Any]:
    seconds = {key: row[key] for key in ("build_seconds", "start_seconds") if key in row}
    figures = {"images_per_second": rate(row), "times_as_fast": times_as_fast(row), "error_eps": row["error_eps"]}
    return {"contender": row["contender"], "dtype": row["dtype"]} | figures | seconds | {"code": code(row)}


def code(row: Mapping[str, Any]) -> list[str]:
    """The lines with which a row's way is run."""
    other = row["dtype"] != "float32"
    words = {
        "name": row["variant"],
        "size": row["size"],
        "batch": row["batch"],
        "dtype": f", dtype={row['dtype']!r}" if other else "",
        "to": f".to(torch.{row['dtype']})" if other else "",
    }
    return [line.format(**words) for line in LINES[row["contender"]]]


def lines(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """A recommendation for a terminal."""
    said = []
    for item in items:
        said.append(f"{item['variant']} x {item['batch']} at {item['size']}")
        if item["disturbed"]:
            said.append(f"  no recommendation: {'; '.join(item['disturbed'])}. Add --wait 10m.")
            continue
        for key, what in (("float32", "float32"), ("bits16", "16 bits")):
            way = item[key]
            if way is None:
                none = f"nothing within {item['limit_eps']} eps" if key == "float32" else "nothing is faster than float32"
                said.append(f"  {what}: {none}")
                continue
            times = f"{way['times_as_fast']:.2f} x the eager module, " if way["times_as_fast"] else ""
            percent = f" ({100 * way['error_eps'] * EPS[way['dtype']]:.2g} %)" if key == "bits16" else ""
            often = "compile in each process" if way["contender"] in COMPILED else "build once"
            ahead = f", {way['build_seconds']:.0f} s to {often}" if "build_seconds" in way else ""
            figures = f"{way['images_per_second']:.1f} images a second, {times}error {eps_in_words(way['error_eps'])}{percent}"
            said.append(f"  {what}: {way['contender']} in {way['dtype']}: {figures}, {way['start_seconds']:.0f} s to start{ahead}")
            said += [f"      {line}" for line in way["code"]]
    return said
