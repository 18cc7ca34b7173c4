"""What takes more work or memory than its weights and images account for is refused in one line, unless `--costly` asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref import digits, run_cost
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.run_cost import CostError
from scalablevit_ref.testing import compare, random_params
from scalablevit_ref.testing.agreement import ORACLE, agreement
from scalablevit_ref.testing.traces import reference_trace, save_trace

WIDE = sv.variant("digits", window_sizes=(500,) * 4, pad_windows=True)
PORT = vit_pytorch.Config(num_classes=3, dim=4, depth=(1, 1), heads=2, reduction_factor=2, window_size=(7, 7))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    sv.save_checkpoint(tmp_path / "wide.safetensors", checkpoint.params, WIDE)
    images = np.zeros((1, 1, 112, 112))
    params = {name: x.astype("float64") for name, x in checkpoint.params.items()}
    save_trace(tmp_path / "t.npz", reference_trace(images, params, checkpoint.config))
    np.save(tmp_path / "x.npy", images)
    Image.new("RGB", (300, 300)).save(tmp_path / "i.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--weights", "wide.safetensors"),
        ("convert", "wide.safetensors", "o.npz", "--verify"),
        ("trace", "o.npz", "--weights", "wide.safetensors"),
        ("trace", "o.npz", "--weights", "wide.safetensors", "--images", "x.npy"),
        ("attend", "digit:0", "--weights", "wide.safetensors", "--layer", "stages.0.0", "-o", "o.svg"),
        ("compare", "t.npz", "--weights", "wide.safetensors"),
        ("certify", "t.npz", "--weights", "wide.safetensors", "--images", "x.npy"),
        ("certify", "--weights", "wide.safetensors"),
        ("attend", "i.png", "--variant", "small", "--layer", "stages.0.1", "-o", "o.svg", "--image-size", "1000160"),
        ("bench", "--variants", "small", "--image-size", "1000160", "--backends", "numpy"),
        ("bench", "--variants", "small", "--batch", "1000000000", "--backends", "numpy"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_it_is_refused_before_it_runs(arguments: tuple[str, ...], run: Any) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "multiply-adds each and" in err
    assert err.endswith("; --costly runs it all the same\n")
    assert not list(Path().glob("o.*"))


def test_costly_runs_it(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound so low that it refuses what is quick."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    sv.save_checkpoint(folder / "digits.npz", checkpoint.params, replace(checkpoint.config, pad_windows=True))
    monkeypatch.setattr(run_cost, "FREE_WORK", 10)
    monkeypatch.setattr(run_cost, "WORK_PER_WEIGHT_AND_PIXEL", 0)
    for arguments in (
        ("verify", "--weights", "digits.npz", "--backend", "numpy", "--dtype", "float64"),
        ("convert", "digits.npz", "o.safetensors", "--verify"),
        ("trace", "o.npz", "--weights", "digits.npz"),
        ("attend", "digit:0", "--weights", "digits.npz", "--layer", "stages.0.0", "-o", "o.svg"),
        ("compare", "t.npz", "--weights", "digits.npz"),
    ):
        assert run(*arguments)[0] == 2, arguments
        code, _, err = run(*arguments, "--costly")
        assert (code, err) == (0, ""), arguments


def test_functions_refuse_likewise() -> None:
    images, params = np.zeros((1, 1, 112, 112)), random_params(sv.parameter_shapes(WIDE))
    for call in (
        lambda: agreement(images, params, WIDE, [ORACLE]),
        lambda: reference_trace(images, params, WIDE),
        lambda: compare({"images": images, "norm": np.zeros((1, 4, 4, 64))}, variant=WIDE, weights=params),
        lambda: compare(lambda x: x, variant=WIDE, weights=params),
        lambda: compare(lambda x: x, variant=WIDE, weights=params, images=images),
    ):
        with pytest.raises(CostError, match=r"window_size 500, pad True.*costly=True runs it all the same"):
            call()


def test_a_port_without_windows_on_large_images() -> None:
    config = replace(PORT, window_size=(None, None))
    params = random_params(vit_pytorch.parameter_shapes(config), dtype="float32")
    with pytest.raises(CostError, match=r"layers\.0\.0\.layers\.0\.4 \(heads 2, window_size None\)"):
        reference_trace(np.zeros((1, 3, 1120, 1120)), params, config)
