"""The network as a `paddle.nn.Layer`: the same function, the same bits of weights both ways, Paddle's own files, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.adapters.paddle import ScalableViT
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

SMALL: dict[str, Any] = {
    "embed_dims": (8, 16),
    "depths": (2, 3),
    "num_heads": (2, 4),
    "mlp_ratios": (2, 2),
    "sr_ratios": (2, 1),
    "c_ratios": (1.25, 1.25),
    "window_sizes": (2, 2),
    "num_classes": 5,
    "patch_size": 2,
}
CONFIGS = {
    "MLP head": sv.ScalableViTConfig(**SMALL),
    "no classes": sv.ScalableViTConfig(**SMALL | {"num_classes": 0}),
    "linear head, no biases": sv.ScalableViTConfig(**SMALL, head="linear", qkv_bias=False),
    "backbone": sv.ScalableViTConfig(
        **SMALL, head="none", ssa_values="scaled", ssa_scale="head_dim", pad_windows=True, stage_norms=True, embed_norm_eps=1e-5
    ),
}

pytestmark = pytest.mark.usefixtures("as_in_production")


def of(name: str, dtype: str = "float32") -> tuple[ScalableViT, dict[str, np.ndarray], sv.ScalableViTConfig]:
    config = CONFIGS[name]
    params = sv.to_backend(random_params(sv.parameter_shapes(config)), "numpy", dtype)
    return ScalableViT.from_params(params, config), params, config


def same(found: Any, expected: Any) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == x.dtype and found[name].tobytes() == x.tobytes() for name, x in expected.items()
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_function(name: str) -> None:
    model, params, config = of(name)
    model.eval()
    images = random_images((2, 3, *((9, 18) if config.pad_windows else (8, 16))), dtype="float32")
    found = sv.to_numpy(model(paddle.to_tensor(images)))
    wide = (sv.to_backend(x, "numpy", "float64") for x in (images, params))
    expected = sv.trace(*wide, config)["logits"]
    assert relative_l2(found, expected) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]
    maps = sv.stage_features(images, params, config)
    for x, y in zip(model.features(paddle.to_tensor(images)), maps, strict=True):
        assert relative_l2(sv.to_numpy(x), y) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_weights_there_and_back_have_the_same_bits(name: str, dtype: str, tmp_path: Path) -> None:
    """In memory, by a file that Paddle writes and we read, and by one that we write and Paddle reads."""
    model, params, config = of(name, dtype)
    assert same(model.to_params(), params)
    expected = sv.to_state_dict(params, config, layout="paddle")
    assert set(model.state_dict()) == set(expected)
    assert model.stages[0][0].attn.qkv.weight.shape == [8, 24]  # in x out
    theirs, ours = str(tmp_path / "theirs.pdparams"), tmp_path / "ours.pdparams"
    paddle.save(model.state_dict(), theirs)
    read = sv.load_checkpoint(theirs, config=config)
    assert read.metadata["layout"] == "paddle"
    assert same({name: read.params[name] for name in params}, params)
    sv.save_checkpoint(ours, params, config, layout="paddle")
    other = ScalableViT(config, seed=1).to(dtype=dtype)
    assert other.set_state_dict(paddle.load(str(ours))) == ([], ["scalablevit_ref"])
    assert same(other.to_params(), params)


def test_the_digits_and_a_step_of_training() -> None:
    """Gradients reach every parameter but a key's bias, and some steps of Adam lower the loss."""
    checkpoint = sv.load_checkpoint(digits.CHECKPOINT)
    pixels, labels = digits.test_images()
    images, labels = paddle.to_tensor(digits.preprocess(pixels[:16])), paddle.to_tensor(labels[:16].astype("int64"))
    model = ScalableViT.from_params(checkpoint.params, checkpoint.config)
    model.eval()
    assert int((model(images).argmax(1) == labels).sum()) >= 15
    model = ScalableViT(checkpoint.config)
    model.train()
    optimiser = paddle.optimizer.Adam(1e-3, parameters=model.parameters())
    losses = []
    for _ in range(3):
        loss = paddle.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(float(loss))
        unreached = [name for name, x in model.named_parameters() if x.grad is None or not float(x.grad.abs().max())]
        assert [name for name in unreached if not name.endswith("attn.k.bias")] == []
        optimiser.step()
        optimiser.clear_grad()
    assert losses[2] < losses[0]


def test_the_inner_layers_are_what_runs() -> None:
    """A hook is called, and a layer that takes the place of one has effect."""
    model, _, _ = of("MLP head")
    model.eval()
    images = paddle.to_tensor(random_images((1, 3, 8, 8), dtype="float32"))
    before, seen = model(images), list[str]()
    for name, layer in model.named_sublayers():
        if isinstance(layer, paddle.nn.Linear | paddle.nn.Conv2D | paddle.nn.LayerNorm):
            layer.register_forward_post_hook(lambda layer, given, y, name=name: seen.append(name))
    model(images)
    held = {name.rpartition(".")[0] for name in sv.parameter_shapes(model.config)}
    assert set(seen) == held
    model.stages[1][2].attn.qkv = paddle.nn.Linear(16, 48)
    assert float((model(images) - before).abs().max()) > 0


def test_one_program_for_equal_shapes() -> None:
    model, _, config = of("linear head, no biases")
    model.eval()
    images = paddle.to_tensor(random_images((2, 3, 8, 16), dtype="float32"))
    expected = sv.to_numpy(model(images))
    compiled = paddle.jit.to_static(model, full_graph=True)
    for scale in (1.0, 2.0):
        found = compiled(images * scale)
        assert found.shape == [2, config.num_classes]
    assert relative_l2(sv.to_numpy(compiled(images)), expected) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]
    assert len(compiled.forward.program_cache) == 1


def test_refusals() -> None:
    model, params, config = of("MLP head")
    with pytest.raises(TypeError, match=r"images must be floating point .*, got int64"):
        model(paddle.ones([1, 3, 8, 8], "int64"))
    with pytest.raises(ValueError, match="window"):
        model(paddle.ones([1, 3, 10, 10]))
    with pytest.raises(ValueError, match=r"head\.0\.weight"):
        ScalableViT(config, params={name: x for name, x in params.items() if name != "head.0.weight"})
