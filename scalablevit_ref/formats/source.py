"""An open file, as a format's reader is given it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

HEAD = 512
"""First bytes of a file by which it is told, at most."""

ENDINGS = (
    ".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".npz", ".msgpack", ".pdparams", ".h5", ".hdf5", ".keras", ".onnx",
)  # fmt: skip
"""Of the names of checkpoints, in lower case: where a folder or an archive holds one. A file is told by its content."""

Opened: TypeAlias = tuple[Any, dict[str, Any], str]
"""A file's tree of containers, arrays, plain values and Opaques; its notes, as they are; the name of its format."""


@dataclass(frozen=True)
class Source:
    """An open file.

    Attributes
    ----------
    path
        As it was opened.
    size
        In bytes.
    head
        Its first bytes, HEAD at most.
    files
        Keeps open, as long as the file itself, what a reader opens besides.
    """

    path: Path
    file: BinaryIO
    size: int
    head: bytes
    files: ExitStack
