"""Every command of the command line, what it is asked to write, and what libraries write and start beside that."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.testing import random_images
from scalablevit_ref.testing.traces import reference_trace, save_trace
from tests.support.recorder import Footprint, recorded

PORTS = """
import scalablevit_ref as sv

def torch():
    from scalablevit_ref.adapters.torch import ScalableViT
    return ScalableViT(sv.variant("digits"))

def flax():
    from scalablevit_ref.adapters.flax import ScalableViT
    return ScalableViT("digits")
"""
"""The file `port.py` in the folder of a command."""


@dataclass(frozen=True)
class Command:
    """words: what is typed after `scalablevit-ref`. writes: what it is to write. needs: libraries that it cannot do without."""

    words: str
    writes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    code: int = 0

    def missing(self) -> list[str]:
        return [name for name in self.needs if not find_spec(name)]


COMMANDS = (
    Command("verify --variant digits --dtype float32"),
    Command("verify --variant small --backend numpy --dtype float32 --image photo.png"),
    Command("summary digits"),
    Command("evaluate labelled.npz --weights weights.pth --decoders 0 --resume new.txt --by-class new.csv", ("new.csv", "new.txt")),
    Command("inspect weights.pth --sha256"),
    Command("diff weights.pth other.npz", code=1),
    *(
        Command(f"convert weights.pth new{suffix}", (f"new{suffix}",), needs)
        for suffix, needs in (
            (".pth", ()),
            (".safetensors", ()),
            (".npz", ()),
            (".msgpack", ()),
            (".h5", ("h5py",)),
            (".pdparams", ()),
        )
    ),
    Command("convert weights.pth model.safetensors --verify --sha256 sums", ("config.json", "model.safetensors", "sums")),
    Command("convert weights.pth new.onnx --verify", ("new.onnx",), ("onnx", "onnxruntime")),
    Command("trace new.npz --variant digits --save-weights new.pth", ("new.npz", "new.pth")),
    Command("compare a.npz b.npz --html new.html --plot new.png", ("new.html", "new.png"), ("matplotlib",), 1),
    Command("compare port.py:torch --weights weights.pth", (), ("torch",)),
    Command("compare port.py:flax --weights weights.pth", (), ("flax",)),
    Command("compare model.onnx --weights weights.pth", (), ("onnx", "onnxruntime")),
    Command(
        "bench --variants digits --backends numpy,jax --rounds 3 --threads 1 --page new.md --plot new.svg",
        ("new.md", "new.svg", "new-dark.svg"),
        ("torch", "matplotlib"),
    ),
    *(Command(f"draw digits -o new{suffix}", (f"new{suffix}",), ("matplotlib",)) for suffix in (".svg", ".png", ".pdf")),
    Command("attend digit:0 --layer stages.0.1 -o new.svg", ("new.svg",), ("matplotlib",)),
)


@dataclass(frozen=True)
class Listed:
    """What a library writes of its own accord: who, a pattern of paths, how they are said on a page, and what for."""

    who: str
    path: str
    said: str
    why: str


CACHES = (
    Listed(
        "matplotlib",
        r"~/\.(config|cache)/matplotlib(/fontlist-….json(\.matplotlib-lock)?)?",
        "`~/.cache/matplotlib/fontlist-….json` and an empty `~/.config/matplotlib`",
        "the fonts that there are, the first time (`MPLCONFIGDIR` names another folder)",
    ),
    Listed(
        "CuPy",
        r"~/\.cupy(/kernel_cache(/.*)?)?",
        "`~/.cupy/kernel_cache`",
        "compiled kernels, where CuPy is installed (`CUPY_CACHE_DIR`)",
    ),
    Listed(
        "Python",
        r"(.*/)?__pycache__(/.*)?|Python's `__pycache__`",
        "`__pycache__` beside the modules",
        "compiled modules, of a port in `file.py` too (`PYTHONDONTWRITEBYTECODE`)",
    ),
)
"""All that may be written beside what was asked for. `…` is a version or a drawn name."""

PROGRAMS = {
    "fc-list": "matplotlib asks for the system's fonts, once",
    "ldconfig": "Python's `ctypes` looks for a library",
    "uname": "Python's `platform` asks for the processor's name, for h5py and `bench`",
}
"""All programs that a command or its libraries may start."""


def files(place: Path, onnx: Path | None = None) -> None:
    """What the commands read, in `place / "work"`."""
    work = place / "work"
    work.mkdir(parents=True)
    shutil.copy(digits.CHECKPOINT, work / "weights.pth")
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    sv.save_checkpoint(work / "other.npz", sv.init_params(checkpoint.config), checkpoint.config)
    images = random_images((1, 1, 112, 112))
    for name, seed in (("a", 0), ("b", 1)):
        params = sv.init_params(checkpoint.config, seed=seed, dtype="float64")
        save_trace(work / f"{name}.npz", reference_trace(images, params, checkpoint.config), checkpoint.config)
    np.savez(work / "labelled.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    Image.new("RGB", (40, 30), "teal").save(work / "photo.png")
    (work / "port.py").write_text(PORTS, encoding="utf-8")
    if onnx:
        shutil.copy(onnx, work / "model.onnx")


def footprint(command: Command, place: Path) -> Footprint:
    return recorded(["scalablevit_ref", *command.words.split()], place)


def unlisted(command: Command, seen: Footprint) -> Iterator[str]:
    """What a command did that it was not asked for and that is not listed."""
    yield from (f"a connection: {what}" for what in seen.connections)
    yield from (f"a program: {name}" for name in sorted(seen.programs - PROGRAMS.keys()))
    yield from (f"not written: {name}" for name in command.writes if name not in seen.left)
    for path in sorted((seen.left | seen.passing) - set(command.writes)):
        if not of_caches([path]) and not (command.writes and path in seen.passing and ON_ITS_WAY.fullmatch(path)):
            yield f"written: {path}"


def of_caches(paths: Iterable[str]) -> list[Listed]:
    return [listed for listed in CACHES if any(re.fullmatch(listed.path, path) for path in paths)]


ON_ITS_WAY = re.compile(r"\.scalablevit_ref\.[0-9a-f.]+\.part")
"""A temporary file of this package beside a target."""
