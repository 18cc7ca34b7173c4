"""Whatever the bytes: a value or a CheckpointError. `tests/programs/fuzz.py` is the same for longer, by coverage."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalablevit_ref import init_params, to_backend
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from tests.support.checkpoints import SUFFIXES, TINY
from tests.support.fuzzed import check_tree, packed, read_file, read_folder, read_pickled, seeds
from tests.support.hostile import FOUR, archive, program

LEGACY = "legacy.pth"


@cache
def sound(folder: Path, suffix: str) -> bytes:
    path = folder / f"sound{suffix}"
    params = init_params(TINY, dtype="float16")
    if suffix == LEGACY:
        import torch

        torch.save(to_backend(params, "torch"), path, _use_new_zipfile_serialization=False)
    else:
        save_checkpoint(path, params, TINY, force=True)
    return path.read_bytes()


def read(folder: Path, content: bytes) -> None:
    path = folder / "fuzzed"
    path.write_bytes(content)
    found = None
    try:
        load_checkpoint(path, allow_nonfinite=True)
    except CheckpointError as error:
        found = error
    assert found is None or (found.file == str(path) and str(found).isprintable())


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[float, str, bytes]]:
    """Places, as parts of the length, and what is done there."""
    place = st.floats(0, 0.999) | st.floats(0, 0.02) | st.floats(0.98, 0.999)
    return draw(
        st.lists(st.tuples(place, st.sampled_from(["put", "insert", "cut"]), st.binary(min_size=1, max_size=9)), max_size=4)
    )


@pytest.mark.parametrize("suffix", [*SUFFIXES, LEGACY])
@given(damage=damages())
def test_damaged_files(tmp_path_factory: Any, suffix: str, damage: list[tuple[float, str, bytes]]) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(sound(folder, suffix))
    for part, what, data in damage:
        at = int(part * len(content))
        content[at : at + {"put": len(data), "insert": 0, "cut": 9 * len(data)}[what]] = b"" if what == "cut" else data
    read(folder, bytes(content))


OPCODES = b"NKMJ\x8aGXUCcR)(lt\x85\x86\x87]}aesub0hqjrQ\x81\x88\x89\x93\x94\x95."


@given(data=st.lists(st.sampled_from([bytes([code]) for code in OPCODES]) | st.binary(max_size=5), max_size=40).map(b"".join))
def test_made_up_pickles(tmp_path_factory: Any, data: bytes) -> None:
    read(tmp_path_factory.getbasetemp(), archive(program(data), FOUR))


@pytest.mark.parametrize("start", [b"", b"\x80\x02", b"\x93NUMPY\x01\x00", b"\x82\xa1a", b"\x20\x00\x00\x00\x00\x00\x00\x00{"])
@given(data=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: Any, start: bytes, data: bytes) -> None:
    read(tmp_path_factory.getbasetemp(), start + data)


@cache
def sound_files(folder: Path) -> dict[str, bytes]:
    pytest.importorskip("h5py")
    pytest.importorskip("onnx")
    return seeds(folder)


KINDS = (
    *("keras.h5", "few.weights.h5", "chunks.weights.h5", "stored.keras", "few.onnx", "whole.onnx", "paddle.pdparams", "plain2.pkl"),
    *("plain5.pkl", "deflated.official.pth", "dtypes.safetensors", "boxed.msgpack", "big_endian.npz", "void.npz"),
)


@pytest.mark.parametrize("kind", KINDS)
@given(damage=damages())
def test_damaged_files_of_others(tmp_path_factory: Any, kind: str, damage: list[tuple[float, str, bytes]]) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(sound_files(folder)[kind])
    for part, what, data in damage:
        at = int(part * len(content))
        content[at : at + {"put": len(data), "insert": 0, "cut": 9 * len(data)}[what]] = b"" if what == "cut" else data
    path = folder / "fuzzed"
    path.write_bytes(packed(bytes(content)))
    read_file(path, whole=False)


@given(data=st.binary(max_size=150))
def test_sound_weights_among_any_opcodes(tmp_path_factory: Any, data: bytes) -> None:
    read_pickled(tmp_path_factory.getbasetemp() / "fuzzed", data)


@given(data=st.binary(max_size=60))
def test_sound_weights_in_damaged_folders(tmp_path_factory: Any, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_folder"
    folder.mkdir(exist_ok=True)
    read_folder(folder, data)


@given(data=st.binary(min_size=10, max_size=200))
def test_networks_among_junk(data: bytes) -> None:
    check_tree(data)
