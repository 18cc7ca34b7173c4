"""The initialisers of an ONNX file, without onnx: a reader that trusts nothing, for files from anywhere.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import LONGEST_NAME, MOST_AXES, Extent, StoredTensor, numpy_dtype, row_major

MOST_BYTES = 1 << 31
"""Largest ONNX file that is read, in bytes. It is one protobuf message; weights in files beside it are not counted."""

MOST_FIELDS = 1 << 20
"""Most fields and numbers that are read of a file."""

_LONGEST_TEXT = 1 << 20
"""Longest text that is read, in bytes."""

_DTYPES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}

_OTHERS = {3: "segments", 5: "int32_data", 6: "strings", 7: "int64_data", 11: "uint64_data"}
"""Fields of a tensor that weights are not in."""


class Reader:
    """A walk through the protobuf message, past everything but the metadata and the initialisers, whose bytes stay in the file."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self.folder, self.files, self.left = path.parent, files, MOST_FIELDS
        self.opened: dict[Path, tuple[BinaryIO, int]] = {}
        self.file, self.size = self.open(path)

    def open(self, path: Path) -> tuple[BinaryIO, int]:
        """A regular file and its size; opening a FIFO would wait for ever."""
        if path not in self.opened:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise CheckpointError("no regular file of at most 2 GiB, as an ONNX file is", found=path.name)
            self.opened[path] = self.files.enter_context(path.open("rb")), status.st_size
        return self.opened[path]

    def parameters(self) -> tuple[dict[str, StoredTensor], dict[str, str]]:
        """The initialisers of floating point with a dot in their name (the others are constants), and the metadata."""
        tensors: dict[str, tuple[Extent, np.dtype[Any], tuple[int, ...]]] = {}
        notes: dict[str, str] = {}
        for number, begin, size in self.fields(0, self.size):
            if number == 14:  # ModelProto.metadata_props
                notes.update([self.pair(begin, size)])
            elif number == 7:  # ModelProto.graph
                for inner, start, length in self.fields(begin, size):
                    if inner == 5 and (found := self.tensor(start, length)):  # GraphProto.initializer
                        if found[0] in tensors:
                            raise CheckpointError("two initialisers of one name", key=found[0])
                        tensors[found[0]] = found[1:]
        limit = sum(size for _, size in self.opened.values())
        return {
            name: StoredTensor(extent, dtype, 0, shape, row_major(shape), limit) for name, (extent, dtype, shape) in tensors.items()
        }, notes

    def tensor(self, begin: int, size: int) -> tuple[str, Extent, np.dtype[Any], tuple[int, ...]] | None:
        name, kind, other = "", 0, None
        shape: list[int] = []
        data: list[tuple[int, int]] = []
        elsewhere: dict[str, str] = {}
        for number, start, length in self.fields(begin, size):
            if number == 1:  # dims, one at a time or packed
                shape += [start] if length < 0 else self.numbers(start, length)
            elif number == 2:
                kind = start
            elif number == 8:
                name = self.text(start, length, LONGEST_NAME)
            elif number in (4, 9, 10):  # float_data, raw_data, double_data: little-endian numbers
                data.append((start, length))
            elif number == 13:
                elsewhere.update([self.pair(start, length)])
            else:
                other = _OTHERS.get(number, other)
        if "." not in name or kind not in _DTYPES:
            return None
        if len(shape) > MOST_AXES:
            raise CheckpointError("more axes than an array can have", key=name, expected=f"at most {MOST_AXES}", found=len(shape))
        dtype, file, file_size = numpy_dtype(_DTYPES[kind]), self.file, self.size
        needed = math.prod(shape) * dtype.itemsize
        if elsewhere and not data:
            file, file_size = self.open(self.beside(name, elsewhere.get("location", "")))
            try:
                data = [(int(elsewhere.get("offset", "0")), int(elsewhere.get("length", str(needed))))]
            except ValueError as error:
                raise CheckpointError("damaged external data", key=name, found=brief(elsewhere)) from error
        if len(data) != 1 or other:
            raise CheckpointError("values in another form than one run of bytes", key=name, found=other or f"{len(data)} runs")
        start, length = data[0]
        if length != needed or start < 0 or start + length > file_size:
            found = f"{brief(length)} bytes at {brief(start)} of {file_size}"
            raise CheckpointError("bytes that do not fit shape, dtype or file", key=name, expected=brief(needed), found=found)
        return name, Extent(file, start, length, name=name), dtype, tuple(shape)

    def beside(self, name: str, location: str) -> Path:
        """The file of external data: in the model's folder, also once links are followed."""
        folder = self.folder.resolve()
        path = (folder / location).resolve() if location and "\0" not in location else folder
        if path == folder or not path.is_relative_to(folder) or not path.exists():
            raise CheckpointError("external data", key=name, expected="a file in the model's folder", found=brief(location))
        return path

    def pair(self, begin: int, size: int) -> tuple[str, str]:
        texts = {number: self.text(start, length, _LONGEST_TEXT) for number, start, length in self.fields(begin, size)}
        return texts.get(1, ""), texts.get(2, "")

    def text(self, begin: int, size: int, longest: int) -> str:
        if not 0 <= size <= longest:
            raise CheckpointError("not an ONNX file: a text of impossible length", expected=f"at most {longest} bytes", found=size)
        self.file.seek(begin)
        return self.file.read(size).decode(errors="replace")

    def numbers(self, begin: int, size: int) -> list[int]:
        found, at = [], begin
        while at < begin + size:
            value, at = self.varint(at, begin + size)
            found.append(value)
        return found

    def fields(self, begin: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Number, start and length of each field of a message; of a plain number its value, and −1."""
        at, end = begin, begin + size
        if size < 0:
            raise _damaged(begin)
        while at < end:
            key, at = self.varint(at, end)
            value, length = at, {1: 8, 5: 4}.get(key & 7, -1)
            if key & 7 == 0:
                value, at = self.varint(at, end)
            elif key & 7 == 2:
                length, value = self.varint(at, end)
            if key & 7 not in (0, 1, 2, 5) or key < 8 or (length >= 0 and length > end - value):
                raise _damaged(at)
            yield key >> 3, value, length
            at = value + length if length >= 0 else at

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, and where it ends."""
        self.left -= 1
        if self.left < 0:
            raise CheckpointError("more fields and numbers than a network's ONNX file has", expected=f"at most {MOST_FIELDS}")
        self.file.seek(at)
        value = 0
        for i, byte in enumerate(self.file.read(min(10, end - at))):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value, at + i + 1
        raise _damaged(at)


def _damaged(at: int) -> CheckpointError:
    return CheckpointError("not an ONNX file, or a damaged one", found=f"no protobuf field at byte {at}")
