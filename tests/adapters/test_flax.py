"""The Flax module: official names as state paths, NumPy's numbers, inner modules that run, dropout, and nnx's transforms."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import scalablevit_ref as sv
from scalablevit_ref.adapters.flax import ScalableViT
from scalablevit_ref.adapters.torch import ScalableViT as OnTorch
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, compare, random_images, random_params, relative_l2

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


SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"head": "mlp"},
    "features of 4096": {"head": "mlp", "num_classes": 0},
    "none": {"head": "none", "num_classes": 0},
    "backbone": {"stage_norms": True, "ssa_values": "scaled", "pad_windows": True, "qkv_bias": False, "embed_norm_eps": 1e-3},
    "without a reduction": {"sr_ratios": (1,), "ssa_scale": "head_dim"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_eval_is_the_specification_bit_for_bit(name: str) -> None:
    """At every tap; with rates that act in training mode only."""
    config = sv.ScalableViTConfig(**{**vars(CONFIG), **SETTINGS[name]})
    given, x = sv.to_backend(params(config=config), "jax"), jnp.asarray(IMAGES, "float32")
    model = ScalableViT(config, params=given, drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5)
    model.eval()
    expected, seen = sv.trace(x, given, config), {}
    model(x, tap=lambda name, x: seen.setdefault(name, x))
    assert list(seen) == list(expected)
    assert all(np.array_equal(seen[name], value) for name, value in expected.items())
    without = ScalableViT(config, params=given)  # in training mode, all rates zero
    assert np.array_equal(without(x), expected["logits"])
    assert {type(value) for _, value in nnx.to_flat_state(nnx.state(without))} == {nnx.Param}


class Doubled(nnx.Module):
    def __init__(self, module: Any) -> None:
        self.inner = module

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = 2 * self.inner(x)
        return y


class Scaled(nnx.Module):
    """A port's slip: one step of a layer is off."""

    def __init__(self, module: Any) -> None:
        self.weight, self.bias = module.weight, module.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        return (x @ self.weight[...].T + self.bias[...]) * 1.001


def replaced(model: nnx.Module, path: str, make: Any) -> None:
    """Put what `make` makes of an inner module in its place."""
    *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    owner: Any = model
    for step in way:
        owner = owner[step] if isinstance(step, int) else getattr(owner, step)
    if isinstance(last, int):
        owner[last] = make(owner[last])
    else:
        setattr(owner, last, make(getattr(owner, last)))


@pytest.mark.parametrize("path", sorted({name.rpartition(".")[0] for name in sv.parameter_shapes(CONFIG)}))
def test_every_inner_module_runs(path: str) -> None:
    """What takes the place of one has effect."""
    model = ScalableViT(CONFIG, params=params())
    replaced(model, path, Doubled)
    doubled = {name: 2 * x if name.rpartition(".")[0] == path else x for name, x in params("float64").items()}
    assert relative_l2(np.asarray(model(IMAGES.astype("float32"))), sv.scalable_vit(IMAGES, doubled, CONFIG)) <= 1e-5
    with pytest.raises(ValueError, match=rf"parameters do not fit: missing .*{path}"):
        model.to_params()


def test_a_layer_of_flax_and_low_rank_updates() -> None:
    """An `nnx.Linear` for one, `nnx.LoRA` around another, of which alone the update is trained."""
    model, rngs = ScalableViT(CONFIG, params=params()), nnx.Rngs(0)
    expected = params("float64")

    def turned(module: Any) -> nnx.Linear:
        made = nnx.Linear(8, 24, rngs=rngs)
        made.kernel[...], made.bias[...] = module.weight[...].T, module.bias[...]
        return made

    replaced(model, "stages.0.0.attn.qkv", turned)
    replaced(model, "stages.0.1.mlp.fc1", lambda module: nnx.LoRA(8, 2, 16, base_module=module, b_initializer=ones, rngs=rngs))
    update = model.stages[0][1].mlp.fc1
    expected["stages.0.1.mlp.fc1.weight"] = (
        expected["stages.0.1.mlp.fc1.weight"] + np.asarray(update.lora_a[...] @ update.lora_b[...]).T
    )
    x = jnp.asarray(IMAGES, "float32")
    assert relative_l2(np.asarray(nnx.jit(lambda model, x: model(x))(model, x)), sv.scalable_vit(IMAGES, expected, CONFIG)) <= 1e-5
    found = nnx.grad(lambda model: (model(x) ** 2).sum(), argnums=nnx.DiffState(0, nnx.LoRAParam))(model)
    assert {".".join(map(str, path)) for path, _ in nnx.to_flat_state(found)} == {
        f"stages.0.1.mlp.fc1.lora_{name}" for name in "ab"
    }
    assert all(float(jnp.abs(g[...]).max()) > 0 for _, g in nnx.to_flat_state(found))


def ones(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jnp.ones(shape, dtype)


def test_dropout_by_mode_and_by_rngs() -> None:
    """New numbers in each call of one compiled function, the same ones from equal `rngs`; none in eval mode."""
    x = jnp.asarray(IMAGES, "float32")
    rates = {"drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.2}
    run = nnx.jit(lambda model, x: model(x))
    plain = run(ScalableViT(CONFIG, params=params()), x)
    for name in rates:
        model, again = (ScalableViT(CONFIG, params=params(), rngs=nnx.Rngs(dropout=7), **{name: 0.9}) for _ in range(2))
        first, second = run(model, x), run(model, x)
        assert not np.array_equal(first, plain), name
        assert not np.array_equal(first, second), name
        assert np.array_equal(run(again, x), first), name
        other = ScalableViT(CONFIG, params=params(), rngs=nnx.Rngs(dropout=8), **{name: 0.9})
        assert not np.array_equal(run(other, x), first), name
    model = ScalableViT.from_params(params(), CONFIG, **rates)
    assert all(np.array_equal(value, params()[name]) for name, value in model.to_params().items())
    assert np.array_equal(run(nnx.view(model, deterministic=True), x), plain)
    model.eval()
    assert np.array_equal(run(model, x), plain)
    model.train()
    assert not np.array_equal(run(model, x), plain)


def test_what_is_dropped() -> None:
    """Shares of the patch embedding, of attention weights and of an MLP's hidden units and output; what stays is scaled up."""
    model = ScalableViT(CONFIG, params=params(), drop_rate=0.25, attn_drop_rate=0.25)
    block, x = model.stages[0][0], jnp.asarray(random_images((64, 8, 8, 8)), "float32")
    y = model.patch_embeds[0](jnp.ones((64, 16, 16, 1)))
    z = block.mlp(x)
    assert abs(float((y == 0).mean()) - 0.25) < 0.02
    assert abs(float((z == 0).mean()) - 0.25) < 0.02
    model.eval()
    np.testing.assert_allclose(y[y != 0], (model.patch_embeds[0](jnp.ones((64, 16, 16, 1))) / 0.75)[y != 0], rtol=1e-5)
    assert not np.allclose(z[z != 0], (block.mlp(x) / 0.75)[z != 0])  # hidden units are gone too
    model.train()
    attend = block.attn.within()["attend"]
    q, k = jnp.zeros((4, 16, 4)), jnp.ones((4, 100, 4))
    weights = attend(q, k, jnp.broadcast_to(jnp.eye(100), (4, 100, 100)), scale=1.0)
    assert abs(float((weights == 0).mean()) - 0.25) < 0.03
    np.testing.assert_allclose(weights[weights != 0], 0.01 / 0.75, rtol=1e-5)


def test_stochastic_depth() -> None:
    """A sample's branch is gone, or scaled by 1 / keep; the rate rises linearly over the blocks, as the torch module's."""
    config = sv.variant("digits")
    model, other = ScalableViT(config, drop_path_rate=0.4), OnTorch(config, drop_path_rate=0.4)
    blocks = [block for stage in model.stages for block in stage]
    expected = [block.drop_path.rate for stage in other.stages for block in stage]
    np.testing.assert_allclose([getattr(block.drop_path, "rate", 0) for block in blocks], expected, atol=1e-7)
    y = blocks[-1].drop_path(jnp.ones((2000, 2, 3, 4)))
    assert np.array_equal(y, jnp.broadcast_to(y[:, :1, :1, :1], y.shape))
    assert abs(float((y == 0).mean()) - 0.4) < 0.03
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.6], rtol=1e-6)


def test_cloned_copied_and_pickled() -> None:
    """All of it, dropout's numbers too."""
    x = jnp.asarray(IMAGES, "float32")
    model = ScalableViT(CONFIG, params=params(), drop_rate=0.5)
    copies = [nnx.clone(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    first = model(x)
    assert all(np.array_equal(each(x), first) for each in copies)


def test_compare_sees_the_inner_modules() -> None:
    """What is wrong in one is told of its layer, and right modules by their names."""
    model = ScalableViT(CONFIG, params=params(), drop_path_rate=0.5)
    report = compare(model, variant=CONFIG, weights=params())
    assert report.agrees, str(report)
    assert not report.left_out
    replaced(model, "stages.0.1.mlp.fc1", Scaled)
    report = compare(model, variant=CONFIG, weights=params())
    assert [row.layer for row in report.diverging] == ["stages.0.1.mlp"], str(report)
    assert "fc1" in str(report)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="parameters do not fit: missing"):
        ScalableViT(CONFIG, params={"norm.weight": np.ones(8)})
    with pytest.raises(ValueError, match="unknown variant"):
        ScalableViT("smal")
    with pytest.raises(ValueError, match="images must have 1 channels"):
        ScalableViT(CONFIG)(jnp.zeros((1, 3, 8, 16)))
    with pytest.raises(TypeError, match=r"images is bfloat16 but parameter 'patch_embeds.0.proj.weight' is float32"):
        ScalableViT(CONFIG)(jnp.zeros((1, 1, 8, 16), "bfloat16"))
    with pytest.raises(TypeError, match="x is bfloat16 but the weight of Linear is float32"):
        ScalableViT(CONFIG).stages[0][0].mlp(jnp.zeros((1, 2, 2, 8), "bfloat16"))
    with pytest.raises(ValueError, match=r"attn_drop_rate must be at least 0 and below 1, got 1\.5"):
        ScalableViT(CONFIG, attn_drop_rate=1.5)


def test_without_flax_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['flax'] = None; import scalablevit_ref.adapters.flax"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("adapters.flax needs flax: pip install 'scalablevit-ref[flax]'")
