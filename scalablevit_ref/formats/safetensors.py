"""safetensors files: a header's length (uint64), the header (JSON), the tensors' bytes. Read lazily, written as a stream."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import MOST_AXES, Blocks, Extent, StoredTensor, numpy_dtype, row_major, write_blocks
from scalablevit_ref.formats.opaque import Opaque
from scalablevit_ref.formats.remedies import BROKEN_OFF

MOST_HEADER = 4 << 20
"""Largest header, in bytes; that of `large` has 70,000. The library's own limit of 100 MB would take gigabytes to parse."""

_WRITTEN_AHEAD = 32 << 20
"""Bytes written after which the system is told to begin with the disk, so that fsync has less to wait for."""

_DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_CODES = {name: code for code, name in _DTYPES.items()}


def starts_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] < 1 << 40


_PACKED = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits of an element of the dtypes that share bytes."""

_LONGEST_DTYPE = 20
"""Longest name of a dtype, in characters."""


def read_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors by name, and the metadata. Raises CheckpointError unless they fill the file without gap or overlap.

    A tensor of a dtype that NumPy lacks is an Opaque.
    """
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MOST_HEADER:
        raise CheckpointError(
            "safetensors header larger than a checkpoint's", expected=f"at most {MOST_HEADER} bytes", found=length
        )
    if 8 + length > size:
        raise CheckpointError(f"the file ends inside its header: {BROKEN_OFF}", expected=f"{8 + length} bytes", found=size)
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"damaged safetensors header ({error})") from error
    notes = header.pop("__metadata__", {})
    entries = {name: _entry(8 + length, name, entry) for name, entry in header.items()}
    at = 8 + length
    whole = max((end for *_, end in entries.values()), default=at)
    if whole > size:
        raise CheckpointError(f"the file ends before its last tensor: {BROKEN_OFF}", expected=f"{brief(whole)} bytes", found=size)
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            found = f"byte {begin}"
            raise CheckpointError("a gap or an overlap before its bytes", key=name, expected=f"byte {at}", found=found)
        at = end
    if at != size:
        raise CheckpointError("bytes after the last tensor", expected=f"{at} bytes", found=size)
    state = {name: _tensor(file, size, name, *entry) for name, entry in entries.items()}
    return state, notes if isinstance(notes, dict) else {}


def _entry(start: int, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, first byte in the file and the one after the last. start: of the tensors' bytes."""
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError("damaged safetensors entry", key=name, expected="dtype, shape, data_offsets") from error
    if not isinstance(kind, str) or not kind.replace("_", "").isalnum() or len(kind) > _LONGEST_DTYPE:
        raise CheckpointError("dtype", key=name, expected=", ".join(_DTYPES), found=brief(kind))
    bits = 8 * numpy_dtype(_DTYPES[kind]).itemsize if kind in _DTYPES else _PACKED.get(kind)  # None of a dtype of times to come
    if not whole or begin > end or (bits and 8 * (end - begin) != bits * math.prod(shape)):
        raise CheckpointError(
            "bytes that do not fit shape or dtype",
            key=name,
            expected=f"{brief(shape)} of {_DTYPES.get(kind, kind)}",
            found=f"bytes {brief(begin)} to {brief(end)}",
        )
    return kind, shape, start + begin, start + end


def _tensor(file: BinaryIO, size: int, name: str, kind: str, shape: tuple[int, ...], begin: int, end: int) -> StoredTensor | Opaque:
    if kind not in _DTYPES:
        return Opaque(f"a tensor of dtype {kind}")
    dtype = numpy_dtype(_DTYPES[kind])
    return StoredTensor(Extent(file, begin, end - begin, name=name), dtype, 0, shape, row_major(shape), size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise CheckpointError("two entries of one name in the header", key=name)
        entries[name] = value
    return entries


def check_safetensors(state: Mapping[str, Any], notes: Mapping[str, str]) -> None:
    """Raise CheckpointError for a header that `write_safetensors` would write and `read_safetensors` would refuse."""
    if (length := len(_header(state, notes))) > MOST_HEADER:
        raise CheckpointError("a longer header than can be read again", expected=f"at most {MOST_HEADER} bytes", found=length)


def _header(state: Mapping[str, Any], notes: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))}
    end = 0
    for name, x in state.items():
        begin, end = end, end + math.prod(x.shape) * x.dtype.itemsize
        header[name] = {"dtype": _CODES[x.dtype.name], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)  # so that the tensors are aligned


def write_safetensors(file: BinaryIO, state: Mapping[str, Any], notes: Mapping[str, str], read: Blocks) -> None:
    """Header and then tensor after tensor, in the order of `state`: equal weights and notes make equal files.

    `read` gives a tensor's values, block by block; of `state` only dtypes and shapes are used.
    """
    header = _header(state, notes)
    file.write(struct.pack("<Q", len(header)) + header)
    done = 0
    for name in state:
        write_blocks(file, read(name))
        if hasattr(os, "posix_fadvise") and file.tell() - done > _WRITTEN_AHEAD:
            file.flush()
            os.posix_fadvise(file.fileno(), done, file.tell() - done, os.POSIX_FADV_DONTNEED)
            done = file.tell()
