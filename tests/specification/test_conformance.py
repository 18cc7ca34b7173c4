"""Float64 figures of the published implementations: outputs, every tap and every gradient, at relative l2 ≤ 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from tests.support import recipe
from tests.support.conformance import (
    NETWORKS,
    OPS,
    Recorded,
    assert_gradients,
    check_manifest,
    check_network,
    check_operation,
    config_of,
    recorded,
)
from tests.support.recipe import assert_fingerprint


@pytest.mark.parametrize("variant", ["small", "small_0", "base", "large"])
def test_parameter_shapes_are_the_official_manifest(variant: str) -> None:
    check_manifest(variant)


def test_parameter_shapes_of_the_detection_backbone() -> None:
    """Its state dict names the blocks `blocks.k.i` and LIM `lepe_func`; order and shapes are the same."""
    manifest = [(name, tuple(shape)) for name, shape in recipe.load("manifest.mmdet.small")]
    state = sv.to_state_dict(sv.init_params(sv.variant("mmdet_small")), sv.variant("mmdet_small"), layout="mmdet")
    assert [(name, value.shape) for name, value in state.items()] == manifest


@pytest.mark.parametrize(
    ("variant", "count"), [("small", 32_000_472), ("small_0", 26_307_032), ("base", 81_881_624), ("large", 109_288_840)]
)
def test_parameter_counts(variant: str, count: int) -> None:
    assert sum(int(np.prod(shape)) for shape in sv.parameter_shapes(sv.variant(variant)).values()) == count


@pytest.mark.parametrize("case", OPS, ids=[f"{case['op']}-{case['seed']}" for case in OPS])
def test_operation(case: dict[str, Any], backend: str) -> None:
    check_operation(case, backend)


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Recorded:
    """One at a time, for both libraries."""
    return recorded(request.param)


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_network(network: Recorded, backend: str) -> None:
    check_network(network, backend)


def test_network_gradients() -> None:
    case = recipe.load("network.custom")
    config = config_of("network.custom", case)
    assert [(name, list(shape)) for name, shape in sv.parameter_shapes(config).items()] == [tuple(p) for p in case["parameters"]]
    params = sv.to_backend(recipe.parameters(case["parameters"], case["seed"]), "torch")
    images = sv.to_backend(recipe.image(case["images"], case["seed"]), "torch")
    tracked = {"images": images, **params}
    for tensor in tracked.values():
        tensor.requires_grad_()
    logits = sv.scalable_vit(images, params, config)
    (logits * torch.from_numpy(recipe.uniform("probe:logits", logits.shape, case["seed"]))).sum().backward()
    assert_gradients(tracked, case["grads"], case["seed"])


@pytest.mark.parametrize("name", ["features.mmdet.224", "features.mmdet.200x264"])
def test_detection_backbone(name: str, backend: str) -> None:
    case = recipe.load(name)
    state = recipe.parameters(recipe.load("manifest.mmdet.small"), case["seed"])
    checkpoint = sv.from_state_dict(state, variant="mmdet_small")
    assert checkpoint.config == sv.variant("mmdet_small")
    images = sv.to_backend(recipe.image(case["images"], case["seed"]), backend)
    features = sv.stage_features(images, sv.to_backend(checkpoint.params, backend), checkpoint.config)
    assert len(features) == len(case["features"])
    for k, (feature, expected) in enumerate(zip(features, case["features"], strict=True)):
        x = rearrange(sv.to_numpy(feature), "b h w c -> b c h w")
        assert list(x.shape) == expected["shape"]
        assert_fingerprint(f"features.{k}", x, expected, case["seed"])
