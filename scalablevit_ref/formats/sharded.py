"""A checkpoint in several files, the shards, with an index that says which tensor lies in which.

The index is JSON with a `weight_map`: names of tensors to names of files in the same folder in `*.index.json` of Hugging Face, and
layers to lists of such names in `*.weights.json` of Keras.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from scalablevit_ref.errors import CheckpointError, brief, in_file
from scalablevit_ref.formats.foreign import foreign_json
from scalablevit_ref.formats.hdf5 import starts_hdf5
from scalablevit_ref.formats.keras import read_keras_shards
from scalablevit_ref.formats.lazy import Extent, LazyTensor, StoredTensor, byte_count
from scalablevit_ref.formats.opaque import described
from scalablevit_ref.formats.pth import is_pickle_record
from scalablevit_ref.formats.rebuild import MOST_OPCODES
from scalablevit_ref.formats.source import HEAD, Opened, Source, SourceFile
from scalablevit_ref.formats.zip_archive import zip_records

MOST_JSON = 4 << 20
"""Largest index, in bytes; that of `large` would have 100,000."""

_MOST_SHARDS = 100
"""Most files that an index may name; all are open at once."""

_MOST_BESIDE = 4 << 20
"""Bytes that all shards together may hold beside their tensors: as many as one safetensors header."""

_MOST_PICKLED = MOST_OPCODES
"""Bytes that the pickles of all shards may be together, so that they have no more opcodes than one file's may have."""

_FORMATS = ("safetensors", "torch zip", "torch legacy")
"""Formats of shards."""

_SHARD = re.compile(r"(?P<stem>.+?)[-_.](?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<ending>(\.\w+)+)")

_KERAS_SHARD = re.compile(r"(.+)_\d{5}\.weights\.h5")

_INDEX = re.compile(r".+\.index(\.\w+)?\.json|.+\.weights\.json")


def starts_json(head: bytes) -> bool:
    """Whether the file may be JSON: an object, or a list."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def is_index(name: str) -> bool:
    """Whether a file of this name is the index of shards, as `model.safetensors.index.json` and Keras' `x.weights.json` are."""
    return _INDEX.fullmatch(name) is not None


def shard_of(name: str) -> tuple[str, int, int] | None:
    """The index's usual name, the number and the count of a shard's name; None for a whole checkpoint's name.

    Examples
    --------
    >>> shard_of("model-00001-of-00002.safetensors")
    ('model.safetensors.index.json', 1, 2)
    """
    found = _SHARD.fullmatch(name)
    if found is None or int(found["count"]) < 2:
        return None
    return f"{found['stem']}{found['ending']}.index.json", int(found["number"]), int(found["count"])


def keras_index(name: str) -> str:
    """The name of the index of a Keras shard of this name, empty for other names.

    Examples
    --------
    >>> keras_index("x_00000.weights.h5")
    'x.weights.json'
    """
    found = _KERAS_SHARD.fullmatch(name)
    return f"{found[1]}.weights.json" if found else ""


def read_index(source: Source, open_shard: Callable[[Path], Opened]) -> Opened:
    """The tensors of all shards that an index names, and the notes on which they agree.

    Raises CheckpointError for JSON that is no index, and for shards that are not as it says.
    """
    names_of = _shards(document := _document(source.file, source.size))
    if _is_keras(document):
        return *_keras(source, names_of), "sharded hdf5"
    state: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    formats: list[str] = []
    beside = pickled = size = 0
    for file, names in names_of.items():
        path = _in_folder(source.path.parent, file)
        with in_file(path):
            tree, noted, format_ = open_shard(path)
            if format_ not in (formats[:1] or _FORMATS):
                raise CheckpointError("a shard of another format", expected=" or ".join(formats[:1] or _FORMATS), found=format_)
            tensors = _tensors(tree, names, state)
            more, besides = _sizes(path, tensors.values())
            size, beside = size + more, beside + besides
            pickled += _pickled(path, besides) if format_.startswith("torch") else 0
            for found, most in ((beside, _MOST_BESIDE), (pickled, _MOST_PICKLED)):
                if found > most:
                    raise CheckpointError("more beside the tensors of all shards than a checkpoint has", expected=most, found=found)
        state |= tensors
        notes.append(noted)
        formats.append(format_)
    state = {name: replace(x, limit=size) if isinstance(x, StoredTensor) else x for name, x in state.items()}
    agreed = {key: value for key, value in notes[0].items() if all(noted.get(key) == value for noted in notes)}
    return state, agreed, f"sharded {formats[0]}"


def _is_keras(document: Mapping[str, Any]) -> bool:
    return any(isinstance(files, list) for files in document["weight_map"].values())


def _keras(source: Source, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Keras' shards hold together. That none is missing shows in the layers' arrays."""
    files: list[tuple[BinaryIO, int]] = []
    for name in names:
        path = _in_folder(source.path.parent, name)
        file = source.files.enter_context(SourceFile(path))
        if not starts_hdf5(file.read(HEAD)):
            raise CheckpointError("a shard of another format", key=name, expected="hdf5")
        files.append((file, file.size))
    return read_keras_shards(files)


def byte_size(path: Path) -> int:
    """Bytes of a checkpoint's file, or of all shards that it names if it is their index.

    Raises CheckpointError and FileNotFoundError as reading it does.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if not starts_json(file.read(HEAD)):
            return size
        file.seek(0)
        return sum(_in_folder(path.parent, name).stat().st_size for name in _shards(_document(file, size)))


def _document(file: BinaryIO, size: int) -> dict[str, Any]:
    if size > MOST_JSON:
        raise CheckpointError("JSON larger than an index of shards", expected=f"at most {MOST_JSON} bytes", found=size)
    try:
        document = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the file begins as JSON does, but is none ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("weight_map"), dict):
        raise foreign_json(document)
    return document


def _shards(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of tensors that the index gives to each shard."""
    names_of: dict[str, list[str]] = {}
    for name, files in document["weight_map"].items():
        for file in files if isinstance(files, list) else [files]:
            if not isinstance(file, str):
                raise CheckpointError("the index gives no name of a file", key=name, found=brief(file))
            names_of.setdefault(file, []).append(name)
            if len(names_of) > _MOST_SHARDS:
                raise CheckpointError("an index of more shards than a checkpoint's", expected=f"at most {_MOST_SHARDS}")
    if not names_of:
        raise CheckpointError("the index names no tensor", key="weight_map")
    return names_of


def _in_folder(folder: Path, name: str) -> Path:
    """The shard of this name. It lies in the folder itself, or in the cache of Hugging Face to which the folder's links lead."""
    if not name or name in (".", "..") or {"/", "\\", ":", "\0"} & set(name):
        raise CheckpointError("the index names a file outside of its folder", found=repr(name))
    path = folder / name
    try:
        if not path.is_file():  # opening a FIFO would wait for ever
            raise CheckpointError("a shard that the index names is not there" if not path.exists() else "no file", key=name)
        home = path.resolve().parent
        cache = folder.resolve().parent.parent / "blobs" if folder.resolve().parent.name == "snapshots" else None
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle
        raise CheckpointError("a shard that the index names cannot be opened", key=name) from error
    if home not in (folder.resolve(), cache):
        raise CheckpointError("a shard that is a link out of its folder", key=name)
    return path


def _tensors(tree: Any, names: list[str], before: Mapping[str, Any]) -> dict[str, Any]:
    """A shard's tensors. before: those of the shards before it."""
    if not isinstance(tree, Mapping):
        raise CheckpointError("a shard that is no state dict", expected="names of tensors", found=described(tree))
    missing = [name for name in names if name not in tree]
    if missing:
        found = f"{len(missing)} of {len(names)} are not there"
        raise CheckpointError(
            "the index says that it lies in this shard", key=missing[0], expected=f"{len(names)} names", found=found
        )
    for name in tree:
        if not isinstance(name, str):
            raise CheckpointError("names must be strings", found=brief(name))
        if name in before:
            raise CheckpointError("two shards hold a tensor of this name", key=name)
    return dict(tree)


def _sizes(path: Path, tensors: Iterable[Any]) -> tuple[int, int]:
    """Bytes of a shard, and of what is in it beside its tensors: the work of reading it is bounded by that."""
    tensors = list(tensors)
    extents: dict[int, Extent] = {id(x.extent): x.extent for x in tensors if isinstance(x, StoredTensor)}
    held = sum(extent.size for extent in extents.values()) + byte_count(x for x in tensors if isinstance(x, LazyTensor))
    size = path.stat().st_size
    return size, max(0, size - held)


def _pickled(path: Path, beside: int) -> int:
    """Bytes of a torch shard's pickles once inflated. beside: those beside the tensors, the pickles of the legacy format."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return beside
        return sum(info.file_size for name, info in zip_records(file).items() if is_pickle_record(name))
