"""HDF5 read without its library: what h5py writes, in every form that it has for it, and files that lie."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.formats import hdf5
from scalablevit_ref.formats.hdf5 import Group, read_hdf5, starts_hdf5

h5py = pytest.importorskip("h5py")

ARRAY = np.random.default_rng(0).standard_normal((37, 41)).astype("float32")


def file_of(write: Callable[[Any], object], **options: Any) -> bytes:
    """An HDF5 file that h5py writes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as root:
        write(root)
    return buffer.getvalue()


def read(content: bytes, before: bytes = b"") -> Group:
    file = io.BytesIO(before + content)
    return read_hdf5(file, len(before), len(content))


def flat(group: Group, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in group.members.items():
        found |= flat(part, f"{path}{name}/") if isinstance(part, Group) else {f"{path}{name}": part}
    return found


DATA_SETS: dict[str, Callable[[Any], object]] = {
    "float32": lambda root: root.create_dataset("a", data=ARRAY),
    "float16": lambda root: root.create_dataset("a", data=ARRAY.astype("float16")),
    "big-endian float64": lambda root: root.create_dataset("a", data=ARRAY.astype(">f8")),
    "integers": lambda root: (root.create_dataset("a", data=np.arange(5)), root.create_dataset("b", data=np.arange(5, dtype="u1"))),
    "scalar": lambda root: root.create_dataset("a", data=3.0),
    "nothing": lambda root: root.create_dataset("a", data=np.zeros((0, 3), "float32")),
    "chunks": lambda root: root.create_dataset("a", data=ARRAY, chunks=(8, 16)),
    "one chunk": lambda root: root.create_dataset("a", data=ARRAY, maxshape=(None, None)),
    "deflated": lambda root: root.create_dataset("a", data=ARRAY, compression="gzip", chunks=(5, 41)),
    "shuffled": lambda root: root.create_dataset("a", data=ARRAY, compression="gzip", shuffle=True, fletcher32=True),
    "checksums": lambda root: root.create_dataset("a", data=ARRAY, fletcher32=True, chunks=(37, 3)),
    "many chunks": lambda root: root.create_dataset("a", data=ARRAY, chunks=(1, 2)),
    "groups": lambda root: [root.create_dataset(f"g/{i % 7}/k{i}", data=np.float32(i)) for i in range(300)],
    "compact": lambda root: compact(root),
}


def compact(root: Any) -> None:
    """In the header itself."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    kind, space = h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((3,))
    h5py.h5d.create(root.id, b"a", kind, space, plist).write(h5py.h5s.ALL, h5py.h5s.ALL, ARRAY[0, :3].copy())


@pytest.mark.parametrize("kind", DATA_SETS)
@pytest.mark.parametrize("options", [{}, {"track_order": True}, {"libver": "v108"}], ids=str)
def test_what_h5py_writes(kind: str, options: dict[str, Any]) -> None:
    """Also behind other bytes, as in an archive."""
    content = file_of(DATA_SETS[kind], **options)
    if kind == "groups" and "libver" in options:
        with pytest.raises(sv.CheckpointError, match="in a form that Keras does not write"):
            read(content)
        return
    found = flat(read(content, before=b"before"))
    expected: dict[str, Any] = {}
    with h5py.File(io.BytesIO(content)) as root:
        root.visititems(lambda name, x: expected.update({name: x[()]}) if isinstance(x, h5py.Dataset) else None)
    assert set(found) == set(expected)
    for name, x in expected.items():
        value, x = found[name].read(), x.astype(x.dtype.newbyteorder("="))
        assert (value.dtype, value.shape, value.tobytes()) == (x.dtype, x.shape, x.tobytes())


def test_bfloat16_is_an_opaque_type_of_two_bytes() -> None:
    x = ARRAY.astype(ml_dtypes.bfloat16)
    found = flat(read(file_of(lambda root: root.create_dataset("a", data=x))))["a"].read()
    assert found.dtype == x.dtype
    assert found.tobytes() == x.tobytes()


def test_texts() -> None:
    def write(root: Any) -> None:
        root.attrs.update({"one": "é", "list": ["a", "bc"], "fixed": np.array([b"xy", b"z"]), "none": np.array([]), "number": 3})
        root.create_group("g").attrs["long"] = "n" * 60_000

    root = read(file_of(write))
    assert root.texts == {"one": "é", "list": ["a", "bc"], "fixed": ["xy", "z"], "none": [], "number": []}
    assert root.members["g"].texts == {"long": "n" * 60_000}  # type: ignore[union-attr]


def test_what_holds_no_numbers_is_left_out() -> None:
    def write(root: Any) -> None:
        root.update({"text": "words", "flags": np.array([True]), "complex": np.ones(2, complex), "a": np.ones(2)})
        root["nothing"] = h5py.Empty("f")
        root.create_dataset("structure", data=np.zeros(2, [("x", "f4"), ("y", "i4")]))

    assert list(flat(read(file_of(write)))) == ["a"]


def other_file(root: Any) -> None:
    root["a"] = h5py.ExternalLink("/etc/passwd", "/x")


def outside(root: Any) -> None:
    root.create_dataset("a", shape=(4,), dtype="u1", external=[("/etc/passwd", 0, 4)])


def virtual(root: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (4,))
    root.create_virtual_dataset("a", layout)


def loop(root: Any) -> None:
    root.create_group("a/b")
    root["a/b/c"] = root["a"]


def deep(root: Any) -> None:
    group = root
    for _ in range(70):
        group = group.create_group("g")


def wide(root: Any) -> None:
    """2^60 paths through sixty groups."""
    groups = [root.create_group(f"g{i}") for i in range(60)]
    for above, below in pairwise(groups):
        above["l"] = above["r"] = below


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (other_file, "a: a link of HDF5 that is not followed"),
        (lambda root: root.update({"a": h5py.SoftLink("/b"), "b": np.ones(2)}), "a: a link of HDF5 that is not followed"),
        (outside, "a: an HDF5 data set that lies in other files"),
        (virtual, "a data set in another form|a damaged HDF5"),
        (loop, "a/b/c: an HDF5 group within itself"),
        (deep, "more levels than a network's"),
        (wide, "more parts than a network's|more structures than a network's|more levels|a longer path"),
        (lambda root: root.create_dataset("a", shape=(1 << 40,), dtype="f4"), "bytes that do not fit"),
        (lambda root: root.create_dataset("a", shape=(1 << 40,), dtype="f4", chunks=(1 << 20,)), "parts than|all of its chunks"),
        (lambda root: root.create_dataset("a", data=np.zeros(1 << 22), compression="gzip"), "inflates more than weights can"),
        (lambda root: root.create_dataset("a", data=ARRAY, compression="lzf"), "a filter that is not known; expected deflate"),
        (lambda root: root.create_dataset("a" * 501, data=ARRAY), "a longer path than any parameter's"),
    ],
)
def test_files_that_lie(write: Callable[[Any], object], problem: str) -> None:
    with pytest.raises(sv.CheckpointError, match=problem) as caught:
        read(file_of(write))
    assert "\n" not in str(caught.value)


def test_all_compressed_data_sets_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_SMALL_TOGETHER", 1 << 20)
    small = np.zeros(120_000, "float32")
    content = file_of(lambda root: [root.create_dataset(f"a{i}", data=small, compression="gzip") for i in range(4)])
    with pytest.raises(sv.CheckpointError, match="an HDF5 file that inflates more than weights can"):
        read(content)


def test_limits_on_parts_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    content = file_of(lambda root: [root.create_dataset(f"a{i}", data=1.0) for i in range(20)])
    for limit, most, problem in (("_MOST_PARTS", 30, "parts"), ("_MOST_TEXT", 8, "text"), ("_MOST_HEADERS", 900, "structures")):
        with monkeypatch.context() as patch:
            patch.setattr(hdf5, limit, most)
            with pytest.raises(sv.CheckpointError, match=f"more {problem} than a network's"):
                read(content)
    assert len(read(content).members) == 20


def test_a_text_of_many_attributes_is_counted_each_time() -> None:
    """One text in the file, to which many attributes refer."""
    content = bytearray(file_of(lambda root: root.attrs.update({f"a{i}": "x" * 50_000 for i in range(3)})))
    assert read(bytes(content)).texts["a2"] == "x" * 50_000
    heap = content.index(b"GCOL")
    content[heap + 8 : heap + 16] = struct.pack("<Q", 1 << 62)
    with pytest.raises(sv.CheckpointError, match="a damaged HDF5 file"):
        read(bytes(content))


def test_damage_anywhere() -> None:
    """Cut anywhere or changed anywhere: a CheckpointError, or arrays that fit the file."""

    def write(root: Any) -> None:
        root.create_dataset("a", data=ARRAY, compression="gzip", shuffle=True, chunks=(8, 16))
        for i in range(12):
            root.create_dataset(f"g/k{i}", data=np.float32(i))
            root["g"].attrs[f"name{i}"] = "layer"

    content = file_of(write)
    rng, refused = np.random.default_rng(0), 0
    for trial in range(400):
        damaged = bytearray(content)
        if trial % 4:
            for at in rng.integers(len(content), size=trial % 4):
                damaged[at] = int(rng.integers(256))
        else:
            del damaged[int(rng.integers(len(content))) :]
        try:
            for x in flat(read(bytes(damaged))).values():
                x.read()
        except sv.CheckpointError as error:
            refused += "\n" not in str(error)
    assert refused > 150


def test_told_by_its_first_bytes(tmp_path: Path) -> None:
    assert starts_hdf5(file_of(lambda root: None))
    assert not starts_hdf5(b"\x89HDF")
    (tmp_path / "x.pth").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    with pytest.raises(sv.CheckpointError, match=r"x\.pth: a damaged HDF5 file"):
        sv.load_checkpoint(tmp_path / "x.pth")
