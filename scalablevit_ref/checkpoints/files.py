"""Checkpoint files opened for reading, told by their first bytes; and what a file is that is no checkpoint."""

from __future__ import annotations

import io
import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.checkpoints.errors import CheckpointError
from scalablevit_ref.checkpoints.pth import LEGACY_MAGIC, is_pickle_record, read_legacy, read_zip, zip_records
from scalablevit_ref.checkpoints.stored import Extent, StoredTensor, numpy_dtype

NPZ_CONFIG = "__config__"
NPZ_METADATA = "__metadata__"
"""Entries of an npz that hold JSON text, and no weights."""

MOST_HEADER = 100_000_000
"""Bytes in a safetensors header, as its own library limits them."""

_SAFETENSORS_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32"}

_NOT_CHECKPOINTS = {
    b"version https://git-lfs": "a git-LFS pointer, not the file it points to: fetch that with `git lfs pull`",
    b"<!doctype html": "an HTML page (a download page, as Google Drive shows for large files): download the file itself",
    b"<html": "an HTML page (a download page, as Google Drive shows for large files): download the file itself",
    b"<?xml": "an XML document (a storage server's error message, perhaps): download the file itself",
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"\x89hdf\r\n": "HDF5, which no layout of this network uses",
}


@contextmanager
def open_file(path: Path) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """The object a checkpoint file holds, what is noted beside a bare state dict, and the format.

    Tensors may be StoredTensors, readable until the file is closed.
    """
    if path.is_dir():
        raise CheckpointError("a directory", expected="a checkpoint file")
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(64)
        if head.startswith(b"PK"):
            records = zip_records(file)
            pickles = [name for name in records if is_pickle_record(name)]
            if len(pickles) == 1:
                yield read_zip(file, records, size), {}, "torch zip"
            elif records and all(name.endswith(".npy") for name in records):
                yield *_read_npz(file, records), "npz"
            else:
                names = ", ".join(list(records)[:4]) or "an empty archive"
                raise CheckpointError("a zip archive, but neither torch.save's nor NumPy's", found=names)
        elif head[:1] == b"\x80" and LEGACY_MAGIC in head:
            yield read_legacy(file, size), {}, "torch legacy"
        elif len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= MOST_HEADER:
            yield *_read_safetensors(file, size), "safetensors"
        else:
            raise _not_a_checkpoint(head)


def _not_a_checkpoint(head: bytes) -> CheckpointError:
    if not head:
        return CheckpointError("the file is empty", expected="a checkpoint")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, meaning in _NOT_CHECKPOINTS.items():
        if text.startswith(magic):
            return CheckpointError(f"the file is {meaning}")
    if head[:1] == b"\x80":
        return CheckpointError("the file is a pickle, but not torch.save's: pickles are programs, and this one is not run")
    return CheckpointError(
        "not a checkpoint", expected="torch.save's zip or legacy format, safetensors or npz", found=repr(head[:16])
    )


def _read_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict and notes. The format: a header's length (uint64), the header (JSON), the tensors' bytes."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if 8 + length > size:
        raise CheckpointError("the file ends inside its header", expected=f"{8 + length} bytes", found=size)
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"damaged safetensors header ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError("damaged safetensors header", expected="an object", found=type(header).__name__)
    notes = header.pop("__metadata__", {})
    state = {name: _safetensor(file, 8 + length, size, name, entry) for name, entry in header.items()}
    return state, _noted(notes if isinstance(notes, dict) else {})


def _safetensor(file: BinaryIO, start: int, size: int, name: str, entry: Any) -> StoredTensor:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError("damaged safetensors entry", key=name, expected="dtype, shape, data_offsets") from error
    if not isinstance(kind, str) or kind not in _SAFETENSORS_DTYPES:
        raise CheckpointError("dtype", key=name, expected=", ".join(_SAFETENSORS_DTYPES), found=repr(kind))
    dtype = numpy_dtype(_SAFETENSORS_DTYPES[kind])
    if not whole or begin > end or start + end > size or end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            "bytes that do not fit shape, dtype or file", key=name, expected=f"{shape} of {dtype}", found=f"bytes {begin} to {end}"
        )
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(Extent(file, start + begin, end - begin), dtype, 0, shape, strides, size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        raise CheckpointError("two entries of one name in the header", key=next(name for name in names if names.count(name) > 1))
    return entries


def _read_npz(file: BinaryIO, records: dict[str, zipfile.ZipInfo]) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict and notes."""
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for record, info in records.items():
                with archive.open(info) as member:
                    arrays[record.removesuffix(".npy")] = _read_npy(member, record, info.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"truncated or damaged npz ({error})") from error
    notes = {}
    for key, entry in (("config", NPZ_CONFIG), ("metadata", NPZ_METADATA)):
        if entry in arrays:
            notes[key] = str(arrays.pop(entry))
    return arrays, _noted(notes)


def _read_npy(member: Any, record: str, size: int) -> np.ndarray:
    """One array, its header held against the record's size before anything is allocated."""
    try:
        version = np.lib.format.read_magic(member)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read_header(member)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise CheckpointError(f"damaged npy header ({error})", key=record) from error
    if dtype.hasobject:
        raise CheckpointError("an array of Python objects, which only a pickle could read", key=record)
    left = size - member.tell()
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != left:
        raise CheckpointError("npy header and record differ", key=record, expected=f"{left} bytes", found=f"{shape} of {dtype}")
    data = member.read()
    if len(data) != left:
        raise CheckpointError("the file ends inside an array", key=record)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _noted(notes: dict[str, Any]) -> dict[str, Any]:
    """The configuration and metadata that this package wrote beside the weights, laid out as its `.pth` is."""
    beside: Any = {}
    if "metadata" in notes:
        try:
            beside = json.loads(notes["metadata"])
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"damaged metadata ({error})", key="metadata") from error
    stored = {"config": notes["config"]} if "config" in notes else {}
    return (beside if isinstance(beside, dict) else {}) | {"scalablevit_ref": stored}
