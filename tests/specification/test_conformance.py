"""Float64 figures of the published implementations: outputs, every tap and every gradient, at relative l2 ≤ 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from tests.support import recipe

TOLERANCE = 1e-12
NETWORKS = {  # file: variant or None for the file's own options
    "network.small.224": "small",
    "network.small_0.224": "small_0",
    "network.base.224": "base",
    "network.large.224": "large",
    "network.small.224x448": "small",
    "network.custom": None,
}
OFFICIAL_OPTIONS = {"wss": "window_sizes"}
OPS = recipe.load("ops.official")


def relative_l2(actual: Any, expected: Any) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    difference, norm = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    return float(difference / norm) if norm else float(difference)


def assert_fingerprint(name: str, x: np.ndarray, expected: dict[str, Any], seed: int) -> None:
    """Norm, samples and position-weighted sum; each relative to the tensor's own size."""
    shape = expected.get("shape", x.shape)
    found = recipe.fingerprint(name, x, seed, shape)
    norm = expected["norm"]
    assert norm > 0, name
    assert abs(found["norm"] - norm) <= TOLERANCE * norm, name
    probe = np.linalg.norm(recipe.uniform("probe:" + name, shape, seed))
    assert abs(found["dot"] - expected["dot"]) <= TOLERANCE * norm * probe / np.prod(shape) ** 0.5, name
    if "samples" in expected:
        assert relative_l2(found["samples"], expected["samples"]) <= TOLERANCE, name


def assert_gradients(tracked: dict[str, torch.Tensor], expected: dict[str, Any], seed: int) -> None:
    """Every gradient there is; a key bias has none, so its figure is rounding: there the bound is on the size."""
    assert set(expected) == set(tracked)
    largest = max(gradient["norm"] for gradient in expected.values())
    for name, gradient in expected.items():
        found = tracked[name].grad.numpy()
        if gradient["norm"] < 1e-13 * largest:
            assert name.endswith("k.bias"), name
            assert np.linalg.norm(found) < 1e-13 * largest, name
        else:
            assert_fingerprint("grad:" + name, found, gradient, seed)


def config_of(name: str, case: dict[str, Any]) -> sv.ScalableViTConfig:
    if NETWORKS[name]:
        return sv.variant(NETWORKS[name])
    return sv.ScalableViTConfig(**{OFFICIAL_OPTIONS.get(key, key): value for key, value in case["options"].items()})


@pytest.mark.parametrize("variant", ["small", "small_0", "base", "large"])
def test_parameter_shapes_are_the_official_manifest(variant: str) -> None:
    manifest = [(name, tuple(shape)) for name, shape in recipe.load(f"manifest.official.{variant}")]
    assert list(sv.parameter_shapes(sv.variant(variant)).items()) == manifest


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


def run_op(case: dict[str, Any], x: Any, params: Any) -> Any:
    c = case["config"]
    match case["op"]:
        case "ssa":
            return sv.ssa(x, params, num_heads=c["num_heads"], sr_ratio=c["sr_ratio"], c_ratio=c["c_ratio"])
        case "iwsa":
            return sv.iwsa(x, params, num_heads=c["num_heads"], window_size=c["window_size"])
        case "patch_embed":
            return sv.patch_embed(x, params, patch_size=c["patch_size"], eps=c["eps"])
        case "block":
            settings = {key: c[key] for key in ("kind", "num_heads", "window_size", "sr_ratio", "c_ratio", "norm_eps")}
            return sv.block(x, params, **settings)
        case "peg":
            return sv.peg(x, params)
        case "mlp":
            return sv.mlp(x, params)
    raise AssertionError(case["op"])


@pytest.mark.parametrize("case", OPS, ids=[f"{case['op']}-{case['seed']}" for case in OPS])
def test_operation(case: dict[str, Any], backend: str) -> None:
    seed, (h, w) = case["seed"], case["hw"]
    x = recipe.uniform("x", case["x"], seed) * np.sqrt(3.0)
    to_map = "b c h w -> b h w c" if case["op"] == "patch_embed" else "b (h w) c -> b h w c"
    x = sv.to_backend(x, backend)
    params = sv.to_backend(recipe.parameters(case["parameters"], seed), backend)
    tracked = {"x": x, **params}
    if backend == "torch":
        for tensor in tracked.values():
            tensor.requires_grad_()
    y = run_op(case, rearrange(x, to_map, h=h, w=w), params)
    expected = np.reshape(case["y"]["values"], case["y"]["shape"])
    # a patch embedding's expected output is b n c too, whatever its own h and w
    assert relative_l2(sv.to_numpy(y).reshape(expected.shape), expected) <= TOLERANCE
    if backend == "torch":
        probe = torch.from_numpy(recipe.uniform("probe:y", case["y"]["shape"], seed))
        (y.reshape(probe.shape) * probe).sum().backward()
        assert_gradients(tracked, case["grads"], seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, backend: str) -> None:
    case = recipe.load(name)
    config = config_of(name, case)
    shapes = sv.parameter_shapes(config)
    params = sv.to_backend(recipe.parameters(shapes.items(), case["seed"]), backend)
    images = sv.to_backend(recipe.image(case["images"], case["seed"]), backend)
    taps = sv.trace(images, params, config)
    assert list(taps)[-1] == "logits"
    assert relative_l2(sv.to_numpy(taps["logits"]), case["logits"]) <= TOLERANCE
    for tap, expected in case.get("taps", {}).items():
        assert_fingerprint(tap, sv.to_numpy(taps[tap]), expected, case["seed"])


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
