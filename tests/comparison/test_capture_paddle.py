"""Ports in PaddlePaddle, held against the reference: a faithful one agrees, a slip is named where it is made.

The port is the one of `docs/examples`, its mistakes are changes of its source.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle
import pytest

from scalablevit_ref.adapters.paddle import ScalableViT
from scalablevit_ref.compare.capture import CaptureError
from scalablevit_ref.compare.capture.paddle import PaddleRunner
from scalablevit_ref.compare.report import Report
from scalablevit_ref.compare.run import compare
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.support.small_network import small_network

PORT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "paddle_port.py"
CONFIG = small_network(head="linear")
IMAGES = random_images((3, 3, 16, 16))  # no map as large as the batch: every layout shows in the shape


def port(right: str = "", wrong: str = "") -> Any:
    """The example's layer for a small network, with one piece of its source changed."""
    source = PORT.read_text(encoding="utf-8")
    assert right in source
    module = ModuleType("paddle_port")
    exec(compile(source.replace(right, wrong) if right else source, str(PORT), "exec"), vars(module))
    vars(module)["CONFIG"] = CONFIG
    return module.mended()  # type: ignore[no-any-return]


def held(candidate: Any, **options: Any) -> Report:
    return compare(candidate, variant=CONFIG, images=IMAGES, **options)


def test_a_port_agrees_in_every_layer_in_float64() -> None:
    """Whatever its parts are called; the layer that was given is as it was, and so are Paddle's settings."""
    given = port()
    given.train()
    before = {name: x.numpy().copy() for name, x in given.state_dict().items()}
    operations: Any = paddle._C_ops
    functions = operations.scale, operations.layer_norm
    report = held(given)
    assert report.agrees, str(report)
    assert not report.left_out
    assert "of float64" in str(report)
    assert given.training
    assert paddle.in_dynamic_mode()
    assert (operations.scale, operations.layer_norm) == functions
    assert all((x.numpy() == before[name]).all() for name, x in given.state_dict().items())


def test_the_adapter_agrees_by_use_and_by_name() -> None:
    params = random_params(parameter_shapes(CONFIG), dtype="float32")
    report = held(ScalableViT.from_params(params, CONFIG), weights=params)
    assert report.agrees, str(report)
    assert not report.left_out


MISTAKES = {
    "epsilon": ("nn.LayerNorm(c, 1e-6), nn.LayerNorm(c, 1e-6)", "nn.LayerNorm(c), nn.LayerNorm(c)", "epsilon is 1e-5"),
    "gelu": ("F.gelu(self.up(self.post(x)))", "F.gelu(self.up(self.post(x)), approximate=True)", "GELU is the tanh approximation"),
    "lim": ("self.out(z + near)", "self.out(z)", "LIM is missing"),
    "peg": ("x = x + self.where(", "x = self.where(", "PEG has no identity"),
    "scale": ("(c / self.heads * self.ratio) ** -0.5", "(c / self.heads) ** -0.5", r"\(without r_c\)"),
}


@pytest.mark.parametrize("slip", MISTAKES)
def test_a_mistake_is_named(slip: str) -> None:
    right, wrong, said = MISTAKES[slip]
    report = held(port(right, wrong))
    assert not report.agrees
    assert re.search(said, str(report)), str(report)


def test_values_are_what_the_layer_computes() -> None:
    """Of the program, with other weights put in, against the layer itself in Paddle's own eager mode."""
    layer = port()
    runner = PaddleRunner(layer, "float64")
    assert runner.dtype == "float64"
    assert list(runner.parameters) == list(layer.state_dict())
    weights = random_params({name: x.shape for name, x in runner.parameters.items()})
    graph = runner.record(IMAGES, weights)
    found, _ = runner.values(IMAGES, weights, list(graph.outputs.values()))
    eager = copy.deepcopy(layer)
    eager.eval()
    eager.to(dtype="float64")
    eager.set_state_dict({name: paddle.to_tensor(x) for name, x in weights.items()})
    expected = eager(paddle.to_tensor(IMAGES)).numpy()
    assert relative_l2(found[graph.outputs["logits"]], expected) < 1e-7  # Paddle's own LayerNorm has its epsilon in float32
    assert {one.path for one in graph.modules} >= {"levels.0.stem", "levels.1.layers.0.mixer.to_qkv", "classifier"}
    inside = {one.module for one in graph.operations if one.kind == "convolution"}
    assert inside >= {"levels.0.stem", "levels.0.where", "levels.0.layers.0.mixer.local"}
    assert any(one.line.startswith("paddle_port.py, line ") for one in graph.operations)


class Wrong(paddle.nn.Layer):  # type: ignore[misc]
    """What cannot be followed, by what is asked of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        if how != "empty":
            self.last = paddle.nn.Linear(3, 5)

    def forward(self, images: Any) -> Any:
        if self.how == "raises":
            raise KeyError("stage")
        y = self.last(images.mean([2, 3]))
        if self.how == "decides" and y.sum() > 0:
            return -y
        return [] if self.how == "nothing" else y


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("empty", "the candidate holds no parameters"),
        ("raises", "running the candidate raised .*stage"),
        ("decides", "running the candidate raised"),
        ("nothing", "returns no tensor"),
    ],
)
def test_refusals(how: str, said: str) -> None:
    with pytest.raises(CaptureError, match=said) as caught:
        held(Wrong(how))
    assert "\n" not in str(caught.value)


def test_values_are_not_replaced() -> None:
    runner = PaddleRunner(port(), None)
    graph = runner.record(IMAGES, {})
    with pytest.raises(CaptureError, match="not run with values replaced"):
        runner.values(IMAGES, {}, [0], {next(iter(graph.outputs.values())): np.zeros((3, CONFIG.num_classes))})


def test_a_saved_program(tmp_path: Path) -> None:
    """Loaded, and by its path; with its own dtype and on images of its shape."""
    layer = port()
    layer.eval()
    path = str(tmp_path / "net")
    spec = paddle.static.InputSpec(IMAGES.shape, "float32", "pictures")
    paddle.jit.save(paddle.jit.to_static(_Wrapped(layer), full_graph=True, input_spec=[spec]), path)
    for given in (paddle.jit.load(path), f"{path}.json"):
        report = held(given)
        assert report.agrees, str(report)
        assert not report.left_out
        assert "of float32" in str(report)
    with pytest.raises(CaptureError, match="the saved program takes 3 x 3 x 16 x 16, not images of 2 x 3 x 32 x 16"):
        compare(f"{path}.json", variant=CONFIG, images=random_images((2, 3, 32, 16)))


class _Wrapped(paddle.nn.Layer):  # type: ignore[misc]
    """A layer whose loops Paddle does not have to read."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.run = paddle.jit.not_to_static(lambda images: layer(images))

    def forward(self, images: Any) -> Any:
        return self.run(images)
