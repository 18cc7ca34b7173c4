"""NumPy's npz files: a zip archive of npy records. Headers are believed only as far as the file's size; objects never."""

from __future__ import annotations

import io
import math
import re
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import (
    MOST_AXES,
    Blocks,
    Extent,
    LazyTensor,
    StoredTensor,
    Tensor,
    in_machine_order,
    in_memory,
    numpy_dtype,
    row_major,
    write_blocks,
)
from scalablevit_ref.formats.opaque import Opaque
from scalablevit_ref.formats.remedies import FILE, OUT, TRUSTED, python, python_text
from scalablevit_ref.formats.zip_archive import deflated_extent, inflate, inflated_size, record_extent, zip_comment

NOTES = "scalablevit_ref"
"""First word of the archive's comment, which is this package's notes; texts among the arrays disturb most libraries. The name of
an entry where the notes are too long for a comment."""

_LONGEST_COMMENT = (1 << 16) - 1
"""Longest comment of a zip archive, in bytes."""

_LONGEST_NAMED = 200
"""Longest name that a command repeats, in characters."""

_LONGEST_HEADER = 1 << 14
"""Longest header of an array, in bytes."""

_MOST_HEADERS = 2 << 20
"""Most bytes of the headers of all arrays together, which have some 130 each."""

_LONGEST_NOTE = 1 << 22
"""Longest text beside the weights that is kept, in bytes."""

_MOST_NOTES = 4 * _LONGEST_NOTE
"""Most bytes of all texts beside the weights that are kept."""


def read_npz(
    file: BinaryIO, records: Mapping[str, zipfile.ZipInfo], limit: int, path: Path
) -> tuple[dict[str, Tensor | Opaque], dict[str, str]]:
    """The arrays by name, still in the file, and the texts beside them. limit: bytes that no stored array may exceed;
    An error names `path` in what it says to do.

    An array of something other than numbers (objects, records, texts, dates) is an Opaque: nothing of it is read.
    """
    state: dict[str, Tensor | Opaque] = {}
    notes: dict[str, str] = {}
    inflated_size(records.values(), limit, "npz")
    left, left_headers = _MOST_NOTES, _MOST_HEADERS
    for record, info in records.items():
        name = record.removesuffix(".npy")
        header, array = (_stored if info.compress_type == zipfile.ZIP_STORED else _compressed)(file, record, info, limit)
        left_headers -= header.size
        if left_headers < 0:
            raise CheckpointError("longer headers than the arrays of a network have", expected=f"at most {_MOST_HEADERS} bytes")
        size = header.dtype.itemsize
        if header.dtype.kind == "U" and not header.shape and 0 < size <= min(left, _LONGEST_NOTE):
            notes[name] = _text(array(header.dtype), record)
            left -= size
        else:
            state[name] = _numbers(header, array, name, path)
    word, _, comment = zip_comment(file).partition(b" ")
    if word == NOTES.encode():
        notes.setdefault(NOTES, comment.decode(errors="replace"))
    return state, notes


@dataclass(frozen=True)
class _Header:
    """What a record says of its array, and in how many bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    size: int


_Array: TypeAlias = Callable[[np.dtype[Any]], StoredTensor | LazyTensor]
"""Gives a record's array, its numbers taken as a dtype of the same size."""

_BFLOAT16 = np.dtype("V2")
"""What NumPy writes of ml_dtypes' bfloat16; `jax.numpy.load` takes it as that too."""

_PICKLED = "pickles are programs, and this one is not run"

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_OTHERS = {
    "U": "an array of texts",
    "S": "an array of bytes",
    "M": "an array of dates",
    "m": "an array of times",
    "V": "an array whose dtype NumPy could not name (float8, perhaps)",
}
"""Kinds of dtypes that are no numbers."""


def _numbers(header: _Header, array: _Array, name: str, path: Path) -> Tensor | Opaque:
    """The array, the bytes of its numbers in this machine's order; an Opaque if it holds no numbers."""
    dtype = header.dtype
    if dtype.kind == "O":
        return Opaque("an array of Python objects, in a pickle", remedy=_PICKLED) if header.shape else _pickled_dict(name, path)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        return Opaque("an array of records")
    if dtype == _BFLOAT16:
        return array(numpy_dtype("bfloat16"))
    if dtype.kind not in "biufc":
        return Opaque(_OTHERS[dtype.kind])
    return in_machine_order(array(dtype))


def _pickled_dict(name: str, path: Path) -> Opaque:
    """What `numpy.savez` makes of a dict."""
    code = f"import numpy; numpy.savez({OUT}, **numpy.load({FILE}, allow_pickle=True)[{python_text(name)}].item())"
    remedy = f"{_PICKLED}; {python(code, path, 'weights.npz')} {TRUSTED}" if len(name) <= _LONGEST_NAMED else _PICKLED
    return Opaque("a Python object, such as a dict, in a pickle", remedy=remedy)


def _text(tensor: StoredTensor | LazyTensor, record: str) -> str:
    with _damage_is_an_error(record):
        text = in_memory(tensor)
    points = np.frombuffer(text.tobytes(), np.dtype("u4").newbyteorder(text.dtype.byteorder))
    if np.any(points > sys.maxunicode):  # Python makes a string of it all the same, and fails where that is used
        raise CheckpointError("not a text", key=record, found="characters beyond Unicode")
    return str(text)


def _stored(file: BinaryIO, record: str, info: zipfile.ZipInfo, limit: int) -> tuple[_Header, _Array]:
    extent = record_extent(file, info)
    file.seek(cast("int", extent.start))
    head = file.read(min(extent.size, _LONGEST_HEADER))
    header = _npy_header(io.BytesIO(head), record, extent.size)
    begin = header.size

    def array(dtype: np.dtype[Any]) -> StoredTensor:
        start, size, before = cast("int", extent.start) + begin, extent.size - begin, zlib.crc32(head[:begin])
        body = Extent(file, start, size, name=record, crc=extent.crc, before=before)
        steps = row_major(header.shape[::-1])[::-1] if header.fortran else row_major(header.shape)
        return StoredTensor(body, dtype, 0, header.shape, steps, limit)

    return header, array


def _compressed(file: BinaryIO, record: str, info: zipfile.ZipInfo, limit: int) -> tuple[_Header, _Array]:
    extent = deflated_extent(file, info)
    head = inflate(extent, min(extent.size, _LONGEST_HEADER), _LONGEST_HEADER)
    header = _npy_header(io.BytesIO(head), record, info.file_size)
    begin = header.size

    def array(dtype: np.dtype[Any]) -> LazyTensor:
        def read() -> np.ndarray:
            body = inflate(extent, extent.size, info.file_size + 1)
            if len(body) != info.file_size or zlib.crc32(body) != info.CRC:
                raise CheckpointError("truncated or damaged npz (wrong size or checksum)", key=record)
            return np.frombuffer(body, dtype, offset=begin).reshape(header.shape, order="F" if header.fortran else "C").copy()

        return LazyTensor(header.shape, dtype, read)

    return header, array


@contextmanager
def _damage_is_an_error(record: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except (zlib.error, ValueError) as error:
        raise CheckpointError(f"truncated or damaged npz ({error})", key=record) from error


def _npy_header(head: io.BytesIO, record: str, size: int) -> _Header:
    """What the header says, held against the record's size."""
    shape, fortran, dtype = npy_header(head, record)
    left = size - head.tell()
    whole = len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
    if not whole or (math.prod(shape) * dtype.itemsize != left and not dtype.hasobject):
        found = f"{brief(shape)} of {brief(dtype.str)}"
        raise CheckpointError("npy header and record differ", key=record, expected=f"{left} bytes", found=found)
    return _Header(shape, fortran, dtype, head.tell())


def npy_header(head: BinaryIO, record: str | None = None) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype, as NumPy reads them. Raises CheckpointError for a damaged header."""
    try:
        version = np.lib.format.read_magic(head)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            return read_header(head)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        said = _ADDRESS.sub("", str(error))  # Python's own parser names its objects so
        raise CheckpointError(f"damaged npy header ({said})", key=record) from error


def write_npz(file: BinaryIO, state: Mapping[str, Any], notes: Mapping[str, str], read: Blocks) -> None:
    """`numpy.savez`'s format, array after array; `savez` itself takes names as keyword arguments. notes: the text of `NOTES`."""
    for name, x in state.items():
        if x.dtype.name == "bfloat16":
            raise CheckpointError("npz cannot hold bfloat16: write .safetensors, .msgpack or .pth, or convert to float32", key=name)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, x in state.items():
            _write_npy(archive, name, x, read(name))
        comment = f"{NOTES} {notes[NOTES]}".encode()
        if len(comment) <= _LONGEST_COMMENT:
            archive.comment = comment
        else:
            text = np.array(notes[NOTES])
            _write_npy(archive, NOTES, text, [text.reshape(-1)])


def _write_npy(archive: zipfile.ZipFile, name: str, like: Any, blocks: Iterable[np.ndarray]) -> None:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(like.dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": tuple(like.shape)})
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        member.write(header.getvalue())
        write_blocks(member, blocks)
