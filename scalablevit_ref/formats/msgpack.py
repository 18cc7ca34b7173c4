"""Flax's `serialization` format, a msgpack map of maps whose leaves are arrays; read lazily, written as a stream, without msgpack.

An array is extension type 1: the msgpack of (shape, dtype's name, bytes), a NumPy scalar type 3, a complex number type 2. An array
of more than a gigabyte is a map with `__msgpack_chunked_array__`, its shape and its pieces as maps from "0", "1", …; one in a box
(`flax.linen.Partitioned`, `nnx.Param`) is a map with the one entry `value`.
Source: `flax.serialization.msgpack_serialize`; https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import (
    MOST_AXES,
    Blocks,
    Extent,
    LazyTensor,
    StoredTensor,
    numpy_dtype,
    row_major,
    write_blocks,
)
from scalablevit_ref.formats.opaque import Opaque, described

PARAMS = "params"
NOTES = "scalablevit_ref"
"""Top-level entries: Flax's collection of parameters, and what this package notes beside it."""

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_BOXED = {"value"}
"""Entries of a box."""

_MOST_DEPTH = 32
"""Most levels of a file's maps and arrays."""

_MOST_VALUES = 200_000
"""Most values in a file, keys and containers included."""

_LONGEST_TEXT = 4 << 20
"""Longest text, in bytes."""

_MOST_TEXT = 16 << 20
"""Bytes of all texts together; Python may hold four bytes of memory for each."""

MOST_ARRAY = 1 << 30
"""Largest array in one piece, in bytes; Flax cuts a larger one, and no parameter comes near."""

_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_SIZES = {0: ">B", 1: ">H", 2: ">I"}
_LONGEST_DTYPE = 30
"""Longest name of a dtype, in characters."""


def starts_msgpack(head: bytes) -> bool:
    """Whether the file may begin with a map whose first key is text or a small whole number; the format has no mark of its own.

    A whole number may begin other files too: it counts where a map or an array follows, as in `nnx.to_pure_dict` of a list.
    """
    skip = {0xDE: 3, 0xDF: 5}.get(head[0] if head else 0, 1 if head and 0x81 <= head[0] <= 0x8F else 0)
    key, value = head[skip : skip + 1], head[skip + 1 : skip + 2]
    if not skip or not key or not value:
        return False
    return _is_text(key[0]) or (key[0] <= 0x7F and _is_tree(value[0]))


def _is_text(code: int) -> bool:
    return 0xA0 <= code <= 0xBF or 0xD9 <= code <= 0xDB


def _is_tree(code: int) -> bool:
    """A map, or an extension, as Flax's arrays are."""
    return 0x80 <= code <= 0x8F or code in (0xDE, 0xDF) or 0xC7 <= code <= 0xC9 or 0xD4 <= code <= 0xD8


def read_msgpack(file: BinaryIO, size: int) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Flax's tree as it is, its arrays still in the file and out of their boxes; and this package's notes, also in the tree.

    Keys are text or numbers. What is no array and no plain value is an Opaque: bytes, complex numbers, arrays of other things.
    """
    reader = _Reader(file, size)
    tree = reader.value()
    if not isinstance(tree, dict):
        raise CheckpointError("no state dict", expected="a map at the top of the msgpack", found=described(tree))
    if reader.at != size:
        raise CheckpointError("bytes after the msgpack's end", expected=f"{reader.at} bytes", found=size)
    return tree, {NOTES: tree[NOTES]} if isinstance(tree.get(NOTES), dict) else {}


class _Reader:
    """Values one after the other; `at` is the next one's place. Maps become dicts, arrays of numbers StoredTensors.

    Parameters
    ----------
    inside
        An extension, whose bytes are an Extent; elsewhere they are an Opaque.
    """

    def __init__(self, file: BinaryIO, size: int, at: int = 0, *, inside: bool = False) -> None:
        self._file, self._size, self.at, self._left, self._inside = file, size, at, _MOST_VALUES, inside
        self._text_left = _MOST_TEXT

    def value(self, depth: int = 0) -> Any:
        self._left -= 1
        if depth > _MOST_DEPTH or self._left < 0:
            raise CheckpointError(
                "msgpack larger than a checkpoint's", expected=f"{_MOST_VALUES} values, {_MOST_DEPTH} levels at most"
            )
        code = self._bytes(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code <= 0x8F or code in (0xDE, 0xDF):
            return self._map(code & 15 if code <= 0x8F else self._number(_SIZES[code - 0xDD]), depth)
        if code <= 0x9F or code in (0xDC, 0xDD):
            count = code & 15 if code <= 0x9F else self._number(_SIZES[code - 0xDB])
            return [self.value(depth + 1) for _ in range(count)]
        if code <= 0xBF or 0xD9 <= code <= 0xDB:
            return self._text(code & 31 if code <= 0xBF else self._number(_SIZES[code - 0xD9]))
        if 0xC4 <= code <= 0xC6:
            extent = self._extent(self._number(_SIZES[code - 0xC4]))
            return extent if self._inside else Opaque("bytes")
        if 0xC7 <= code <= 0xC9 or 0xD4 <= code <= 0xD8:
            return self._extension(self._number(_SIZES[code - 0xC7]) if code <= 0xC9 else 1 << (code - 0xD4), depth)
        raise CheckpointError("damaged msgpack", found=f"byte {code:#x} at {self.at - 1}")

    def _bytes(self, count: int) -> bytes:
        if count > self._size - self.at:
            raise CheckpointError("the file ends inside its msgpack", expected=f"{count} bytes", found=self._size - self.at)
        self._file.seek(self.at)
        self.at += count
        return self._file.read(count)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _text(self, count: int) -> str:
        if count > _LONGEST_TEXT:
            raise CheckpointError(
                "msgpack larger than a checkpoint's", expected=f"texts of {_LONGEST_TEXT} bytes at most", found=count
            )
        self._text_left -= count
        if self._text_left < 0:
            raise CheckpointError("msgpack larger than a checkpoint's", expected=f"{_MOST_TEXT} bytes of all texts at most")
        try:
            return self._bytes(count).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"damaged msgpack ({error})") from error

    def _extent(self, count: int) -> Extent:
        if count > self._size - self.at:
            raise CheckpointError("the file ends inside its msgpack", expected=f"{count} bytes", found=self._size - self.at)
        self.at += count
        return Extent(self._file, self.at - count, count)

    def _map(self, count: int, depth: int) -> Any:
        found: dict[Any, Any] = {}
        for _ in range(count):
            name = self.value(depth + 1)
            if not (name is None or isinstance(name, str | int | float)):
                raise CheckpointError("names must be text or numbers", found=described(name))
            if name in found:
                raise CheckpointError("two entries of one name", key=str(name))
            found[name] = self.value(depth + 1)
        if _CHUNKED in found:
            return _unchunked(found)
        return found["value"] if found.keys() == _BOXED and isinstance(found["value"], _TENSORS) else found

    def _extension(self, count: int, depth: int) -> Any:
        kind = self._number(">b")
        extent = self._extent(count)
        if kind == _COMPLEX:
            return Opaque("a complex number")
        if kind not in (_ARRAY, _SCALAR):
            return Opaque(f"a msgpack extension of type {kind}")
        inner = _Reader(self._file, self.at, self.at - count, inside=True)
        inner._left = self._left
        parts = inner.value(depth + 1)
        self._left = inner._left
        shape, dtype, data = parts if isinstance(parts, list) and len(parts) == 3 else (None, None, None)
        named = isinstance(dtype, str) and dtype.isprintable() and len(dtype) <= _LONGEST_DTYPE
        if not isinstance(shape, list) or not isinstance(data, Extent) or not named or inner.at != self.at:
            raise CheckpointError("damaged array in the msgpack", expected=f"(shape, dtype, bytes) in {extent.size} bytes")
        element = _dtype(str(dtype))
        if element is None:
            return Opaque(f"an array of dtype {dtype}")
        whole = len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
        if not whole or math.prod(shape) * element.itemsize != data.size:
            raise CheckpointError("array and its bytes differ", expected=f"{brief(shape)} of {dtype}", found=f"{data.size} bytes")
        tensor = StoredTensor(data, element, 0, tuple(shape), row_major(tuple(shape)), self._size)
        return _scalar(tensor) if kind == _SCALAR and tensor.shape == () and element.kind != "c" else tensor


_TENSORS = (StoredTensor, LazyTensor)


def _dtype(name: str) -> np.dtype[Any] | None:
    """The dtype of numbers that has this name; None if none has."""
    if not name.isidentifier():  # NumPy takes expressions for a dtype too
        return None
    try:
        dtype = numpy_dtype(name)
    except (TypeError, ValueError):
        return None
    return dtype if dtype.name == name and dtype.kind in "biufcV" else None


def _scalar(tensor: StoredTensor) -> bool | int | float:
    number = tensor.read()
    return number.item() if tensor.dtype.kind in "biu" else float(number)


def _unchunked(found: dict[Any, Any]) -> LazyTensor:
    shape, chunks = (found.get(name) for name in ("shape", "chunks"))
    if isinstance(shape, dict) and len(shape) <= MOST_AXES and isinstance(chunks, dict) and chunks:
        sizes: list[Any] = [shape.get(str(i)) for i in range(len(shape))]
        pieces: list[Any] = [chunks.get(str(i)) for i in range(len(chunks))]
        if all(type(n) is int and n >= 0 for n in sizes) and all(isinstance(x, StoredTensor) and len(x.shape) == 1 for x in pieces):
            dtypes, whole = {x.dtype for x in pieces}, tuple(sizes)
            if len(dtypes) == 1 and math.prod(whole) == sum(x.shape[0] for x in pieces):
                return LazyTensor(whole, dtypes.pop(), lambda: np.concatenate([x.read() for x in pieces]).reshape(whole))
    raise CheckpointError("damaged array in the msgpack", expected="a shape and chunks that fill it")


def check_msgpack(state: Mapping[str, Any]) -> None:
    """Raise CheckpointError for an array that is too large for one entry, as `write_msgpack` writes it."""
    for name, x in state.items():
        if (size := math.prod(x.shape) * x.dtype.itemsize) > MOST_ARRAY:
            expected = f"at most {MOST_ARRAY} bytes"
            raise CheckpointError("array too large for one msgpack entry", key=name, expected=expected, found=size)


def write_msgpack(file: BinaryIO, state: Mapping[str, Any], notes: Mapping[str, str], read: Blocks) -> None:
    """The arrays as the tree that their dotted names spell, under `params`, and the notes beside it."""
    tree: dict[str, Any] = {}
    for name in state:
        *path, leaf = name.removeprefix(f"{PARAMS}.").split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = name
    file.write(_head(2, 0x80, 0xDE) + _text(PARAMS))
    _write_tree(file, tree, state, read)
    file.write(
        _text(NOTES) + _head(len(notes), 0x80, 0xDE) + b"".join(_text(part) for note in sorted(notes.items()) for part in note)
    )


def _write_tree(file: BinaryIO, tree: Mapping[str, Any], state: Mapping[str, Any], read: Blocks) -> None:
    file.write(_head(len(tree), 0x80, 0xDE))
    for part, branch in tree.items():
        file.write(_text(part))
        if isinstance(branch, dict):
            _write_tree(file, branch, state, read)
        else:
            _write_array(file, state[branch], read(branch))


def _write_array(file: BinaryIO, like: Any, blocks: Iterable[np.ndarray]) -> None:
    size = math.prod(like.shape) * like.dtype.itemsize
    shape = _head(len(like.shape), 0x90, 0xDC) + b"".join(b"\xce" + struct.pack(">I", n) for n in like.shape)
    inner = b"\x93" + shape + _text(like.dtype.name) + b"\xc6" + struct.pack(">I", size)
    file.write(b"\xc9" + struct.pack(">Ib", len(inner) + size, _ARRAY) + inner)
    write_blocks(file, blocks)


def _head(count: int, short: int, long: int) -> bytes:
    """The head of a map or an array."""
    return bytes([short | count]) if count < 16 else bytes([long]) + struct.pack(">H", count)


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 32:
        return bytes([0xA0 | len(raw)]) + raw
    return b"\xdb" + struct.pack(">I", len(raw)) + raw
