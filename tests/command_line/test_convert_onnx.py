"""`convert` with an ONNX file as its target or its source, run by ONNX Runtime where `--verify` asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import scalablevit_ref as sv
from scalablevit_ref.adapters import onnx as adapter

PARAMS = sv.init_params(sv.variant("digits"))


@pytest.fixture
def weights(tmp_path: Path) -> str:
    sv.save_checkpoint(tmp_path / "weights.safetensors", PARAMS, sv.variant("digits"))
    return str(tmp_path / "weights.safetensors")


def test_there_and_back(weights: str, run: Any, tmp_path: Path) -> None:
    target, back, sums = (str(tmp_path / name) for name in ("x.onnx", "b.safetensors", "sums"))
    code, out, err = run("convert", weights, target, "--verify", "--sha256", sums, "--image-size", "112")
    assert (code, err) == (0, "")
    assert "of float32 in ONNX Runtime agrees" in " ".join(out.split())
    assert Path(sums).read_text().count("\n") == len(PARAMS)
    assert run("inspect", target)[1].startswith(f"file         {target}"[:70])
    assert run("convert", target, back)[0] == 0
    assert all(np.array_equal(x, PARAMS[name]) for name, x in sv.load_checkpoint(back).params.items())
    assert run("diff", target, back)[1].startswith("The same: configuration and all")


def test_halves(weights: str, run: Any, tmp_path: Path) -> None:
    code, out, _ = run("convert", weights, str(tmp_path / "x.onnx"), "--dtype", "float16", "--verify", "--json")
    told = json.loads(out)
    assert (code, told["dtype"], told["layout"], told["verify"]["agrees"]) == (0, "float16", "official", True)
    assert 0 < told["verify"]["onnx_runtime"] < 1e-2


def test_any_size(weights: str, run: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.onnx"
    code, out, err = run("convert", weights, str(target), "--image-size", "dynamic", "--verify")
    assert (code, err) == (0, "")
    assert "of float32 in ONNX Runtime agrees" in " ".join(out.split())
    assert adapter.session(target, threads=1)(np.zeros((1, 1, 448, 112), "float32")).shape == (1, 10)


def test_a_file_that_computes_something_else(weights: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = helper.make_graph([], "graph", [], [], [numpy_helper.from_array(x, name) for name, x in PARAMS.items()])
    monkeypatch.setattr(adapter, "onnx_model", lambda *arguments, **options: helper.make_model(graph, ir_version=10))
    monkeypatch.setattr(adapter, "run", lambda path, images: np.ones((1, 10), "float32"))
    code, out, _ = run("convert", weights, str(tmp_path / "x.onnx"), "--verify")
    assert code == 1
    assert "relative error 0 in float64" in " ".join(out.split())
    assert "DIFFERS" in out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("x.onnx", "--to", "keras"), "an ONNX file holds the official layout"),
        (("x.onnx", "--config-json"), "no config.json beside it"),
        (("x.onnx", "--dtype", "float64"), "expected float32 or float16 for ONNX, found float64"),
        (("x.onnx", "--image-size", "big"), "--image-size must be a number of pixels or HEIGHTxWIDTH"),
        (("x.onnx", "--image-size", "100"), "the nearest sizes that work are"),
        (("x.npz", "--image-size", "112"), "--image-size is for a target that is an .onnx file, got"),
        (("weights.safetensors", "--image-size", "112"), "--image-size is for a target"),
        (("x.npz", "--image-size", "dynamic"), "--image-size is for a target that is an .onnx file, got"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], problem: str, weights: str, run: Any, tmp_path: Path) -> None:
    name, *options = arguments
    code, out, err = run("convert", weights, str(tmp_path / name), *options)
    assert (code, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_existing_files_are_kept(weights: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "onnx_model", None)
    (tmp_path / "x.onnx").write_bytes(b"kept")
    code, _, err = run("convert", weights, str(tmp_path / "x.onnx"))
    assert code == 2
    assert "x.onnx exists; --force overwrites it" in err
    assert (tmp_path / "x.onnx").read_bytes() == b"kept"
