"""The port of `docs/examples` in tinygrad, held against the reference: a faithful one agrees, a slip is named where it is made.

The network is one narrow stage: every kernel of it is compiled.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tinygrad import Tensor, dtypes
from tinygrad.nn.state import get_state_dict

from scalablevit_ref.compare.capture import candidate_of
from scalablevit_ref.compare.capture.tinygrad import TinygradModel, TinygradRunner, held
from scalablevit_ref.compare.run import compare
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing import random_images
from tests.support.small_network import small_network

PORT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "tinygrad_port.py"
ONE = {"embed_dims": (8,), "depths": (2,), "num_heads": (2,), "mlp_ratios": (2,), "sr_ratios": (2,), "c_ratios": (1.25,)}
CONFIG = small_network(head="linear", window_sizes=(2,), **ONE)
IMAGES = random_images((3, 3, 16, 16))


def example() -> Any:
    module = ModuleType("tinygrad_port")
    exec(compile(PORT.read_text(encoding="utf-8"), str(PORT), "exec"), vars(module))
    vars(module)["CONFIG"] = CONFIG
    return module


def test_a_port_agrees_in_every_layer() -> None:
    """In float32: tinygrad's erf is an approximation to 1e-7. The model's weights and `Tensor` are afterwards what they were."""
    model = example().mended()
    methods, before = dict(vars(Tensor)), {name: x.realize().uop for name, x in get_state_dict(model).items()}
    report = compare(model, variant=CONFIG, images=IMAGES, dtype="float32")
    assert report.agrees, str(report)
    assert not report.left_out
    assert dict(vars(Tensor)) == methods
    assert all(x.uop is before[name] for name, x in get_state_dict(model).items())


def test_a_mistake_is_named() -> None:
    report = compare(example().port(), variant=CONFIG, images=IMAGES, dtype="float32")
    assert not report.agrees
    assert "GELU is the tanh approximation" in str(report), str(report)


def test_what_is_taken_for_a_model() -> None:
    """An object with tensors, and a function that is closed over some or is given some; no other function."""
    model = example().port()
    names = set(held(model))
    assert "levels.0.layers.0.mixer.to_qkv.weight" in names
    assert len(names) == len(get_state_dict(model))
    for function, prefix in ((lambda x: model(x), "model."), (functools.partial(lambda m, x: m(x), model), "0.")):
        assert isinstance(candidate_of(function), TinygradModel)
        assert set(held(function)) == {f"{prefix}{name}" for name in names}
    assert not isinstance(candidate_of(lambda x: x), TinygradModel)
    assert held([Tensor([1, 2], dtype=dtypes.int32)]) == {}


def test_refusals() -> None:
    weight = Tensor([1.0])

    def raises(x: Any) -> Any:
        raise KeyError(f"stage {weight.shape}")

    for model, said in (
        (raises, r"running the candidate raised KeyError: .stage \(1,\)."),
        (lambda x: (weight, None)[1], "returns no tensor"),
        (lambda x: weight.reshape(1, 1), "does not come from the images by methods of tinygrad"),
    ):
        with pytest.raises(CaptureError, match=said):
            TinygradRunner(model, None).record(IMAGES, {})
