"""ONNX models whose weights are said to lie in other files: elsewhere, in circles, in more and larger ones than there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.bombs_graphs import field, initialiser, onnx
from tests.support.bombs_traces import Made

NAME = "stages.0.0.norm1.weight"

ELSEWHERE = f"{NAME}: external data; expected a file in the model's folder"

UNOPENED = f"{NAME}: external data that cannot be opened"

MISFIT = f"{NAME}: bytes that do not fit shape, dtype or file"


def outside(location: str, name: str = NAME, **texts: str) -> bytes:
    """A tensor of two numbers in another file."""
    pairs = {"location": location, **texts}.items()
    return initialiser(name, field(1, 2), *(field(13, field(1, key.encode()) + field(2, said.encode())) for key, said in pairs))


def model(*tensors: bytes, before: Callable[[Path], object] = lambda folder: None) -> Callable[[Path], Path]:
    """What is made in the folder before, and then a model there."""

    def make(folder: Path) -> Path:
        before(folder)
        path = folder / "x.onnx"
        path.write_bytes(onnx(*tensors))
        return path

    return make


def linked(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


def sparse(size: int) -> Callable[[Path], None]:
    """A file that is so large and takes no room."""

    def make(folder: Path) -> None:
        (folder / "data").touch()
        os.truncate(folder / "data", size)

    return make


def many(count: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for i in range(count):
            (folder / f"{i}").write_bytes(bytes(8))

    return make


EXTERNAL_BOMBS: Made = {
    "a device": (model(outside("/dev/zero")), ELSEWHERE),
    "a folder above": (model(outside("../x.onnx")), ELSEWHERE),
    "folders above and below": (model(outside("a/../../x"), before=lambda folder: (folder / "a").mkdir()), ELSEWHERE),
    "the folder": (model(outside(".")), ELSEWHERE),
    "a folder": (model(outside("a"), before=lambda folder: (folder / "a").mkdir()), f"{ELSEWHERE}|a folder|regular"),
    "nothing": (model(outside("")), ELSEWHERE),
    "a name that is not there": (model(outside("data")), ELSEWHERE),
    "a name of 5,000 letters": (model(outside("a" * 5000)), f"{ELSEWHERE}|{UNOPENED}"),
    "a name of 300 letters": (model(outside("a" * 300)), f"{ELSEWHERE}|{UNOPENED}"),
    "a name of a control sequence": (model(outside("\x1b[2J\r\n")), ELSEWHERE),
    "a name with an end": (model(outside("x.onnx\0.bin")), ELSEWHERE),
    "a path of 20,000 folders": (model(outside("a/" * 20_000)), f"{ELSEWHERE}|{UNOPENED}"),
    "a link to itself": (model(outside("loop"), before=linked("loop", "loop")), f"{ELSEWHERE}|{UNOPENED}"),
    "a link to a device": (model(outside("zero"), before=linked("zero", "/dev/zero")), ELSEWHERE),
    "a link to a secret": (model(outside("passwd"), before=linked("passwd", "/etc/passwd")), ELSEWHERE),
    "a link to a folder of secrets": (model(outside("etc/passwd"), before=linked("etc", "/etc")), ELSEWHERE),
    "a FIFO": (model(outside("fifo"), before=lambda folder: os.mkfifo(folder / "fifo")), "a FIFO|regular"),
    "a file of 3 GiB": (model(outside("data"), before=sparse(3 << 30)), "fit no variant|no known layout"),
    "a run beyond the file": (model(outside("data", offset="4"), before=sparse(8)), MISFIT),
    "a run before the file": (model(outside("data", offset="-8"), before=sparse(8)), MISFIT),
    "a run of many digits": (model(outside("data", offset="9" * 4000), before=sparse(8)), MISFIT),
    "a run of more digits": (model(outside("data", offset="9" * 30_000), before=sparse(8)), f"{MISFIT}|damaged external data|text"),
    "a run of another length": (model(outside("data", length="4"), before=sparse(8)), MISFIT),
    "a run of no length": (model(outside("data", length="-1"), before=sparse(8)), MISFIT),
    "a run that is no number": (model(outside("data", offset="\x1b[2J"), before=sparse(8)), "damaged external data"),
    "1,500 files": (
        model(*(outside(f"{i}", f"stages.0.{i}.norm1.weight") for i in range(1500)), before=many(1500)),
        "external data in more files than a network's|external data that cannot be opened",
    ),
    "50,000 runs of one file": (
        model(*(outside("data", f"stages.0.{i}.norm1.weight") for i in range(50_000)), before=sparse(8)),
        "fit no variant|larger than|more|no known layout",
    ),
}  # fmt: skip
"""What makes each model in an empty folder, and what is said of it."""
