"""What the dialects refuse, before any work: one exception that names the culprit, what was expected and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.dialects import flax_port, vit_pytorch
from tests.support.dialects import CONFIG, OPTIONS, flax_params, images, vit_params

pytestmark = pytest.mark.usefixtures("as_in_production")
NAME = "layers.0.0.layers.0.0.to_k.weight"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
        ({"num_classes": 2.5}, TypeError, "num_classes must be a whole number, got 2.5"),
        ({"depth": 2}, TypeError, "depth must be a sequence with one entry a stage, got 2"),
        ({"depth": ()}, TypeError, "depth must be a sequence"),
        ({"depth": (1, 0)}, ValueError, "depth must be at least 1, got 0"),
        ({"heads": (1, 2, 3)}, ValueError, r"heads must have one entry for each of the 2 stages of depth, got \(1, 2, 3\)"),
        ({"heads": "12"}, TypeError, "heads must be a whole number, got '12'"),
        ({"reduction_factor": None}, TypeError, "reduction_factor must be a whole number, got None"),
        ({"window_size": (7, 0)}, ValueError, "window_size must be at least 1, got 0"),
        ({"ff_expansion_factor": 1.5}, TypeError, "ff_expansion_factor must be a whole number"),
        ({"channels": True}, TypeError, "channels must be a whole number, got True"),
    ],
)
def test_settings(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vit_pytorch.Config(**OPTIONS | changes)


def test_one_number_is_for_all_stages() -> None:
    config = vit_pytorch.Config(num_classes=1, dim=4, depth=[1, 2, 3], heads=2, reduction_factor=[4, 2, 1])
    assert config.depth == (1, 2, 3)
    assert config.heads == (2, 2, 2)
    assert config.reduction_factor == (4, 2, 1)
    assert config.window_size == (None, None, None)
    assert config.ssa_dim_key == config.iwsa_dim_value == (32, 32, 32)
    assert flax_port.Config is vit_pytorch.Config


X = images((1, 3, 48, 48))
LESS = {name: value for name, value in vit_params().items() if name != NAME}


@pytest.mark.parametrize(
    ("x", "params", "error", "message"),
    [
        (X[0], vit_params(), ValueError, r"images must have shape \(b, c, h, w\)"),
        (images((1, 1, 48, 48)), vit_params(), ValueError, "images must have 3 channels"),
        (X.astype(int), vit_params(), TypeError, "images must be floating point"),
        (X.tolist(), vit_params(), TypeError, "expected an array"),
        (
            images((1, 3, 40, 48)),
            vit_params(),
            ValueError,
            r"40 x 48 give 10 x 12 tokens in stage 0.*windows of window_size\[0\] = 3",
        ),
        (X, list(vit_params()), TypeError, "params must be a mapping"),
        (X, LESS, ValueError, rf"missing \(1\): {NAME}"),
        (X, vit_params() | {"layers.9": X}, ValueError, r"unexpected \(1\): layers.9"),
        (X, vit_params() | {NAME: X}, ValueError, rf"wrong shape \(1\): {NAME} expected \(5, 8, 2, 2\) got \(1, 3, 48, 48\)"),
        (X.astype(np.float32), vit_params(), TypeError, "images is float32 but parameter 'to_patches.weight' is float64"),
        (
            torch.from_numpy(X),
            vit_params(),
            TypeError,
            "images is a torch array but parameter 'to_patches.weight' is a numpy array",
        ),
    ],
)
def test_vit_pytorch_input(x: Any, params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vit_pytorch.scalable_vit(x, params, CONFIG)
    with pytest.raises(error, match=message):
        vit_pytorch.trace(x, params, CONFIG)


@pytest.mark.parametrize(
    ("x", "params", "error", "message"),
    [
        (X, flax_params(), ValueError, r"images must have 3 channels \(c of 'b h w c'\), got 48"),
        (images((1, 48, 20, 3)), flax_params(), ValueError, r"12 x 5 tokens in stage 0, which do not divide into windows"),
        (images((1, 48, 48, 3)), None, TypeError, "params must be a mapping"),
        (images((1, 48, 48, 3)), vit_params(), ValueError, r"parameters do not fit: missing \(\d+\): params.Conv_0.bias"),
        (images((1, 48, 48, 3)), flax_port.nested(flax_params())["params"]["Transformer_0"], ValueError, "parameters do not fit"),
    ],
)
def test_flax_port_input(x: Any, params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        flax_port.scalable_vit(x, params, CONFIG)


def test_a_patched_port_has_no_last_norm() -> None:
    with pytest.raises(ValueError, match=r"unexpected \(1\): params.Transformer_1.LayerNorm_0.scale"):
        flax_port.scalable_vit(images((1, 48, 48, 3)), flax_params(), CONFIG, patched=True)


def test_a_map_smaller_than_a_tile() -> None:
    """vit_pytorch would have no keys left; SAME padding fills the tile."""
    config = vit_pytorch.Config(**OPTIONS | {"reduction_factor": 4, "window_size": None})
    params = sv.to_backend({name: np.ones(shape) for name, shape in vit_pytorch.parameter_shapes(config).items()}, "numpy")
    for size, tokens in [((12, 48), "3 x 12"), ((48, 12), "12 x 3")]:
        with pytest.raises(ValueError, match=rf"{tokens} tokens in stage 0, less than one tile of reduction_factor\[0\] = 4"):
            vit_pytorch.scalable_vit(images((1, 3, *size)), params, config)
    params = {name: np.ones(shape) for name, shape in flax_port.parameter_shapes(config).items()}
    assert flax_port.scalable_vit(images((1, 12, 12, 3)), params, config).shape == (1, 5)


@pytest.mark.parametrize("dialect", [vit_pytorch, flax_port])
def test_settings_told_by_shapes(dialect: Any) -> None:
    shapes = dialect.parameter_shapes(CONFIG)
    state = {name: np.zeros(shape) for name, shape in shapes.items()}
    told = {"heads": CONFIG.heads, "window_size": CONFIG.window_size}
    assert dialect.config_from_shapes(state, **told) == CONFIG
    stem = next(iter(name for name in shapes if shapes[name] in ((8, 3, 7, 7), (7, 7, 3, 8))))
    for changes, message in [
        ({stem: None}, "to_patches.weight must have 4 axes"),
        ({stem: np.zeros(3)}, "to_patches.weight must have 4 axes"),
        ({"surplus": np.zeros(3)}, r"unexpected \(1\): (params\.)?surplus"),
    ]:
        changed = {name: value for name, value in (state | changes).items() if value is not None}
        with pytest.raises(ValueError, match=message):
            dialect.config_from_shapes(changed, **told)
    with pytest.raises(ValueError, match=r"has 5 channels, which do not divide by heads = 2"):
        dialect.config_from_shapes(state, heads=2, window_size=None)
    with pytest.raises(ValueError, match="heads must have one entry for each of the 2 stages"):
        dialect.config_from_shapes(state, heads=(1, 2, 3), window_size=None)
    with pytest.raises(ValueError, match="must be there, and not empty"):
        dialect.config_from_shapes(
            {name: state[name] for name in state if "Self" not in name and "to_" not in name} | {stem: state[stem]}, **told
        )


def test_settings_of_a_patched_tree_and_a_nested_one() -> None:
    for patched in (False, True):
        state = {name: np.zeros(shape) for name, shape in flax_port.parameter_shapes(CONFIG, patched=patched).items()}
        tree = flax_port.nested(state)
        assert set(flax_port.flatten(tree)) == set(state)
        assert flax_port.config_from_shapes(tree, heads=CONFIG.heads, window_size=CONFIG.window_size) == CONFIG
