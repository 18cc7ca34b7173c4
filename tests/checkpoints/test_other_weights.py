"""Sound weights with something beside them that could be taken for a part of them: refused, or left out, and never mixed."""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.checkpoints import CheckpointError, from_state_dict, load_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.hdf5 import read_hdf5
from scalablevit_ref.formats.lazy import in_memory
from tests.support.bombs_graphs import field, initialiser, node, onnx
from tests.support.checkpoints import TINY
from tests.support.fuzzed import of_network, same
from tests.support.waiting import slowness

RIGHT, OTHER = of_network(1), of_network(2)
BACKBONE, OTHER_BACKBONE = ({name: x for name, x in of.items() if not name.startswith("head")} for of in (RIGHT, OTHER))
HEAD, OTHER_HEAD = ({name: x for name, x in of.items() if name.startswith("head")} for of in (RIGHT, OTHER))


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: x for name, x in state.items()}


SEVERAL = "head: a head beside several networks, and it may be another one's: give key="

MIXED: dict[str, tuple[dict[Any, Any], str | None, str]] = {
    "a head twice": (
        under("net.", BACKBONE) | HEAD | {name.replace("head.", "head.module."): x for name, x in OTHER_HEAD.items()},
        None,
        r"head\.weight: two arrays of one path",
    ),
    "an average of the backbone": (under("net.", BACKBONE) | HEAD | under("ema.net.", OTHER_BACKBONE), None, SEVERAL),
    "two backbones": (under("a.net.", BACKBONE) | HEAD | under("b.net.", OTHER_BACKBONE), "a", SEVERAL),
    "an average as near": (under("net.", BACKBONE) | HEAD | under("ema.", OTHER_BACKBONE), None, SEVERAL),
    "in a box and bare": (RIGHT | {"norm.weight.value": OTHER["norm.weight"]}, None, r"norm\.weight: two arrays of one path"),
    "by text and by a tuple": (RIGHT | {("norm", "weight"): OTHER["norm.weight"]}, None, r"norm\.weight: two arrays of one path"),
    "by a slash and by a dot": (RIGHT | {"norm/weight": OTHER["norm.weight"]}, None, r"norm\.weight: two arrays of one path"),
}


@pytest.mark.parametrize("kind", MIXED)
def test_weights_of_two_networks_are_not_mixed(kind: str) -> None:
    tree, key, message = MIXED[kind]
    with pytest.raises(CheckpointError, match=message):
        from_state_dict(tree, key=key, use_ema="as near" not in kind, config=TINY)


@pytest.mark.parametrize(
    "beside",
    [
        under("ema.net.", OTHER),
        under("optimizer.", OTHER_BACKBONE),
        under("ema.b.net.", OTHER_BACKBONE),
        {"teacher.norm": np.ones(3)},
    ],
    ids=["an average with its own head", "an optimizer's", "an average that is farther", "an array"],
)
def test_a_head_beside_its_backbone_is_its_own(beside: dict[str, Any]) -> None:
    assert same(from_state_dict(under("net.", BACKBONE) | HEAD | beside, use_ema=False, config=TINY).params, RIGHT)


def test_a_part_that_two_networks_share() -> None:
    """One dict in two places of a file is in both, whichever is looked into first."""
    head = {name.removeprefix("head."): x for name, x in HEAD.items()}
    shared = {"optimizer": {"head": head}, "model": BACKBONE | {"head": head}}
    assert same(from_state_dict(shared, config=TINY).params, RIGHT)
    assert same(from_state_dict({"optimizer": RIGHT, "model": RIGHT}, config=TINY).params, RIGHT)
    found = from_state_dict({"ema": RIGHT, "model": RIGHT}, use_ema=False, config=TINY)
    assert same(found.params, RIGHT)
    assert (found.metadata["wrapper"], found.metadata["ema"]) == ("model", False)


def test_what_is_shared_does_not_grow() -> None:
    """Containers in each other, each twice, and one of no entries at many places."""
    value: Any = {"a": np.ones(3)}
    for _ in range(25):
        value = {"l": value, "r": value}
    beside: dict[str, Any] = {"doubled": value, "many": [[1.0] * 1000] * 20_000}
    beside["loop"] = {"a": beside, "b": np.ones(1)}
    begun = time.process_time()
    assert same(from_state_dict(beside | RIGHT, config=TINY).params, RIGHT)
    assert time.process_time() - begun < 2 * slowness()


def test_an_array_under_an_empty_tuple() -> None:
    found = from_state_dict(under("net.", RIGHT) | {(): np.ones(3)}, config=TINY)
    assert same(found.params, RIGHT)
    assert found.metadata["ignored"] == ["."]


def test_notes_are_of_the_network_that_was_written() -> None:
    """An average has the same settings; a network that somebody put beside it has its own."""
    config = replace(TINY, norm_eps=1e-3)
    written = {"model": RIGHT, "scalablevit_ref": {"config": asdict(config)}}
    assert from_state_dict(written | {"student": OTHER}, key="model").config == config
    assert from_state_dict(written | {"model_ema": OTHER}).config == config
    with pytest.raises(CheckpointError, match="the shapes fit no variant"):
        from_state_dict(written | {"student": OTHER}, key="student")


# ONNX


def model(*extra: bytes, without: tuple[str, ...] = ()) -> bytes:
    tensors = [
        initialiser(name, *(field(1, n) for n in x.shape), field(9, x.tobytes()))
        for name, x in RIGHT.items()
        if name not in without
    ]
    return onnx(*extra, *tensors)


def constant(name: str, x: np.ndarray) -> bytes:
    """A node that gives an array."""
    value = b"".join(field(1, n) for n in x.shape) + field(2, 1) + field(9, x.tobytes())
    return node("Constant", (), name, field(5, field(1, b"value") + field(5, value)))


QKV, PROJ, NORM = "stages.0.0.attn.qkv", "stages.0.0.attn.proj.weight", "norm.weight"

GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a node's constant of an initialiser's name": (
        lambda: model(constant(NORM, OTHER[NORM])),
        f"{NORM}: two constants of one name",
    ),
    "two nodes' constants of one name": (
        lambda: model(constant(NORM, RIGHT[NORM]), constant(NORM, OTHER[NORM]), without=(NORM,)),
        f"{NORM}: two constants of one name",
    ),
    "another constant where the module takes its weight": (
        lambda: model(
            node("MatMul", ("x", "val_1"), "y"),
            node("Add", ("y", f"{QKV}.bias"), "z"),
            initialiser("val_1", field(1, 2), field(1, 6), field(9, OTHER[f"{QKV}.weight"].T.tobytes())),
        ),
        f"{QKV}.weight: two constants that the graph does not tell apart",
    ),
    "a weight and its transpose": (
        lambda: model(
            node("MatMul", ("x", PROJ), "y"), node("Gemm", ("x", PROJ), "z", field(5, field(1, b"transB") + field(3, 1)))
        ),
        f"{PROJ}: a constant that is one module's weight and the transpose of another's",
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_that_name_two_constants_alike(kind: str, tmp_path: Path) -> None:
    make, message = GRAPHS[kind]
    (tmp_path / "x.onnx").write_bytes(make())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "x.onnx", config=TINY)
    (tmp_path / "x.onnx").write_bytes(model(node("Gemm", ("x", PROJ), "y", field(5, field(1, b"transB") + field(3, 1)))))
    assert same(load_checkpoint(tmp_path / "x.onnx", config=TINY).params, RIGHT)


# Bytes that two arrays share


def test_a_zip_record_within_another(tmp_path: Path) -> None:
    """A directory can name a record that lies in another one's bytes."""
    inside, out = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("norm.weight.npy", npy(OTHER["norm.weight"]))
    record = inside.getvalue()[: inside.getvalue().index(b"PK\x01\x02")]
    with zipfile.ZipFile(out, "w") as archive:
        for name, x in RIGHT.items():
            if name != "norm.weight":
                archive.writestr(f"{name}.npy", npy(x))
        archive.writestr("other.npy", npy(np.frombuffer(record, np.uint8)))
        info = zipfile.ZipInfo("norm.weight.npy")
        info.header_offset, content = out.getvalue().index(record), npy(OTHER["norm.weight"])
        info.CRC, info.file_size, info.compress_size = zlib.crc32(content), len(content), len(content)
        archive.filelist.append(info)
    (tmp_path / "x.npz").write_bytes(out.getvalue())
    with pytest.raises(CheckpointError, match=r"other\.npy: damaged zip archive: a record that reaches into the next"):
        load_checkpoint(tmp_path / "x.npz", config=TINY)


def npy(x: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


@pytest.mark.parametrize("shift", [0, 4])
def test_hdf5_data_sets_in_one_place(shift: int, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.h5"
    sv.save_checkpoint(path, RIGHT, TINY, layout="keras")
    content = bytearray(path.read_bytes())
    with h5py.File(path) as root:
        gamma, beta = (root[f"norm/norm/{leaf}"].id.get_offset() for leaf in ("gamma", "beta"))
    at = content.index(struct.pack("<Q", gamma))
    content[at : at + 8] = struct.pack("<Q", beta + shift)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"norm/norm/gamma: two HDF5 data sets in one place; found 'norm/norm/beta'"):
        load_checkpoint(path)


def test_an_hdf5_data_set_of_two_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as root:
        root["a"] = np.arange(4.0)
        root["b"] = root["a"]
        root.create_dataset("c", data=np.arange(4.0), chunks=(2,))
        root["d"] = root["c"]
    with open_file(tmp_path / "x.h5") as (tree, _, _):
        assert {name: in_memory(x).tolist() for name, x in tree.items()} == {name: [0, 1, 2, 3] for name in "abcd"}


@pytest.mark.parametrize("size", [1, 2, 255, 70_001])
@pytest.mark.parametrize("fill", [0, 255, None])
def test_a_checksum_of_hdf5_is_compared(size: int, fill: int | None) -> None:
    """HDF5's own, of chunks."""
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(size).integers(0, 256, size, dtype="u1") if fill is None else np.full(size, fill, "u1")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        root.create_dataset("a", data=x, chunks=(size,), fletcher32=True)
    content = bytearray(buffer.getvalue())
    assert in_memory(read_hdf5(io.BytesIO(content), 0, len(content)).members["a"]).tolist() == x.tolist()  # type: ignore[arg-type]
    at = content.rindex(x.tobytes()) + size // 2
    content[at] ^= 1
    found = read_hdf5(io.BytesIO(content), 0, len(content)).members["a"]
    with pytest.raises(CheckpointError, match="a: damaged HDF5 data set: wrong checksum"):
        in_memory(found)


def test_an_error_names_no_address_in_memory(tmp_path: Path) -> None:
    """A header of npy that is an expression: Python's parser names its parts by where they lie."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (f'2',)}"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match=r"a\.npy: damaged npy header \(malformed node .*JoinedStr object>\)"):
        load_checkpoint(tmp_path / "x.npz")
