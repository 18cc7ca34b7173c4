"""A tensor that still lies in its file: shape and dtype are known, its bytes are read when asked for."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, TypeAlias

import numpy as np

from scalablevit_ref.backends import backend, to_numpy
from scalablevit_ref.errors import CheckpointError, brief, option
from scalablevit_ref.formats.damage import damage_is_an_error
from scalablevit_ref.formats.source import SourceFile

MOST_AXES = 64
"""Most axes of an array: NumPy's and torch's limit."""

LONGEST_NAME = 500
"""Longest name of a parameter, in characters; the official names have some 40."""

_CHUNK = 1 << 18
"""Bytes read at a time; few enough that they are still in the cache when they are looked at and written."""

_BLOCK = 1 << 16
"""Elements looked at at a time, so that the mask stays in the cache."""


_OF_ML_DTYPES = ("bfloat16", "float4_", "float6_", "float8_", "int2", "int4", "uint2", "uint4")
"""How the names of ml_dtypes' dtypes begin."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """`np.dtype(name)`, which knows bfloat16 and other narrow dtypes only once ml_dtypes is loaded.

    Raises TypeError for a name that is no dtype's.
    """
    if name.startswith(_OF_ML_DTYPES):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name, name))
    return np.dtype(name)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in C order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class Extent:
    """A run of bytes in a file. Where it starts may be learned later than what lies in it (torch's legacy format).

    Parameters
    ----------
    name
        Says in errors which run it is.
    crc
        Its CRC-32 if known, checked when it is first read from; `before` is the CRC-32 of what else that counts before the run.
    """

    __slots__ = ("before", "crc", "file", "name", "size", "start")

    def __init__(
        self, file: BinaryIO, start: int | None, size: int, *, name: str | None = None, crc: int | None = None, before: int = 0
    ) -> None:
        self.file, self.start, self.size, self.name, self.crc, self.before = file, start, size, name, crc, before

    def known_as(self) -> str:
        """What an error calls it."""
        return f"{self.size} bytes"

    def read(self, begin: int, size: int) -> np.ndarray:
        """Bytes `begin` to `begin + size` as uint8."""
        if self.start is None:
            raise CheckpointError("the file names a storage that it does not hold", key=self.name)
        whole = begin == 0 and size == self.size
        if not whole and self.crc is not None:
            deque(self.blocks(0, self.size), maxlen=0)  # all of it, for the checksum's sake
        data = np.empty(size, np.uint8)
        self.file.seek(self.start + begin)
        if self.file.readinto(data.data) != size:  # type: ignore[attr-defined]
            raise self._error("the file ends inside a storage")
        if whole and self.crc is not None:
            self._compare(zlib.crc32(data.data, self.before))
        self._check_unchanged()
        return data

    def blocks(self, begin: int, size: int) -> Iterator[np.ndarray]:
        """The bytes that `read` gives, some at a time and in one buffer; the checksum is known to be right after the last."""
        if self.start is None or (begin, size) != (0, self.size):
            yield self.read(begin, size)
            return
        buffer, crc = np.empty(min(size, _CHUNK), np.uint8), self.before
        for at in range(0, size, _CHUNK):
            block = buffer[: size - at]
            self.file.seek(self.start + at)
            if self.file.readinto(block.data) != len(block):  # type: ignore[attr-defined]
                raise self._error("the file ends inside a storage")
            if self.crc is not None:
                crc = zlib.crc32(block.data, crc)
            yield block
        self._compare(crc)
        self._check_unchanged()

    def _compare(self, crc: int) -> None:
        if self.crc is not None and crc != self.crc:
            raise self._error("damaged: wrong checksum", expected=f"{self.crc:08x}", found=f"{crc:08x}")
        self.crc = None

    def _check_unchanged(self) -> None:
        if isinstance(self.file, SourceFile):
            self.file.check_unchanged()

    def _error(self, problem: str, **what: str) -> CheckpointError:
        """Names the file, since this comes to light while another one is being written."""
        return CheckpointError(problem, file=getattr(self.file, "name", None), key=self.name, **what)


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
                "impossible tensor", found=f"offset {brief(self.offset)}, shape {brief(self.shape)}, strides {brief(self.strides)}"
            )
        held = self.extent.size // self.dtype.itemsize
        if self.offset + self._span() > held:
            raise CheckpointError(
                "tensor reaches beyond its storage", expected=f"at most {held} elements", found=self.offset + self._span()
            )
        size = math.prod(n or 1 for n in self.shape) * self.dtype.itemsize  # axes beside an empty one are believed as little
        if size > self.limit:
            raise CheckpointError("tensor is larger than the file", expected=f"at most {self.limit} bytes", found=brief(size))

    def known_as(self) -> str:
        """What an error calls it."""
        return "a tensor"

    def _span(self) -> int:
        """Elements from the first to the last, both included."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) if 0 not in self.shape else 0

    def blocks(self) -> Iterator[np.ndarray]:
        """The values in C order, some at a time; a block is gone when the next is asked for."""
        if self.strides != row_major(self.shape):
            yield self.read().reshape(-1)
            return
        size = self.dtype.itemsize
        for block in self.extent.blocks(self.offset * size, self._span() * size):
            yield block.view(self.dtype)

    def read(self) -> np.ndarray:
        """The values, C-contiguous and owned by nobody else."""
        size = self.dtype.itemsize
        data = self.extent.read(self.offset * size, self._span() * size)
        steps = tuple(step * size for step in self.strides)
        return np.asarray(np.ndarray(self.shape, self.dtype, data.data, strides=steps), order="C")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor still to be read, or to be made from others that are."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]

    def known_as(self) -> str:
        """What an error calls it."""
        return "a tensor"


def in_machine_order(stored: StoredTensor | LazyTensor) -> StoredTensor | LazyTensor:
    """The same numbers in this machine's byte order, whichever they have in the file."""
    native = stored.dtype.newbyteorder("=")
    if stored.dtype == native:
        return stored
    return LazyTensor(stored.shape, native, lambda: in_memory(stored).byteswap().view(native))


Tensor: TypeAlias = np.ndarray | StoredTensor | LazyTensor
Tensors: TypeAlias = Mapping[str, Tensor]

Blocks: TypeAlias = Callable[[str], Iterable[np.ndarray]]
"""Gives the values of a name: flat arrays that together are the tensor in C order, each gone when the next is asked for."""


def in_memory(x: Any) -> np.ndarray:
    """An array of any library or a tensor still in its file, as a C-contiguous NumPy array."""
    if not isinstance(x, StoredTensor | LazyTensor):
        return np.asarray(backend(x).to_numpy(x), order="C")
    with damage_is_an_error():
        return np.asarray(x.read(), order="C")


def blocks(x: Any) -> Iterator[np.ndarray]:
    """`in_memory`, flat and some at a time where they lie in a file as they are; a block is gone when the next is asked for."""
    if isinstance(x, StoredTensor):
        with damage_is_an_error():  # what is done with a block is not done in here
            yield from x.blocks()
    else:
        yield in_memory(x).reshape(-1)


def write_blocks(file: IO[bytes], blocks: Iterable[np.ndarray]) -> None:
    """Flat arrays' bytes, as they lie."""
    for block in blocks:
        file.write(block.view(np.uint8).data)


def byte_count(tensors: Iterable[Any]) -> int:
    """Bytes of all tensors, read or not."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in tensors)


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What lies in a file as it is, arrays of any library copied to NumPy."""
    return {name: x if is_lazy(x) else to_numpy(x) for name, x in state.items()}


def is_lazy(x: Any) -> bool:
    """Whether it is still in its file."""
    return isinstance(x, StoredTensor | LazyTensor)


def is_finite(x: np.ndarray) -> bool:
    """Whether there is no NaN and no infinity."""
    flat = x.reshape(-1)
    return all(np.isfinite(flat[i : i + _BLOCK]).all() for i in range(0, flat.size, _BLOCK))


def check_finite(state: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError that names the arrays with a NaN or an infinity."""
    names = [name for name, x in state.items() if not is_finite(np.asarray(x, order="C"))]
    if names:
        some = ", ".join(names[:8]) + (f", … and {len(names) - 8} more" if len(names) > 8 else "")
        problem = f"NaN or infinite weights ({len(names)} parameters): {some}; "
        raise CheckpointError(problem, option("allow_nonfinite", True), " lets them pass")
