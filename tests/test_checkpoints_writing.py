"""Writing: nothing overwritten unasked, nothing left behind by a failure, refusals before anything is written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from scalablevit_ref import init_params, to_backend
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from tests.test_checkpoints_files import SUFFIXES, listing
from tests.test_checkpoints_recognise import DIGITS, assert_same


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_overwritten_without_force(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"precious")
    params = init_params(DIGITS)
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        save_checkpoint(path, params, DIGITS)
    assert path.read_bytes() == b"precious"
    save_checkpoint(path, params, DIGITS, force=True)
    assert_same(load_checkpoint(path), params)
    assert listing(tmp_path) == [path.name]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("unnamed", [True, False])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, suffix: str, force: bool, unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = tmp_path / f"x{suffix}"
    if force:
        path.write_bytes(b"precious")

    def full_disk(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size > 1000  # the temporary file, with everything in it
        assert len(listing(tmp_path)) == force + (not unnamed)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, init_params(DIGITS), DIGITS, force=force)
    assert listing(tmp_path) == ([path.name] if force else [])
    assert not force or path.read_bytes() == b"precious"


def test_refusals_before_anything_is_written(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in params.items()}
    surplus = params | {"surplus": np.zeros(1, "float32")}
    for name, given, options, message in (
        ("x.npz", half, {}, "npz cannot hold bfloat16"),
        ("x.onnx", params, {}, r"unknown suffix; expected \.pth, \.pt, \.safetensors, \.npz, \.msgpack, found '\.onnx'"),
        ("x.pth", surplus, {}, r"parameters do not fit: unexpected \(1\): surplus"),
        ("x.pth", params, {"layout": "mmdet"}, "layout 'mmdet'"),
        ("x.pth", params, {"metadata": {"epoch": np.zeros(2)}}, "epoch: metadata must be plain values"),
        ("x.pth", params, {"metadata": {"model": 1}}, "model: metadata under a name that a checkpoint uses itself"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / name)) + ": .*" + message):
            save_checkpoint(tmp_path / name, given, DIGITS, **options)
    assert listing(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "none" / "x.npz", params, DIGITS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_weights(tmp_path: Path, value: float) -> None:
    params = init_params(DIGITS)
    params["norm.bias"][3] = value
    path = tmp_path / "x.safetensors"
    report = r"x\.safetensors: NaN or infinite weights \(1 parameters\): norm\.bias;"
    with pytest.raises(CheckpointError, match=report):
        save_checkpoint(path, params, DIGITS)
    assert not path.exists()
    save_checkpoint(path, params, DIGITS, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match=report):
        load_checkpoint(path)
    assert np.array_equal(load_checkpoint(path, allow_nonfinite=True).params["norm.bias"][3], value, equal_nan=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_weights_make_equal_files(tmp_path: Path, suffix: str) -> None:
    """Written twice, from other arrays in another order, and converted from a file of each format and layout."""
    params, written = init_params(DIGITS), set()
    backwards = {name: np.asfortranarray(params[name]) for name in reversed(params)}
    metadata = {"epoch": 3, "best": 0.5}
    for i, given in enumerate((params, params, backwards, to_backend(params, "torch"))):
        save_checkpoint(tmp_path / f"{i}{suffix}", given, DIGITS, metadata=metadata)
        written.add((tmp_path / f"{i}{suffix}").read_bytes())
    for source in SUFFIXES:
        save_checkpoint(tmp_path / f"source{source}", params, DIGITS, layout="channels_last", metadata=metadata)
        convert_file(tmp_path / f"source{source}", tmp_path / f"x{suffix}", layout="official", force=True)
        written.add((tmp_path / f"x{suffix}").read_bytes())
    assert len(written) == 1
