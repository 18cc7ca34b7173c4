"""Everything of the package that writes, as a small case each: prepared in a folder, and then called any number of times.

What is computed before is computed once or replaced, since these cases are for the writing. A writer's name is the file that it is
about; each gives a function of `force`, and writes into the folder that it was prepared in, and nothing else there.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import typer

import scalablevit_ref as sv
from scalablevit_ref.testing.traces import save_trace

DOCS = Path(__file__).parents[2] / "docs"

Write = Callable[[bool], object]

TINY = {"layer.weight": np.arange(6, dtype="float32")}
"""Weights that fill no more than the frame of a format."""

LAYER = "pos_block.0"
"""The layer with the smallest picture."""


def checkpoint(suffix: str, folder: Path) -> Write:
    from scalablevit_ref.checkpoints.save import write_state

    layout = {".h5": "keras", ".pdparams": "paddle"}.get(suffix, "official")
    target = folder / f"x{suffix}"
    return lambda force: write_state(target, TINY, None, layout=layout, force=force, allow_nonfinite=False)


def config_json(folder: Path) -> Write:
    """The weights beside it are a file of the same call, and are written first."""
    from scalablevit_ref.checkpoints.save import write_state

    beside = {"architecture": "x" * 500}
    options: dict[str, Any] = {"layout": "official", "allow_nonfinite": False, "config_json": beside}
    return lambda force: write_state(folder / "x.npz", TINY, None, force=force, **options)


def converted(folder: Path) -> Write:
    """A checkpoint and its manifest."""
    from scalablevit_ref.checkpoints.convert import convert_file

    config = sv.variant("digits", embed_dims=(2, 2, 2, 2), num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1))
    params = sv.init_params(config)
    sv.save_checkpoint(folder / "source.npz", params, config)
    return lambda force: convert_file(folder / "source.npz", folder / "x.npz", sha256=folder / "x.sha256", force=force)


def exported(folder: Path) -> Write:
    """The model is one of a few bytes."""
    import onnx

    from scalablevit_ref.adapters import onnx as adapter

    config = sv.variant("digits")
    sv.save_checkpoint(folder / "source.npz", sv.init_params(config), config)
    graph = onnx.helper.make_graph([], "x", [], [])

    def write(force: bool) -> None:
        options = adapter.ConvertOptions(force=force, sha256=folder / "x.sha256")
        with patch.object(adapter, "onnx_model", lambda *_, **__: onnx.helper.make_model(graph)):
            adapter.convert_file(folder / "source.npz", folder / "x.onnx", options)

    return write


def trace(suffix: str, folder: Path) -> Write:
    return lambda force: save_trace(folder / f"trace{suffix}", TINY, force=force)


def trace_command(folder: Path) -> Write:
    """A trace and the weights that it is of."""
    from scalablevit_ref.cli.trace import trace as command

    module = sys.modules[command.__module__]

    def write(force: bool) -> None:
        with patch.object(module, "reference_trace", lambda *_, **__: TINY), contextlib.redirect_stdout(io.StringIO()):
            as_told(partial(command, folder / "t.npz", variant_name="digits", save_weights=folder / "w.npz", force=force))

    return write


def picture(suffix: str, folder: Path) -> Write:
    from scalablevit_ref.drawing import draw

    config = sv.variant("digits")
    return lambda force: draw(config, folder / f"x{suffix}", name="digits", image_size=(112, 112), layer=LAYER, force=force)


def attention(folder: Path) -> Write:
    from scalablevit_ref.cli.attend import attend

    return lambda force: quietly(partial(attend, "digit:1", "stages.3.0", folder / "x.svg", force=force))


def compared(folder: Path) -> Write:
    """A report and its picture. The page, which says when it was made, is another one."""
    from scalablevit_ref.cli.compare import compare
    from scalablevit_ref.compare.html import page

    found = {name: np.ones((1, 10)) for name in ("head", "logits")}
    images = {"images": np.zeros((1, 1, 112, 112))}
    save_trace(folder / "theirs.npz", images | found)
    save_trace(folder / "mine.npz", images | found | {"head": 1.001 * found["head"]})
    files = {"candidate": str(folder / "mine.npz"), "reference": folder / "theirs.npz"}
    outputs = {"html": folder / "x.html", "plot": folder / "x.svg"}

    def write(force: bool) -> None:
        with patch.object(page, "html", lambda *_, **__: "<p>\n" * 500):
            quietly(partial(compare, **files, **outputs, variant_name="digits", diagnosis=False, force=force))

    return write


def page(folder: Path) -> Write:
    """A page of the benchmark, with its pictures for light and for dark pages."""
    from scalablevit_ref.cli.bench import bench

    module = sys.modules[bench.__module__]
    found = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))

    def write(force: bool) -> None:
        with patch.object(module, "document", lambda *_, **__: found):
            quietly(partial(bench, plot=folder / "x.svg", page=folder / "x.md", force=force))

    return write


def as_told(command: Callable[[], Any]) -> None:
    """A command as it is called from Python: what it refuses is an OSError of the words that it printed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command()
    except typer.Exit as end:
        if end.exit_code == 2:
            raise OSError(said.getvalue()) from None


def quietly(command: Callable[[], Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        as_told(command)


WRITERS: dict[str, Callable[[Path], Write]] = {
    **{suffix: partial(checkpoint, suffix) for suffix in (".pth", ".safetensors", ".npz", ".msgpack", ".h5", ".pdparams")},
    "config.json": config_json,
    "digest": converted,
    ".onnx": exported,
    "trace.npz": partial(trace, ".npz"),
    "trace.safetensors": partial(trace, ".safetensors"),
    "trace": trace_command,
    ".svg": partial(picture, ".svg"),
    ".png": partial(picture, ".png"),
    ".pdf": partial(picture, ".pdf"),
    "attend": attention,
    "compare": compared,
    "bench": page,
}
"""What prepares a writer in an empty folder, by a name for it."""
