"""What lies beside sound parameters condemns nothing, whatever its dtype; bytes in another order and NumPy's bfloat16 are read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import serialization

from scalablevit_ref import init_params, to_backend, to_state_dict
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.inspect import inspect_file, manifest
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from scalablevit_ref.formats.opaque import Opaque
from tests.support.bit_patterns import assert_same_bits, special_patterns
from tests.support.checkpoints import DIGITS, assert_same, random_bits
from tests.support.flax_files import msgpack, nested
from tests.support.hostile import header

safetensors_torch: Any = pytest.importorskip("safetensors.torch")

PARAMS = init_params(DIGITS)
FLAX = nested(to_state_dict(PARAMS, DIGITS, layout="channels_last"))


def opened(path: Path) -> dict[Any, Any]:
    """The tree, its arrays in memory."""
    with open_file(path) as (tree, _, _):
        return {name: in_memory(x) if hasattr(x, "shape") else x for name, x in tree.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_bfloat16(tmp_path: Path, save: Any) -> None:
    """NumPy writes its bytes under the dtype |V2, and so do `jax.numpy.savez` and MLX."""
    params = random_bits(DIGITS, ml_dtypes.bfloat16)
    save(tmp_path / "x.npz", **params)
    assert_same_bits(load_checkpoint(tmp_path / "x.npz", allow_nonfinite=True).params, params)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_npz_of_the_other_order_of_bytes(tmp_path: Path, dtype: str, save: Any) -> None:
    """All bits of all values stay, those of NaNs too, and in Fortran order."""
    params = random_bits(DIGITS, dtype)
    turned = {name: x.byteswap().view(x.dtype.newbyteorder(">")) for name, x in params.items()}
    save(tmp_path / "x.npz", **{name: np.asfortranarray(x) if x.ndim == 2 else x for name, x in turned.items()})
    assert_same_bits(load_checkpoint(tmp_path / "x.npz", allow_nonfinite=True).params, params)


def write_hdf5(path: Path, params: dict[str, np.ndarray], **options: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, x in params.items():
            file.create_dataset(name, data=x, **options)


def into(save: Callable[..., object]) -> Callable[[Path, dict[str, np.ndarray]], object]:
    """Under the very name, to which NumPy would add one."""

    def write(path: Path, params: dict[str, np.ndarray]) -> None:
        with path.open("wb") as file:
            save(file, **params)

    return write


HOLD_BOTH_ORDERS: dict[str, Callable[[Path, dict[str, np.ndarray]], object]] = {
    "npz": into(np.savez),
    "compressed npz": into(np.savez_compressed),
    "pickle": lambda path, params: path.write_bytes(pickle.dumps(params, 2)),
    "pickle of protocol 5": lambda path, params: path.write_bytes(pickle.dumps(params, 5)),
    "torch's file of NumPy's arrays": lambda path, params: torch.save({"model": params}, path),
    "HDF5": write_hdf5,
    "HDF5 in chunks": lambda path, params: write_hdf5(path, params, compression="gzip", shuffle=True),
}


@pytest.mark.parametrize("save", HOLD_BOTH_ORDERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_big_endian_arrays_are_read_bit_for_bit_and_written_as_others_are(tmp_path: Path, dtype: str, save: str) -> None:
    params = random_bits(DIGITS, dtype)
    HOLD_BOTH_ORDERS[save](tmp_path / "x", {name: x.byteswap().view(x.dtype.newbyteorder(">")) for name, x in params.items()})
    assert_same_bits(load_checkpoint(tmp_path / "x", allow_nonfinite=True).params, params)
    found = inspect_file(tmp_path / "x", sha256=True)
    assert (found.dtypes, found.sha256) == ({dtype: len(params)}, manifest(params))
    for suffix in (".npz", ".safetensors", ".msgpack", ".pdparams"):
        convert_file(tmp_path / "x", tmp_path / f"y{suffix}", allow_nonfinite=True)
        assert_same_bits(load_checkpoint(tmp_path / f"y{suffix}", allow_nonfinite=True).params, params)


def test_npz_of_whole_numbers_in_the_other_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([1, -2], ">i8"), b=np.array([1 + 2j], ">c16"), c=np.array(3, ">u2"), d=np.array([True]))
    found = opened(tmp_path / "x.npz")
    assert {name: x.dtype.str for name, x in found.items()} == {"a": "<i8", "b": "<c16", "c": "<u2", "d": "|b1"}
    assert {name: x.tolist() for name, x in found.items()} == {"a": [1, -2], "b": [1 + 2j], "c": 3, "d": [True]}


BESIDE = {
    "float8": (np.zeros(3, ml_dtypes.float8_e4m3fn), "float8, perhaps"),
    "int4": (np.zeros(3, ml_dtypes.int4), "float8, perhaps"),
    "records": (np.zeros(2, [("a", "f4"), ("b", "i8")]), "records"),
    "parts": (np.zeros(2, [("a", "f4", (2,))]), "records"),
    "objects": (np.array([{"a": 1}, None], object), "Python objects"),
    "one object": (np.array({"a": 1}, object), "a Python object"),
    "texts": (np.array(["a", "bc"]), "texts"),
    "bytes": (np.array([b"a", b"bc"]), "bytes"),
    "dates": (np.array(["2024-01-01"], "M8[D]"), "dates"),
    "times": (np.array([3], "m8[s]"), "times"),
    "nothing": (np.zeros(3, "V0"), "float8, perhaps"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("what", BESIDE)
def test_npz_with_other_arrays_beside(tmp_path: Path, what: str, save: Any) -> None:
    array, said = BESIDE[what]
    save(tmp_path / "x.npz", **PARAMS, beside=array)
    assert_same(load_checkpoint(tmp_path / "x.npz"), PARAMS)
    beside = opened(tmp_path / "x.npz")["beside"]
    assert isinstance(beside, Opaque)
    assert said in beside.name


def test_numbers_beside_the_parameters_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **PARAMS, num_batches=np.array(7), mask=np.array([True, False]), fft=np.array([1j]))
    found = opened(tmp_path / "x.npz")
    assert (found["num_batches"].tolist(), found["mask"].tolist(), found["fft"].tolist()) == (7, [True, False], [1j])


def test_texts_of_an_npz_are_its_notes(tmp_path: Path) -> None:
    """Under their own names, and none is interpreted; what is too long to be a note is an Opaque."""
    notes = {"__config__": "{", "author": "a", "empty": "", "turned": "b"}
    arrays: dict[str, Any] = {name: np.array(text) for name, text in notes.items()} | {"turned": np.array("b", ">U1")}
    np.savez(tmp_path / "x.npz", a=np.zeros(2), long=np.array("x" * (1 << 20) + "y"), **arrays)
    with open_file(tmp_path / "x.npz") as (tree, found, format_):
        assert (found, format_) == (notes, "npz")
        assert sorted(tree) == ["a", "long"]
        assert tree["long"].name == "an array of texts"


SAFETENSORS = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "complex64": torch.complex64,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "int64": torch.int64,
    "bool": torch.bool,
}


@pytest.mark.parametrize("dtype", SAFETENSORS)
def test_safetensors_with_other_dtypes_beside(tmp_path: Path, dtype: str) -> None:
    beside = torch.tensor([0.0, 1.0, 3.0]).to(SAFETENSORS[dtype])
    safetensors_torch.save_file(to_backend(PARAMS, "torch") | {"beside": beside}, tmp_path / "x.safetensors")
    found = opened(tmp_path / "x.safetensors")
    assert found["beside"].dtype.name == dtype
    assert found["beside"].tobytes() == beside.contiguous().view(torch.uint8).numpy().tobytes()
    for name, x in PARAMS.items():
        assert np.array_equal(found[name], x)


@pytest.mark.parametrize(("code", "elements", "size"), [("F4", 4, 2), ("F6_E2M3", 4, 3), ("F6_E3M2", 8, 6), ("F8_E8M0", 2, 2)])
def test_safetensors_of_narrow_dtypes(tmp_path: Path, code: str, elements: int, size: int) -> None:
    """Elements that share bytes are an Opaque; their bytes are counted all the same."""
    path = tmp_path / "x.safetensors"
    for count, sound in ((elements, True), (2 * elements, False)):
        path.write_bytes(header({"a": {"dtype": code, "shape": [count], "data_offsets": [0, size]}}, bytes(size)))
        if sound:
            assert getattr(opened(path)["a"], "name", "an array") in (f"a tensor of dtype {code}", "an array")
        else:
            with pytest.raises(CheckpointError, match="a: bytes that do not fit"):
                opened(path)


def test_safetensors_of_dtypes_to_come(tmp_path: Path) -> None:
    """Their bytes are held against the file, the gaps and the overlaps, though not against the shape."""
    path = tmp_path / "x.safetensors"
    entry = {"dtype": "F2_E1M0", "shape": [8], "data_offsets": [0, 2]}
    path.write_bytes(header({"a": entry}, bytes(2)))
    assert opened(path)["a"].name == "a tensor of dtype F2_E1M0"
    for changed, data, said in (
        (entry | {"data_offsets": [0, 3]}, bytes(2), "the file ends before its last tensor"),
        (entry, bytes(3), "bytes after the last tensor"),
        (entry | {"data_offsets": [1, 3]}, bytes(3), "a: a gap or an overlap"),
        (entry | {"dtype": "F" * 30}, bytes(2), "a: dtype; expected"),
        (entry | {"dtype": "\x1b[2J"}, bytes(2), "a: dtype; expected"),
    ):
        path.write_bytes(header({"a": changed}, data))
        with pytest.raises(CheckpointError, match=said):
            opened(path)


FLAX_BESIDE = {
    **{name: np.zeros(3, getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e5m2", "int4", "float4_e2m1fn")},
    "complex64": np.zeros(3, "complex64"),
    "a complex number": 1 + 2j,
    "bytes": b"abc",
    "None": None,
    "a list": [1, None, b"x"],
    "a scalar": np.float32(1.5),
    "dates": np.array(["2024-01-01"], "M8[D]"),
}


@pytest.mark.parametrize("what", FLAX_BESIDE)
def test_flax_with_other_values_beside(tmp_path: Path, what: str) -> None:
    tree = {"params": FLAX, "opt_state": {"0": {"nu": FLAX_BESIDE[what]}}}
    (tmp_path / "x.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    assert_same(load_checkpoint(tmp_path / "x.msgpack"), PARAMS)


def test_what_values_of_a_flax_tree_become(tmp_path: Path) -> None:
    tree = {"a": FLAX_BESIDE, "step": np.int64(7), "lr": ml_dtypes.bfloat16(0.5), "ext": msgpack.ExtType(9, b"x")}
    data = msgpack.packb(tree, default=serialization._msgpack_ext_pack, strict_types=True)
    (tmp_path / "x.msgpack").write_bytes(data)
    with open_file(tmp_path / "x.msgpack") as (found, notes, format_):
        assert (notes, format_) == ({}, "msgpack")
        said = {name: getattr(x, "name", getattr(x, "dtype", x)) for name, x in found["a"].items()}
        assert (found["step"], found["lr"], found["ext"].name) == (7, 0.5, "a msgpack extension of type 9")
        assert [getattr(x, "name", x) for x in said.pop("a list")] == [1, None, "bytes"]
    assert said == {
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "int4": ml_dtypes.int4,
        "float4_e2m1fn": ml_dtypes.float4_e2m1fn,
        "complex64": "complex64",
        "a complex number": "a complex number",
        "bytes": "bytes",
        "None": None,
        "a scalar": 1.5,
        "dates": "an array of dtype datetime64[D]",
    }


def test_flax_trees_keep_their_keys_and_lose_their_boxes(tmp_path: Path) -> None:
    """Whole numbers, as `nnx.to_pure_dict` has them for lists; `flax.linen.Partitioned` keeps its array as `value`."""
    linen: Any = pytest.importorskip("flax.linen")
    box = serialization.to_state_dict(linen.Partitioned(np.ones(2), names=("a",)))
    tree = {0: {"kernel": box}, 1: {"value": {"kernel": np.zeros(1)}}, "x": {-3: 1, 2.5: 2}}
    data = msgpack.packb(tree, default=serialization._msgpack_ext_pack, strict_types=True)
    (tmp_path / "x.msgpack").write_bytes(data)
    with open_file(tmp_path / "x.msgpack") as (found, _, _):
        assert in_memory(found[0]["kernel"]).tolist() == [1, 1]
        assert in_memory(found[1]["value"]["kernel"]).tolist() == [0]
        assert found["x"] == {-3: 1, 2.5: 2}


def test_the_notes_of_a_flax_tree_stay_in_it(tmp_path: Path) -> None:
    tree = {"params": {"a": np.zeros(1)}, "scalablevit_ref": {"config": "{"}}
    (tmp_path / "x.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    with open_file(tmp_path / "x.msgpack") as (found, notes, _):
        assert notes == {"scalablevit_ref": {"config": "{"}}
        assert list(found) == ["params", "scalablevit_ref"]


def test_special_values_are_there() -> None:
    """What the tests above compare holds NaNs with payloads."""
    assert np.isnan(special_patterns("float32")).any()
