"""Every kind of bad input: the fitting exception type, and a message that names the culprit, what was expected and what came."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.parameters import block_shapes, iwsa_shapes, mlp_shapes, patch_embed_shapes, peg_shapes, ssa_shapes
from scalablevit_ref.testing import random_images, random_params

pytestmark = pytest.mark.usefixtures("as_in_production")

CONFIG = sv.variant("digits")
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((1, 1, 112, 112), dtype="float32")
X = np.zeros((1, 4, 6, 8), np.float32)
PER_STAGE = ("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes")


def said(*parts: str) -> str:
    """A pattern for a message that holds these parts, as whole words, in this order."""
    return ".*".join(r"\b" * part[0].isalnum() + re.escape(part) + r"\b" * part[-1].isalnum() for part in parts)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in PARAMS.items() if key != name}


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (IMAGES[0], ValueError, ("images", "(b, c, h, w)", "(1, 112, 112)")),
        (IMAGES[None], ValueError, ("images", "(b, c, h, w)", "(1, 1, 1, 112, 112)")),
        (IMAGES[:0], ValueError, ("images", "no axis empty", "(0, 1, 112, 112)")),
        (np.zeros((1, 3, 112, 112), np.float32), ValueError, ("images", "1 channels", "got 3")),
        (IMAGES[:, :, :96], ValueError, ("96 x 112", "24, 12, 6, 3", "window_sizes", "work are 109")),
        (IMAGES.astype(np.uint8), TypeError, ("images", "floating point", "uint8")),
        (IMAGES.astype(np.int64), TypeError, ("images", "floating point", "int64")),
        (IMAGES.astype(np.complex64), TypeError, ("images", "floating point", "complex64")),
        (IMAGES.astype(np.float64), TypeError, ("images is float64", "patch_embeds.0.proj.weight", "float32")),
        (torch.from_numpy(IMAGES), TypeError, ("images is a torch array", "patch_embeds.0.proj.weight", "numpy")),
        (IMAGES.tolist(), TypeError, ("expected an array", "list")),
        (None, TypeError, ("expected an array", "NoneType")),
    ],
)
def test_images(images: Any, error: type[Exception], message: tuple[str, ...]) -> None:
    for function in (sv.scalable_vit, sv.stage_features, sv.trace):
        with pytest.raises(error, match=said(*message)):
            function(images, PARAMS, CONFIG)


@pytest.mark.parametrize(
    ("h", "w", "near"), [(222, 224, None), (225, 224, ("224", "445")), (224, 256, ("224", "445")), (240, 240, ("224", "445"))]
)
def test_official_image_sizes(h: int, w: int, near: tuple[str, str] | None) -> None:
    """Maps are ⌈size / 4⌉ a side, so that 221 to 224 pixels work where the official code takes 224 alone."""
    config = sv.variant("small")
    params = {name: np.zeros(shape, np.float32) for name, shape in sv.parameter_shapes(config).items()}
    if near is None:
        assert sv.scalable_vit(np.zeros((1, 3, h, w), np.float32), params, config).shape == (1, 1000)
        return
    with pytest.raises(ValueError, match=said(f"{h} x {w}", "nearest sizes that work", *near)):
        sv.scalable_vit(np.zeros((1, 3, h, w), np.float32), params, config)


@pytest.mark.parametrize("size", [3, 12])
def test_image_smaller_than_a_tile(size: int) -> None:
    config = sv.variant("mmdet_small", in_chans=1)
    params = {name: np.zeros(shape, np.float32) for name, shape in sv.parameter_shapes(config).items()}
    with pytest.raises(ValueError, match=said(f"{size} pixels", "at least sr_ratios = (8, 4, 2, 1)", "work are 29")):
        sv.stage_features(np.zeros((1, 1, 64, size), np.float32), params, config)


def test_parameters_in_one_report() -> None:
    """Missing, surplus and misshapen names come together."""
    params = without("norm.weight") | {"extra.bias": PARAMS["norm.bias"], "head.weight": PARAMS["head.weight"].T}
    with pytest.raises(
        ValueError,
        match=said("missing (1): norm.weight", "unexpected (1): extra.bias", "head.weight expected (10, 64) got (64, 10)"),
    ):
        sv.scalable_vit(IMAGES, params, CONFIG)


def test_long_reports_are_cut() -> None:
    with pytest.raises(ValueError, match=said(f"missing ({len(PARAMS)})", f"and {len(PARAMS) - 12} more")):
        sv.scalable_vit(IMAGES, {}, CONFIG)


def test_parameters_of_another_kind() -> None:
    one = "stages.1.1.attn.q.weight"
    with pytest.raises(TypeError, match=said("images is float32", one, "float64")):
        sv.scalable_vit(IMAGES, PARAMS | {one: PARAMS[one].astype(np.float64)}, CONFIG)
    with pytest.raises(TypeError, match=said("images is a numpy array", one, "torch")):
        sv.scalable_vit(IMAGES, PARAMS | {one: torch.from_numpy(PARAMS[one])}, CONFIG)
    with pytest.raises(TypeError, match=said("params must be a mapping", "list")):
        sv.scalable_vit(IMAGES, list(PARAMS.values()), CONFIG)
    tensors = sv.to_backend(PARAMS, "torch")
    with pytest.raises(ValueError, match=said("images is on device cpu", one, "meta")):
        sv.scalable_vit(torch.from_numpy(IMAGES), tensors | {one: tensors[one].to("meta")}, CONFIG)


SSA = {"num_heads": 2, "sr_ratio": 2, "c_ratio": 1.25}
CALLS = {
    "ssa": (lambda x, p: sv.ssa(x, p, **SSA), ssa_shapes(8, **SSA)),
    "ssa v1": (lambda x, p: sv.ssa(x, p, values="scaled", **SSA), ssa_shapes(8, values="scaled", **SSA)),
    "iwsa": (lambda x, p: sv.iwsa(x, p, num_heads=2, window_size=2), iwsa_shapes(8)),
    "mlp": (sv.mlp, mlp_shapes(8, 32)),
    "peg": (sv.peg, peg_shapes(8)),
    "patch_embed": (lambda x, p: sv.patch_embed(x, p, patch_size=2), patch_embed_shapes(8, 12, 2)),
    "block": (lambda x, p: sv.block(x, p, kind="ssa", **SSA), block_shapes(8, kind="ssa", hidden=16, **SSA)),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_operation(name: str) -> None:
    call, shapes = CALLS[name]
    params = random_params(shapes, dtype="float32")
    assert call(X, params).shape[0] == 1
    with pytest.raises(ValueError, match=said("x must have shape (b, h, w, c)", "(4, 6, 8)")):
        call(X[0], params)
    with pytest.raises(TypeError, match=said("x must be floating point", "int32")):
        call(X.astype(np.int32), params)
    for parameter in params:
        rest = {key: value for key, value in params.items() if key != parameter}
        if parameter == "qkv.bias":  # an attention without biases is a network of its own
            call(X, rest)
        else:
            with pytest.raises(ValueError, match=said("missing", parameter)):
                call(X, rest)
        with pytest.raises((ValueError, TypeError), match="expected"):
            call(X, rest | {parameter: params[parameter][..., :-1]})
        with pytest.raises(TypeError, match=said("float32", "float16")):
            call(X, rest | {parameter: params[parameter].astype(np.float16)})
    with pytest.raises(ValueError, match=said("unexpected (1)", "surplus.weight")):
        call(X, params | {"surplus.weight": params[next(iter(params))]})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: sv.ssa(X, p, num_heads=3, sr_ratio=2, c_ratio=1.25), ValueError, ("c = 8", "num_heads = 3")),
        (lambda p: sv.ssa(X, p, num_heads=4, sr_ratio=2, c_ratio=1.25), ValueError, ("c' = int(8 * 1.25) = 10", "num_heads = 4")),
        (lambda p: sv.ssa(X, p, num_heads=2, sr_ratio=2, c_ratio=0.1), ValueError, ("c' = int(8 * 0.1) = 0", "positive")),
        (lambda p: sv.ssa(X, p, num_heads=0, sr_ratio=2, c_ratio=1.25), ValueError, ("num_heads", "at least 1", "0")),
        (lambda p: sv.ssa(X, p, num_heads=2, sr_ratio=5, c_ratio=1.25), ValueError, ("4 x 6", "sr_ratio = 5")),
        (lambda p: sv.ssa(X, p, num_heads=2, sr_ratio=0, c_ratio=1.25), ValueError, ("sr_ratio", "at least 1")),
        (lambda p: sv.ssa(X, p, num_heads=2, sr_ratio=2.0, c_ratio=1.25), TypeError, ("sr_ratio", "whole number", "2.0")),
        (lambda p: sv.ssa(X, p, num_heads=2, sr_ratio=1, c_ratio=0), ValueError, ("c_ratio", "positive", "0")),
        (lambda p: sv.ssa(X, p, num_heads=2, sr_ratio=1, c_ratio="1"), TypeError, ("c_ratio", "number", "'1'")),
        (lambda p: sv.ssa(X, p, values="v3", **SSA), ValueError, ("ssa_values", "'unscaled', 'scaled'", "'v3'")),
        (lambda p: sv.ssa(X, p, scale="none", **SSA), ValueError, ("ssa_scale", "'scaled', 'head_dim'", "'none'")),
        (lambda p: sv.iwsa(X, p, num_heads=2, window_size=4), ValueError, ("4 x 6 tokens", "window_size = 4", "pad=True")),
        (lambda p: sv.iwsa(X, p, num_heads=2, window_size=0), ValueError, ("window_size", "at least 1")),
        (lambda p: sv.iwsa(X, p, num_heads=5, window_size=2), ValueError, ("c = 8", "num_heads = 5")),
        (lambda p: sv.block(X, p, kind="mlp", num_heads=2), ValueError, ("kind", "'iwsa', 'ssa'", "'mlp'")),
        (lambda p: sv.block(X, p, kind="iwsa", num_heads=2), TypeError, ("kind 'iwsa'", "needs window_size")),
        (lambda p: sv.block(X, p, kind="ssa", num_heads=2, sr_ratio=2), TypeError, ("kind 'ssa'", "needs c_ratio")),
        (lambda p: sv.block(X, p, kind="ssa", num_heads=2, c_ratio=2), TypeError, ("kind 'ssa'", "needs sr_ratio")),
        (lambda p: sv.block(X, p, kind="iwsa", num_heads=2, window_size=2), ValueError, ("missing", "norm1.weight")),
        (lambda p: sv.patch_embed(X, p, patch_size=0), ValueError, ("patch_size", "at least 1")),
    ],
)
def test_settings(call: Any, error: type[Exception], message: tuple[str, ...]) -> None:
    with pytest.raises(error, match=said(*message)):
        call({})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "iwsa", "window_size": 4}, ValueError, ("4 x 6 tokens", "window_size = 4", "pad=True")),
        ({"kind": "iwsa", "window_size": 2.0}, TypeError, ("window_size", "whole number", "2.0")),
        ({"kind": "iwsa", "window_size": 2, "num_heads": 3}, ValueError, ("c = 8", "num_heads = 3")),
        ({"kind": "ssa", "sr_ratio": 5, "c_ratio": 1.25}, ValueError, ("4 x 6 tokens", "sr_ratio = 5")),
        ({"kind": "ssa", "sr_ratio": 2, "c_ratio": 1.25, "num_heads": 0}, ValueError, ("num_heads", "at least 1", "0")),
        ({"kind": "ssa", "sr_ratio": 2, "c_ratio": 1.25, "scale": "none"}, ValueError, ("ssa_scale", "'none'")),
        ({"kind": "ssa", "sr_ratio": 2, "c_ratio": 1.25, "ssa_scale": "d"}, ValueError, ("ssa_scale", "'d'")),
    ],
)
def test_a_block_refuses_before_any_work(settings: dict[str, Any], error: type[Exception], message: tuple[str, ...]) -> None:
    """What its attention would refuse, too, though norm1 comes before it."""
    params = random_params(block_shapes(8, kind=settings["kind"], hidden=16, **SSA), dtype="float32")
    seen = []
    with pytest.raises(error, match=said(*message)):
        sv.block(X, params, **{"num_heads": 2, **settings}, tap=lambda name, x: seen.append(name) or x)
    assert seen == []


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"num_heads": (2, 4, 8)}, ValueError, ("same length", "'num_heads': 3")),
        (
            dict.fromkeys(("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios", "c_ratios", "window_sizes"), ()),
            ValueError,
            ("length",),
        ),
        ({"num_heads": (2, 4, 8, 5)}, ValueError, ("embed_dims[3] = 512", "num_heads[3] = 5")),
        ({"c_ratios": (1.3, 1.25, 1.25, 1)}, ValueError, ("int(64 * 1.3) = 83", "c_ratios[0]", "num_heads[0] = 2")),
        ({"depths": (2, 2, 0, 2)}, ValueError, ("depths", "at least 1", "0")),
        ({"depths": 2}, TypeError, ("depths", "sequence", "2")),
        ({"depths": "2222"}, TypeError, ("depths", "sequence")),
        ({"depths": (2, 2, 2.5, 2)}, TypeError, ("depths", "whole numbers", "2.5")),
        ({"depths": (2, 2, True, 2)}, TypeError, ("depths", "whole numbers", "True")),
        ({"mlp_ratios": (4, 4, -4, 4)}, ValueError, ("mlp_ratios", "positive", "-4")),
        ({"mlp_ratios": (4, 4, "4", 4)}, TypeError, ("mlp_ratios", "number", "'4'")),
        ({"norm_eps": float("nan")}, ValueError, ("norm_eps", "positive and finite")),
        ({"embed_norm_eps": 0}, ValueError, ("embed_norm_eps", "positive")),
        ({"num_classes": -1}, ValueError, ("num_classes", "at least 0", "-1")),
        ({"in_chans": 0}, ValueError, ("in_chans", "at least 1")),
        ({"patch_size": 0}, ValueError, ("patch_size", "at least 1")),
        ({"qkv_bias": 1}, TypeError, ("qkv_bias", "True or False", "1")),
        ({"head": "mpl"}, ValueError, ("head", "'mlp', 'linear', 'none'", "'mpl'")),
        ({"ssa_values": "v1"}, ValueError, ("ssa_values", "'v1'")),
        ({"ssa_scale": "d"}, ValueError, ("ssa_scale", "'d'")),
        ({"num_class": 10}, TypeError, ("unknown setting 'num_class'", "did you mean 'num_classes'")),
    ],
)
def test_configuration(overrides: dict[str, Any], error: type[Exception], message: tuple[str, ...]) -> None:
    with pytest.raises(error, match=said(*message)):
        sv.variant("small", **overrides)


def test_unknown_variant() -> None:
    with pytest.raises(
        ValueError, match=said("unknown variant 'smal'", "did you mean 'small' or 'small_0'", "there are small, small_0, base")
    ):
        sv.variant("smal")
    with pytest.raises(ValueError, match=r"unknown variant 'xyz'; there are"):
        sv.variant("xyz")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sv.to_backend(X, "mxnet"), ValueError, ("unknown backend 'mxnet'", "numpy, torch")),
        (
            lambda: sv.to_backend(X, "numpy", "float8"),
            ValueError,
            ("unknown dtype 'float8'", "float16, bfloat16, float32"),
        ),
        (lambda: sv.to_backend(X, "numpy", device="cuda"), ValueError, ("NumPy arrays live on the cpu", "'cuda'")),
        (lambda: sv.to_backend([1.0], "numpy"), TypeError, ("expected an array", "list")),
        (lambda: sv.to_numpy({"a": 1.0}), TypeError, ("expected an array", "float")),
    ],
)
def test_transfer(call: Any, error: type[Exception], message: tuple[str, ...]) -> None:
    with pytest.raises(error, match=said(*message)):
        call()


def test_the_least_width_of_all() -> None:
    """One channel, and a c' of one."""
    config = sv.ScalableViTConfig(
        embed_dims=(1, 2),
        depths=(2, 2),
        num_heads=(1, 2),
        mlp_ratios=(1, 1),
        sr_ratios=(2, 1),
        c_ratios=(1.25, 1),
        window_sizes=(1, 1),
        num_classes=1,
        head="linear",
    )
    assert sv.parameter_shapes(config)["stages.0.1.attn.q.weight"] == (1, 1)
