"""torch.save's two formats, read into StoredTensors without torch: a zip of records, and the legacy run of pickles."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any, BinaryIO

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import Extent
from scalablevit_ref.formats.unpickle import MOST_BYTES, load_pickle, next_pickle
from scalablevit_ref.formats.zip_archive import record_extent

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""torch.save's magic number, 0x1950a86a20f9469cfc6c, as the end of a pickle: the file's first."""

_PROTOCOL = 1001


def read_zip(file: BinaryIO, records: dict[str, zipfile.ZipInfo], limit: int) -> Any:
    """What torch.save's zip format holds. Each storage is a record of its own, `…/data/KEY`."""
    (pickled,) = (name for name in records if is_pickle_record(name))
    root = pickled.removesuffix("data.pkl")
    if f"{root}byteorder" in records:
        order = _bytes(record_extent(file, records[f"{root}byteorder"]))
        if order != b"little":
            raise CheckpointError("byte order", expected="little", found=order[:8].decode(errors="replace"))
    extents: dict[str, Extent] = {}

    def storage(key: str, elements: int, itemsize: int) -> Extent:
        name, size = f"{root}data/{key}", elements * itemsize
        if name not in records:
            raise CheckpointError("no zip record for a storage", key=name)
        if size != records[name].file_size:
            raise CheckpointError(
                "storage and its zip record differ in size", key=name, expected=size, found=records[name].file_size
            )
        if key not in extents:
            extents[key] = record_extent(file, records[name])
        return extents[key]

    program = io.BytesIO(_bytes(record_extent(file, records[pickled])))
    return load_pickle(next_pickle(program), storage, limit)


def is_pickle_record(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _bytes(extent: Extent) -> bytes:
    if extent.size > MOST_BYTES:
        raise CheckpointError("zip record is larger than a checkpoint's", key=extent.name, found=f"{extent.size} bytes")
    return extent.read(0, extent.size).tobytes()


def read_legacy(file: BinaryIO, limit: int) -> Any:
    """What torch.save's older format holds: pickles of magic, protocol, system, the object and the storages' keys; then storages.

    Each storage is a number of elements (int64) and its bytes, in the order of the keys.
    """
    extents: dict[str, Extent] = {}
    lengths: dict[str, int] = {}

    def storage(key: str, elements: int, itemsize: int) -> Extent:
        extent = extents.setdefault(key, Extent(file, None, elements * itemsize, name=key))
        if lengths.setdefault(key, elements) != elements or extent.size != elements * itemsize:
            raise CheckpointError("two sizes for one storage", key=key, expected=lengths[key], found=elements)
        return extent

    def no_storage(key: str, elements: int, itemsize: int) -> Extent:
        raise CheckpointError("a storage in the header of a legacy file", key=key)

    file.seek(0)
    next_pickle(file)  # the magic number
    protocol = load_pickle(next_pickle(file), no_storage, limit)
    system = load_pickle(next_pickle(file), no_storage, limit)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise CheckpointError("legacy torch file of an unknown protocol", expected=_PROTOCOL, found=brief(protocol))
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError("legacy torch file from a machine of another byte order", expected="little_endian")
    tree = load_pickle(next_pickle(file), storage, limit)
    keys = load_pickle(next_pickle(file), no_storage, limit)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(extents):
        raise CheckpointError("the storages listed are not those used", expected=f"{len(extents)} storages")
    position = file.tell()
    for key in keys:
        position = _locate(file, position, extents[key], lengths[key])
    return tree


def _locate(file: BinaryIO, position: int, extent: Extent, elements: int) -> int:
    """Where a legacy storage lies: at `position`, after its number of elements. Gives the position of the next."""
    file.seek(position)
    count = file.read(8)
    if position + 8 + extent.size > file.seek(0, io.SEEK_END):
        raise CheckpointError("the file ends inside a storage", key=extent.name, expected=f"{extent.size} bytes")
    (found,) = struct.unpack("<q", count)
    if found != elements:
        raise CheckpointError("storage of another size than its tensors say", key=extent.name, expected=elements, found=found)
    extent.start = position + 8
    return extent.start + extent.size
