"""Properties of the whole network, tap by tap against the oracle. The numbers are those of the table in `docs/proof.md`.

Where a tolerance grows with the drawn network's own condition, `tests.support.oracle.Reference.check` says by how much, and why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref.testing.arrays import NETWORK_TOLERANCE
from scalablevit_ref.testing.strategies import Case, configs, network_cases
from tests.support import recipe
from tests.support.library import Agree, Library, has_bfloat16
from tests.support.oracle import Reference, oracle
from tests.support.recipe import assert_fingerprint

NETWORKS = network_cases(configs(heads=("linear", "none")))
SHALLOW = network_cases(configs(heads=("linear", "none"), stages=(1, 2)))


def mlp_head(**settings: Any) -> Case:
    """A network with the official head, whose 4096 features are slow: a few examples, not drawn ones."""
    config = sv.ScalableViTConfig(
        embed_dims=(8, 12),
        depths=(3, 2),
        num_heads=(2, 3),
        mlp_ratios=(2, 2.5),
        sr_ratios=(2, 1),
        c_ratios=(1.25, 1.25),
        window_sizes=(3, 3),
        patch_size=2,
        **settings,
    )
    return Case((2, 3, 12, 24), {}, sv.parameter_shapes(config), 5, "normal", config)


def traced(xp: Library, images: np.ndarray, params: Any, config: Any, dtype: str = "float64") -> dict[str, np.ndarray]:
    return {name: sv.to_numpy(y) for name, y in sv.trace(xp(images, dtype), xp(params, dtype), config).items()}


def logits(xp: Library, images: np.ndarray, params: Any, config: Any) -> dict[str, np.ndarray]:
    return {"logits": sv.to_numpy(sv.scalable_vit(xp(images), xp(params), config))}


def test_the_oracle_is_the_official_network(agree: Agree) -> None:
    """By itself: the recorded logits, and names, shapes and order of the parameters."""
    recorded = recipe.load("network.custom")
    settings = {"window_sizes" if key == "wss" else key: value for key, value in recorded["options"].items()}
    params = recipe.parameters(recorded["parameters"], recorded["seed"])
    model = oracle(params, sv.ScalableViTConfig(**settings))
    assert list(model.state_dict()) == list(params)
    found = model(torch.from_numpy(recipe.image(recorded["images"], recorded["seed"])))
    agree(found, np.array(recorded["logits"]), measure="l2", tolerance=1e-12 * 2**52)


def test_the_oracle_is_the_detection_backbone() -> None:
    recorded = recipe.load("features.mmdet.200x264")
    state = recipe.parameters(recipe.load("manifest.mmdet.small"), recorded["seed"])
    params = {name.replace("blocks.", "stages.").replace("lepe_func", "lim_func"): x for name, x in state.items()}
    features = oracle(params, sv.variant("mmdet_small")).features(
        torch.from_numpy(recipe.image(recorded["images"], recorded["seed"]))
    )
    assert len(features) == len(recorded["features"])
    for k, (feature, expected) in enumerate(zip(features, recorded["features"], strict=True)):
        assert list(feature.shape) == expected["shape"]
        assert_fingerprint(f"features.{k}", feature.numpy(), expected, recorded["seed"])


@example(case=mlp_head())
@example(case=mlp_head(num_classes=0, norm_eps=1e-2))
@given(case=NETWORKS)
def test_01_every_library_is_the_oracle_at_every_tap(case: Case, xp: Library, agree: Agree) -> None:
    reference = Reference(oracle(case.params, case.config), case.x)
    found = traced(xp, case.x, case.params, case.config)
    assert {"norm_list.0" if case.config.stage_norms else "norm", "stages.0.0.attn", "logits"} < set(found) <= set(reference.taps)
    reference.check(agree, found)
    features = sv.stage_features(xp(case.x), xp(case.params), case.config)
    for feature, expected in zip(features, reference.model.features(*reference.inputs), strict=True):
        assert feature.shape == tuple(expected.permute(0, 2, 3, 1).shape)


@given(case=SHALLOW)
def test_01_peg_comes_once_a_stage_after_block_0(case: Case, xp: Library, agree: Agree) -> None:
    """PEG's input is block 0's output, whatever follows takes PEG's output, and no other place has one."""
    found = traced(xp, case.x, case.params, case.config)
    order = list(found)
    ends = ("norm_list" if case.config.stage_norms else "patch_embeds", "norm")
    for k, depth in enumerate(case.config.depths):
        assert f"pos_block.{k}" in order
        here = order.index(f"pos_block.{k}")
        assert order[here - 1] == f"stages.{k}.0"
        follower = order[here + 1]
        assert follower == f"stages.{k}.1.norm1" if depth > 1 else follower.split(".")[0] in {*ends, "logits"}
        params = {name.removeprefix(f"pos_block.{k}."): x for name, x in case.params.items() if name.startswith(f"pos_block.{k}.")}
        agree(sv.to_numpy(sv.peg(xp(found[f"stages.{k}.0"]), xp(params))), found[f"pos_block.{k}"])
        silent = {name: 0 * x if name.startswith(f"pos_block.{k}") else x for name, x in case.params.items()}
        without = traced(xp, case.x, silent, case.config)
        changed = [name for name in order if not np.array_equal(without[name], found[name])]
        assert order.index(changed[0]) == here
        agree.exactly(without[f"pos_block.{k}"], without[f"stages.{k}.0"])
    assert sum(name.startswith("pos_block") for name in order) == len(case.config.depths)


@example(case=mlp_head())
@given(case=NETWORKS)
def test_03_float32_is_float64_at_every_tap(case: Case, xp: Library, agree: Agree) -> None:
    """Against the oracle in float64 on the same parameters, rounded to float32."""
    narrow_types(case, xp, agree, "float32")


@example(case=mlp_head())
@given(case=NETWORKS)
def test_04_sixteen_bits_keep_their_dtype_at_every_tap(case: Case, xp: Library, agree: Agree) -> None:
    """In the 16-bit types that it computes in.

    array-api-strict, like the standard, has none, PaddlePaddle none on a CPU, tinygrad those of its compiler.
    """
    has = {"array_api_strict": (), "paddle": (), "cupy": ("float16",)}.get(xp.name, ("float16", "bfloat16"))
    if xp.name == "tinygrad" and not has_bfloat16():
        has = ("float16",)
    for dtype in has:
        narrow_types(case, xp, agree, dtype)
    if xp.name == "paddle":
        with pytest.raises(TypeError, match="a tensor of 16 bits on a CPU, with which PaddlePaddle cannot compute"):
            narrow_types(case, xp, agree, "bfloat16")
    elif not has:
        assert not any(hasattr(__import__(xp.name), dtype) for dtype in ("float16", "bfloat16"))


def narrow_types(case: Case, xp: Library, agree: Agree, dtype: str) -> None:
    rounded = {name: x.astype(np.float64) for name, x in sv.to_backend(case.params, "numpy", dtype).items()}
    images = sv.to_backend(case.x, "numpy", dtype).astype(np.float64)
    found = traced(xp, images, rounded, case.config, dtype)
    assert {y.dtype.name for y in found.values()} == {dtype}
    reference = Reference(oracle(rounded, case.config), images)
    reference.check(agree, found, tolerance=NETWORK_TOLERANCE[dtype], measure="l2")


@given(case=SHALLOW.filter(lambda case: case.shape[0] > 1))
def test_05_an_image_of_a_batch_is_that_image_alone(case: Case, xp: Library, agree: Agree) -> None:
    reference = Reference(oracle(case.params, case.config), case.x)
    whole = logits(xp, case.x, case.params, case.config)["logits"]
    for i in range(case.shape[0]):
        found = logits(xp, case.x[i : i + 1], case.params, case.config)
        reference.check(agree, found, {"logits": whole[i : i + 1]})
    order = np.random.default_rng(case.seed).permutation(case.shape[0])[::-1]
    reference.check(agree, logits(xp, case.x[order], case.params, case.config), {"logits": whole[order]})


@given(case=SHALLOW)
def test_06_a_transposed_image_with_transposed_kernels_has_the_same_logits(case: Case, xp: Library, agree: Agree) -> None:
    """Windows, tiles and the padding at the right and bottom treat both axes alike. The images are not square."""
    params = {name: x.swapaxes(2, 3) if x.ndim == 4 else x for name, x in case.params.items()}
    assert case.shape[2] != case.shape[3]
    found = logits(xp, case.x.swapaxes(2, 3), params, case.config)
    reference = Reference(oracle(case.params, case.config), case.x)
    reference.check(agree, found, logits(xp, case.x, case.params, case.config))


@given(case=SHALLOW)
def test_27_with_all_branches_zero_only_the_trunk_is_left(case: Case, xp: Library, agree: Agree) -> None:
    """Convolutions, norms, pooling and head, written out in torch's functions."""
    branches = (".attn.proj.", ".mlp.fc2.", "pos_block.")
    params = {name: 0 * x if any(part in name for part in branches) else x for name, x in case.params.items()}
    p, config = {name: torch.from_numpy(x) for name, x in params.items()}, case.config
    x = torch.tensor(case.x)
    for k, dim in enumerate(config.embed_dims):
        stride = config.patch_size if k == 0 else 2
        x = F.conv2d(x, p[f"patch_embeds.{k}.proj.weight"], p[f"patch_embeds.{k}.proj.bias"], stride, stride - 1).movedim(1, 3)
        norms = [(f"patch_embeds.{k}.norm", config.embed_norm_eps or config.norm_eps)]
        norms += [(f"norm_list.{k}", config.norm_eps)] if config.stage_norms else []
        for name, eps in norms:
            x = F.layer_norm(x, (dim,), p[f"{name}.weight"], p[f"{name}.bias"], eps)
        x = x.movedim(3, 1)
    x = x.movedim(1, 3)
    if not config.stage_norms:
        x = F.layer_norm(x, x.shape[-1:], p["norm.weight"], p["norm.bias"], config.norm_eps)
    x = x.mean((1, 2))
    if "head.weight" in p:
        x = F.linear(x, p["head.weight"], p["head.bias"])
    reference = Reference(oracle(params, config), case.x)
    reference.check(agree, logits(xp, case.x, params, config), {"logits": x.numpy()})


@given(config=configs(), seed=st.integers(0, 9))
def test_01_the_parameters_are_the_oracles(config: sv.ScalableViTConfig, seed: int) -> None:
    """Names, shapes and, where the two classes of the authors agree on it, order of the official state dict."""
    state = oracle(sv.init_params(config, seed), config).state_dict()
    shapes = sv.parameter_shapes(config)
    assert {name: tuple(x.shape) for name, x in state.items()} == shapes
    if not config.stage_norms:
        assert list(state) == list(shapes)
