"""The published implementations' figures, held against the specification: one check for each kind of case."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref.testing import relative_l2
from tests.support import recipe
from tests.support.recipe import TOLERANCE, assert_fingerprint

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


def check_manifest(variant: str) -> None:
    """Every parameter of the official network, in its order."""
    manifest = [(name, tuple(shape)) for name, shape in recipe.load(f"manifest.official.{variant}")]
    assert list(sv.parameter_shapes(sv.variant(variant)).items()) == manifest


def check_operation(case: dict[str, Any], library: str) -> None:
    """Output of one of `OPS` on this library, and all gradients on PyTorch."""
    seed, (h, w) = case["seed"], case["hw"]
    x = recipe.uniform("x", case["x"], seed) * np.sqrt(3.0)
    to_map = "b c h w -> b h w c" if case["op"] == "patch_embed" else "b (h w) c -> b h w c"
    x = sv.to_backend(x, library)
    params = sv.to_backend(recipe.parameters(case["parameters"], seed), library)
    tracked = {"x": x, **params}
    if library == "torch":
        for tensor in tracked.values():
            tensor.requires_grad_()
    y = run_op(case, rearrange(x, to_map, h=h, w=w), params)
    expected = np.reshape(case["y"]["values"], case["y"]["shape"])
    # a patch embedding's expected output is b n c too, whatever its own h and w
    assert relative_l2(sv.to_numpy(y).reshape(expected.shape), expected) <= TOLERANCE
    if library == "torch":
        probe = torch.from_numpy(recipe.uniform("probe:y", case["y"]["shape"], seed))
        (y.reshape(probe.shape) * probe).sum().backward()
        assert_gradients(tracked, case["grads"], seed)


class Recorded(NamedTuple):
    """One of `NETWORKS`: its file, its configuration, and the parameters and images that follow from the file's seed."""

    file: dict[str, Any]
    config: sv.ScalableViTConfig
    params: dict[str, np.ndarray]
    images: np.ndarray


def recorded(name: str) -> Recorded:
    """Read one of `NETWORKS`, and make its parameters, which takes half as long as the network."""
    case = recipe.load(name)
    config = config_of(name, case)
    params = recipe.parameters(sv.parameter_shapes(config).items(), case["seed"])
    return Recorded(case, config, params, recipe.image(case["images"], case["seed"]))


def check_network(network: Recorded, library: str) -> None:
    """Logits, and whatever taps the file has, on this library."""
    case, config, params, images = network
    taps = sv.trace(sv.to_backend(images, library), sv.to_backend(params, library), config)
    assert list(taps)[-1] == "logits"
    assert relative_l2(sv.to_numpy(taps["logits"]), np.array(case["logits"])) <= TOLERANCE
    for tap, expected in case.get("taps", {}).items():
        assert_fingerprint(tap, sv.to_numpy(taps[tap]), expected, case["seed"])
