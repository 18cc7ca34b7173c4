"""An open file, as a format's reader is given it."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.files.reading import IrregularFileError, open_regular

HEAD = 512
"""First bytes of a file by which it is told, at most."""

ENDINGS = (
    ".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".npz", ".msgpack", ".pdparams", ".h5", ".hdf5", ".keras", ".onnx",
)  # fmt: skip
"""Of the names of checkpoints, in lower case: where a folder or an archive holds one. A file is told by its content."""

Opened: TypeAlias = tuple[Any, dict[str, Any], str]
"""A file's tree of containers, arrays, plain values and Opaques; its notes, as they are; the name of its format."""


class SourceFile(io.BufferedReader):
    """A regular file that is read, and knows its path, and whether somebody has changed it meanwhile.

    Raises CheckpointError for what is no regular file, and OSError as `open` does.
    """

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(open_regular(path).detach())  # type: ignore[attr-defined]
        except IrregularFileError as error:
            raise CheckpointError("no regular file", file=path, expected="a checkpoint file") from error
        self.path, self._first = path, self._state()

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        """In bytes, when it was opened."""
        return self._first[0]

    def check_unchanged(self) -> None:
        """Raise CheckpointError where the file was written to since it was opened: what was read of it may be of two files."""
        if self._state() != self._first:
            problem = "the file was changed while it was read: try again when nobody writes to it"
            raise CheckpointError(problem, file=self.path)

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self.fileno())
        return found.st_size, found.st_mtime_ns


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
