"""NumPy's npz files: a zip archive of npy records. Headers are believed only as far as the file's size; objects never."""

from __future__ import annotations

import io
import math
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import MOST_AXES, Blocks, Extent, LazyTensor, StoredTensor, in_memory, row_major, write_blocks
from scalablevit_ref.formats.zip_archive import deflated_extent, inflate, inflated_size, record_extent

_CONFIG = "__config__"
_METADATA = "__metadata__"
"""Entries that hold JSON text, and no weights."""

_LONGEST_HEADER = 1 << 14
"""Longest header of an array, in bytes."""

_LONGEST_NOTE = 1 << 22
"""Longest text beside the weights, in bytes."""


def read_npz(file: BinaryIO, records: Mapping[str, zipfile.ZipInfo], limit: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays by name, still in the file, and the notes beside them. limit: bytes that no stored array may exceed."""
    state: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    inflated_size(records.values(), limit, "npz")
    for record, info in records.items():
        name = record.removesuffix(".npy")
        stored = info.compress_type == zipfile.ZIP_STORED
        tensor = _stored(file, record, info, limit) if stored else _compressed(file, record, info)
        if name not in (_CONFIG, _METADATA):
            state[name] = tensor
        elif tensor.dtype.kind != "U" or tensor.shape or tensor.dtype.itemsize > _LONGEST_NOTE:
            raise CheckpointError("not a text", key=record, found=f"{brief(tensor.shape)} of {tensor.dtype.str}")
        else:
            with _damage_is_an_error(record):
                text = in_memory(tensor)
            points = np.frombuffer(text.tobytes(), np.dtype("u4").newbyteorder(text.dtype.byteorder))
            if np.any(points > sys.maxunicode):  # Python makes a string of it all the same, and fails where that is used
                raise CheckpointError("not a text", key=record, found="characters beyond Unicode")
            notes[name.strip("_")] = str(text)
    return state, notes


def _stored(file: BinaryIO, record: str, info: zipfile.ZipInfo, limit: int) -> StoredTensor:
    extent = record_extent(file, info)
    file.seek(cast("int", extent.start))
    head = file.read(min(extent.size, _LONGEST_HEADER))
    shape, fortran, dtype, data = _npy_header(io.BytesIO(head), record, extent.size)
    body = Extent(
        file,
        cast("int", extent.start) + data,
        extent.size - data,
        name=record,
        crc=extent.crc,
        before=zlib.crc32(head[:data]),
    )
    steps = row_major(shape[::-1])[::-1] if fortran else row_major(shape)
    return StoredTensor(body, dtype, 0, shape, steps, limit)


def _compressed(file: BinaryIO, record: str, info: zipfile.ZipInfo) -> LazyTensor:
    extent = deflated_extent(file, info)
    head = inflate(extent, min(extent.size, _LONGEST_HEADER), _LONGEST_HEADER)
    shape, fortran, dtype, data = _npy_header(io.BytesIO(head), record, info.file_size)

    def read() -> np.ndarray:
        body = inflate(extent, extent.size, info.file_size + 1)
        if len(body) != info.file_size or zlib.crc32(body) != info.CRC:
            raise CheckpointError("truncated or damaged npz (wrong size or checksum)", key=record)
        return np.frombuffer(body, dtype, offset=data).reshape(shape, order="F" if fortran else "C").copy()

    return LazyTensor(shape, dtype, read)


@contextmanager
def _damage_is_an_error(record: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except (zlib.error, ValueError) as error:
        raise CheckpointError(f"truncated or damaged npz ({error})", key=record) from error


def _npy_header(head: io.BytesIO, record: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran's order, dtype and where the data begin, held against the record's size."""
    try:
        version = np.lib.format.read_magic(head)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            shape, fortran, dtype = read_header(head)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise CheckpointError(f"damaged npy header ({error})", key=record) from error
    if dtype.hasobject:
        raise CheckpointError("an array of Python objects, which only a pickle could read", key=record)
    if dtype.names is not None or dtype.subdtype is not None or not dtype.itemsize:
        raise CheckpointError("an array of something other than numbers", key=record, found=brief(dtype.str))
    left = size - head.tell()
    whole = len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
    if not whole or math.prod(shape) * dtype.itemsize != left:
        found = f"{brief(shape)} of {dtype}"
        raise CheckpointError("npy header and record differ", key=record, expected=f"{left} bytes", found=found)
    return shape, fortran, dtype, head.tell()


def write_npz(file: BinaryIO, state: Mapping[str, Any], notes: Mapping[str, str], read: Blocks) -> None:
    """`numpy.savez`'s format, array after array; `savez` itself takes names as keyword arguments. notes: `config`, `metadata`."""
    for name, x in state.items():
        if x.dtype.name == "bfloat16":
            raise CheckpointError("npz cannot hold bfloat16: write .safetensors, .msgpack or .pth, or convert to float32", key=name)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, x in state.items():
            _write_npy(archive, name, x, read(name))
        for entry in (entry for entry in (_CONFIG, _METADATA) if entry.strip("_") in notes):
            text = np.array(notes[entry.strip("_")])
            _write_npy(archive, entry, text, [text.reshape(-1)])


def _write_npy(archive: zipfile.ZipFile, name: str, like: Any, blocks: Iterable[np.ndarray]) -> None:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(like.dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": tuple(like.shape)})
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        member.write(header.getvalue())
        write_blocks(member, blocks)
