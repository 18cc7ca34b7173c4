"""The Flax module: official names as state paths, NumPy's numbers, and nnx's transforms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import scalablevit_ref as sv
from scalablevit_ref.adapters.flax import ScalableViT
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(2,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(2,),
    c_ratios=(1.25,),
    window_sizes=(2,),
    patch_size=2,
    num_classes=5,
    in_chans=1,
    head="linear",
)
IMAGES = random_images((2, 1, 8, 16))

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks of every trace would only cost time


def params(dtype: str = "float32", config: sv.ScalableViTConfig = CONFIG) -> dict[str, np.ndarray]:
    return random_params(sv.parameter_shapes(config), dtype=dtype)


def paths(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    return {".".join(map(str, path)): x[...].shape for path, x in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.parametrize("name", ["small", "mmdet_small", "digits"])
def test_state_paths_are_the_official_names(name: str) -> None:
    """And every parameter comes back as it went in."""
    config = sv.variant(name)
    given = sv.init_params(config, seed=3)
    model = ScalableViT.from_params(given, config)
    assert paths(model) == sv.parameter_shapes(config)
    back = model.to_params()
    assert list(back) == list(sv.parameter_shapes(config))
    assert all(back[name].dtype == x.dtype and np.array_equal(back[name], x) for name, x in given.items())


def test_seed_and_attributes() -> None:
    model = ScalableViT("digits", seed=2, num_classes=3)
    expected = sv.init_params(sv.variant("digits", num_classes=3), 2)
    assert model.config.num_classes == 3
    assert all(np.array_equal(x, expected[name]) for name, x in model.to_params().items())
    assert np.array_equal(model.stages[0][1].attn.reduction[0].weight[...], expected["stages.0.1.attn.reduction.0.weight"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_are_numpy_s(dtype: str) -> None:
    wide = {name: x.astype("float64") for name, x in params(dtype).items()}
    expected = sv.scalable_vit(IMAGES.astype(dtype).astype("float64"), wide, CONFIG)
    with jax.enable_x64(dtype == "float64"):
        model = ScalableViT.from_params(params(dtype), CONFIG)
        y = nnx.jit(lambda model, x: model(x))(model, IMAGES.astype(dtype))
        assert y.dtype == dtype
    assert relative_l2(np.asarray(y), expected) <= NETWORK_TOLERANCE[dtype] * EPS[dtype]


def test_taps_and_features() -> None:
    """Of NumPy's images too, which the specification itself would refuse beside JAX's parameters."""
    model = ScalableViT(CONFIG, params=params())
    order: list[str] = []

    @nnx.jit
    def run(model: ScalableViT) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...]]:
        seen: dict[str, jax.Array] = {}
        logits = model(IMAGES.astype("float32"), tap=lambda name, x: seen.setdefault(name, x))
        order.extend(seen)
        assert seen["logits"] is logits
        return seen, model.features(IMAGES.astype("float32"))

    seen, maps = run(model)
    expected = sv.trace(IMAGES, params("float64"), CONFIG)
    assert order == list(expected)
    assert all(relative_l2(np.asarray(x), expected[name]) <= 32 * EPS["float32"] for name, x in seen.items())
    assert [x.shape for x in maps] == [(2, 4, 8, 8)]
    assert relative_l2(np.asarray(maps[0]), expected["stages.0.1"]) <= 32 * EPS["float32"]


def test_gradients_and_a_training_step() -> None:
    """Through `nnx.grad`, of every parameter, as torch's autograd has them; and Optax's step in place."""
    x = jnp.asarray(IMAGES, "float32")
    model = ScalableViT(CONFIG, params=params())
    found = nnx.jit(nnx.grad(lambda model: (model(x) ** 2).sum()))(model)
    expected = {name: p.requires_grad_() for name, p in sv.to_backend(params("float64"), "torch").items()}
    sv.scalable_vit(torch.from_numpy(IMAGES), expected, CONFIG).square().sum().backward()
    flat = {".".join(map(str, path)): g[...] for path, g in nnx.to_flat_state(found)}
    assert set(flat) == set(expected)
    for name, p in expected.items():
        if not name.endswith("attn.k.bias"):  # which is zero but for rounding
            assert relative_l2(np.asarray(flat[name]), p.grad.numpy()) <= 1e-5, name
    optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)
    optimizer.update(model, found)
    for name, x_new in model.to_params().items():
        np.testing.assert_allclose(x_new, params()[name] - 0.5 * np.asarray(flat[name]), rtol=1e-4, atol=1e-4)


def test_split_and_merge() -> None:
    model = ScalableViT(CONFIG, params=params())
    definition, state = nnx.split(model)
    doubled = jax.tree.map(lambda x: 2 * x, state)
    assert np.array_equal(nnx.merge(definition, doubled).to_params()["norm.weight"], 2 * params()["norm.weight"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="parameters do not fit: missing"):
        ScalableViT(CONFIG, params={"norm.weight": np.ones(8)})
    with pytest.raises(ValueError, match="unknown variant"):
        ScalableViT("smal")
    with pytest.raises(ValueError, match="images must have 1 channels"):
        ScalableViT(CONFIG)(jnp.zeros((1, 3, 8, 16)))


def test_without_flax_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['flax'] = None; import scalablevit_ref.adapters.flax"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("adapters.flax needs flax: pip install 'scalablevit-ref[flax]'")
