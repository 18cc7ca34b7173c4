"""OpenVINO models, of ONNX files and of torch modules, plain and quantised, held against the reference."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.cli import app
from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support.calibration import Calibration
from tests.support.onnx_models import exported_to
from tests.support.small_network import small_network

openvino: Any = pytest.importorskip("openvino")

CONFIG = small_network()
WEIGHTS = random_params(parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((3, 3, 16, 16), dtype="float32")
LAYERS = [name for name in network_of(CONFIG).layers() if name != "pool"]


def module() -> ScalableViT:
    made = ScalableViT(CONFIG).eval()
    made.load_state_dict({name: torch.from_numpy(x) for name, x in WEIGHTS.items()})
    return made


def converted(made: torch.nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return openvino.convert_model(made, example_input=torch.from_numpy(IMAGES))


@pytest.fixture(scope="module")
def of_torch() -> Any:
    return converted(module())


@pytest.fixture(scope="module")
def models(of_torch: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("openvino")
    file = exported_to(folder / "model.onnx", CONFIG, WEIGHTS, IMAGES)
    newer = exported_to(folder / "newer.onnx", CONFIG, WEIGHTS, IMAGES, dynamo=True)
    openvino.save_model(of_torch, folder / "half.xml", compress_to_fp16=True)
    one = of_torch.clone()
    one.reshape({0: [1, 3, 16, 16]})
    return {
        "torch": of_torch,
        "ONNX": openvino.convert_model(file),
        "dynamo": openvino.convert_model(newer),
        "float16": folder / "half.xml",
        "batch 1": one,
    }


def held(candidate: Any, **settings: Any) -> Report:
    return compare(candidate, variant=CONFIG, **{"images": IMAGES, **settings})


@pytest.mark.parametrize("kind", ["torch", "ONNX", "dynamo", "float16", "batch 1"])
def test_a_right_model_agrees_in_every_layer(models: dict[str, Any], kind: str) -> None:
    for weights in (None, WEIGHTS):
        report = held(models[kind], weights=weights)
        assert report.agrees, report
        assert [row.layer for row in report.rows] == LAYERS
        assert (report.kind, report.dtype) == ("OpenVINO model", "float32")
    own = {row.layer: row.module for row in report.rows}
    assert kind == "dynamo" or own["stages.0.1.mlp"].startswith("stages.0.1.mlp")
    assert report.notes == (("it takes 1 image at a time: it was run 3 times",) if kind == "batch 1" else ())


def test_mistakes_are_named_where_they_are_made() -> None:
    made: Any = module()
    made.stages[0][1].norm2.eps = 1e-3
    made.stages[1][0].mlp.act = torch.nn.GELU("tanh")
    report = held(converted(made))
    assert {cause.words: cause.layers for cause in report.causes} == {
        "LayerNorm's epsilon is 1e-3": ("stages.0.1.norm2",),
        "GELU is the tanh approximation": ("stages.1.0.mlp",),
    }


def test_other_weights_are_said_first(of_torch: Any) -> None:
    name = "stages.1.0.mlp.fc1.weight"
    with pytest.raises(CaptureError, match=f"^weights differ: {name}: .*; load the same"):
        held(of_torch, weights={**WEIGHTS, name: WEIGHTS[name] + 0.01})


def test_names_map_layers_to_modules(of_torch: Any) -> None:
    report = held(of_torch, names={"stages.{k}.{i}.attn": "stages.{k}.{i}.attn.proj"})
    assert report.agrees, report
    assert {row.layer: row.module for row in report.rows}["stages.1.0.attn"] == "stages.1.0.attn.proj"


def test_of_a_compiled_model_the_logits_are_compared(of_torch: Any) -> None:
    exact = openvino.Core().compile_model(of_torch, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    report = held(exact, weights=WEIGHTS)
    assert report.agrees, report
    assert [row.layer for row in report.rows] == ["logits"]
    assert report.notes == (
        "of a compiled model only the logits can be read: give the ov.Model, or its .xml, to compare the layers",
    )
    with pytest.raises(CaptureError, match="weights must be given for a compiled OpenVINO model"):
        held(exact)


def test_from_the_command_line(tmp_path: Path) -> None:
    config = sv.variant("digits")
    params = random_params(sv.parameter_shapes(config), dtype="float32")
    sv.save_checkpoint(tmp_path / "weights.safetensors", params, config)
    made = ScalableViT(config).eval()
    made.load_state_dict({name: torch.from_numpy(x) for name, x in params.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(made, example_input=torch.zeros(2, 1, 112, 112))
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    weights = ["--weights", str(tmp_path / "weights.safetensors")]
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "model.xml"), *weights])
    assert result.exit_code == 0
    assert "agrees with the reference in " in result.stdout
    (tmp_path / "broken.xml").write_text("<net")
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "broken.xml"), *weights])
    assert result.exit_code == 2
    assert "broken.xml cannot be read: " in result.stderr


def test_images_that_do_not_fit_are_told_what_does(models: dict[str, Any]) -> None:
    with pytest.raises(CaptureError, match=r"of shape \(3, 3, 16, 16\), got images of shape \(2, 3, 16, 16\); give it such ones"):
        held(models["ONNX"], images=IMAGES[:2])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "scalablevit_ref.compare.capture.openvino", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"^an OpenVINO model needs openvino: pip install 'scalablevit-ref\[openvino\]'$"):
        importlib.import_module("scalablevit_ref.compare.capture.openvino")


# Quantised


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Files that ONNX Runtime quantised, converted."""
    folder = tmp_path_factory.mktemp("rounded")
    plain = exported_to(folder / "plain.onnx", CONFIG, WEIGHTS, IMAGES)
    name = onnx.load(plain).graph.input[0].name
    found = {kind: folder / f"{kind}.onnx" for kind in ("static", "products", "dynamic")}
    products = {"op_types_to_quantize": ["MatMul", "Gemm", "Conv"], "per_channel": True}
    quantize_static(plain, found["static"], Calibration(name, IMAGES), quant_format=QuantFormat.QDQ)
    quantize_static(plain, found["products"], Calibration(name, IMAGES), quant_format=QuantFormat.QDQ, **products)
    quantize_dynamic(plain, found["dynamic"])
    return {kind: openvino.convert_model(path) for kind, path in found.items()}


@pytest.mark.parametrize("kind", ["static", "products"])
def test_a_quantised_model_has_the_noise_of_its_grids(rounded: dict[str, Any], kind: str) -> None:
    report = held(rounded[kind], weights=WEIGHTS)
    assert report.noise is not None
    assert not report.noise.wrong, report
    assert not report.own_weights
    assert any(row.noise > -60 for row in report.noise.rows)
    assert str(report).startswith("DIFFERS from the reference by its quantisation alone")
    with pytest.raises(CaptureError, match=r"^weights must be given for the model, which is quantised \(FakeQuantize and"):
        held(rounded[kind])


def test_mistakes_below_the_noise_are_found_without_it(rounded: dict[str, Any], tmp_path: Path) -> None:
    openvino.save_model(rounded["static"], tmp_path / "model.xml", compress_to_fp16=False)
    text = (tmp_path / "model.xml").read_text()
    before, mark, after = text.partition('<data approximation_mode="ERF" />')
    assert mark
    (tmp_path / "model.xml").write_text(f'{before}<data approximation_mode="TANH" />{after}')
    report = held(tmp_path / "model.xml", weights=WEIGHTS)
    assert report.noise is not None
    assert [(cause.words, cause.layers) for cause in report.causes] == [("GELU is the tanh approximation", ("stages.0.0.mlp",))]
    assert [row.layer for row in report.noise.wrong] == ["stages.0.0.mlp"]


def test_what_is_rounded_in_the_run_is_refused_with_a_way_on(rounded: dict[str, Any]) -> None:
    with pytest.raises(CaptureError, match=r"^the model is quantised in the run \(Convert to u8 and .*: compare the ONNX file"):
        held(rounded["dynamic"], weights=WEIGHTS)


@pytest.mark.parametrize("kind", ["INT8_ASYM", "INT4_ASYM", "INT4_SYM"])
def test_weights_of_few_bits(of_torch: Any, kind: str) -> None:
    nncf: Any = pytest.importorskip("nncf")
    more = {} if kind == "INT8_ASYM" else {"group_size": -1, "all_layers": True}
    model = nncf.compress_weights(of_torch.clone(), mode=getattr(nncf.CompressWeightsMode, kind), **more)
    report = held(model, weights=WEIGHTS)
    assert report.noise is not None
    assert not report.noise.wrong, report
    assert not report.own_weights
    worst = max(row.noise for row in report.noise.rows)
    assert -45 < worst < -30 if kind == "INT8_ASYM" else -25 < worst < -10


@pytest.mark.parametrize("kind", ["none", "TRANSFORMER"])
def test_nncf(of_torch: Any, kind: str) -> None:
    """What it takes out of the weights is put back. Its correction of biases is told."""
    nncf: Any = pytest.importorskip("nncf")
    settings = {} if kind == "none" else {"model_type": nncf.ModelType.TRANSFORMER}
    model = nncf.quantize(of_torch, nncf.Dataset([IMAGES] * 3), subset_size=3, **settings)
    report = held(model, weights=WEIGHTS)
    assert report.noise is not None
    assert not any(row.differs for row in report.noise.rows), report
    assert any("bias" in line for line in report.own_weights)
    assert all(".weight" not in line for line in report.own_weights), report.own_weights


def test_constants_are_as_openvino_has_them(of_torch: Any) -> None:
    from scalablevit_ref.compare.capture.openvino import OpenVinoRunner

    runner = OpenVinoRunner("the model", of_torch, IMAGES)
    graph = runner.record(IMAGES, {})
    own = {name: x for name, x in runner.parameters.items() if name in WEIGHTS}
    assert len(own) > 20
    assert all(np.array_equal(np.squeeze(x), np.squeeze(WEIGHTS[name])) for name, x in own.items() if x.ndim != 5)
    assert {graph.parameters[value] for value in graph.parameters} == {*runner.parameters}
