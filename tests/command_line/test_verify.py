"""`scalablevit-ref verify` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import scalablevit_ref as sv
from scalablevit_ref.testing import random_params


@pytest.mark.usefixtures("few_digits")
def test_without_arguments(run: Any) -> None:
    code, out, err = run("verify", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["agree"] is True
    assert document["images"] == 20
    rows = {(row["backend"], row["dtype"], row["device"]): row for row in document["results"]}
    for dtype in ("float64", "float32", "bfloat16"):
        row = rows["torch", dtype, "cpu"]
        assert row["agrees"]
        assert 0 < row["worst_error_eps"] <= row["tolerance_eps"]
        assert row["accuracy"] >= 0.9
        assert row["images_per_second"] > 0
    assert rows["numpy", "float64", "cpu"]["worst_error_eps"] == 0


@pytest.mark.usefixtures("few_digits")
def test_table(run: Any) -> None:
    code, out, _ = run("verify", "--backend", "numpy")
    assert code == 0
    assert "the embedded digits checkpoint, 20 images" in out
    assert "All 1 agree with NumPy in float64 at every one of 51 taps." in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_weights_of_any_dtype(run: Any, dtype: str, tmp_path: Path) -> None:
    """The images that are drawn are in float32."""
    config = sv.variant("digits", depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    params = sv.to_backend(random_params(sv.parameter_shapes(config)), "torch", dtype)
    sv.save_checkpoint(tmp_path / "w.safetensors", params, config)
    code, out, err = run("verify", "--weights", str(tmp_path / "w.safetensors"), "--backend", "numpy", "--backend", "torch")
    assert (code, err) == (0, "")
    assert "All 4 agree" in out


def test_where_nothing_runs_nothing_is_said_to_agree(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalablevit_ref.testing import agreement

    monkeypatch.setattr(agreement, "why_absent", lambda candidate: None if candidate.library == "numpy" else "no CUDA device")
    for option in (("--backend", "cupy"), ("--dtype", "float64", "--backend", "numpy")):
        code, out, _ = run("verify", "--variant", "digits", *option)
        assert code == 0
        assert "Nothing was compared" in out
        assert "agree" not in out


@pytest.mark.usefixtures("few_digits")
def test_an_absent_library_is_a_row(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalablevit_ref.testing import agreement

    monkeypatch.setattr(agreement, "find_spec", lambda name: object() if name == "numpy" else None)
    code, out, _ = run("verify")
    assert code == 0
    others = [(c.library, c.dtype, c.device) for c in agreement.CANDIDATES if c.library != "numpy"]
    assert [tuple(line.split()[:3]) for line in out.splitlines() if "absent" in line] == [
        (library, dtype, "absent" if device == "cpu" else device) for library, dtype, device in others
    ]
    assert out.count("not installed") == len(others) >= 10


@pytest.mark.usefixtures("few_digits")
def test_a_backend_that_differs_is_exit_code_1(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalablevit_ref.backends import torch

    right = torch.linear
    monkeypatch.setattr(torch, "linear", lambda x, weight, bias=None: right(x, weight, bias) * (1 + 1e-5))
    code, out, _ = run("verify", "--backend", "numpy", "--backend", "torch")
    assert code == 1
    assert "DIFFERS" in out
    assert "torch float64, torch float32: beyond the tolerance" in " ".join(out.split())


def test_weights_and_variant(run: Any, tmp_path: Path) -> None:
    config = sv.variant("digits", num_classes=3, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    params = random_params(sv.parameter_shapes(config), dtype="float32")
    sv.save_checkpoint(tmp_path / "own.safetensors", params, config)
    code, out, _ = run("verify", "--weights", str(tmp_path / "own.safetensors"), "--dtype", "float32", "--json")
    assert code == 0
    assert json.loads(out)["network"].endswith("own.safetensors")
    seeds = [run("verify", "--variant", "digits", "--backend", "numpy", "--json", "--seed", seed)[1] for seed in ("1", "1", "2")]
    errors = [json.loads(seed)["results"][1]["worst_error_eps"] for seed in seeds]
    assert errors[0] == errors[1] != errors[2]


def test_images(run: Any, tmp_path: Path) -> None:
    config = sv.ScalableViTConfig((8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), num_classes=5, head="linear")
    sv.save_checkpoint(tmp_path / "own.npz", random_params(sv.parameter_shapes(config), dtype="float32"), config)
    paths = []
    for name, shade in (("dark.png", 20), ("light.jpg", 230)):
        Image.fromarray(np.full((250, 300, 3), shade, np.uint8)).save(tmp_path / name)
        paths += ["--image", str(tmp_path / name)]
    code, out, _ = run("verify", "--weights", str(tmp_path / "own.npz"), "--backend", "numpy", "--json", *paths)
    assert code == 0
    predictions = json.loads(out)["predictions"]
    assert [Path(p["image"]).name for p in predictions] == ["dark.png", "light.jpg"]
    assert all(0 <= p["class"] < 5 and 0.2 <= p["probability"] <= 1 for p in predictions)
    code, out, _ = run("verify", "--weights", str(tmp_path / "own.npz"), "--backend", "numpy", *paths)
    assert "light.jpg: class" in "".join(out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variant", "smal"), "unknown variant 'smal' (did you mean 'small'"),
        (("--backend", "tork"), "unknown --backend 'tork' (did you mean 'torch'?)"),
        (("--dtype", "float23"), "unknown --dtype 'float23'"),
        (("--weights", "absent.pth"), "absent.pth"),
        (("--variant", "small", "--image", "absent.png"), "cannot read image absent.png"),
        (("--image", "absent.png"), "the network takes 1; add --variant or --weights"),
        (("--seed", "-1"), "--seed"),
        (("--surplus",), "No such option: --surplus"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str, run: Any) -> None:
    code, out, err = run("verify", *arguments)
    assert code == 2
    assert out == ""
    assert message in " ".join(err.replace("│", " ").split())
    if err.startswith("scalablevit-ref:"):
        assert err.count("\n") == 1


def test_help_names_every_option(run: Any) -> None:
    code, out, _ = run("verify", "--help")
    assert code == 0
    for option in ("--variant", "--weights", "--image", "--backend", "--dtype", "--seed", "--json"):
        assert option in out
