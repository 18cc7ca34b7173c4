"""The MLX module: official names and bits, inner modules that run, MLX's own files, training, and quantised layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn, optimizers, utils

from scalablevit_ref.adapters.mlx import ScalableViT, quantise

CONFIG = sv.ScalableViTConfig(
    embed_dims=(32,),
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
IMAGES = random_images((2, 1, 8, 16), dtype="float32")
HEADS: tuple[dict[str, Any], ...] = (
    {},
    {"head": "mlp"},
    {"head": "mlp", "num_classes": 0},
    {"head": "none", "num_classes": 0},
    {"stage_norms": True, "ssa_values": "scaled", "pad_windows": True, "qkv_bias": False},
    {"sr_ratios": (1,), "embed_norm_eps": 1e-3},
)


def params(dtype: str = "float32", **settings: Any) -> dict[str, np.ndarray]:
    return random_params(sv.parameter_shapes(settled(**settings)), dtype=dtype)


def settled(**settings: Any) -> sv.ScalableViTConfig:
    return sv.ScalableViTConfig(**{**vars(CONFIG), **settings})


pytestmark = pytest.mark.usefixtures("as_in_production")


def flat(model: nn.Module) -> dict[str, mx.array]:
    found: Any = utils.tree_flatten(model.parameters())
    return dict(found)


@pytest.mark.parametrize(
    "config",
    [sv.variant("digits"), *(settled(**settings) for settings in HEADS)],
    ids=lambda config: f"{config.head} {config.embed_dims}",
)
def test_names_are_the_official_ones(config: sv.ScalableViTConfig) -> None:
    """And every parameter comes back as it went in, in the official order."""
    given = sv.init_params(config, seed=3)
    model = ScalableViT.from_params(given, config)
    assert set(flat(model)) == set(sv.parameter_shapes(config))
    back = model.to_params()
    assert list(back) == list(given)
    assert all(back[key].dtype == x.dtype and back[key].tobytes() == x.tobytes() for key, x in given.items())


@pytest.mark.parametrize(
    ("dtype", "settings"), [("float32", each) for each in HEADS] + [(dtype, {}) for dtype in ("bfloat16", "float16")], ids=str
)
def test_every_tap_is_the_specifications(dtype: str, settings: dict[str, Any]) -> None:
    """In order, of NumPy's images and of MLX's, and in the dtype of the weights."""
    config = settled(**settings)
    weights = sv.to_numpy(sv.to_backend(params(**settings), "torch", dtype))
    images = sv.to_backend(IMAGES, "numpy", dtype)
    expected = sv.trace(*(sv.to_backend(x, "numpy", "float64") for x in (images, weights)), config)
    seen: dict[str, Any] = {}
    model = ScalableViT(config, params=weights)
    logits = model(images, tap=lambda name, x: seen.setdefault(name, x))
    assert list(seen) == list(expected)
    assert mx.array_equal(model(sv.to_backend(images, "mlx")), logits)
    for name, x in seen.items():
        assert sv.to_numpy(x).dtype.name == dtype, name
        assert relative_l2(sv.to_numpy(x), expected[name]) <= NETWORK_TOLERANCE[dtype] * EPS[dtype], name
    (found,) = model.features(images)
    assert mx.array_equal(found, seen["norm_list.0" if config.stage_norms else "stages.0.1"])


@pytest.mark.parametrize(
    "path", ["patch_embeds.0.proj", "stages.0.0.attn.lim_func", "stages.0.1.attn.reduction.1", "pos_block.0.proj.0"]
)
def test_inner_modules_run(path: str) -> None:
    """What takes the place of one has effect."""

    class Doubled(nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.inner = module

        def __call__(self, x: mx.array) -> mx.array:
            y: mx.array = 2 * self.inner(x)
            return y

        @property
        def weight(self) -> mx.array:
            found: mx.array = self.inner.weight
            return found

    model = ScalableViT(CONFIG, params=params())
    expected = model(IMAGES)
    inner = dict(model.named_modules())[path]
    model.update_modules(utils.tree_unflatten([(path, Doubled(inner))]))
    found = model(IMAGES)
    assert not mx.array_equal(found, expected)
    doubled = {name: 2 * x if name.startswith(f"{path}.") else x for name, x in params().items()}
    assert relative_l2(np.array(found), sv.scalable_vit(IMAGES, doubled, CONFIG)) <= 1e-5


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_files_of_mlx_there_and_back(dtype: str, suffix: str, tmp_path: Path) -> None:
    """What `save_weights` writes is read as official parameters, and `load_weights` takes what the package writes: equal bits."""
    given = sv.to_numpy(sv.to_backend(params(), "torch", dtype))
    model = ScalableViT(CONFIG, params=given)
    model.save_weights(str(tmp_path / f"own{suffix}"))
    held: Any = mx.load(str(tmp_path / f"own{suffix}"))
    assert held["stages.0.0.attn.lim_func.weight"].shape == (32, 3, 3, 1)
    found = sv.load_checkpoint(tmp_path / f"own{suffix}", config=CONFIG)
    assert found.metadata["layout"] == "mlx"
    assert all(found.params[name].tobytes() == x.tobytes() for name, x in given.items())
    if (suffix, dtype) == (".npz", "bfloat16"):
        return  # which NumPy's format does not have
    sv.save_checkpoint(tmp_path / f"ours{suffix}", given, CONFIG, layout="mlx")
    other = ScalableViT(CONFIG, seed=1)
    other.load_weights(str(tmp_path / f"ours{suffix}"), strict=True)
    assert all(other.to_params()[name].tobytes() == x.tobytes() for name, x in given.items())
    again = ScalableViT.from_checkpoint(tmp_path / f"ours{suffix}")
    assert again.config == CONFIG
    assert mx.array_equal(again(sv.to_backend(IMAGES, "mlx", dtype)), model(sv.to_backend(IMAGES, "mlx", dtype)))


def test_training() -> None:
    """`nn.value_and_grad` reaches every parameter, as torch's autograd has it, and some steps of an optimiser lower the loss."""
    model = ScalableViT(CONFIG, params=params())
    x = mx.array(IMAGES)

    def loss(model: ScalableViT) -> mx.array:
        return mx.square(model(x)).sum()

    before, gradient = nn.value_and_grad(model, loss)(model)
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in params("float64").items()}
    sv.scalable_vit(torch.tensor(IMAGES.astype("float64")), tensors, CONFIG).square().sum().backward()
    moved = sv.from_state_dict(sv.to_numpy(dict(utils.tree_flatten(gradient))), layout="mlx", config=CONFIG).params
    for name, p in tensors.items():
        if not name.endswith("attn.k.bias"):  # which is zero but for rounding
            assert p.grad is not None
            assert relative_l2(moved[name], p.grad.numpy()) <= 1e-5, name
    optimiser = optimizers.SGD(1e-3)
    for _ in range(3):
        value, gradient = nn.value_and_grad(model, loss)(model)
        optimiser.update(model, gradient)
    assert float(loss(model)) < float(value) < float(before)


def test_compiled_once_for_equal_shapes() -> None:
    model, traces = ScalableViT(CONFIG, params=params()), []

    def logits(x: mx.array) -> mx.array:
        traces.append(x.shape)
        return model(x)

    run = mx.compile(logits)
    x = mx.array(IMAGES)
    assert relative_l2(np.array(run(x)), np.array(model(x))) <= 64 * EPS["float32"]
    assert not mx.array_equal(run(2 * x), run(x))
    assert len(traces) == 1


def test_quantised_with_the_error_of_each_layer() -> None:
    """By hand: of one layer alone on its own inputs, and of the whole network; what is not quantised is said."""
    model = ScalableViT(CONFIG, params=params())
    found = quantise(model, IMAGES, bits=4, group_size=32)
    layers = {layer.name: layer for layer in found.layers}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert sorted(layers) == sorted(linear)
    assert {layer.left for layer in found.layers} == {"", "width 40"}
    assert all((layer.weight_error is None) == (layer.isolated == 0) == (layer.left == "width 40") for layer in found.layers)

    weight = mx.array(params()["stages.0.0.attn.qkv.weight"])
    held = np.array(mx.dequantize(*mx.quantize(weight, 32, 4), 32, 4))
    first = layers["stages.0.0.attn.qkv"]
    assert first.shape == (96, 32)
    assert first.weight_error == pytest.approx(relative_l2(held, np.array(weight)), rel=1e-6)
    exact = sv.trace(IMAGES, params(), CONFIG)
    w, bias = params()["stages.0.0.attn.qkv.weight"], params()["stages.0.0.attn.qkv.bias"]
    x = exact["stages.0.0.norm1"]
    assert first.isolated == pytest.approx(relative_l2(x @ held.T + bias, x @ w.T + bias), rel=1e-3)
    assert first.propagated == pytest.approx(first.isolated, rel=1e-3)  # nothing before it is quantised
    behind = layers["stages.0.1.attn.k"]
    assert (behind.isolated, behind.weight_error) == (0, None)
    assert behind.propagated > 1e-3
    assert found.logits == pytest.approx(relative_l2(np.array(found.network(IMAGES)), np.array(model(IMAGES))), rel=1e-3)
    assert found.bytes_after < found.bytes_before == sum(x.nbytes for x in params().values())
    lines = str(found).splitlines()
    assert len(lines) == 2 + len(linear) + 2
    assert lines[1].split() == ["layer", "weight", "isolated", "propagated"]
    assert lines[2].split()[0] == "stages.0.0.attn.qkv"
    assert quantise(model, IMAGES, bits=8, group_size=32).logits < found.logits / 5
    with pytest.raises(ValueError, match=r"the network is quantised: model\.save_weights"):
        found.network.to_params()
    assert model.to_params()["head.weight"].tobytes() == params()["head.weight"].tobytes()


def test_a_quantised_network_comes_back_by_mlx(tmp_path: Path) -> None:
    found = quantise(ScalableViT(CONFIG, params=params()), IMAGES, bits=8, group_size=32).network
    found.save_weights(str(tmp_path / "x.safetensors"))
    other = ScalableViT(CONFIG, seed=1)
    nn.quantize(
        other, 32, 8, class_predicate=lambda name, module: isinstance(module, nn.Linear) and module.weight.shape[1] % 32 == 0
    )
    other.load_weights(str(tmp_path / "x.safetensors"), strict=True)
    assert mx.array_equal(other(IMAGES), found(IMAGES))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="parameters do not fit: missing"):
        ScalableViT(CONFIG, params={"norm.weight": np.ones(8)})
    with pytest.raises(ValueError, match="unknown variant"):
        ScalableViT("smal")
    with pytest.raises(TypeError, match=r"^params are float64, in which MLX's layers keep float32's digits or refuse"):
        ScalableViT(CONFIG, params=params("float64"))
    model = ScalableViT(CONFIG)
    with pytest.raises(ValueError, match="images must have 1 channels"):
        model(mx.zeros((1, 3, 8, 16)))
    with pytest.raises(TypeError, match="images are float16 but the module is float32"):
        model(mx.zeros((1, 1, 8, 16), mx.float16))
    with pytest.raises(TypeError, match="expected an array"):
        model([[1.0]])  # type: ignore[arg-type]


def test_without_mlx_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['mlx'] = None; import scalablevit_ref.adapters.mlx"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("adapters.mlx needs mlx.core: pip install 'scalablevit-ref[mlx]'")
