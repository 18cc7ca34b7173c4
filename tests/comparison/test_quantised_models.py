"""Quantised ONNX models: each layer's noise beside what 8 bits cost, and mistakes that stand out of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.capture.onnx_quantised import QUANTISED, without_quantisation
from scalablevit_ref.compare.quantised import decibels, eight_bits, rounded_to_8_bits
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.edits import changed
from scalablevit_ref.ops import linear
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support.calibration import Calibration
from tests.support.onnx_models import exported_to
from tests.support.small_network import small_network

CONFIG = small_network(depths=(2, 1))
WEIGHTS = random_params(parameter_shapes(CONFIG), dtype="float32")
IMAGES = {size: random_images((2, 3, size, size), dtype="float32") for size in (16, 32)}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


KINDS = {
    "dynamic": {},
    "by channel": {"per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]},
    "static": {"quant_format": QuantFormat.QDQ},
    "static, other images": {"quant_format": QuantFormat.QDQ},
    "percentiles": {"quant_format": QuantFormat.QDQ, "calibrate_method": CalibrationMethod.Percentile},
    "by channel, products": {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "op_types_to_quantize": ["MatMul", "Gemm", "Conv"],
    },
    "by channel, signed": {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True},
    },
    "operators": {"quant_format": QuantFormat.QOperator},
    "operators by channel": {
        "quant_format": QuantFormat.QOperator,
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
    },
}
"""Ways to quantise a model with ONNX Runtime."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Path]]:
    """The same network, quantised in these ways, for images of two sizes."""
    found: dict[int, dict[str, Path]] = {}
    for size, images in IMAGES.items():
        folder = tmp_path_factory.mktemp(f"quantised{size}")
        plain = exported_to(folder / "plain.onnx", CONFIG, WEIGHTS, images)
        name = onnx.load(plain).graph.input[0].name
        found[size] = {kind: folder / f"{kind}.onnx" for kind in KINDS}
        for kind, settings in KINDS.items():
            if "quant_format" not in settings:
                quantize_dynamic(plain, found[size][kind], **settings)
                continue
            other = np.random.default_rng(3).normal(size=images.shape).astype(np.float32) / 2
            fed = Calibration(name, other if "other" in kind else images)
            quantize_static(plain, found[size][kind], fed, **settings)
    return found


def noise(path: Path | Any, size: int = 16, **settings: Any) -> Report:
    return compare(path, variant=CONFIG, images=IMAGES[size], weights=WEIGHTS, **settings)


def with_mistakes(path: Path, folder: Path, *mistakes: Callable[[Any], None]) -> Path:
    """A file of the same model with mistakes."""
    model = onnx.load(path)
    for make in mistakes:
        make(model)
    wrong = folder / "wrong.onnx"
    onnx.save(model, wrong)
    return wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 32])
def test_a_right_model_is_never_wrong(files: dict[int, dict[str, Path]], kind: str, size: int) -> None:
    """Whatever its ranges were taken from. Its weights are the given ones, rounded, and the graph without rounding is right."""
    report = noise(files[size][kind], size)
    assert report.noise is not None
    assert not report.noise.wrong, report
    assert not report.noise.left
    assert not report.agrees
    assert len(report.noise.rows) == len(report.rows) == len(report.rows) + len(report.left_out)
    said = str(report).splitlines()
    assert said[0].startswith("DIFFERS from the reference by its quantisation alone (")
    assert "the noise of each layer is what its own grids cost" in said
    assert any(
        re.match(r"without its quantisation it agrees with the reference in 26 layers, to [\d.]+ eps of", row) for row in said
    )
    assert any(re.match(rf"{kind}\.onnx is quantised \(\w+ and \d+ more such operations\)$", row) for row in said)
    assert not report.causes
    assert not report.own_weights
    assert report.to_json()["quantisation"]["noise_is_what_8_bits_cost"] is True


@pytest.mark.parametrize(("kind", "apart"), [("dynamic", 0.5), ("by channel", 0.5), ("static", 3), ("operators", 4)])
def test_the_noise_is_near_what_8_bits_cost(files: dict[int, dict[str, Path]], kind: str, apart: float) -> None:
    """Dynamic ranges are those that the reference's factors have; static ones are of single values inside a layer, too."""
    report = noise(files[16][kind])
    assert report.noise is not None
    rows = {row.layer: row for row in report.noise.rows}
    for layer in ("stages.0.0.attn", "stages.0.1.attn", "stages.1.0.mlp", "head.0"):
        assert -60 < rows[layer].noise < -20
        assert rows[layer].noise == pytest.approx(rows[layer].cost, abs=apart)
        assert rows[layer].noise == pytest.approx(rows[layer].own, abs=3)
    assert (rows["stages.0.0.norm1"].cost > -60) == (kind in ("static", "operators"))
    assert (rows["patch_embeds.0"].noise > -60) == (kind != "by channel")


# Mistakes


def arrays(model: Any) -> dict[str, np.ndarray]:
    return {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}


def put(model: Any, name: str, x: np.ndarray) -> None:
    """In place of an initialiser."""
    held = next(one for one in model.graph.initializer if one.name == name)
    held.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(x), name))


def node_of(model: Any, kinds: tuple[str, ...], module: str) -> Any:
    return next(node for node in model.graph.node if node.op_type in kinds and module in node.name)


def weight_of(model: Any, module: str) -> str:
    """The initialiser of whole numbers that a module's product takes."""
    names = arrays(model)
    made = {name: node for node in model.graph.node for name in node.output}
    node = node_of(model, ("MatMulInteger", "MatMul", "Gemm", "QLinearMatMul", "QGemm"), module)
    inputs = [*node.input, *(name for taken in node.input if taken in made for name in made[taken].input)]
    return next(name for name in inputs if name in names and names[name].ndim == 2 and names[name].dtype.kind in "iu")


def another_epsilon(model: Any) -> None:
    """Far below the noise."""
    node = node_of(model, ("LayerNormalization",), "stages.0.1/norm2")
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-3


def tanh_gelu(model: Any) -> None:
    node = node_of(model, ("Gelu",), "stages.0.1/mlp")
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))


def reversed_rows(model: Any) -> None:
    name = weight_of(model, "/stages.1.0/mlp/fc2")
    put(model, name, arrays(model)[name][::-1])


def another_zero(model: Any) -> None:
    """All whole numbers are off by 3."""
    name = weight_of(model, "/stages.1.0/mlp/fc2")
    x = arrays(model)[name].astype(int) + 3
    limits = np.iinfo(arrays(model)[name].dtype)
    put(model, name, np.clip(x, limits.min, limits.max).astype(arrays(model)[name].dtype))


def a_larger_scale(model: Any, factor: float = 1.1) -> None:
    name = weight_of(model, "/stages.1.0/mlp/fc2")
    scale = next(other for other in arrays(model) if other.startswith(name.removesuffix("_quantized")) and other.endswith("_scale"))
    put(model, scale, arrays(model)[scale] * np.float32(factor))


def read_otherwise(model: Any) -> None:
    """What was rounded on one scale is read on another."""
    node = node_of(model, ("LayerNormalization",), "stages.0.1/norm2")
    made = {name: other for other in model.graph.node for name in other.output}
    read = made[node.input[0]]
    assert read.op_type == "DequantizeLinear"
    model.graph.initializer.append(onnx.numpy_helper.from_array(arrays(model)[read.input[1]] * np.float32(1.01), "another scale"))
    read.input[1] = "another scale"
    read.name = "read otherwise"


def narrow_range(model: Any) -> None:
    """A quarter of the range, where it is rounded and where it is read."""
    source = node_of(model, ("LayerNormalization",), "stages.0.1/norm2").output[0]
    rounding = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and source in node.input[0])
    put(model, rounding.input[1], arrays(model)[rounding.input[1]] / np.float32(4))


STRUCTURES = {
    another_epsilon: ("stages.0.1.norm2", "LayerNorm's epsilon is 1e-3"),
    tanh_gelu: ("stages.0.1.mlp", "GELU is the tanh approximation"),
}


@pytest.mark.parametrize("kind", ["dynamic", "static", "operators", "by channel, signed"])
@pytest.mark.parametrize("mistake", STRUCTURES)
def test_mistakes_below_the_noise_are_found_without_it(
    mistake: Callable[[Any], None], kind: str, files: dict[int, dict[str, Path]], tmp_path: Path
) -> None:
    layer, words = STRUCTURES[mistake]
    report = noise(with_mistakes(files[16][kind], tmp_path, mistake))
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == [layer]
    assert [row.layer for row in report.diverging] == [layer]
    assert [(cause.words, cause.layers) for cause in report.causes] == [(words, (layer,))]
    assert f"{layer} differs without quantisation too" in str(report)
    assert not report.own_weights


WEIGHED = {
    reversed_rows: "the same numbers in another order",
    another_zero: "they have nothing to do with the file's|they are near",
    a_larger_scale: "they are near the file's|they are 1.1 times the file's",
}


@pytest.mark.parametrize("kind", ["dynamic", "static", "operators", "by channel"])
@pytest.mark.parametrize("mistake", WEIGHED)
def test_weights_that_are_no_roundings_are_found(
    mistake: Callable[[Any], None], kind: str, files: dict[int, dict[str, Path]], tmp_path: Path
) -> None:
    report = noise(with_mistakes(files[16][kind], tmp_path, mistake))
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.1.0.mlp"], report
    assert report.noise.wrong[0].reweighed
    assert report.own_weights_wrong
    (line,) = report.own_weights
    assert re.match(f"its weights beside those given, rounded: stages.1.0.mlp.fc2.weight: ({WEIGHED[mistake]})", line)
    assert "the weights of stages.1.0.mlp are no roundings of those given: the noise is more than its grids cost" in str(report)


def test_weights_whose_mistake_drowns_in_the_noise_are_told(files: dict[int, dict[str, Path]], tmp_path: Path) -> None:
    """A scale that is off by 1 %."""
    report = noise(with_mistakes(files[16]["static"], tmp_path, lambda model: a_larger_scale(model, 1.01)))
    assert report.noise is not None
    assert not report.noise.wrong
    assert str(report).startswith(
        "DIFFERS from the reference by its quantisation, and by weights that are no roundings of those given"
    )
    assert [line.split(": ")[1] for line in report.own_weights] == ["stages.1.0.mlp.fc2.weight"]


def test_both_at_once_and_as_data(files: dict[int, dict[str, Path]], tmp_path: Path) -> None:
    report = noise(with_mistakes(files[16]["dynamic"], tmp_path, another_epsilon, reversed_rows))
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.0.1.norm2", "stages.1.0.mlp"]
    data = report.to_json()["quantisation"]
    layers = {row["layer"]: row for row in data["layers"]}
    assert layers["stages.0.1.norm2"]["cost_of_8_bits_db"] is None
    assert layers["stages.1.0.mlp"]["noise_db"] > -6
    assert [layer for layer, row in layers.items() if row["differs_without_quantisation"]] == ["stages.0.1.norm2"]
    assert [layer for layer, row in layers.items() if row["other_weights"]] == ["stages.1.0.mlp"]
    assert data["noise_is_what_8_bits_cost"] is False


def test_a_value_that_is_read_on_another_scale_is_found(files: dict[int, dict[str, Path]], tmp_path: Path) -> None:
    """By 1 %, which is no more than the noise. The norm that reads it does not care, the sum of the block does."""
    report = noise(with_mistakes(files[16]["static"], tmp_path, read_otherwise))
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.0.1"], report


def test_a_range_that_does_not_fit_is_told(files: dict[int, dict[str, Path]], tmp_path: Path) -> None:
    """It is no mistake that the candidate computes something else."""
    report = noise(with_mistakes(files[16]["static"], tmp_path, narrow_range))
    assert report.noise is not None
    assert not report.noise.wrong
    worst = report.noise.ranges[0]
    assert worst.layer in ("stages.0.1.norm2", "stages.0.1.mlp")
    assert worst.cut_off > 0.1
    assert worst.bits > 2
    assert str(worst) in str(report)
    assert report.to_json()["quantisation"]["ranges_that_do_not_fit"][0]["bits_lost"] == worst.bits


def test_a_product_that_is_read_on_another_scale_is_found(files: dict[int, dict[str, Path]], tmp_path: Path) -> None:
    """Its factor is the scale of another product's input."""

    def another_factor(model: Any) -> None:
        products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
        one = next(i for i, node in enumerate(products) if "/stages.0.1/mlp/fc1" in node.name)
        scales = [node.output[1] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"]
        (own,) = (name for name in scales if name.startswith(products[one].input[0].removesuffix("_quantized")))
        for node in model.graph.node:
            if node.op_type == "Mul" and own in node.input:
                node.input[list(node.input).index(own)] = scales[0]

    report = noise(with_mistakes(files[16]["dynamic"], tmp_path, another_factor))
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.0.1.mlp"], report
    assert not report.noise.left


def test_what_cannot_be_taken_away_is_not_judged(files: dict[int, dict[str, Path]], tmp_path: Path) -> None:
    """The scale of a value is computed in the run."""

    def computed(model: Any) -> None:
        source = node_of(model, ("LayerNormalization",), "stages.0.1/norm2").output[0]
        rounding = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and source in node.input[0])
        place, scale = [*model.graph.node].index(rounding), rounding.input[1]
        for node in model.graph.node:
            if scale in node.input:
                node.input[list(node.input).index(scale)] = "computed"
        model.graph.node.insert(place, onnx.helper.make_node("Abs", [scale], ["computed"]))

    report = noise(with_mistakes(files[16]["static"], tmp_path, computed))
    assert report.noise is not None
    assert report.noise.left == "QuantizeLinear and 1 more such operation"
    assert not report.noise.wrong
    assert "whether it is right is not known: QuantizeLinear and 1 more such operation cannot be taken away" in str(report)
    assert report.to_json()["quantisation"]["not_taken_away"] == report.noise.left


def test_weights_must_be_given(files: dict[int, dict[str, Path]]) -> None:
    with pytest.raises(CaptureError, match=r"^weights must be given for dynamic\.onnx, which is quantised \(DynamicQ"):
        compare(files[16]["dynamic"], variant=CONFIG, images=IMAGES[16])


def test_the_graph_without_quantisation_names_the_same_values(files: dict[int, dict[str, Path]]) -> None:
    for kind in KINDS:
        model = onnx.load(files[16][kind])
        for node in [node for node in model.graph.node if node.op_type == "Constant"]:
            model.graph.initializer.append(onnx.helper.make_tensor("", 1, [], [0.0]))
            model.graph.initializer[-1].CopyFrom(node.attribute[0].t)
            model.graph.initializer[-1].name = node.output[0]
            model.graph.node.remove(node)
        plain = without_quantisation(model)
        assert plain.by_channel == ("by channel" in kind)
        assert not QUANTISED.intersection(node.op_type for node in plain.model.graph.node)
        names = {name for node in model.graph.node for name in node.output}
        assert {name for node in plain.model.graph.node for name in node.output} <= names
        onnx.checker.check_model(plain.model)


def test_weights_in_blocks_of_4_bits(tmp_path: Path) -> None:
    """As `MatMulNBits` holds them."""
    plain = exported_to(tmp_path / "plain.onnx", CONFIG, WEIGHTS, IMAGES[16])
    model = onnx.load(plain)
    draw = np.random.default_rng(0)
    node = node_of(model, ("MatMul",), "/stages.1.0/mlp/fc1")
    weight = arrays(model)[node.input[1]]  # in, out: 16, 32
    blocks = weight.T.reshape(32, 1, 16)
    steps = (np.abs(blocks).max(-1, keepdims=True) / 7).astype(np.float32)
    whole = np.clip(np.round(blocks / steps) + 8, 0, 15).astype(np.uint8).reshape(32, 1, 16)
    model.graph.initializer.append(onnx.numpy_helper.from_array(whole[..., ::2] | whole[..., 1::2] << 4, "packed"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(steps.reshape(-1), "steps"))
    made = onnx.helper.make_node(
        "MatMulNBits",
        [node.input[0], "packed", "steps"],
        list(node.output),
        name=node.name,
        domain="com.microsoft",
        K=16,
        N=32,
        bits=4,
        block_size=16,
    )
    node.CopyFrom(made)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "4 bits.onnx"
    onnx.save(model, path)
    report = noise(path)
    assert report.noise is not None
    assert not report.noise.wrong, report
    noisy = [row for row in report.noise.rows if row.noise > -60]
    assert [row.layer for row in noisy] == ["stages.1.0.mlp"]
    assert noisy[0].own == pytest.approx(noisy[0].noise, abs=0.1)
    put(model, "packed", draw.permutation(arrays(model)["packed"]))
    onnx.save(model, path)
    report = noise(path)
    assert report.noise is not None
    assert [row.layer for row in report.noise.wrong] == ["stages.1.0.mlp"]


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
