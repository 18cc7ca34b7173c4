"""Zip archives, which torch's and NumPy's files are: their records by name, and where the bytes of one lie; none is extracted."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO, cast

import numpy as np

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import Extent
from scalablevit_ref.formats.remedies import BROKEN_OFF

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")

_END = struct.Struct("<4s4H2LH")
"""End of an archive's directory, whose last field is the length of the comment behind it."""

_LONGEST_COMMENT = (1 << 16) - 1
"""Longest comment of an archive, in bytes."""

_MOST_DIRECTORY = 4 << 20
"""Largest directory of an archive, in bytes."""

_MOST_RECORDS = 10_000
"""Most records of an archive; that of `large` with its optimizer and an EMA has some 3,000."""

_MOST_INFLATION = 100
"""Largest ratio of a record's size to its compressed size: weights hardly compress at all."""

_SMALL_RECORD = 1 << 20
"""Size of a record, in bytes, up to which that ratio is not looked at."""

_MOST_INFLATION_TOGETHER = 8
"""Largest ratio of all compressed records' size to the file's: bfloat16 values stored as float64 compress by 4."""

_SMALL_TOGETHER = 32 << 20
"""Size of all compressed records, in bytes, up to which that ratio is not looked at."""

_MOST_INFLATED_AGAIN = 8
"""How often all compressed records may be inflated: views of one storage are read one by one."""


def zip_records(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """A zip archive's records by name. Raises CheckpointError for a damaged archive, duplicate names and encryption."""
    try:
        with zipfile.ZipFile(cast("IO[bytes]", _Directory(file))) as archive:
            infos, directory = archive.infolist(), archive.start_dir
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, OverflowError, NotImplementedError, struct.error) as error:
        why = f"it has no end: {BROKEN_OFF}" if not _has_end(file) else str(error)
        raise CheckpointError(f"truncated or damaged zip archive ({why})") from error
    if len(infos) > _MOST_RECORDS:
        raise CheckpointError(
            "zip archive of more records than a checkpoint's", expected=f"at most {_MOST_RECORDS}", found=len(infos)
        )
    records: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename in records:
            raise CheckpointError("two zip records of one name", key=info.filename)
        if ".." in info.filename.split("/") or info.filename.startswith("/") or "\\" in info.filename:
            raise CheckpointError("zip record whose name leads out of the archive", key=info.filename)
        if info.header_offset < 0:
            raise CheckpointError("damaged zip archive: a record before the file's start", key=info.filename)
        if info.flag_bits & 1:
            raise CheckpointError("encrypted zip record", key=info.filename)
        records[info.filename] = info
    _check_apart(infos, directory)
    return records


def _check_apart(infos: Iterable[zipfile.ZipInfo], end: int) -> None:
    """Raise CheckpointError for records that lie in each other, or in the directory, which begins at `end`."""
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        if info.header_offset + _LOCAL_HEADER.size + len(info.filename) + info.compress_size > end:
            raise CheckpointError("damaged zip archive: a record that reaches into the next", key=info.filename)
        end = info.header_offset


def _has_end(file: BinaryIO) -> bool:
    size = file.seek(0, io.SEEK_END)
    file.seek(-min(size, _END.size + _LONGEST_COMMENT), io.SEEK_END)
    return b"PK\x05\x06" in file.read()


def zip_comment(file: BinaryIO) -> bytes:
    """The comment of an archive whose records `zip_records` has read, which a cut file may hold in part."""
    size = file.seek(0, io.SEEK_END)
    file.seek(-min(size, _END.size + _LONGEST_COMMENT), io.SEEK_END)
    tail = file.read()
    start = tail.rfind(b"PK\x05\x06")
    if start < 0 or start + _END.size > len(tail):
        raise CheckpointError("truncated or damaged zip archive (no end of its directory)")
    length = _END.unpack_from(tail, start)[-1]
    comment = tail[start + _END.size : start + _END.size + length]
    if len(comment) != length:
        raise CheckpointError("truncated zip archive", expected=f"a comment of {length} bytes", found=len(comment))
    return comment


def record_extent(file: BinaryIO, info: zipfile.ZipInfo) -> Extent:
    """Where the bytes of a record lie that must be stored, not compressed.

    A CRC-32 of 0 means none: torch writes that where `set_crc32_options(False)` is in force.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError("compressed zip record", key=info.filename, expected="stored records only")
    if info.compress_size != info.file_size:
        raise CheckpointError("damaged zip archive: a stored record of two sizes", key=info.filename)
    extent = raw_extent(file, info)
    extent.crc = info.CRC or None
    return extent


def inflated_size(infos: Iterable[zipfile.ZipInfo], limit: int, kind: str) -> int:
    """How many bytes all compressed records are together. limit: bytes of the file; kind: what an error calls it.

    Raises CheckpointError for more than weights can inflate to.
    """
    size = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
    most = max(_SMALL_TOGETHER, _MOST_INFLATION_TOGETHER * limit)
    if size > most:
        raise CheckpointError(
            f"{kind} that inflates more than weights can, from {limit} bytes", expected=f"at most {most} bytes", found=size
        )
    return size


def deflated_extent(file: BinaryIO, info: zipfile.ZipInfo) -> Extent:
    """Where the bytes of a deflated record lie. Raises CheckpointError for one that inflates more than weights can."""
    name = info.filename
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise CheckpointError("zip record compressed by an unusual method", key=name, expected="stored or deflated")
    if info.file_size > max(_SMALL_RECORD, _MOST_INFLATION * info.compress_size):
        raise CheckpointError(
            "zip record that inflates more than weights can", key=name, found=f"{info.compress_size} to {info.file_size} bytes"
        )
    return raw_extent(file, info)


def inflate(extent: Extent, size: int, most: int) -> bytes:
    """At most `most` bytes, made from the first `size` bytes of a deflated record."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(extent.read(0, size).data, most)
    except zlib.error as error:
        raise CheckpointError(f"truncated or damaged zip record ({error})", key=extent.name) from error


class Inflation:
    """What is left of the bytes that an archive's records may inflate to, each as often as it is; and the record read last."""

    def __init__(self, size: int) -> None:
        self.left = size * _MOST_INFLATED_AGAIN
        self.last: Extent | None = None
        self.content = b""


class InflatedExtent(Extent):
    """The bytes of a deflated record, inflated when they are asked for, and kept until another record is."""

    __slots__ = ("_crc", "_deflated", "_inflation")

    def __init__(self, file: BinaryIO, info: zipfile.ZipInfo, inflation: Inflation) -> None:
        super().__init__(file, 0, info.file_size, name=info.filename)
        self._deflated, self._crc, self._inflation = deflated_extent(file, info), info.CRC, inflation

    def read(self, begin: int, size: int) -> np.ndarray:
        """Bytes `begin` to `begin + size` as uint8."""
        return np.frombuffer(self._whole(), np.uint8, size, begin).copy() if size else np.empty(0, np.uint8)

    def blocks(self, begin: int, size: int) -> Iterator[np.ndarray]:
        """The bytes that `read` gives, at once."""
        yield self.read(begin, size)

    def _whole(self) -> bytes:
        inflation = self._inflation
        if inflation.last is not self:
            inflation.left -= self.size
            if inflation.left < 0:
                raise CheckpointError("zip records that are inflated again and again: load the file with torch and save it again")
            inflation.last, inflation.content = None, b""
            content = inflate(self._deflated, self._deflated.size, self.size + 1)
            if len(content) != self.size or zlib.crc32(content) != self._crc:
                raise CheckpointError("damaged zip record: wrong size or checksum", key=self.name)
            inflation.last, inflation.content = self, content
        return inflation.content


def raw_extent(file: BinaryIO, info: zipfile.ZipInfo) -> Extent:
    """Where a record's bytes lie, compressed or not; they must be whole."""
    name = info.filename
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise CheckpointError("damaged zip archive: no record where its directory says", key=name)
    *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    if file.read(name_size) != info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"):
        raise CheckpointError("damaged zip archive: record and directory name it differently", key=name)
    start = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    if start + info.compress_size > file.seek(0, io.SEEK_END):
        raise CheckpointError("zip record reaches beyond the file", key=name, found=f"{info.compress_size} bytes at {start}")
    return Extent(file, start, info.compress_size, name=name)


class _Directory:
    """The file as zipfile reads its directory: in one go, all of it made into objects; so none larger than any checkpoint's."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > _MOST_DIRECTORY:
            raise CheckpointError("zip archive with a directory larger than a checkpoint's", found=f"{size} bytes")
        return self._file.read(size)
