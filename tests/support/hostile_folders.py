"""Hostile and broken folders and indexes of shards: what makes them, and what is said of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.bombs import deflated
from tests.support.hostile import FOUR, archive, entry, header, npy, plain, program, tensor

INDEX = "model.safetensors.index.json"


def shard(*names: str) -> bytes:
    """A safetensors file with two zeros under each name."""
    entries = {name: entry(offsets=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    return header(entries, bytes(8 * len(names)))


def index(folder: Path, weight_map: Any, files: dict[str, bytes] | None = None) -> Path:
    """An index, and the files beside it."""
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def many(folder: Path, make: Callable[[int], bytes], count: int = 60) -> Path:
    """An index of as many shards, each with the tensor `t0`, `t1`, …; the shards are made once."""
    return index(folder, {f"t{i}": f"{i}.x" for i in range(count)}, {f"{i}.x": make(i) for i in range(count)})


def written(folder: Path, content: bytes) -> Path:
    (folder / INDEX).write_bytes(content)
    return folder / INDEX


def empty_tensors(i: int) -> bytes:
    """A header of a few megabytes."""
    none = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return header(b"{" + b",".join(b'"%d":%b' % (100_000 * i + k, none) for k in range(40_000)) + b',"t%d":%b}' % (i, none))


def busy_pickle(i: int) -> bytes:
    """A shard whose pickle does nothing for long."""
    return archive(program(b"N0" * 249_000, b"}" + plain(f"t{i}") + tensor(0, (4,), (1,)) + b"s"), FOUR)


def linked(folder: Path, target: Path) -> Path:
    (folder / "a.safetensors").symlink_to(target)
    return index(folder, {"a": "a.safetensors"})


def in_a_circle(folder: Path) -> Path:
    (folder / "a.safetensors").symlink_to(folder / "b.safetensors")
    (folder / "b.safetensors").symlink_to(folder / "a.safetensors")
    return index(folder, {"a": "a.safetensors"})


def out_of_the_folder(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "a.safetensors").write_bytes(shard("a"))
    return linked(folder / "model", folder / "a.safetensors")


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "a.safetensors")
    return index(folder, {"a": "a.safetensors"})


def crowded(folder: Path, count: int = 10_001) -> Path:
    for i in range(count):
        (folder / f"{i}").touch()
    return folder


def nested(folder: Path) -> Path:
    """Folders in folders, deeper than is looked, and a link back to the first."""
    path = folder
    for _ in range(60):
        path = path / "x"
        path.mkdir()
    (folder / "loop").symlink_to(folder)
    return folder


def wide_below(folder: Path) -> Path:
    for i in range(30):
        (folder / f"{i}").mkdir()
        crowded(folder / f"{i}", 500)
    return folder


def object_in_npy(folder: Path) -> Path:
    np.save(folder / "x.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    return folder / "x.npy"


HOSTILE_FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "climbing shard": (lambda f: index(f, {"a": "../a.safetensors"}), "names a file outside of its folder"),
    "absolute shard": (lambda f: index(f, {"a": "/etc/passwd"}), "names a file outside of its folder"),
    "shard of Windows": (lambda f: index(f, {"a": "c:\\a.safetensors"}), "names a file outside of its folder"),
    "the folder as a shard": (lambda f: index(f, {"a": "."}), "names a file outside of its folder"),
    "shard of no name": (lambda f: index(f, {"a": ""}), "names a file outside of its folder"),
    "shard of a null": (lambda f: index(f, {"a": "a\0"}), "names a file outside of its folder"),
    "shard of a long name": (lambda f: index(f, {"a": "a" * 100_000}), "a+…: (no file|a shard that the index names )"),
    "shard that is missing": (lambda f: index(f, {"a": "a.safetensors"}), "a.safetensors: a shard .* is not there"),
    "shard that is a FIFO": (fifo, "a.safetensors: no file"),
    "shard that is a folder": (lambda f: ((f / "x").mkdir(), index(f, {"a": "x"}))[1], "x: no file"),
    "shard that is linked": (out_of_the_folder, "a.safetensors: a shard that is a link out of its folder"),
    "shard that is linked to a device": (lambda f: linked(f, Path("/dev/zero")), "a.safetensors: no file"),
    "shard that is linked in a circle": (in_a_circle, "a.safetensors: a shard that the index names "),
    "index of itself": (lambda f: index(f, {"a": INDEX}), "the file is JSON, and no weights"),
    "indexes of each other": (
        lambda f: index(f, {"a": "b.json"}, {"b.json": json.dumps({"weight_map": {"a": INDEX}}).encode()}),
        "b.json: the file is JSON, and no weights",
    ),
    "index of a number": (lambda f: index(f, {"a": 1}), "a: the index gives no name of a file; found 1"),
    "index of nothing": (lambda f: index(f, {}), "weight_map: the index names no tensor"),
    "index that is a list": (lambda f: index(f, ["a"]), "the file is JSON that holds no weights"),
    "index that is deep": (lambda f: written(f, b'{"weight_map":' * 100_000), "the file begins as JSON does, but is none"),
    "index that is cut off": (lambda f: written(f, b'{"weight_map": {"a": "b"'), "the file begins as JSON does, but is none"),
    "index of a million names": (lambda f: index(f, {str(i): "x" for i in range(1_000_000)}), "JSON larger than an index"),
    "index of lists": (lambda f: written(f, b'{"a":[' + b"[]," * 1_390_000 + b"[]]}"), "the file is JSON that holds no weights"),
    "index of many shards": (lambda f: index(f, {str(i): f"{i}.x" for i in range(101)}), "more shards than a checkpoint's"),
    "name in another shard": (
        lambda f: index(f, {"a": "1.x", "b": "1.x", "c": "2.x"}, {"1.x": shard("a"), "2.x": shard("b", "c")}),
        "1.x: b: the index says that it lies in this shard",
    ),
    "name in two shards": (
        lambda f: index(f, {"a": "1.x", "b": "2.x"}, {"1.x": shard("a"), "2.x": shard("a", "b")}),
        "2.x: a: two shards hold a tensor of this name",
    ),
    "shards of two formats": (
        lambda f: index(f, {"a": "1.x", "t0": "2.x"}, {"1.x": shard("a"), "2.x": busy_pickle(0)}),
        "2.x: a shard of another format; expected safetensors, found torch zip",
    ),
    "shard of npz": (lambda f: index(f, {"a": "1.x"}, {"1.x": deflated({"a.npy": npy((2,))})}), "1.x: a shard of another format"),
    "shard that is one value": (lambda f: index(f, {"a": "1.x"}, {"1.x": archive(program(b"N"))}), "1.x: .*no state dict"),
    "shard that is damaged": (lambda f: index(f, {"a": "1.x"}, {"1.x": shard("a")[:-1]}), "1.x: the file ends before its last"),
    "large headers": (lambda f: many(f, empty_tensors), "1.x: more beside the tensors of all shards than a checkpoint has"),
    "busy pickles": (lambda f: many(f, busy_pickle), "1.x: more beside the tensors of all shards than a checkpoint has"),
    "crowded folder": (crowded, "a folder of more entries than are looked at"),
    "deep folders": (nested, "a folder that holds no checkpoint"),
    "wide folders": (wide_below, "a folder that holds no checkpoint"),
    "objects in a npy": (object_in_npy, "a pickle in a .npy"),
}  # fmt: skip
"""What makes a path in an empty folder, and what is said of it."""
