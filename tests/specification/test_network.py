"""The public functions' contracts: names, shapes, purity, variants; on every backend."""

from __future__ import annotations

import dataclasses
import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest
from scalablevit_ref.backends import numpy as numpy_backend

import scalablevit_ref as sv
from scalablevit_ref.config import MLP_HEAD_WIDTH, VARIANTS
from scalablevit_ref.parameters import block_shapes, patch_embed_shapes
from scalablevit_ref.testing import random_images, random_params, relative_l2

DIGITS = sv.variant("digits")


@pytest.mark.parametrize(
    ("name", "dims", "heads", "depths", "c_ratios", "head"),
    [
        ("small", (64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 20, 2), (1.25, 1.25, 1.25, 1), "mlp"),
        ("small_0", (64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 20, 2), (1.25, 1.25, 1.25, 1.25), "linear"),
        ("base", (96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 14, 6), (2, 1.25, 1.25, 1), "mlp"),
        ("large", (128, 256, 512, 1024), (4, 8, 16, 32), (2, 6, 12, 4), (0.25, 0.5, 1, 1), "mlp"),
        ("mmdet_small", (64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 20, 2), (1.25, 1.25, 1.25, 1), "none"),
    ],
)
def test_variants_are_the_published_ones(
    name: str, dims: tuple[int, ...], heads: tuple[int, ...], depths: tuple[int, ...], c_ratios: tuple[float, ...], head: str
) -> None:
    backbone = name == "mmdet_small"
    assert dataclasses.asdict(sv.variant(name)) == {
        "embed_dims": dims,
        "num_heads": heads,
        "depths": depths,
        "c_ratios": c_ratios,
        "head": head,
        "mlp_ratios": (4, 4, 4, 4),
        "sr_ratios": (8, 4, 2, 1),
        "window_sizes": (7, 7, 7, 7),
        "num_classes": 0 if backbone else 1000,
        "in_chans": 3,
        "patch_size": 4,
        "qkv_bias": True,
        "norm_eps": 1e-6,
        "ssa_values": "scaled" if backbone else "unscaled",
        "ssa_scale": "scaled",
        "pad_windows": backbone,
        "stage_norms": backbone,
        "embed_norm_eps": 1e-5 if backbone else None,
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_fit_their_images(name: str) -> None:
    """Every variant's trace names each module once, in order, with the shape that its stride gives."""
    config = sv.variant(name, depths=tuple(min(depth, 2) for depth in sv.variant(name).depths))
    size = 112 if name == "digits" else 224
    params = sv.init_params(config)
    taps = sv.trace(np.zeros((1, config.in_chans, size, size), np.float32), params, config)
    assert list(taps)[-1] == "logits"
    assert taps["logits"].shape == (1, config.out_features)
    for k, stride in enumerate(config.strides):
        side = -(-size // stride)
        for module in (f"patch_embeds.{k}", f"pos_block.{k}", *(f"stages.{k}.{i}" for i in range(config.depths[k]))):
            assert taps[module].shape == (1, side, side, config.embed_dims[k]), module
    modules = {name.rpartition(".")[0] for name in params}
    leaves = {name for name in modules if not name.startswith(("stages", "patch_embeds", "pos_block"))}
    assert leaves <= set(taps)


def order_of_the_trace(config: sv.ScalableViTConfig) -> list[str]:
    names = []
    for k, depth in enumerate(config.depths):
        names.append(f"patch_embeds.{k}")
        for i in range(depth):
            names += [f"stages.{k}.{i}.{part}" for part in ("norm1", "attn", "norm2", "mlp")] + [f"stages.{k}.{i}"]
            names += [f"pos_block.{k}"] if i == 0 else []
        names += [f"norm_list.{k}"] if config.stage_norms else []
    names += [] if config.stage_norms else ["norm"]
    heads = {"mlp": ["head.0", "head.1", "head.2", "head.3", "head"], "linear": ["head"], "none": []}
    return [*names, *heads[config.head], "logits"]


@pytest.mark.parametrize("overrides", [{}, {"head": "mlp"}, {"head": "none"}, {"stage_norms": True}, {"depths": (1, 2, 3, 1)}])
def test_trace_names(overrides: dict[str, object]) -> None:
    config = sv.variant("digits", **overrides)
    taps = sv.trace(random_images((1, 1, 112, 112)), random_params(sv.parameter_shapes(config)), config)
    assert list(taps) == order_of_the_trace(config)


def test_heads() -> None:
    """`num_classes=0` leaves out the last Linear: 4096 features of the MLP head, else the mean of the normed tokens."""
    images = random_images((2, 1, 112, 112))
    features = {}
    for head in ("mlp", "linear", "none"):
        config = sv.variant("digits", head=head, num_classes=0)
        features[head] = sv.scalable_vit(images, random_params(sv.parameter_shapes(config)), config)
    assert features["mlp"].shape == (2, MLP_HEAD_WIDTH)
    assert features["linear"].shape == (2, 64)
    assert np.array_equal(features["linear"], features["none"])
    with_classes = sv.variant("digits", head="mlp")
    assert sv.scalable_vit(images, random_params(sv.parameter_shapes(with_classes)), with_classes).shape == (2, 10)


def test_stage_features_are_the_blocks_outputs(backend: str) -> None:
    params = sv.to_backend(random_params(sv.parameter_shapes(DIGITS)), backend)
    images = sv.to_backend(random_images((1, 1, 112, 112)), backend)
    taps = sv.trace(images, params, DIGITS)
    for k, feature in enumerate(sv.stage_features(images, params, DIGITS)):
        last = f"stages.{k}.{DIGITS.depths[k] - 1}" if DIGITS.depths[k] > 1 else f"pos_block.{k}"
        assert np.array_equal(sv.to_numpy(feature), sv.to_numpy(taps[last]))


def test_a_tap_can_intervene() -> None:
    """What the tap returns takes the intermediate's place."""
    params, images = random_params(sv.parameter_shapes(DIGITS)), random_images((1, 1, 112, 112))
    without_peg = {name: 0 * x if name.startswith("pos_block") else x for name, x in params.items()}
    seen = {}

    def skip_peg(name: str, x: np.ndarray) -> np.ndarray:
        seen[name] = x
        return seen[name.replace("pos_block", "stages") + ".0"] if name.startswith("pos_block") else x

    assert np.array_equal(sv.scalable_vit(images, params, DIGITS, tap=skip_peg), sv.scalable_vit(images, without_peg, DIGITS))


def test_nothing_is_mutated_and_nothing_printed(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = random_params(sv.parameter_shapes(DIGITS))
    images = random_images((1, 1, 112, 112))
    kept = {name: x.copy() for name, x in params.items()}, images.copy()
    for x in (images, *params.values()):
        x.flags.writeable = False
    if backend == "numpy":
        sv.trace(images, params, DIGITS)  # read-only arrays: a write would raise
    else:
        moved = sv.to_backend(params, backend), sv.to_backend(images, backend)
        sv.trace(moved[1], moved[0], DIGITS)
        assert all(np.array_equal(sv.to_numpy(moved[0][name]), x) for name, x in kept[0].items())
        assert np.array_equal(sv.to_numpy(moved[1]), kept[1])
    assert capsys.readouterr() == ("", "")


def test_scale_of_earlier_weights() -> None:
    """`head_dim` scales by d^-½: the same as `scaled` with q's weight and bias times √r_c."""
    config = sv.variant("digits", ssa_scale="head_dim")
    params, images = random_params(sv.parameter_shapes(config)), random_images((1, 1, 112, 112))
    stages = {f"stages.{k}.1.attn.q.": ratio**0.5 for k, ratio in enumerate(config.c_ratios)}
    folded = {name: x * next((f for stage, f in stages.items() if name.startswith(stage)), 1.0) for name, x in params.items()}
    assert relative_l2(sv.scalable_vit(images, params, config), sv.scalable_vit(images, folded, DIGITS)) < 1e-14
    assert relative_l2(sv.scalable_vit(images, params, config), sv.scalable_vit(images, params, DIGITS)) > 1e-4


@pytest.mark.parametrize("word", ["scaled", "head_dim"])
def test_the_old_name_of_ssa_scale(word: Any) -> None:
    """`scale` says the same for one more release, in `ssa` and in `block`."""
    x, ssa = random_images((1, 6, 5, 8)), {"num_heads": 2, "sr_ratio": 2, "c_ratio": 0.5}
    p = random_params(block_shapes(8, kind="ssa", hidden=6, **ssa))
    own = {name.removeprefix("attn."): value for name, value in p.items() if name.startswith("attn.")}
    for run, params in ((partial(sv.block, kind="ssa"), p), (sv.ssa, own)):
        new = run(x, params, **ssa, ssa_scale=word)
        np.testing.assert_array_equal(run(x, params, **ssa, scale=word), new)
        assert np.array_equal(run(x, params, **ssa), new) == (word == "scaled")
        assert "scale" in inspect.signature(sv.ssa).parameters


@pytest.mark.parametrize("run", [sv.scalable_vit, sv.stage_features])
def test_a_backend_may_take_a_batch_in_groups_and_a_tap_sees_it_whole(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is refused before the first group."""
    params, images = random_params(sv.parameter_shapes(DIGITS), dtype="float32"), random_images((3, 1, 112, 112), dtype="float32")
    asked = []

    def one_by_one(function: Any, images: np.ndarray) -> Any:
        asked.append(len(images))
        found = [function(image[None]) for image in images]
        if isinstance(found[0], tuple):
            return tuple(np.concatenate(maps) for maps in zip(*found, strict=True))
        return np.concatenate(found)

    monkeypatch.setattr(numpy_backend, "in_groups", one_by_one)
    seen = {}
    grouped, whole = run(images, params, DIGITS), run(images, params, DIGITS, tap=lambda name, x: seen.setdefault(name, x))
    assert asked == [3]
    assert {len(x) for x in seen.values()} == {3}
    for x, y in zip(grouped, whole, strict=True):
        assert relative_l2(x, y) < 1e-5
    with pytest.raises(ValueError, match="missing"):
        run(images, {}, DIGITS)
    assert asked == [3]


def test_init_params() -> None:
    """As the official code draws them, the same in every dtype, another for another seed."""
    config = sv.variant("small")
    params = sv.init_params(config, seed=1)
    assert {x.dtype.name for x in params.values()} == {"float32"}
    assert params["stages.2.0.mlp.fc1.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert params["patch_embeds.1.proj.weight"].std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert params["stages.3.0.attn.lim_func.weight"].std() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert sv.init_params(DIGITS)["patch_embeds.0.proj.weight"].std() == pytest.approx((2 / (49 * 16)) ** 0.5, rel=0.1)
    assert all((params[name] == (1 if name.endswith("weight") else 0)).all() for name in params if params[name].ndim == 1)
    again, other = sv.init_params(config, 1, "float64"), sv.init_params(config, 2)
    name = "stages.0.1.attn.q.weight"
    assert np.array_equal(again[name].astype(np.float32), params[name])
    assert np.array_equal(sv.init_params(DIGITS)[name], sv.init_params(DIGITS, seed=0)[name])
    assert not np.array_equal(other[name], params[name])


def test_transfer_shares_no_memory(backend: str) -> None:
    x = np.arange(4.0)
    moved = sv.to_backend({"x": x}, backend)
    moved["x"][0] = 7
    back = sv.to_numpy(moved["x"])
    back[1] = 7
    assert x.tolist() == [0, 1, 2, 3]
    assert sv.to_numpy(moved)["x"].tolist() == [7, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_transfer_keeps_the_bits(dtype: str, backend: str) -> None:
    x = sv.to_backend(np.array([1.1, -0.0, np.inf, 3e-5]), "numpy", dtype)
    there = sv.to_backend(x, backend)
    assert sv.to_numpy(there).tobytes() == x.tobytes()
    assert sv.to_numpy(there).dtype == x.dtype


def test_what_is_left_out_is_what_the_official_network_has() -> None:
    """eps 1e-6, SSA v3 and its scale, no padding, biases: the defaults of each function are those of the classifier."""
    x = 1e-3 * random_images((1, 12, 12, 8))  # so small that eps shows
    p = random_params(patch_embed_shapes(8, 6, 2))
    np.testing.assert_array_equal(sv.patch_embed(x, p, patch_size=2), sv.patch_embed(x, p, patch_size=2, eps=1e-6))
    ssa: dict[str, Any] = {"kind": "ssa", "num_heads": 2, "sr_ratio": 2, "c_ratio": 0.5}
    p = random_params(block_shapes(8, hidden=6, **ssa))
    spelled = sv.block(x, p, norm_eps=1e-6, values="unscaled", ssa_scale="scaled", **ssa)
    np.testing.assert_array_equal(sv.block(x, p, **ssa), spelled)
    p = random_params(block_shapes(8, kind="iwsa", hidden=6, num_heads=2))
    with pytest.raises(ValueError, match="pad=True"):
        sv.block(x, p, kind="iwsa", num_heads=2, window_size=7)
