"""Two ports of the corpus as they are deployed: other exporters and opsets, optimised, in float16, with free axes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.compare.capture.onnx import in_order
from scalablevit_ref.compare.capture.pairing import paired
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import random_images, random_params
from tests.programs.corpus.planted import Planted, built

CONFIG = sv.variant("digits")
NETWORK = network_of(CONFIG)
WEIGHTS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((2, 1, 112, 112), dtype="float32")
EPSILON = {
    "torch_timm": ("self.norm = LayerNorm2d(dim, eps=norm_eps)", "self.norm = LayerNorm2d(dim, eps=1e-3)"),
    "torch_swin": ("self.norm2 = norm_layer(dim)", "self.norm2 = nn.LayerNorm(dim, eps=1e-3)"),
}
"""A mistake of each port."""


pytestmark = pytest.mark.filterwarnings("ignore")
"""Exporters warn of each other."""


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def loaded(port: str, folder: Path, *edits: tuple[str, str]) -> Any:
    """A port with the reference's weights."""
    module = built(port, Planted("", edits), folder, CONFIG)
    runner = TorchRunner(module, "float32")
    own = runner.parameters
    draw = np.random.default_rng(0)
    graph = runner.record(IMAGES, {name: draw.normal(size=x.shape).astype(x.dtype) for name, x in own.items()})
    given = paired(graph, own, NETWORK, IMAGES.shape).own_weights(WEIGHTS, own)
    with torch.no_grad():
        for name, x in module.named_parameters():
            x.copy_(torch.from_numpy(given[name].astype(np.float32)))
    return module.eval()


def script(module: Any, folder: Path, opset: int = 17, images: np.ndarray = IMAGES, **settings: Any) -> Path:
    path = folder / f"script{opset}.onnx"
    torch.onnx.export(module, (torch.from_numpy(images),), path, dynamo=False, opset_version=opset, **settings)
    return path


def dynamo(module: Any, folder: Path, opset: int) -> Path:
    path = folder / f"dynamo{opset}.onnx"
    settings: dict[str, Any] = {"dynamo": True, "opset_version": opset, "external_data": False, "verbose": False}
    torch.onnx.export(module, (torch.from_numpy(IMAGES),), path, **settings)
    return path


def optimised(path: Path, level: str) -> Path:
    """As ONNX Runtime writes it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path.with_name("optimised.onnx")


def for_transformers(path: Path) -> Path:
    """Norms that add, biases inside of GELU."""
    optimizer: Any = pytest.importorskip("onnxruntime.transformers.optimizer")
    model = optimizer.optimize_model(str(path), model_type="vit", num_heads=0, hidden_size=0, opt_level=0)
    model.save_model_to_file(str(path.with_name("fused.onnx")))
    kinds = {node.op_type for node in onnx.load(path.with_name("fused.onnx")).graph.node}
    assert {"SkipLayerNormalization", "BiasGelu"} <= kinds
    return path.with_name("fused.onnx")


def in_half(path: Path, **settings: Any) -> Path:
    float16: Any = pytest.importorskip("onnxruntime.transformers.float16")
    onnx.save(float16.convert_float_to_float16(onnx.load(path), **settings), path.with_name("half.onnx"))
    return path.with_name("half.onnx")


def slimmed(path: Path) -> Path:
    onnxslim: Any = pytest.importorskip("onnxslim")
    onnx.save(onnxslim.slim(str(path)), path.with_name("slim.onnx"))
    return path.with_name("slim.onnx")


def simplified(path: Path) -> Path:
    onnxsim: Any = pytest.importorskip("onnxsim")
    onnx.save(onnxsim.simplify(onnx.load(path))[0], path.with_name("simple.onnx"))
    return path.with_name("simple.onnx")


FREE = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": {"images": {0: "b", 2: "h", 3: "w"}}}
MIXED = {"keep_io_types": True, "op_block_list": ["LayerNormalization", "Softmax", "Erf"]}
WAYS: dict[str, Callable[[Any, Path], Path]] = {
    "opset 16": lambda module, folder: script(module, folder, 16),
    "opset 20": lambda module, folder: script(module, folder, 20),
    "free axes": lambda module, folder: script(module, folder, **FREE),
    "batch 1": lambda module, folder: script(module, folder, images=IMAGES[:1]),
    "dynamo 18": lambda module, folder: dynamo(module, folder, 18),
    "dynamo 23": lambda module, folder: dynamo(module, folder, 23),
    "extended": lambda module, folder: optimised(script(module, folder), "EXTENDED"),
    "fused": lambda module, folder: for_transformers(script(module, folder)),
    "float16": lambda module, folder: in_half(script(module, folder), keep_io_types=True),
    "mixed": lambda module, folder: in_half(script(module, folder), **MIXED),
    "slim": lambda module, folder: slimmed(script(module, folder)),
    "simple": lambda module, folder: simplified(script(module, folder)),
}
CASES = [(port, way) for i, way in enumerate(WAYS) for port in [("torch_timm", "torch_swin")[i % 2]]]


def held(path: Path) -> Report:
    return compare(path, variant=CONFIG, images=IMAGES, weights=WEIGHTS)


@pytest.mark.parametrize(("port", "way"), CASES)
def test_a_right_port_agrees_in_every_layer(port: str, way: str, tmp_path: Path) -> None:
    report = held(WAYS[way](loaded(port, tmp_path), tmp_path))
    assert report.agrees, report
    assert len(report.rows) == 51
    assert not any("names and sizes" in note for note in report.notes), report
    assert report.dtype == ("float16" if way in ("float16", "mixed") else "float32")
    if way == "slim":  # it puts a factor of the attention into a weight
        assert any("attn.q.weight" in line and " times the file's" in line for line in report.own_weights)


@pytest.mark.parametrize(("port", "way"), [("torch_timm", "fused"), ("torch_timm", "extended"), ("torch_swin", "dynamo 23")])
def test_a_mistake_is_named_where_it_is_made(port: str, way: str, tmp_path: Path) -> None:
    report = held(WAYS[way](loaded(port, tmp_path, EPSILON[port]), tmp_path))
    wrong = {row.layer for row in report.diverging}
    part = "patch_embeds." if port == "torch_timm" else ".norm2"
    assert wrong
    assert all(part in layer for layer in wrong), report
    assert [cause.words for cause in report.causes] == ["LayerNorm's epsilon is 1e-3"], report


def test_nodes_are_put_in_order() -> None:
    """Tools append nodes at the end; a circle stays as it is."""
    nodes = [onnx.helper.make_node("Neg", [given], [made], name=made) for given, made in (("b", "c"), ("a", "b"), ("x", "a"))]
    assert [node.name for node in in_order(nodes)] == ["a", "b", "c"]
    assert [node.name for node in in_order(nodes[::-1])] == ["a", "b", "c"]
    circle = [onnx.helper.make_node("Neg", [given], [made], name=made) for given, made in (("b", "c"), ("c", "b"), ("x", "a"))]
    assert [node.name for node in in_order(circle)] == ["a", "c", "b"]
