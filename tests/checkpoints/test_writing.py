"""Writing: nothing overwritten unasked, nothing left behind by a failure, refusals before anything is written."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from scalablevit_ref import init_params, to_backend, variant
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.save import WRITERS
from tests.support.checkpoints import DIGITS, SUFFIXES, assert_same, listing


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


@pytest.mark.parametrize("unnamed", [True, False])
def test_an_overwritten_file_keeps_its_permissions(tmp_path: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    params, path = init_params(DIGITS), tmp_path / "x.npz"
    for name in ("x.npz", "config.json"):
        (tmp_path / name).touch()
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        save_checkpoint(path, params, DIGITS, force=True, config_json=True)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    (tmp_path / "config.json").chmod(0o604)
    save_checkpoint(path, params, DIGITS, force=True, config_json=True)
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o604
    assert_same(load_checkpoint(path), params)


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """As the hub's cache has it, whose files are links to what other names share."""
    shared, plain, link = tmp_path / "shared", tmp_path / "plain", tmp_path / "x.npz"
    shared.write_bytes(b"precious")
    shared.chmod(0o600)
    plain.touch()
    params = init_params(DIGITS)
    for target in (shared, tmp_path / "none"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(FileExistsError, match=r"x\.npz exists; force=True overwrites it"):
            save_checkpoint(link, params, DIGITS)
        save_checkpoint(link, params, DIGITS, force=True)
        assert not link.is_symlink()
        assert link.stat().st_mode == plain.stat().st_mode
        assert_same(load_checkpoint(link), params)
    assert (shared.read_bytes(), stat.S_IMODE(shared.stat().st_mode)) == (b"precious", 0o600)
    assert listing(tmp_path) == ["plain", "shared", "x.npz"]


@pytest.mark.parametrize("layout", ["official", "channels_last"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parameters_without_elements(tmp_path: Path, suffix: str, layout: str) -> None:
    """A ratio so small that an MLP has no hidden channels; its weights are there all the same."""
    config = variant("digits", mlp_ratios=(0.01, 3, 4, 0.01))
    params = init_params(config)
    assert params["stages.0.0.mlp.fc1.weight"].shape == (0, 16)
    save_checkpoint(tmp_path / f"x{suffix}", params, config, layout=layout)
    for other in SUFFIXES:
        convert_file(tmp_path / f"x{suffix}", tmp_path / f"y{other}", layout="official")
        found = load_checkpoint(tmp_path / f"y{other}")
        assert_same(found, params)
        assert [x.shape for x in found.params.values()] == [x.shape for x in params.values()]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_stay_an_ema_s(tmp_path: Path, suffix: str) -> None:
    """Through a conversion and another, and through memory; others do not become one's."""
    params, path = init_params(DIGITS), tmp_path / f"x{suffix}"
    for wrapper in ("model_ema", "state_dict_ema", "model"):
        torch.save({wrapper: to_backend(params, "torch")}, tmp_path / "training.pth")
        ema = wrapper if wrapper.endswith("ema") else None
        convert_file(tmp_path / "training.pth", path, force=True)
        convert_file(path, tmp_path / "again.npz", force=True)
        loaded = load_checkpoint(tmp_path / "training.pth")
        save_checkpoint(tmp_path / f"saved{suffix}", loaded.params, loaded.config, metadata=loaded.metadata, force=True)
        for file in (path, tmp_path / "again.npz", tmp_path / f"saved{suffix}"):
            told = load_checkpoint(file).metadata
            assert (told["ema"], told.get("ema_from")) == (ema is not None, ema)
            assert told["wrapper"] == {".pth": "model", ".msgpack": "params"}.get(file.suffix)


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
        ("x.onnx", params, {}, rf"unknown suffix; expected {re.escape(', '.join(WRITERS))}, found '\.onnx'"),
        ("x.pth", surplus, {}, r"parameters do not fit: unexpected \(1\): surplus"),
        ("x.pth", params, {"layout": "mmdet"}, "layout 'mmdet'"),
        ("x.pth", params, {"metadata": {"epoch": np.zeros(2)}}, "epoch: metadata must be plain values"),
        ("x.npz", params, {"metadata": {"epoch": 10**5000}}, "epoch: metadata must be plain values"),
        (
            "x.npz",
            params,
            {"metadata": {"a": "\u20ac" * 200_000}},
            r"a: .*plain values .*at most 1,000,000 char",
        ),
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
