"""Checkpoints opened for reading: what a file is shows in its first bytes, and each format has one line in a list of readers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from scalablevit_ref.errors import CheckpointError, in_file
from scalablevit_ref.formats.damage import damage_is_an_error
from scalablevit_ref.formats.folders import check_no_part, weights_file
from scalablevit_ref.formats.foreign import foreign, foreign_zip, is_joblib, joblib_file
from scalablevit_ref.formats.hdf5 import starts_hdf5
from scalablevit_ref.formats.keras import WEIGHTS, read_keras, read_keras_zip
from scalablevit_ref.formats.msgpack import read_msgpack, starts_msgpack
from scalablevit_ref.formats.npz import read_npz
from scalablevit_ref.formats.onnx import read_onnx, starts_onnx
from scalablevit_ref.formats.paddle import as_paddle_has_it
from scalablevit_ref.formats.pth import LEGACY_MAGIC, PICKLES, is_pickle_record, program_archive, read_legacy, read_pickle, read_zip
from scalablevit_ref.formats.quantised import name_quantised
from scalablevit_ref.formats.safetensors import read_safetensors, starts_safetensors
from scalablevit_ref.formats.sharded import read_index, starts_json
from scalablevit_ref.formats.source import HEAD, Opened, Source, SourceFile
from scalablevit_ref.formats.zip_archive import zip_records

Readers: TypeAlias = tuple[tuple[Callable[[bytes], bool], Callable[[Source], Opened]], ...]


_JOBLIB_HEAD = 1 << 16
"""First bytes of a pickle that cannot be read in which joblib is looked for."""


@contextmanager
def open_file(path: Path, format: str | None = None) -> Iterator[Opened]:
    """What a checkpoint holds: its tree, the texts noted beside it, and the format. Nothing in it is interpreted, or cut off.

    The tree is made of mappings and sequences; its leaves are arrays, plain values, and Opaques for all else. Arrays may be
    StoredTensors or LazyTensors, readable until the file is closed. A folder that holds one checkpoint is read, and shards through
    their index. format: "onnx" reads the file as that, whatever its first bytes say; None tells it from them.

    Raises
    ------
    CheckpointError
        For what is no checkpoint, naming the file if that is not `path`.
    FileNotFoundError, PermissionError
        If there is no such file, or it may not be read.
    """
    file = weights_file(path)
    check_no_part(file)
    with ExitStack() as files:
        if file != path:
            files.enter_context(in_file(file))
        with damage_is_an_error():
            opened = _opened(file, files, _READERS if format is None else _STATED[format])
            name_quantised(opened[0])
        yield opened


def _opened(path: Path, files: ExitStack, readers: Readers) -> Opened:
    file = files.enter_context(SourceFile(path))
    return _read(Source(path, file, file.size, file.read(HEAD), files), readers)


def read_bytes(content: bytes) -> Opened:
    """What a file of these bytes holds, as `open_file` gives it. Raises CheckpointError as that does."""
    with ExitStack() as files, damage_is_an_error():
        return _read(Source(Path("checkpoint"), io.BytesIO(content), len(content), content[:HEAD], files), _READERS)


def _read(source: Source, readers: Readers) -> Opened:
    source.file.seek(0)
    for tells, read in readers:
        if tells(source.head):
            return read(source)
    raise foreign(source)


def _read_archive(source: Source) -> Opened:
    records = zip_records(source.file)
    if (refusal := program_archive(records, source.path)) is not None:
        raise refusal
    if sum(map(is_pickle_record, records)) == 1:
        return read_zip(source.file, records, source.size, source.path), {}, "torch zip"
    if records and all(name.endswith(".npy") for name in records):
        return *read_npz(source.file, records, source.size, source.path), "npz"
    if WEIGHTS in records:
        return *read_keras_zip(source.file, records[WEIGHTS], source.size), "keras"
    raise foreign_zip(records, source.path)


def _read_legacy(source: Source) -> Opened:
    return read_legacy(source.file, source.size, source.path), {}, "torch legacy"


def _read_pickle(source: Source) -> Opened:
    try:
        tree = read_pickle(source.file, source.size, source.path)
    except CheckpointError:
        source.file.seek(0)
        if is_joblib(source.file.read(_JOBLIB_HEAD)):
            raise joblib_file(source.path) from None
        raise
    return as_paddle_has_it(tree), {}, "pickle"


def _read_safetensors(source: Source) -> Opened:
    return *read_safetensors(source.file, source.size), "safetensors"


def _read_json(source: Source) -> Opened:
    """The shards that an index names, none of which may be another index."""
    readers = tuple(reader for reader in _READERS if reader[1] is not _read_json)
    return read_index(source, lambda path: _opened(path, source.files, readers))


def _read_hdf5(source: Source) -> Opened:
    return *read_keras(source.file, 0, source.size), "hdf5"


def _read_onnx(source: Source) -> Opened:
    return *read_onnx(source.path, source.files), "onnx"


def _read_msgpack(source: Source) -> Opened:
    return *read_msgpack(source.file, source.size), "msgpack"


def _starts_legacy(head: bytes) -> bool:
    return head[:1] == b"\x80" and LEGACY_MAGIC in head[:32]


_READERS: Readers = (
    (lambda head: head.startswith(b"PK"), _read_archive),
    (_starts_legacy, _read_legacy),
    (lambda head: head.startswith(PICKLES), _read_pickle),
    (starts_safetensors, _read_safetensors),
    (starts_json, _read_json),
    (starts_hdf5, _read_hdf5),
    (starts_onnx, _read_onnx),
    (starts_msgpack, _read_msgpack),
)
"""How a head tells a format, and its reader; msgpack is the last since it has no mark of its own."""

_STATED: dict[str, Readers] = {"onnx": ((lambda head: True, _read_onnx),)}
"""Readers of the formats that the caller may state: protobuf has no mark of its own either."""
