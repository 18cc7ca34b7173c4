"""Flax's msgpack, held against the msgpack library with Flax's own hooks; and what is no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from scalablevit_ref import init_params, to_state_dict
from scalablevit_ref.checkpoints import load_checkpoint, save_checkpoint
from tests.support.bit_patterns import assert_same_bits
from tests.support.checkpoints import CUSTOM, DIGITS, assert_same, random_bits
from tests.support.flax_files import array, msgpack, nested, packed, unpack
from tests.support.hostile import refuse
from tests.support.hostile_files import MSGPACK


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
def test_flax_reads_what_is_written(tmp_path: Path, dtype: Any) -> None:
    params = random_bits(CUSTOM, dtype)
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


@pytest.mark.parametrize(("content", "message"), MSGPACK, ids=lambda value: value if isinstance(value, str) else "")
def test_hostile_and_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message)
