"""`scalablevit-ref certify` and `verify --certify` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.cli import proved
from scalablevit_ref.testing import random_params
from scalablevit_ref.testing.traces import reference_trace, save_trace
from tests.support.small_network import small_network

CONFIG = small_network(head="linear", patch_size=2)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with weights and images of a small network, and a trace of it in float32."""
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype("float32")
    sv.save_checkpoint(tmp_path / "own.safetensors", params, CONFIG)
    np.save(tmp_path / "images.npy", images)
    save_trace(tmp_path / "trace.npz", reference_trace(images, params, CONFIG), CONFIG)
    return tmp_path


@pytest.mark.usefixtures("as_in_production")
def test_the_certificate_of_the_digits(run: Any) -> None:
    """Part of CI: NumPy and PyTorch are within what `verify` allows of the exact result, as a theorem."""
    code, out, err = run("certify", "--backend", "numpy,torch", "--bits", "212", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["images"], document["bits"]) == (1, 212)
    assert document["tries"] == []
    assert document["width"] < 2.0**-63
    rows = {row["name"]: row for row in document["results"] if "absent" not in row}
    assert set(rows) == {"numpy float64", "numpy float32", "torch float64", "torch float32", "torch bfloat16"}
    for name, row in rows.items():
        assert len(row["taps"]) == 51
        most = 8 if "bfloat16" in name else 32
        for tap in row["taps"].values():
            low, high = tap["eps"]
            assert 0 <= low <= high <= most
            assert high - low < 1e-3
    assert rows["numpy float64"]["taps"]["logits"]["eps"][0] > 0
    assert all(pair["proved"] for pair in document["nearer"])


@pytest.mark.usefixtures("as_in_production", "few_digits")
def test_verify_certifies(run: Any) -> None:
    code, out, err = run("verify", "--certify", "--backend", "numpy", "--dtype", "float32", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["agree"] is True
    assert document["certificate"]["tries"][0]["bits"] == 106
    assert document["certificate"]["bits"] == 212
    assert [row["name"] for row in document["certificate"]["results"]] == ["numpy float64", "numpy float32"]


def test_a_table_a_trace_and_a_picture(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    options = ("--weights", "own.safetensors", "--images", "images.npy", "--backend", "numpy", "--dtype", "float32")
    code, out, err = run("certify", "trace.npz", *options, "--plot", "errors.svg", "--all")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "own.safetensors, 1 image: proved errors in eps" in text
    assert "At logits, numpy float32 cannot be told from trace.npz." in text or "trace.npz cannot be told from" in text
    assert "errors.svg: the picture" in text
    assert "patch_embeds.0" in text
    assert "numpy float32 is at most" in (small / "errors.svg").read_text(encoding="utf-8")


def test_the_trace_alone(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    options = ("--weights", "own.safetensors", "--images", "images.npy", "--backend", "none", "--json")
    code, out, _ = run("certify", "trace.npz", *options)
    assert code == 0
    (row,) = json.loads(out)["results"]
    assert (row["name"], row["dtype"]) == ("trace.npz", "float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", "52"), "--bits must be 53 to 16384, got 52"),
        (("--backend", "nump"), "unknown --backend 'nump' (did you mean 'numpy'?)"),
        (("--dtype", "float8"), "unknown --dtype 'float8'"),
        (("--images", "missing.npy"), "missing.npy: there is no such file"),
        (("missing.npz",), "missing.npz: there is no such file"),
        (("--plot", "x.bmp"), ".bmp"),
        (("--images", "nan.npy"), "images hold NaN or infinity, of which nothing is proved"),
        (("--weights", "nan.npz", "--images", "images.npy"), "nan.npz: NaN or infinite weights (1 parameters): norm.bias"),
    ],
)
def test_refusals(run: Any, small: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(small)
    np.save("nan.npy", np.full((1, 1, 112, 112), np.nan, np.float32))
    params = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
    params["norm.bias"][0] = np.inf
    sv.save_checkpoint("nan.npz", params, CONFIG, allow_nonfinite=True)
    code, out, err = run("certify", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_the_extra(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proved, "find_spec", lambda name: None)
    code, out, err = run("certify")
    assert (code, out) == (2, "")
    assert err == "scalablevit-ref: certify needs python-flint: pip install 'scalablevit-ref[certified]'\n"
