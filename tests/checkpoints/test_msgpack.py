"""Flax's msgpack, held against the msgpack library with Flax's own hooks; and what is no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest

from scalablevit_ref import init_params, to_state_dict
from scalablevit_ref.checkpoints import load_checkpoint, save_checkpoint
from tests.checkpoints.test_files import CUSTOM, bits
from tests.checkpoints.test_hostile import refuse
from tests.checkpoints.test_layouts import assert_same_bits
from tests.checkpoints.test_recognise import DIGITS, assert_same


def unpack(code: int, data: bytes) -> Any:
    """As `flax.serialization._msgpack_ext_unpack` does."""
    assert code in (1, 3)
    shape, name, buffer = msgpack.unpackb(data, raw=True)
    return np.frombuffer(buffer, ml_dtypes.bfloat16 if name == b"bfloat16" else name.decode()).reshape(shape)


def array(x: np.ndarray, code: int = 1) -> msgpack.ExtType:
    """As `flax.serialization._msgpack_ext_pack` does."""
    return msgpack.ExtType(code, msgpack.packb((x.shape, x.dtype.name, x.tobytes()), use_bin_type=True))


def nested(state: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, x in state.items():
        *path, leaf = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = x
    return tree


def packed(tree: Any) -> bytes:
    data: bytes = msgpack.packb(tree, default=array, strict_types=True)
    return data


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
def test_flax_reads_what_is_written(tmp_path: Path, dtype: Any) -> None:
    params = bits(CUSTOM, dtype)
    save_checkpoint(tmp_path / "x.msgpack", params, CUSTOM, layout="channels_last", allow_nonfinite=True)
    theirs = msgpack.unpackb((tmp_path / "x.msgpack").read_bytes(), ext_hook=unpack, raw=False)
    assert list(theirs) == ["params", "scalablevit_ref"]
    state = to_state_dict(params, CUSTOM, layout="channels_last")
    leaves = {".".join(path): x for path, x in walk(theirs["params"])}
    assert_same_bits({name: leaves[name] for name in state}, state)
    assert len(leaves) == len(state)


def walk(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
    for name, x in tree.items():
        yield from walk(x, (*path, name)) if isinstance(x, dict) else [((*path, name), x)]


@pytest.mark.parametrize("wrapped", [True, False])
def test_what_flax_writes_is_read(tmp_path: Path, wrapped: bool) -> None:
    params = init_params(DIGITS)
    tree: Any = nested(to_state_dict(params, DIGITS, layout="channels_last"))
    if wrapped:
        tree = {"step": 7, "opt_state": {"0": {"mu": np.zeros(3)}}, "params": tree}
    (tmp_path / "x.msgpack").write_bytes(packed(tree))
    checkpoint = load_checkpoint(tmp_path / "x.msgpack")
    assert_same(checkpoint, params)
    told = checkpoint.metadata
    assert (told["layout"], told["variant"], told["format"], told.get("step")) == (
        "channels_last", "digits", "msgpack", 7 if wrapped else None,
    )  # fmt: skip


def test_arrays_in_pieces(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    state = to_state_dict(params, DIGITS, layout="channels_last")
    for name, x in state.items():
        flat = x.ravel()
        pieces = {str(i): flat[i * 100 : (i + 1) * 100] for i in range(-(-flat.size // 100))}
        sizes = {str(i): n for i, n in enumerate(x.shape)}
        state[name] = {"__msgpack_chunked_array__": True, "shape": sizes, "chunks": pieces}  # type: ignore[assignment]
    (tmp_path / "x.msgpack").write_bytes(packed(nested(state)))
    assert_same(load_checkpoint(tmp_path / "x.msgpack"), params)


def test_every_form_of_a_value(tmp_path: Path) -> None:
    """Numbers of each width, and texts, arrays and maps of each head's."""
    params = init_params(DIGITS)
    values = {f"n{i}": n for i, n in enumerate([-1, 200, 60_000, 2**31, 2**40, -100, -30_000, -(2**31), -(2**40), 1.5])}
    values |= {"text": "x" * 40, "long": "y" * 70_000, "list": list(range(20)), "none": None, "no": False, "yes": True}
    tree = values | {"params": nested(to_state_dict(params, DIGITS, layout="channels_last"))}
    data = msgpack.packb(tree, default=array) if values else b""
    (tmp_path / "x.msgpack").write_bytes(data)
    told = load_checkpoint(tmp_path / "x.msgpack").metadata
    assert {name: told[name] for name in values} == values


SOUND = array(np.zeros(2, "float32"))


def ext(*parts: Any) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb(parts))


MSGPACK: list[tuple[bytes, str]] = [
    (packed({"a": ext([2], "float32", bytes(7))}), "array and its bytes differ"),
    (packed({"a": ext([1 << 40], "float32", bytes(8))}), "array and its bytes differ"),
    (packed({"a": ext([1 << 62, 4], "float32", b"")}), "array and its bytes differ"),
    (packed({"a": ext([1 << 62, 0], "float32", b"")}), "larger than the file"),
    (packed({"a": ext([-2], "float32", bytes(8))}), "array and its bytes differ"),
    (packed({"a": ext([2.0], "float32", bytes(8))}), "array and its bytes differ"),
    (packed({"a": ext([2], "object", bytes(8))}), "damaged array"),
    (packed({"a": ext([2], ["float32"], bytes(8))}), "damaged array"),
    (packed({"a": ext([2], "float32")}), "damaged array"),
    (packed({"a": msgpack.ExtType(1, b"")}), "ends inside its msgpack"),
    (packed({"a": msgpack.ExtType(2, b"\x92\x00\x00")}), "extension that Flax does not use"),
    (packed({"a": {"__msgpack_chunked_array__": True}}), "damaged array"),
    (packed({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 5}, "chunks": {"0": SOUND}}}), "damaged array"),
    (packed({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"1": SOUND}}}), "damaged array"),
    (b"\x81\xa1a" * 40 + b"\xc0", "levels at most"),
    (b"\x81\xa1a" + b"\x91" * 50_000, "levels at most"),
    (b"\x82\xa1a\xc0\xa1a\xc0", "two entries of one name"),
    (packed({"a.b": SOUND, "a": {"b": SOUND}}), "two arrays of one path"),
    (b"\x81\xa1a\xdd\xff\xff\xff\xff", "ends inside its msgpack"),
    (b"\x81\xa1a\xdf\xff\xff\xff\xff", "ends inside its msgpack"),
    (b"\x81\xa1a\xc6\xff\xff\xff\xff", "ends inside its msgpack"),
    (b"\x81\xa1a\xdd\xff\xff\xff\xff" + bytes(300_000), "200000 values"),
    (b"\x81\xa1a\xc1", "damaged msgpack; found byte 0xc1"),
    (b"\x81\xa1\xff\xc0", "damaged msgpack"),
    (b"\x82\xa1a\xc0\x01\xc0", "names must be strings; found 1"),
    (packed({"a": SOUND}) + b"!", "bytes after the msgpack's end"),
    (packed({"a": SOUND})[:-1], "ends inside its msgpack"),
    (packed({"a": 1}), "no state dict"),
    (packed({"stages": {"0": {"scale": SOUND}}}), "the shapes fit no variant"),
    (packed({"params": {"stages": 3}}), "no state dict"),
    (packed({"scalablevit_ref": {"config": 3}, "params": {"stages": {"0": SOUND}}}), "config: not a configuration"),
]


@pytest.mark.parametrize(("content", "message"), MSGPACK, ids=lambda value: value if isinstance(value, str) else "")
def test_hostile_and_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message)
