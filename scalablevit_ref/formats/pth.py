"""Pickled files, read without torch: torch.save's two formats (a zip of records, the legacy run of pickles) and plain pickles."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import deque
from collections.abc import Iterable
from typing import Any, BinaryIO, cast

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import Extent
from scalablevit_ref.formats.opaque import Opaque, described
from scalablevit_ref.formats.rebuild import TRUSTED, Rebuilder, is_module, module_remedy
from scalablevit_ref.formats.unpickle import MOST_BYTES, OPCODES, load_pickle
from scalablevit_ref.formats.zip_archive import InflatedExtent, Inflation, inflated_size, record_extent

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""torch.save's magic number, 0x1950a86a20f9469cfc6c, as the end of a pickle: the file's first."""

PICKLES = tuple(b"\x80" + bytes([protocol]) + opcode for protocol in (2, 3, 4, 5) for opcode in OPCODES)
"""How pickles of the protocols that are read begin; safetensors with a header of 640 bytes begin with the same two."""

_PROTOCOL = 1001

_MOST_NAMED = 4
"""Most names of unknown objects that an error repeats."""


def read_zip(file: BinaryIO, records: dict[str, zipfile.ZipInfo], limit: int) -> Any:
    """What torch.save's zip format holds. Each storage is a record of its own, `…/data/KEY`, stored or deflated."""
    (pickled,) = (name for name in records if is_pickle_record(name))
    root = pickled.removesuffix("data.pkl")
    inflation = Inflation(inflated := inflated_size(records.values(), limit, "torch file"))

    def whole(name: str) -> Extent:
        stored = records[name].compress_type == zipfile.ZIP_STORED
        return record_extent(file, records[name]) if stored else InflatedExtent(file, records[name], inflation)

    if f"{root}byteorder" in records:
        order = _bytes(whole(f"{root}byteorder"))
        if order != b"little":
            raise CheckpointError("byte order", expected="little", found=order[:8].decode(errors="replace"))
    extents: dict[str, Extent] = {}

    def storage(key: str, elements: int, itemsize: int | None) -> Extent:
        name = f"{root}data/{key}"
        if name not in records:
            raise CheckpointError("no zip record for a storage", key=name)
        if itemsize is not None and elements * itemsize != records[name].file_size:
            expected, found = brief(elements * itemsize), records[name].file_size
            raise CheckpointError("storage and its zip record differ in size", key=name, expected=expected, found=found)
        if key not in extents:
            extents[key] = whole(name)
        return extents[key]

    rebuilder = Rebuilder(storage, limit + inflated)
    program = whole(pickled)
    if program.size <= MOST_BYTES:
        return _tree(io.BytesIO(_bytes(program)), rebuilder, 0, program.size)
    if isinstance(program, InflatedExtent):
        raise CheckpointError(
            "a compressed pickle larger than a checkpoint's: load the file with torch and save it again",
            expected=f"at most {MOST_BYTES} bytes",
            found=program.size,
        )
    deque(program.blocks(0, program.size), maxlen=0)  # for its checksum
    start = cast("int", program.start)
    return _tree(file, rebuilder, start, start + program.size)


def is_pickle_record(name: str) -> bool:
    """Whether a zip record is the pickle of a torch file."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


def program_archive(names: Iterable[str]) -> CheckpointError | None:
    """What to say of a zip archive in which torch keeps a program beside the weights, by its records' names; None for others."""
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends and any(end.startswith("code/") for end in ends):
        remedy = "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), OUT)"
        return CheckpointError(f"a TorchScript archive (torch.jit.save), no state dict: {remedy} {TRUSTED}")
    if "archive_format" in ends or "serialized_exported_program.json" in ends:
        remedy = "torch.save(dict(torch.export.load(FILE).state_dict), OUT)"
        return CheckpointError(f"a program of torch.export (.pt2), no state dict: {remedy} {TRUSTED}")
    if ".data/extern_modules" in ends:
        remedy = "torch.save(torch.package.PackageImporter(FILE).load_pickle(PACKAGE, RESOURCE).state_dict(), OUT)"
        return CheckpointError(f"a package of torch.package, no state dict: {remedy} {TRUSTED}")
    return None


def _bytes(extent: Extent) -> bytes:
    if extent.size > MOST_BYTES:
        raise CheckpointError("zip record is larger than a checkpoint's", key=extent.name, found=f"{extent.size} bytes")
    return extent.read(0, extent.size).tobytes()


def read_legacy(file: BinaryIO, limit: int) -> Any:
    """What torch.save's older format holds: pickles of magic, protocol, system, the object and the storages' keys; then storages.

    Each storage is a number of elements (int64) and its bytes, in the order of the keys.
    """
    legacy = _Legacy(file)
    rebuilder = Rebuilder(legacy.storage, limit)
    return _found(legacy.read(rebuilder, 0, limit), rebuilder)


def read_pickle(file: BinaryIO, limit: int) -> Any:
    """What a plain pickle holds, of protocol 2 to 5: `pickle.dump` of arrays of NumPy, JAX or torch, PaddlePaddle's `.pdparams`."""

    def no_storage(key: str, elements: int, itemsize: int | None) -> Extent:
        raise CheckpointError("a plain pickle with a storage, which torch keeps elsewhere", key=key)

    def load_bytes(part: BinaryIO, start: int, end: int) -> Any:
        legacy = _Legacy(part)
        return legacy.read(rebuilder.inside(legacy.storage), start, end)

    rebuilder = Rebuilder(no_storage, limit, load_bytes)
    return _tree(file, rebuilder, 0, limit)


class _Legacy:
    """The storages of a legacy file, which lie behind the pickle that asks for them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._extents: dict[str, Extent] = {}
        self._elements: dict[str, int] = {}

    def storage(self, key: str, elements: int, itemsize: int | None) -> Extent:
        """The extent of one, of which it is not known yet where it starts."""
        if itemsize is None:
            raise CheckpointError("a storage of an unknown type: load the file with torch and save it again", key=key)
        extent = self._extents.setdefault(key, Extent(self._file, None, elements * itemsize, name=key))
        if self._elements.setdefault(key, elements) != elements or extent.size != elements * itemsize:
            raise CheckpointError("two sizes for one storage", key=key, expected=self._elements[key], found=elements)
        return extent

    def read(self, rebuilder: Rebuilder, start: int, end: int) -> Any:
        """The object of the file that lies between two positions."""
        file, header = self._file, rebuilder.inside(_no_storage)
        _, position = load_pickle(file, header, start, end)  # the magic number
        protocol, position = load_pickle(file, header, position, end)
        system, position = load_pickle(file, header, position, end)
        if type(protocol) is not int or protocol != _PROTOCOL:
            raise CheckpointError("legacy torch file of an unknown protocol", expected=_PROTOCOL, found=brief(protocol))
        if type(system) is not dict or system.get("little_endian") is not True:
            raise CheckpointError("legacy torch file from a machine of another byte order", expected="little_endian")
        tree, position = load_pickle(file, rebuilder, position, end)
        keys, position = load_pickle(file, header, position, end)
        if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(self._extents):
            raise CheckpointError("the storages listed are not those used", expected=f"{len(self._extents)} storages")
        for key in keys:
            position = _locate(file, position, end, self._extents[key], self._elements[key])
        return tree


def _no_storage(key: str, elements: int, itemsize: int | None) -> Extent:
    raise CheckpointError("a storage in the header of a legacy file", key=key)


def _locate(file: BinaryIO, position: int, end: int, extent: Extent, elements: int) -> int:
    """Where a legacy storage lies: at `position`, after its number of elements. Gives the position of the next."""
    file.seek(position)
    count = file.read(8)
    if position + 8 + extent.size > end:
        raise CheckpointError("the file ends inside a storage", key=extent.name, expected=f"{extent.size} bytes")
    (found,) = struct.unpack("<q", count)
    if found != elements:
        raise CheckpointError("storage of another size than its tensors say", key=extent.name, expected=elements, found=found)
    extent.start = position + 8
    return extent.start + extent.size


def _tree(file: BinaryIO, rebuilder: Rebuilder, start: int, end: int) -> Any:
    return _found(load_pickle(file, rebuilder, start, end)[0], rebuilder)


def _found(tree: Any, rebuilder: Rebuilder) -> Any:
    """A file's object: what it holds where it is a dict of a class that is not built.

    Raises CheckpointError for a file that is one module, or objects of other programs without a single array.
    """
    if isinstance(tree, Opaque) and tree.entries:
        tree = tree.entries
    _name_modules(tree)
    if isinstance(tree, Opaque) and tree.remedy:
        raise CheckpointError(f"no state dict, but {tree.name}: {tree.remedy}")
    if rebuilder.unknown and not rebuilder.arrays:
        some = ", ".join(list(rebuilder.unknown)[:_MOST_NAMED]) + (", …" if len(rebuilder.unknown) > _MOST_NAMED else "")
        raise CheckpointError(f"no tensor in the file; it asks for {some}, and nothing was executed", expected="a checkpoint")
    if isinstance(tree, Opaque):
        raise CheckpointError("no state dict", expected="a mapping of names to arrays", found=described(tree))
    return tree


def _name_modules(tree: Any) -> None:
    """Say of the modules that were pickled as objects, at the top and one level below, how weights are got out of them."""
    if is_module(tree):
        tree.remedy = module_remedy("")
    for key, value in tree.items() if type(tree) is dict else ():
        if is_module(value):
            value.remedy = module_remedy(f"[{brief(key)}]")
