"""A tensor that still lies in its file: shape and dtype are known, its bytes are read when asked for."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.checkpoints.errors import CheckpointError

MOST_AXES = 64
"""NumPy's and torch's limit."""

_CHUNK = 1 << 20


def numpy_dtype(name: str) -> np.dtype[Any]:
    """`np.dtype(name)`, which knows bfloat16 only once ml_dtypes is loaded."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


class Extent:
    """A run of bytes in a file. Where it starts may be learned later than what lies in it (torch's legacy format).

    name: says in errors which run it is. crc: its CRC-32 if known, checked when it is first read from.
    """

    __slots__ = ("crc", "file", "name", "size", "start")

    def __init__(self, file: BinaryIO, start: int | None, size: int, *, name: str | None = None, crc: int | None = None) -> None:
        self.file, self.start, self.size, self.name, self.crc = file, start, size, name, crc

    def read(self, begin: int, size: int) -> np.ndarray:
        """Bytes `begin` to `begin + size` as uint8."""
        if self.start is None:
            raise CheckpointError("the file names a storage that it does not hold", key=self.name)
        self._check()
        data = np.empty(size, np.uint8)
        self.file.seek(self.start + begin)
        if self.file.readinto(data.data) != size:  # type: ignore[attr-defined]
            raise CheckpointError("the file ends inside a storage", key=self.name)
        return data

    def _check(self) -> None:
        if self.crc is None or self.start is None:
            return
        crc, left = 0, self.size
        self.file.seek(self.start)
        while left and (chunk := self.file.read(min(left, _CHUNK))):
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
        if crc != self.crc:
            raise CheckpointError("damaged: wrong checksum", key=self.name, expected=f"{self.crc:08x}", found=f"{crc:08x}")
        self.crc = None


@dataclass(frozen=True)
class StoredTensor:
    """A view of an extent, in elements as torch counts: offset, shape and strides. Not readable once the file is closed.

    Raises CheckpointError for a view that leaves its extent, or holds more elements than `limit` bytes could.
    """

    extent: Extent
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    limit: int

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if any(type(n) is not int or n < 0 for n in numbers) or len(self.shape) != len(self.strides) or len(self.shape) > MOST_AXES:
            raise CheckpointError(
                "impossible tensor", found=f"offset {self.offset!r}, shape {self.shape!r}, strides {self.strides!r}"
            )
        held = self.extent.size // self.dtype.itemsize
        if self.offset + self._span() > held:
            raise CheckpointError(
                "tensor reaches beyond its storage", expected=f"at most {held} elements", found=self.offset + self._span()
            )
        if math.prod(self.shape) * self.dtype.itemsize > self.limit:
            raise CheckpointError(
                "tensor is larger than the file",
                expected=f"at most {self.limit} bytes",
                found=math.prod(self.shape) * self.dtype.itemsize,
            )

    def __setstate__(self, state: object) -> None:
        raise CheckpointError("pickle sets the state of a tensor")

    def _span(self) -> int:
        """Elements from the first to the last, both included."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) if 0 not in self.shape else 0

    def read(self) -> np.ndarray:
        """The values, C-contiguous and owned by nobody else."""
        size = self.dtype.itemsize
        elements = self.extent.read(self.offset * size, self._span() * size).view(self.dtype)
        steps = tuple(step * size for step in self.strides)
        return np.asarray(np.lib.stride_tricks.as_strided(elements, self.shape, steps), order="C")
