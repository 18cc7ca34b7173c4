"""What each function of the specification checks first: `check_ssa` is the check of `ssa`, with the same arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalablevit_ref import parameters
from scalablevit_ref.arguments import check_choice, check_count, check_flag, check_function, check_positive
from scalablevit_ref.checks import check_alike, check_array, check_arrays, check_map, check_parameters, check_shapes, width
from scalablevit_ref.config import CHOICES, BlockKind, ScalableViTConfig, SSAScale, SSAValues, check_config
from scalablevit_ref.image_sizes import check_image_size


def check_patch_embed(x: Any, params: Mapping[str, Any], *, patch_size: int, eps: float) -> None:
    check_map("x", x, "b h w c")
    check_count("patch_size", patch_size)
    check_positive("eps", eps)
    check_alike(params, x)
    dim = width(params, "proj.weight")
    check_shapes(params, parameters.patch_embed_shapes(x.shape[-1], dim, patch_size))


def check_peg(x: Any, params: Mapping[str, Any]) -> None:
    check_map("x", x, "b h w c")
    check_alike(params, x)
    check_shapes(params, parameters.peg_shapes(x.shape[-1]))


def check_mlp(x: Any, params: Mapping[str, Any], *, activation: Any) -> None:
    check_map("x", x, "b h w c")
    check_function("activation", activation)
    check_alike(params, x)
    hidden = width(params, "fc1.weight")
    check_shapes(params, parameters.mlp_shapes(x.shape[-1], hidden))


def check_iwsa(
    x: Any, params: Mapping[str, Any], *, num_heads: int, window_size: int, pad: bool, attend: Any, in_block: bool = False
) -> None:
    """What `iwsa` is given; with `in_block` what `iwsa_block` is, whose parameters are the whole block's."""
    check_map("x", x, "b h w c")
    _, h, w, c = x.shape
    check_heads(c, num_heads)
    check_count("window_size", window_size)
    check_flag("pad", pad)
    check_function("attend", attend)
    if not pad and (h % window_size or w % window_size):
        raise ValueError(
            f"x is {h} x {w} tokens and does not divide into windows of window_size = {window_size}; "
            "pad=True pads it with zeros to whole windows"
        )
    check_alike(params, x)
    if in_block:
        _check_block_shapes(x, params, kind="iwsa", num_heads=num_heads)
    else:
        check_shapes(params, parameters.iwsa_shapes(c, qkv_bias=parameters.has_qkv_bias(params)))


def check_ssa(
    x: Any,
    params: Mapping[str, Any],
    *,
    num_heads: int,
    sr_ratio: int,
    c_ratio: float,
    values: SSAValues,
    ssa_scale: SSAScale,
    attend: Any,
    in_block: bool = False,
) -> None:
    """What `ssa` is given; with `in_block` what `ssa_block` is, whose parameters are the whole block's."""
    check_map("x", x, "b h w c")
    _, h, w, c = x.shape
    check_choice("ssa_values", values, CHOICES["ssa_values"])
    check_choice("ssa_scale", ssa_scale, CHOICES["ssa_scale"])
    check_heads(c, num_heads)
    check_count("sr_ratio", sr_ratio)
    check_positive("c_ratio", c_ratio)
    check_function("attend", attend)
    if min(h, w) < sr_ratio:
        raise ValueError(f"x is {h} x {w} tokens, less than one tile of sr_ratio = {sr_ratio}")
    check_alike(params, x)
    settings: dict[str, Any] = {"num_heads": num_heads, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "values": values}
    if in_block:
        _check_block_shapes(x, params, kind="ssa", **settings)
    else:
        check_shapes(params, parameters.ssa_shapes(c, qkv_bias=parameters.has_qkv_bias(params), **settings))


def _check_block_shapes(x: Any, params: Mapping[str, Any], **settings: Any) -> None:
    hidden, biased = width(params, "mlp.fc1.weight"), parameters.has_qkv_bias(params, "attn.")
    check_shapes(params, parameters.block_shapes(x.shape[-1], hidden=hidden, qkv_bias=biased, **settings))


def check_residual(*, norm_eps: float, activation: Any, tap: Any) -> None:
    """What both kinds of block are given beside their attention's arguments."""
    check_positive("norm_eps", norm_eps)
    check_function("activation", activation)
    check_function("tap", tap)


def check_block(
    x: Any, *, kind: BlockKind, window_size: Any, sr_ratio: Any, c_ratio: Any, values: Any, ssa_scale: Any, scale: Any, pad: Any
) -> None:
    """The kind, the settings that it needs, and those of the other kind as far as they are given."""
    check_map("x", x, "b h w c")
    check_choice("kind", kind, CHOICES["kind"])
    for name, value in {"window_size": window_size, "sr_ratio": sr_ratio, "c_ratio": c_ratio}.items():
        if value is not None:
            (check_positive if name == "c_ratio" else check_count)(name, value)
        elif (name == "window_size") == (kind == "iwsa"):
            raise TypeError(f"a block of kind {kind!r} needs {name}")
    check_choice("ssa_values", values, CHOICES["ssa_values"])
    for word in (ssa_scale, ssa_scale if scale is None else scale):
        check_choice("ssa_scale", word, CHOICES["ssa_scale"])
    check_flag("pad", pad)


def check_network(images: Any, params: Mapping[str, Any], config: ScalableViTConfig, *, tap: Any, alike: bool = True) -> None:
    """With `alike` the parameters must be of the dtype and device of the images too, and not only of their library."""
    check_config(config)
    check_function("tap", tap)
    check_map("images", images, "b c h w", channels=config.in_chans)
    check_image_size(config, *images.shape[2:])
    shapes = parameters.parameter_shapes(config)
    if alike:
        check_parameters(params, shapes, images, name="images")
        return
    check_arrays("params", params)
    check_shapes(params, shapes)
    library = check_array("images", images)
    for name, value in params.items():
        check_map(f"parameter {name!r}", value, " ".join("abcd"[: len(shapes[name])]))
        if (other := check_array(f"parameter {name!r}", value)) is not library:
            raise TypeError(f"images is a {library.NAME} array but parameter {name!r} is a {other.NAME} array")


def check_heads(channels: int, num_heads: int) -> None:
    """The channels must split evenly over the heads."""
    check_count("num_heads", num_heads)
    if channels % num_heads:
        raise ValueError(f"c = {channels} channels must be divisible by num_heads = {num_heads}")
