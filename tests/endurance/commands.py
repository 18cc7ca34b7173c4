"""Every command that writes, small and quick; and how it is run in a process that is forked from one with the libraries loaded.

The process that forks computes with one thread and never loads JAX: a fork has no thread but its own.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref import _start
from scalablevit_ref.cli import COMMANDS
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.traces import reference_trace, save_trace

TINY = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(7,),
    num_classes=3,
    in_chans=1,
    head="linear",
)
"""Some 2,000 parameters; takes the embedded digits."""

OLD = b'{"what was": "there before"}\n'
AB = ("a", "b")
"""The two sources of every command, of different numbers."""


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    words
        `{x}` is the source's name, `a` or `b`; `{theme}` goes with it.
    targets
        All files that it writes.
    needs
        Libraries that it cannot do without.
    """

    words: str
    targets: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def typed(self, x: str, *, force: bool) -> list[str]:
        words = self.words.format(x=x, theme={"a": "light", "b": "dark"}[x]).split()
        return [*words, "--force"] if force else words

    @property
    def name(self) -> str:
        """As the page says it."""
        return " ".join([self.words.split()[0], *self.targets])


WRITERS = tuple(
    writer
    for writer in (
        Writer("convert {x}.npz t.pth", ("t.pth",)),
        Writer("convert {x}.npz t.safetensors --sha256 sums", ("t.safetensors", "sums")),
        Writer("convert {x}.npz model.safetensors --config-json", ("model.safetensors", "config.json")),
        Writer("convert {x}.npz t.npz", ("t.npz",)),
        Writer("convert {x}.npz t.msgpack", ("t.msgpack",)),
        Writer("convert {x}.npz t.h5", ("t.h5",), ("h5py",)),
        Writer("convert {x}.npz t.pdparams", ("t.pdparams",)),
        Writer("convert {x}.npz t.onnx", ("t.onnx",), ("onnx",)),
        Writer("trace t.npz --weights {x}.npz --save-weights w.pth", ("t.npz", "w.pth")),
        Writer("trace t.safetensors --weights {x}.npz", ("t.safetensors",)),
        Writer("draw digits --theme {theme} -o t.svg", ("t.svg",), ("matplotlib",)),
        Writer("draw digits --theme {theme} -o t.png", ("t.png",), ("matplotlib",)),
        Writer("draw digits --theme {theme} -o t.pdf", ("t.pdf",), ("matplotlib",)),
        Writer("attend digit:0 --layer stages.0.1 --weights {x}.npz -o t.svg", ("t.svg",), ("matplotlib",)),
        Writer("compare trace_{x}.npz trace_c.npz --no-diagnosis --html t.html --plot t.png", ("t.html", "t.png"), ("matplotlib",)),
        Writer("bench --variants digits --page t.md --plot t.svg", ("t.md", "t.svg", "t-dark.svg"), ("torch", "matplotlib")),
    )
    if all(find_spec(name) for name in writer.needs)
)


def sources(folder: Path) -> None:
    """What the commands read."""
    folder.mkdir(parents=True, exist_ok=True)
    images = random_images((1, 1, 112, 112))
    for seed, x in enumerate((*AB, "c")):
        params = random_params(sv.parameter_shapes(TINY), seed)
        sv.save_checkpoint(folder / f"{x}.npz", params, TINY)
        save_trace(folder / f"trace_{x}.npz", reference_trace(images, params, TINY), TINY)


def read(path: Path) -> None:
    """Raise for a file that is not whole, or that nobody can read."""
    content = path.read_bytes()
    match path.suffix:
        case ".svg":
            assert ET.fromstring(content).tag.endswith("svg")
        case ".png":
            with Image.open(path) as picture:
                picture.load()
        case ".pdf":
            assert content.startswith(b"%PDF-")
            assert content.rstrip().endswith(b"%%EOF")
        case ".html":
            assert content.rstrip().endswith(b"</html>")
        case ".json":
            json.loads(content)
        case ".md" | "":
            assert content.endswith(b"\n")
        case _ if (
            path.stem == "t" and path.suffix in (".npz", ".safetensors") and b"stages.0.0.norm1" in content and b"images" in content
        ):
            trace_of(path)
        case _:
            assert len(sv.load_checkpoint(path, config=TINY).params) == len(sv.parameter_shapes(TINY))


def trace_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as held:
            return dict(held)
    from safetensors.numpy import load_file

    return dict(load_file(path))


# Forks


@dataclass(frozen=True)
class Ended:
    """code: negative for the signal that ended it. said: what it printed on standard error."""

    code: int
    said: str


@dataclass(frozen=True)
class Running:
    process: int
    heard: int

    def end(self) -> Ended:
        """Wait for it."""
        said = b""
        while some := os.read(self.heard, 1 << 16):
            said += some
        os.close(self.heard)
        return Ended(os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), said.decode(errors="replace"))


def start(work: Callable[[], object]) -> Running:
    """In a process that is forked from this one. What work returns, or exits with, is its exit code."""
    heard, told = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process:
        os.close(told)
        return Running(process, heard)
    code = 120
    try:
        os.close(heard)
        os.dup2(told, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.close(told)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = _code(work)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _code(work: Callable[[], object]) -> int:
    try:
        return int(work() or 0)  # type: ignore[call-overload,no-any-return]
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        import traceback

        traceback.print_exception(error)
        return 121


def forked(work: Callable[[], object]) -> Ended:
    return start(work).end()


def command(words: list[str], folder: Path) -> None:
    """Type this in that folder. `bench` gets figures that were measured before."""
    os.chdir(folder)
    if words[0] == "bench":
        figures = measured()
        import_module("scalablevit_ref.cli.bench").document = lambda *args, **kwargs: figures  # type: ignore[attr-defined]
    sys.argv = ["scalablevit-ref", *words]
    _start.OWNS_SIGNALS = _start.prepare()  # this process is the command line, which owns its signals
    runpy.run_module("scalablevit_ref", run_name="__main__", alter_sys=False)


@cache
def measured() -> Any:
    """What `bench` finds, from a process of its own: it loads PyTorch."""
    words = ["bench", "--variants", "digits", "--backends", "numpy", "--rounds", "3", "--threads", "1", "--json"]
    done = subprocess.run([sys.executable, "-m", "scalablevit_ref", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def preload(needs: set[str]) -> None:
    """Load what the commands load, and draw once, before the first fork."""
    for name in COMMANDS:
        import_module(f"scalablevit_ref.cli.{name}")
    if "onnx" in needs:
        import onnx  # noqa: F401
    if find_spec("torch"):  # a .pth is written by it
        import torch

        torch.set_num_threads(1)
    if "matplotlib" in needs:
        import matplotlib as mpl

        mpl.use("agg")
        from scalablevit_ref.drawing import draw

        measured()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                for suffix in ("svg", "png", "pdf"):
                    draw(sv.variant("digits"), Path(folder) / f"x.{suffix}", name="digits", image_size=(112, 112))
