"""Pickled files, read without torch: torch.save's two formats (a zip of records, the legacy run of pickles) and plain pickles."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import Extent
from scalablevit_ref.formats.opaque import Opaque, described
from scalablevit_ref.formats.rebuild import Rebuilder, Span, is_module
from scalablevit_ref.formats.remedies import FILE, OUT, TRUSTED, python, python_text
from scalablevit_ref.formats.unpickle import MOST_BYTES, OPCODES, load_pickle
from scalablevit_ref.formats.zip_archive import InflatedExtent, Inflation, inflated_size, record_extent

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""torch.save's magic number, 0x1950a86a20f9469cfc6c, as the end of a pickle: the file's first."""

PICKLES = tuple(b"\x80" + bytes([protocol]) + opcode for protocol in (2, 3, 4, 5) for opcode in OPCODES)
"""How pickles of the protocols that are read begin; safetensors with a header of 640 bytes begin with the same two."""

_PROTOCOL = 1001

_MOST_LEVELS = 8
"""Levels of containers that are looked through for modules and for torch files in bytes."""

_LONGEST_KEY = 200
"""Longest key under which they are looked for, in characters."""

_SMALLEST = 64
"""First bytes of a torch file by which it is told."""

_MOST_LOOKED_AT = 10_000
"""Most containers and objects that are looked at."""

_LOOKED_AT = (dict, list, tuple, bytes, Opaque)
"""Types of values that may hold one or be one."""

_MOST_NAMED = 4
"""Most names of unknown objects that an error repeats."""


def read_zip(file: BinaryIO, records: dict[str, zipfile.ZipInfo], limit: int, path: Path) -> Any:
    """What torch.save's zip format holds. Each storage is a record of its own, `…/data/KEY`, stored or deflated.

    An error names `path` in what it says to do, here and below.
    """
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
        return _found(load_pickle(io.BytesIO(_bytes(program)), rebuilder, 0, program.size)[0], rebuilder, path)
    if isinstance(program, InflatedExtent):
        raise CheckpointError(
            "a compressed pickle larger than a checkpoint's: load the file with torch and save it again",
            expected=f"at most {MOST_BYTES} bytes",
            found=program.size,
        )
    deque(program.blocks(0, program.size), maxlen=0)  # for its checksum
    start = cast("int", program.start)
    return _found(load_pickle(file, rebuilder, start, start + program.size)[0], rebuilder, path)


def is_pickle_record(name: str) -> bool:
    """Whether a zip record is the pickle of a torch file."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


def program_archive(names: Iterable[str], path: Path) -> CheckpointError | None:
    """What to say of a zip archive in which torch keeps a program beside the weights, by its records' names; None for others."""

    def refusal(what: str, state_dict: str) -> CheckpointError:
        return CheckpointError(f"{what}, no state dict: {_saved(state_dict, path)}")

    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends and any(end.startswith("code/") for end in ends):
        return refusal("a TorchScript archive (torch.jit.save)", f"torch.jit.load({FILE}, map_location='cpu').state_dict()")
    if "archive_format" in ends or "serialized_exported_program.json" in ends:
        return refusal("a program of torch.export (.pt2)", f"dict(torch.export.load({FILE}).state_dict)")
    if ".data/extern_modules" in ends:
        resource = next((end for end in sorted(ends) if end.endswith(".pkl") and not end.startswith(".data/")), "model/model.pkl")
        package, _, name = resource.rpartition("/")
        where = f"{python_text(package.replace('/', '.'))}, {python_text(name)}, map_location='cpu'"
        loaded = f"torch.package.PackageImporter({FILE}).load_pickle({where})"
        return refusal("a package of torch.package", f"{loaded}.state_dict()")
    return None


def _saved(state_dict: str, path: Path, *, modules: str = "torch", key: Any = "") -> str:
    """The line of Python that saves a state dict. modules: that it imports; key: by which the new file is named."""
    result = f"{key}.pth" if type(key) is str and _WORD.fullmatch(key) else "weights.pth"
    return f"{python(f'import {modules}; torch.save({state_dict}, {OUT})', path, result)} {TRUSTED}"


_WORD = re.compile(r"\w{1,40}", re.ASCII)


def _bytes(extent: Extent) -> bytes:
    if extent.size > MOST_BYTES:
        raise CheckpointError("zip record is larger than a checkpoint's", key=extent.name, found=f"{extent.size} bytes")
    return extent.read(0, extent.size).tobytes()


def read_legacy(file: BinaryIO, limit: int, path: Path) -> Any:
    """What torch.save's older format holds: pickles of magic, protocol, system, the object and the storages' keys; then storages.

    Each storage is a number of elements (int64) and its bytes, in the order of the keys.
    """
    legacy = _Legacy(file)
    rebuilder = Rebuilder(legacy.storage, limit)
    return _found(legacy.read(rebuilder, 0, limit), rebuilder, path)


def read_pickle(file: BinaryIO, limit: int, path: Path) -> Any:
    """What a plain pickle holds, of protocol 2 to 5: `pickle.dump` of arrays of NumPy, JAX or torch, PaddlePaddle's `.pdparams`."""

    def no_storage(key: str, elements: int, itemsize: int | None) -> Extent:
        raise CheckpointError("a plain pickle with a storage, which torch keeps elsewhere", key=key)

    def load_bytes(part: BinaryIO, start: int, end: int) -> Any:
        legacy = _Legacy(part)
        return legacy.read(rebuilder.inside(legacy.storage), start, end)

    rebuilder = Rebuilder(no_storage, limit, load_bytes)
    return _found(load_pickle(file, rebuilder, 0, limit)[0], rebuilder, path)


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


def _found(tree: Any, rebuilder: Rebuilder, path: Path) -> Any:
    """A file's object: what it holds where it is a dict of a class that is not built.

    Raises CheckpointError for a file that is one module, or objects of other programs without a single array.
    """
    if isinstance(tree, Opaque) and tree.entries:
        tree = tree.entries
    _say_what_holds_weights(tree, path)
    if isinstance(tree, Opaque) and tree.remedy:
        raise CheckpointError(f"no state dict, but {tree.name}: {tree.remedy}")
    if rebuilder.unknown and not rebuilder.arrays:
        some = ", ".join(list(rebuilder.unknown)[:_MOST_NAMED]) + (", …" if len(rebuilder.unknown) > _MOST_NAMED else "")
        raise CheckpointError(f"no tensor in the file; it asks for {some}, and nothing was executed", expected="a checkpoint")
    if isinstance(tree, Opaque):
        raise CheckpointError("no state dict", expected="a mapping of names to arrays", found=described(tree))
    return tree


def _say_what_holds_weights(tree: Any, path: Path) -> None:
    """Say of modules that were pickled as objects, and of torch files within the file, how weights are got out of them."""
    level: list[tuple[str, Any, Any]] = [("", "", tree)]
    seen: set[int] = set()
    left = _MOST_LOOKED_AT
    for _ in range(_MOST_LEVELS):
        below: list[tuple[str, Any, Any]] = []
        for where, last, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            left -= 1
            if left < 0:
                return
            loaded = f"torch.load({FILE}, map_location='cpu', weights_only=False){where}"
            if is_module(value):
                value.name, value.remedy = f"a whole module ({value.name})", _saved(f"{loaded}.state_dict()", path, key=last)
                continue
            container = value.entries if isinstance(value, Opaque) else value
            if type(container) is dict:
                items: Iterable[tuple[Any, Any]] = container.items()
            else:
                items = enumerate(container) if type(container) in (list, tuple) else ()
            for key, inner in items:
                if not isinstance(inner, _LOOKED_AT) or type(key) not in (str, int) or len(str(key)) > _LONGEST_KEY:
                    continue
                there = f"{where}[{python_text(key) if type(key) is str else key}]"
                if type(container) is dict and _is_torch_file(inner):
                    inside = f"torch.load(io.BytesIO(torch.load({FILE}, weights_only=False){there}), weights_only=False)"
                    remedy = _saved(inside, path, modules="io, torch", key=key)
                    container[key] = Opaque("a torch file as bytes within the file", remedy=remedy)
                elif len(below) < left:
                    below.append((there, key, inner))
        level = below


def _is_torch_file(value: Any) -> bool:
    if type(value) is Span and value.extent.size > _SMALLEST:
        encoded, value = value.encoding, value.extent.read(0, _SMALLEST).tobytes()
        value = value if encoded is None else value.decode("utf-8", "ignore").encode("latin-1", "ignore")
    return type(value) is bytes and (value.startswith(b"PK\x03\x04") or LEGACY_MAGIC in value[:_SMALLEST])
