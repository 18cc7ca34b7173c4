"""HDF5 files as h5py writes them, without the HDF5 library: groups, texts and data sets, believed as far as the file's size.

Links are followed within the file only. Source: the HDF5 File Format Specification, Version 3.0
(https://support.hdfgroup.org/documentation), in what HDF5 1.8 and later write unless they are asked for the newest.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import (
    LONGEST_NAME,
    MOST_AXES,
    Extent,
    LazyTensor,
    StoredTensor,
    in_machine_order,
    numpy_dtype,
    row_major,
)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_MOST_PARTS = 200_000
"""Most groups, data sets, attributes, chunks and other structures of a file, each as often as it is reached."""

_MOST_DEPTH = 64
"""Most groups within each other."""

_MOST_TEXT = 32 << 20
"""Bytes of all names and texts of a file together, each as often as it is reached."""

_MOST_HEADERS = 64 << 20
"""Bytes of all structures of a file together, each as often as it is reached."""

_MOST_INFLATION = 100
"""Largest ratio of a compressed data set's size to what it takes in the file: weights hardly compress at all."""

_SMALL = 1 << 20
"""Size of a data set or a chunk, in bytes, up to which that ratio is not looked at."""

_MOST_INFLATION_TOGETHER = 8
"""Largest ratio of all compressed data sets' size to the file's."""

_SMALL_TOGETHER = 32 << 20
"""Size of all compressed data sets, in bytes, up to which that ratio is not looked at."""

_NOWHERE = (1 << 64) - 1
"""The address of what is not there."""

_FLOATS = {
    (2, 10, 5, 10, 15): "float16",
    (2, 7, 8, 7, 127): "bfloat16",
    (4, 23, 8, 23, 127): "float32",
    (8, 52, 11, 52, 1023): "float64",
}
"""Bytes of a number, first bit and bits of its exponent, bits of its mantissa, bias: what tells one floating type from another."""

_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3
"""Filters of a chunk."""

_WORDS = 1 << 16
"""Words that are summed up at a time for a checksum; the sums fit into 64 bits."""


@dataclass
class Group:
    """A folder of the file: texts about it, and what is in it by name."""

    texts: dict[str, str | list[str]] = field(default_factory=dict)
    members: dict[str, Group | StoredTensor | LazyTensor] = field(default_factory=dict)


def starts_hdf5(head: bytes) -> bool:
    """Whether these first bytes are an HDF5 file's."""
    return head.startswith(_SIGNATURE)


def read_hdf5_files(files: Iterable[tuple[BinaryIO, int]]) -> Iterator[Group]:
    """The roots of files, given with their sizes, within the limits of one."""
    before = None
    for file, size in files:
        before = _Reader(file, 0, size, before)
        yield before.root()


def read_hdf5(file: BinaryIO, start: int, size: int) -> Group:
    """The root of an HDF5 file that lies in these bytes of `file`. Data sets of anything but numbers are left out.

    An opaque type of two bytes is read as bfloat16, since h5py knows none and writes one so. Raises CheckpointError for damage, for
    what the limits forbid, and for the newer layouts (`libver="latest"`), which Keras does not write.
    """
    return _Reader(file, start, size).root()


@dataclass(frozen=True)
class _Type:
    """A type of elements: `dtype` of numbers, "text" of strings, "reference" of strings that lie elsewhere, None of others."""

    kind: np.dtype[Any] | str | None
    size: int


class _Reader:
    def __init__(self, file: BinaryIO, start: int, size: int, before: _Reader | None = None) -> None:
        self.file, self.start, self.size = file, start, size
        self.parts, self.text_left, self.bytes_left = _MOST_PARTS, _MOST_TEXT, _MOST_HEADERS
        if before is not None:  # another file of the same checkpoint
            self.parts, self.text_left, self.bytes_left = before.parts, before.text_left, before.bytes_left
        self.inflated = 0
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self.runs: dict[int, list[tuple[int, int, str]]] = {}

    def at(self, address: int, size: int) -> bytes:
        """These bytes of the file."""
        if not 0 <= address <= self.size - size:
            raise _damaged(f"{brief(size)} bytes at {brief(address)} of {self.size}")
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise CheckpointError("an HDF5 file of more structures than a network's", expected=f"at most {_MOST_HEADERS} bytes")
        self.file.seek(self.start + address)
        found = self.file.read(size)
        if len(found) != size:
            raise _damaged("the file ends inside it")
        return found

    def count(self) -> None:
        self.parts -= 1
        if self.parts < 0:
            raise CheckpointError("an HDF5 file of more parts than a network's", expected=f"at most {_MOST_PARTS}")

    def text(self, content: bytes) -> str:
        self.text_left -= len(content)
        if self.text_left < 0:
            raise CheckpointError("an HDF5 file of more text than a network's", expected=f"at most {_MOST_TEXT} bytes")
        return content.partition(b"\0")[0].decode(errors="replace")

    def root(self) -> Group:
        """Superblocks: the older two hold the root's entry in a table, the newer two its address."""
        version = self.at(8, 1)[0]
        if version > 3 or self.at(0, 8) != _SIGNATURE:
            raise _damaged(f"version {version}")
        offsets, lengths = self.at(13, 2) if version < 2 else self.at(9, 2)
        where = {0: 56 + 8, 1: 60 + 8}.get(version, 36)
        base = int.from_bytes(self.at({0: 24, 1: 28}.get(version, 12), 8), "little")
        if (offsets, lengths) != (8, 8) or base:
            raise _newer(f"addresses of {offsets} bytes, from {base}")
        (address,) = struct.unpack("<Q", self.at(where, 8))
        found = self.object(address, "", ())
        if not isinstance(found, Group):
            raise _damaged("a root that is no group")
        self.check_runs()
        return found

    def check_runs(self) -> None:
        """Raise CheckpointError where a data set's bytes are another one's too. One that has several names is one."""
        runs = sorted(run for held in self.runs.values() for run in held if run[0] < run[1])
        for (_, end, name), (begin, _, other) in pairwise(runs):
            if begin < end:
                raise CheckpointError("two HDF5 data sets in one place", key=other, found=brief(name))

    def object(self, address: int, path: str, above: tuple[int, ...]) -> Group | StoredTensor | LazyTensor | None:
        """A group or a data set; None for one that holds no numbers."""
        self.count()
        if address in above:
            raise CheckpointError("an HDF5 group within itself", key=path)
        if len(above) > _MOST_DEPTH:
            raise CheckpointError("an HDF5 file of more levels than a network's", key=path, expected=f"at most {_MOST_DEPTH}")
        messages: dict[int, list[bytes]] = {}
        for kind, content in self.messages(address):
            messages.setdefault(kind, []).append(content)
        if 8 in messages:  # data layout
            found = self.data_set(messages, path, self.runs.setdefault(address, []))
            return None if found is None else in_machine_order(found)
        group = Group(dict(self.attribute(content) for content in messages.get(12, ())))
        if any(_number(content, 2 + 8 * (_byte(content, 1) & 1)) != _NOWHERE for content in messages.get(2, ())):  # link info
            raise _newer("a group with an index of its own")
        links = [link for content in messages.get(17, ()) for link in self.table(content)]  # symbol table
        links += [self.link(content) for content in messages.get(6, ())]
        for name, target in links:
            inner = f"{path}/{name}".removeprefix("/")
            if len(inner) > LONGEST_NAME:
                raise CheckpointError("a longer path than any parameter's", key=inner)
            if name in group.members:
                raise CheckpointError("two HDF5 links of one name", key=inner)
            if target is None:
                raise CheckpointError("a link of HDF5 that is not followed: it is symbolic or leads to another file", key=inner)
            part = self.object(target, inner, (*above, address))
            group.members |= {name: part} if part is not None else {}
        return group

    def messages(self, address: int) -> Iterator[tuple[int, bytes]]:
        """The messages of an object's header, in both of its versions, with their continuations."""
        head = self.at(address, 6)
        if head[:4] == b"OHDR":
            flags = head[5]
            begin = address + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self.at(begin, width), "little")
            blocks, layout, order = [(begin + width, size)], "<BHB", 2 if flags & 4 else 0
        elif head[:2] == b"\x01\x00":
            (size,) = struct.unpack("<I", self.at(address + 8, 4))
            blocks, layout, order = [(address + 16, size)], "<HHB3x", 0
        else:
            raise _damaged(f"no object at {brief(address)}")
        for begin, size in blocks:
            block, at, prefix = self.at(begin, size), 0, struct.calcsize(layout)
            while at + prefix + order <= size:
                self.count()
                kind, length, flags = struct.unpack_from(layout, block, at)
                at += prefix + order
                content = block[at : at + length]
                at += length
                if at > size:
                    raise _damaged("a message longer than its block")
                if kind == 16:  # continuation
                    more, space = _number(content, 0), _number(content, 8)
                    if prefix == 4 and (space < 8 or self.at(more, 4) != b"OCHK"):
                        raise _damaged("a continuation that is none")
                    blocks.append((more + 4, space - 8) if prefix == 4 else (more, space))
                elif flags & 2 and kind in (1, 3, 8, 11):
                    raise _newer("a type or space of its own")
                else:
                    yield kind, content

    def table(self, content: bytes) -> Iterator[tuple[str, int | None]]:
        """The links of a group in the older form: a tree of tables, and a heap of names."""
        tree, heap = _number(content, 0), _number(content, 8)
        if self.at(heap, 4) != b"HEAP":
            raise _damaged("a group without names")
        names_size, _, names = struct.unpack("<3Q", self.at(heap + 8, 24))
        texts = self.at(names, names_size)
        for node in self.tree(tree, 0, 8):
            signature, symbols = struct.unpack("<4s2xH", self.at(node, 8))
            if signature != b"SNOD":
                raise _damaged("a table that is none")
            entries = self.at(node + 8, 40 * symbols)
            for offset, target, kind in (struct.unpack_from("<QQI", entries, 40 * i) for i in range(symbols)):
                self.count()
                end = texts.find(b"\0", offset) if offset < len(texts) else -1
                if end < 0:
                    raise _damaged("a link without a name")
                yield self.text(texts[offset:end]), None if kind == 2 else target

    def tree(self, address: int, kind: int, key: int) -> Iterator[int]:
        """The leaves' children of a tree of version 1, whose keys have `key` bytes."""
        for _, child in self.entries(address, kind, key):
            yield child

    def entries(self, address: int, kind: int, key: int) -> Iterator[tuple[bytes, int]]:
        """The keys and children of all leaves, in their order."""
        below = [(address, 16)]
        while below:
            self.count()
            node, most = below.pop()
            signature, of, level, used = struct.unpack("<4sBBH", self.at(node, 8))
            if signature != b"TREE" or of != kind or level >= most:
                raise _damaged("a tree that is none")
            content = self.at(node + 24, used * (key + 8))
            found = [(content[at : at + key], _number(content, at + key)) for at in range(0, len(content), key + 8)]
            if level == 0:
                yield from found
            else:
                below += [(child, level) for _, child in reversed(found)]

    def link(self, content: bytes) -> tuple[str, int | None]:
        """A link in the newer form: its name, and the address of what it leads to in this file."""
        flags = _byte(content, 1)
        at = 2 + (1 if flags & 8 else 0)
        hard = not flags & 8 or _byte(content, 2) == 0
        at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(content[at : at + width], "little")
        name = content[at + width : at + width + size]
        if len(name) != size:
            raise _damaged("a link without a name")
        return self.text(name), _number(content, at + width + size) if hard else None

    # Types and texts

    def attribute(self, content: bytes) -> tuple[str, str | list[str]]:
        """An attribute's name and its text or texts; no texts of one that holds none."""
        self.count()
        version = _byte(content, 0)
        if not 1 <= version <= 3 or len(content) < 8 or (version > 1 and content[1]):
            raise _newer("an attribute of another version")
        sizes = struct.unpack_from("<3H", content, 2)
        at, parts = 8 + (version == 3), []
        for size in sizes:
            parts.append(content[at : at + size])
            at += size + (-size % 8 if version == 1 else 0)
        name, kind, shape = self.text(parts[0]), _type(parts[1]), _shape(parts[2])
        number = 0 if shape is None else math.prod(shape)
        if kind.kind not in ("text", "reference") or number * kind.size > len(content) - at or not kind.size:
            return name, []
        values = [content[at + i * kind.size : at + (i + 1) * kind.size] for i in range(number)]
        texts = [self.text(value if kind.kind == "text" else self.elsewhere(value)) for value in values]
        return name, texts[0] if shape == () else texts

    def elsewhere(self, reference: bytes) -> bytes:
        """What lies in the global heap under a reference: a length, the heap's address and an index."""
        self.count()
        size, heap, index = struct.unpack("<IQI", reference)
        if size == 0:
            return b""
        if heap not in self.heaps:
            self.heaps[heap] = dict(self.heap(heap))
        begin, held = self.heaps[heap].get(index, (0, 0))
        if size > held:
            raise _damaged("a text that is not there")
        return self.at(begin, size)

    def heap(self, address: int) -> Iterator[tuple[int, tuple[int, int]]]:
        signature, size = struct.unpack("<4s4xQ", self.at(address, 16))
        if signature != b"GCOL" or size > self.size:
            raise _damaged("a heap that is none")
        at = address + 16
        while at + 16 <= address + size:
            self.count()
            index, length = struct.unpack("<H6xQ", self.at(at, 16))
            if index == 0:
                return
            yield index, (at + 16, length)
            at += 16 + length + -length % 8

    # Data sets

    def data_set(
        self, messages: Mapping[int, list[bytes]], path: str, runs: list[tuple[int, int, str]]
    ) -> StoredTensor | LazyTensor | None:
        """The numbers of a data set, still in the file. runs: of bytes, to which its own are added: where they begin and end."""
        kind, shape = _type(_only(messages, 3, path)), _shape(_only(messages, 1, path))
        if not isinstance(kind.kind, np.dtype) or shape is None:
            return None
        dtype, layout = kind.kind, _only(messages, 8, path)
        if 7 in messages:
            raise CheckpointError("an HDF5 data set that lies in other files", key=path)
        if len(shape) > MOST_AXES:
            raise CheckpointError("more axes than an array can have", key=path, expected=f"at most {MOST_AXES}", found=len(shape))
        needed = math.prod(shape) * dtype.itemsize
        version, of = _byte(layout, 0), _byte(layout, 1)
        if version not in (3, 4) or of not in ((0, 1, 2) if version == 3 else (0, 1)):
            raise _newer("a data set in another form", path)
        if of == 2:
            return self.chunked(dtype, shape, layout, messages.get(11, []), path, runs)
        if of == 0:
            values, size = layout[4:], int.from_bytes(layout[2:4], "little")
            if size != needed or len(values) < size:
                raise _misfit(path, needed, size)
            return LazyTensor(shape, dtype, lambda: np.frombuffer(values[:size], dtype).reshape(shape).copy())
        address, size = _number(layout, 2), _number(layout, 10)
        if needed == 0 and address == _NOWHERE:
            address, size = 0, 0
        if size != needed or address > self.size - size:
            raise _misfit(path, needed, size)
        runs[:] = [(address, address + size, path)]
        return StoredTensor(Extent(self.file, self.start + address, size, name=path), dtype, 0, shape, row_major(shape), self.size)

    def chunked(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        layout: bytes,
        pipeline: list[bytes],
        path: str,
        runs: list[tuple[int, int, str]],
    ) -> LazyTensor:
        """A data set in chunks, perhaps compressed; all of them must be there."""
        axes = _byte(layout, 2)
        sides = struct.unpack_from(f"<{axes}I", layout, 11) if len(layout) >= 11 + 4 * axes else ()
        filters = [number for content in pipeline for number in _filters(content, path)]
        sides, whole = sides[:-1], math.prod(shape) * dtype.itemsize
        if len(sides) != len(shape) or 0 in (*sides, *shape):
            raise _misfit(path, whole, 0)
        chunk = math.prod(sides) * dtype.itemsize
        starts = [range(0, n, side) for n, side in zip(shape, sides, strict=True)]
        expected = math.prod(map(len, starts))
        if expected > self.parts:
            raise CheckpointError("an HDF5 file of more parts than a network's", key=path, expected=f"at most {_MOST_PARTS}")
        found: dict[tuple[int, ...], tuple[int, int, int]] = {}
        for key, address in self.entries(_number(layout, 3), 1, 8 + 8 * (axes)):
            self.count()
            size, mask, *offsets = struct.unpack(f"<II{axes}Q", key)
            if address > self.size - size:
                raise _misfit(path, size, self.size)
            found[tuple(offsets[:-1])] = address, size, mask
        if len(found) != expected or set(found) != set(product(*starts)):
            raise CheckpointError("an HDF5 data set without all of its chunks", key=path, expected=expected, found=len(found))
        runs[:] = [(address, address + size, path) for address, size, _ in found.values()]
        stored = sum(size for _, size, _ in found.values())
        if max(whole, chunk) > max(_SMALL, _MOST_INFLATION * stored):
            raise CheckpointError("a data set that inflates more than weights can", key=path, found=f"{stored} to {whole} bytes")
        self.inflated += whole
        most = max(_SMALL_TOGETHER, _MOST_INFLATION_TOGETHER * self.size)
        if self.inflated > most:
            raise CheckpointError(
                "an HDF5 file that inflates more than weights can", expected=f"at most {most} bytes", found=self.inflated
            )

        def read() -> np.ndarray:
            values = np.empty(shape, dtype)
            for corner, (address, size, mask) in found.items():
                content = Extent(self.file, self.start + address, size, name=path).read(0, size).tobytes()
                for i, number in reversed(list(enumerate(filters))):
                    content = content if mask >> i & 1 else _undone(number, content, chunk, dtype.itemsize, path)
                if len(content) != chunk:
                    raise _misfit(path, chunk, len(content))
                inner = tuple(slice(0, n - begin) for n, begin in zip(shape, corner, strict=True))
                places = tuple(slice(begin, begin + side) for begin, side in zip(corner, sides, strict=True))
                values[places] = np.frombuffer(content, dtype).reshape(sides)[inner]
            return values

        return LazyTensor(shape, dtype, read)


def _undone(number: int, content: bytes, chunk: int, itemsize: int, path: str) -> bytes:
    """A chunk before a filter, of which none makes more than the chunk's bytes and a checksum."""
    if number == _CHECKSUM:
        if int.from_bytes(content[-4:], "little") != _fletcher(content[:-4]):
            raise CheckpointError("damaged HDF5 data set: wrong checksum", key=path)
        return content[:-4]
    if number == _SHUFFLE:
        whole = len(content) // itemsize * itemsize
        return np.frombuffer(content[:whole], np.uint8).reshape(itemsize, -1).T.tobytes() + content[whole:]
    try:
        return zlib.decompressobj().decompress(content, chunk + 4)
    except zlib.error as error:
        raise CheckpointError(f"damaged HDF5 data set ({error})", key=path) from error


def _fletcher(content: bytes) -> int:
    """HDF5's checksum of 32 bits: the sum, modulo 65535, of big-endian words of two bytes, below that of the sums up to each word.

    Source: `H5_checksum_fletcher32` of HDF5's src/H5checksum.c.
    """
    words = np.frombuffer(content + b"\0" * (len(content) % 2), ">u2").astype(np.uint64)
    first = second = 0
    for at in range(0, words.size, _WORDS):
        some = words[at : at + _WORDS]
        second += first * some.size + int(some @ np.arange(some.size, 0, -1, dtype=np.uint64))
        first += int(some.sum())
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    """A sum modulo 65535, which is 65535 and not 0 unless all of it is 0."""
    return (total - 1) % 65535 + 1 if total else 0


def _filters(content: bytes, path: str) -> list[int]:
    """The filters of a data set's chunks, in the order in which they were applied."""
    version, number = _byte(content, 0), _byte(content, 1)
    at, size = (8, 8) if version == 1 else (2, 6)
    found: list[int] = []
    for _ in range(number):
        kind, *rest = struct.unpack_from(f"<{size // 2}H", content.ljust(at + size, b"\0"), at)
        if kind not in (_DEFLATE, _SHUFFLE, _CHECKSUM):
            raise CheckpointError("an HDF5 data set with a filter that is not known", key=path, expected="deflate", found=kind)
        name, values = rest[0] if version == 1 else 0, rest[-1]
        at += size + name + -name % 8 + 4 * (values + (values % 2 if version == 1 else 0))
        found.append(kind)
    return found


def _type(content: bytes) -> _Type:
    """The type of elements. Byte order is the first of the bits of numbers."""
    if len(content) < 8:
        raise _damaged("a type of too few bytes")
    (size,) = struct.unpack_from("<I", content, 4)
    of, bits = content[0] & 15, content[1]
    order = ">" if bits & 1 else "<"
    if of == 0 and size in (1, 2, 4, 8):
        return _Type(np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"), size)
    if of == 1 and len(content) >= 20:
        _, precision, exponent, exponent_size, mantissa, mantissa_size, bias = struct.unpack_from("<HHBBBBI", content, 8)
        name = _FLOATS.get((size, exponent, exponent_size, mantissa_size, bias))
        if name and precision == 8 * size and mantissa == 0 and content[2] == 8 * size - 1:
            return _Type(
                numpy_dtype(name) if name == "bfloat16" else np.dtype(name).newbyteorder("big" if bits & 1 else "little"), size
            )
    if of == 3:
        return _Type("text", size)
    if of == 5 and size == 2:
        return _Type(numpy_dtype("bfloat16"), size)
    return _Type("reference" if of == 9 and bits & 15 == 1 and size == 16 else None, size)


def _shape(content: bytes) -> tuple[int, ...] | None:
    """The lengths of a space's axes; None for one that holds nothing."""
    version, rank = _byte(content, 0), _byte(content, 1)
    at = {1: 8, 2: 4}.get(version)
    if at is None or len(content) < at + 8 * rank:
        raise _damaged("a space of another version")
    if version == 2 and content[3] == 2:
        return None
    return struct.unpack_from(f"<{rank}Q", content, at)


def _only(messages: Mapping[int, list[bytes]], kind: int, path: str) -> bytes:
    if len(messages.get(kind, ())) != 1:
        raise CheckpointError("damaged HDF5 data set", key=path, found=f"{len(messages.get(kind, ()))} messages of kind {kind}")
    return messages[kind][0]


def _byte(content: bytes, at: int) -> int:
    if at >= len(content):
        raise _damaged("a message of too few bytes")
    return content[at]


def _number(content: bytes, at: int) -> int:
    if at + 8 > len(content):
        raise _damaged("a message of too few bytes")
    return int.from_bytes(content[at : at + 8], "little")


def _damaged(found: str) -> CheckpointError:
    return CheckpointError("a damaged HDF5 file", found=found)


def _newer(found: str, key: str | None = None) -> CheckpointError:
    problem = "HDF5 in a form that Keras does not write: load it there and save it again, with save_weights"
    return CheckpointError(problem, key=key, found=found)


def _misfit(path: str, expected: int, found: int) -> CheckpointError:
    return CheckpointError("bytes that do not fit shape, dtype or file", key=path, expected=brief(expected), found=brief(found))
