"""Quantised ONNX models: each layer's noise beside what 8 bits cost, and mistakes that stand out of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

import scalablevit_ref as sv
from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.capture.onnx_quantised import without_quantisation
from scalablevit_ref.compare.quantised import decibels, eight_bits, rounded_to_8_bits
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.edits import changed
from scalablevit_ref.ops import linear
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support.onnx_models import exported_to

CONFIG = sv.variant(
    "small",
    embed_dims=(8, 16),
    depths=(2, 1),
    num_heads=(2, 4),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 1),
    c_ratios=(1.25, 1),
    window_sizes=(2, 2),
    num_classes=5,
)
WEIGHTS = random_params(parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((2, 3, 16, 16), dtype="float32")


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The images that the ranges of values are taken from."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter([{name: images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network, quantised in the ways of ONNX Runtime."""
    folder = tmp_path_factory.mktemp("quantised")
    plain = exported_to(folder / "plain.onnx", CONFIG, WEIGHTS, IMAGES)
    name = onnx.load(plain).graph.input[0].name
    found = {kind: folder / f"{kind}.onnx" for kind in ("dynamic", "by channel", "static", "products", "operators")}
    products = {"op_types_to_quantize": ["MatMul", "Gemm", "Conv"]}
    quantize_dynamic(plain, found["dynamic"])
    quantize_dynamic(plain, found["by channel"], per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    quantize_static(plain, found["static"], Calibration(name, IMAGES), quant_format=QuantFormat.QDQ)
    quantize_static(plain, found["products"], Calibration(name, IMAGES), quant_format=QuantFormat.QDQ, per_channel=True, **products)
    quantize_static(plain, found["operators"], Calibration(name, IMAGES), quant_format=QuantFormat.QOperator)
    return found


def noise(path: Path | Any, **settings: Any) -> Report:
    return compare(path, variant=CONFIG, images=IMAGES, weights=WEIGHTS, **settings)


@pytest.mark.parametrize(
    ("kind", "operation", "apart"),
    [
        ("dynamic", "DynamicQuantizeLinear", 0.5),
        ("by channel", "DynamicQuantizeLinear", 0.5),
        ("products", "DequantizeLinear", 6),
        ("static", "DequantizeLinear", 5),
    ],
)
def test_a_right_model_has_the_noise_of_8_bits(files: dict[str, Path], kind: str, operation: str, apart: float) -> None:
    """Dynamic ranges are those that the reference's factors have; static ones are of single values inside a layer,
    too, of which the reference rounds more than a model with quantised products alone: its cost is then too high by some dB.
    """
    report = noise(files[kind])
    assert report.noise is not None
    assert not report.noise.wrong, report
    assert not report.agrees
    assert len(report.noise.rows) == len(report.rows) == len(report.rows) + len(report.left_out)
    rows = {row.layer: row for row in report.noise.rows}
    for layer in ("stages.0.0.attn", "stages.0.1.attn", "stages.1.0.mlp", "head.0"):
        assert -60 < rows[layer].noise < -20
        assert rows[layer].noise == pytest.approx(rows[layer].cost, abs=apart)
    assert kind == "products" or (rows["stages.0.0.norm1"].cost > -60) == (kind == "static")
    assert (rows["patch_embeds.0"].noise > -60) == (kind != "by channel")
    said = str(report).splitlines()
    assert f"the noise is what 8 bits cost: in each layer at most {6 if apart < 1 else 12} dB more" in said
    assert any(line.startswith(f"{kind}.onnx is quantised ({operation} and ") for line in said)
    assert not report.causes
    assert not report.own_weights
    assert report.to_json()["quantisation"]["noise_is_what_8_bits_cost"] is True


def test_mistakes_stand_out_of_the_noise(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["dynamic"])
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and "stages.0.1/norm2" in node.name:
            next(a for a in node.attribute if a.name == "epsilon").f = 1e-3
    held = {x.name: x for x in model.graph.initializer}
    (product,) = (node for node in model.graph.node if node.op_type == "MatMulInteger" and "/stages.1.0/mlp/fc2" in node.name)
    whole = onnx.numpy_helper.to_array(held[product.input[1]])
    held[product.input[1]].CopyFrom(onnx.numpy_helper.from_array(whole[::-1].copy(), product.input[1]))
    path = tmp_path / "wrong.onnx"
    onnx.save(model, path)
    report = noise(path)
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.0.1.norm2", "stages.1.0.mlp"]
    assert "the noise of stages.0.1.norm2, stages.1.0.mlp is more than 6 dB above what 8 bits cost: likely a mistake" in str(report)
    layers = {row["layer"]: row for row in report.to_json()["quantisation"]["layers"]}
    assert layers["stages.0.1.norm2"]["cost_of_8_bits_db"] is None
    assert layers["stages.1.0.mlp"]["noise_db"] > -6
    assert [layer for layer, row in layers.items() if row["wrong"]] == ["stages.0.1.norm2", "stages.1.0.mlp"]


def test_weights_must_be_given(files: dict[str, Path]) -> None:
    with pytest.raises(CaptureError, match=r"^weights must be given for dynamic\.onnx, which is quantised \(DynamicQ"):
        compare(files["dynamic"], variant=CONFIG, images=IMAGES)


def test_layers_of_whole_numbers_are_refused_with_a_way_on(files: dict[str, Path]) -> None:
    with pytest.raises(
        CaptureError, match=r"^operators\.onnx is quantised \(.*shows layers as u?int8: quantise it with .*QDQ"
    ) as error:
        noise(files["operators"])
    assert "\n" not in str(error.value)


def test_the_graph_without_quantisation_gives_nearly_the_same(files: dict[str, Path]) -> None:
    """It names the same values."""
    for kind in ("dynamic", "by channel", "static", "products"):
        model = onnx.load(files[kind])
        for node in [node for node in model.graph.node if node.op_type == "Constant"]:
            model.graph.initializer.append(onnx.helper.make_tensor("", 1, [], [0.0]))
            model.graph.initializer[-1].CopyFrom(node.attribute[0].t)
            model.graph.initializer[-1].name = node.output[0]
            model.graph.node.remove(node)
        plain, found = without_quantisation(model)
        assert found.by_channel == (kind in ("by channel", "products"))
        assert {node.op_type for node in plain.graph.node}.isdisjoint({"MatMulInteger", "ConvInteger", "DequantizeLinear"})
        names = {name for node in model.graph.node for name in node.output}
        assert {name for node in plain.graph.node for name in node.output} <= names
        onnx.checker.check_model(plain)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.booleans())
def test_rounding(numbers: list[float], symmetric: bool) -> None:
    x = np.array([*numbers, 0.0])
    y = rounded_to_8_bits(x, symmetric=symmetric)
    spread = 2 * np.abs(x).max() / 254 if symmetric else np.ptp(x) / 255
    assert np.abs(x - y).max() <= spread * (0.5 + 0.51) + 1e-12
    assert y[-1] == 0
    assert len(np.unique(np.round(y / spread))) <= 256 if spread else (y == 0).all()


def test_channels_have_their_own_steps() -> None:
    weight = np.array([[1.0, 0.003], [100.0, 0.3]])
    assert np.array_equal(rounded_to_8_bits(weight, (1,), symmetric=True)[:, 1] == 0, [True, True])
    assert np.abs(rounded_to_8_bits(weight, (1,), symmetric=True)[0, 0] - 1) < 1e-12
    assert rounded_to_8_bits(weight, symmetric=True)[0, 0] == pytest.approx(100 / 127)


def test_the_reference_in_8_bits_is_whole_numbers() -> None:
    """The product of the rounded factors is that of integers, times both steps."""
    draw = np.random.default_rng(0)
    x, weight = draw.uniform(-1, 2, (5, 7)), draw.normal(size=(3, 7))
    step, scale = (x.max() - x.min()) / 255, np.abs(weight).max() / 127
    zero = np.round(-x.min() / step)
    whole = (np.clip(np.round(x / step) + zero, 0, 255) - zero) @ np.round(weight / scale).T
    made = changed(linear, eight_bits({"linear"}, by_channel=False))(x, weight)
    assert np.allclose(made, whole * step * scale, rtol=1e-12, atol=1e-12)


def test_decibels() -> None:
    assert decibels(0.1) == pytest.approx(-20)
    assert decibels(0) == -np.inf
    assert np.isnan(decibels(np.nan))
