"""Refuse bad input before any work is done: one exception that names the culprit, what was expected and what came.

Each function of the specification calls its check first: `check_ssa` is that of `ssa`, with the same arguments.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

from scalablevit_ref import parameters
from scalablevit_ref.backends import backend
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.config import ScalableViTConfig, SSAScale, SSAValues, check_positive, choice
from scalablevit_ref.image_sizes import check_image_size

Setting = TypeVar("Setting")

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that the specification computes in."""


def check_patch_embed(x: Any, params: Mapping[str, Any], *, patch_size: int) -> None:
    check_map("x", x, "b h w c")
    check_count("patch_size", patch_size)
    dim = width(params, "proj.weight")
    check_parameters(params, parameters.patch_embed_shapes(x.shape[-1], dim, patch_size), x)


def check_peg(x: Any, params: Mapping[str, Any]) -> None:
    check_map("x", x, "b h w c")
    check_parameters(params, parameters.peg_shapes(x.shape[-1]), x)


def check_mlp(x: Any, params: Mapping[str, Any]) -> None:
    check_map("x", x, "b h w c")
    hidden = width(params, "fc1.weight")
    check_parameters(params, parameters.mlp_shapes(x.shape[-1], hidden), x)


def check_iwsa(x: Any, params: Mapping[str, Any], *, num_heads: int, window_size: int, pad: bool, in_block: bool = False) -> None:
    """What `iwsa` is given; with `in_block` what `iwsa_block` is, whose parameters are the whole block's."""
    check_map("x", x, "b h w c")
    _, h, w, c = x.shape
    check_heads(c, num_heads)
    check_count("window_size", window_size)
    if not pad and (h % window_size or w % window_size):
        raise ValueError(
            f"x is {h} x {w} tokens and does not divide into windows of window_size = {window_size}; "
            "pad=True pads it with zeros to whole windows"
        )
    if in_block:
        _check_block(x, params, kind="iwsa", num_heads=num_heads)
    else:
        biased = parameters.has_qkv_bias(params)
        check_parameters(params, parameters.iwsa_shapes(c, qkv_bias=biased), x)


def check_ssa(
    x: Any,
    params: Mapping[str, Any],
    *,
    num_heads: int,
    sr_ratio: int,
    c_ratio: float,
    values: SSAValues,
    ssa_scale: SSAScale,
    in_block: bool = False,
) -> None:
    """What `ssa` is given; with `in_block` what `ssa_block` is, whose parameters are the whole block's."""
    check_map("x", x, "b h w c")
    _, h, w, c = x.shape
    choice("ssa_scale", ssa_scale)
    check_heads(c, num_heads)
    check_count("sr_ratio", sr_ratio)
    check_positive("c_ratio", c_ratio)
    if min(h, w) < sr_ratio:
        raise ValueError(f"x is {h} x {w} tokens, less than one tile of sr_ratio = {sr_ratio}")
    settings: dict[str, Any] = {"num_heads": num_heads, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "values": values}
    if in_block:
        _check_block(x, params, kind="ssa", **settings)
    else:
        biased = parameters.has_qkv_bias(params)
        check_parameters(params, parameters.ssa_shapes(c, qkv_bias=biased, **settings), x)


def _check_block(x: Any, params: Mapping[str, Any], **settings: Any) -> None:
    hidden, biased = width(params, "mlp.fc1.weight"), parameters.has_qkv_bias(params, "attn.")
    check_parameters(params, parameters.block_shapes(x.shape[-1], hidden=hidden, qkv_bias=biased, **settings), x)


def check_kind(x: Any, kind: str) -> None:
    check_map("x", x, "b h w c")
    choice("kind", kind)


def needed(kind: str, name: str, value: Setting | None) -> Setting:
    """The setting, which a block of this kind cannot do without."""
    if value is None:
        raise TypeError(f"a block of kind {kind!r} needs {name}")
    return value


def check_network(images: Any, params: Mapping[str, Any], config: ScalableViTConfig) -> None:
    check_map("images", images, "b c h w", channels=config.in_chans)
    check_image_size(config, *images.shape[2:])
    check_parameters(params, parameters.parameter_shapes(config), images, name="images")


def check_map(name: str, x: Any, axes: str, channels: int | None = None) -> None:
    """`x` must be a floating array with these axes, say "b h w c", none of them empty, and this many channels.

    Raises TypeError for a foreign type or a dtype that is not floating, ValueError for a shape.
    """
    backend(x)
    if dtype_name(x) not in FLOATS:
        raise TypeError(f"{name} must be floating point ({', '.join(FLOATS)}), got {dtype_name(x)}")
    names = axes.split()
    if len(x.shape) != len(names) or 0 in x.shape:
        raise ValueError(f"{name} must have shape ({', '.join(names)}), no axis empty, got {_shape(x)}")
    if channels is not None and x.shape[names.index("c")] != channels:
        raise ValueError(f"{name} must have {channels} channels (c of {axes!r}), got {x.shape[names.index('c')]}: {_shape(x)}")


def check_parameters(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], x: Any, name: str = "x") -> None:
    """`params` must hold exactly the arrays that `shapes` names, and they must be of the library, dtype and device of `x`.

    Raises ValueError with all names that are missing, unexpected or misshapen in one report; TypeError where libraries or dtypes
    are mixed, ValueError where devices are.
    """
    check_shapes(params, shapes)
    array_type, library, dtype = type(x), backend(x), x.dtype
    device = library.device(x)
    for key, value in params.items():
        if type(value) is not array_type and backend(value) is not library:
            raise TypeError(f"{name} is a {library.NAME} array but parameter {key!r} is a {backend(value).NAME} array")
        if value.dtype != dtype:
            raise TypeError(f"{name} is {dtype_name(x)} but parameter {key!r} is {dtype_name(value)}")
        if library.device(value) != device:
            raise ValueError(f"{name} is on device {device} but parameter {key!r} is on {library.device(value)}")


def check_shapes(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError with one report of every missing, unexpected and misshapen parameter, TypeError for no mapping."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a mapping of names to arrays, got {type(params).__name__}")
    if len(params) != len(shapes) or any(name not in params or params[name].shape != shape for name, shape in shapes.items()):
        raise ValueError("parameters do not fit: " + "; ".join(parameter_problems(params, shapes)))


def parameter_problems(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line each for the missing, the unexpected and the misshapen; empty if all fit."""
    missing = [name for name in shapes if name not in params]
    unexpected = [name for name in params if name not in shapes]
    misshapen = [
        f"{name} expected {shapes[name]} got {_shape(value)}"
        for name, value in params.items()
        if name in shapes and value.shape != shapes[name]
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    return [f"{kind} ({len(names)}): {_some(names)}" for kind, names in found.items() if names]


def width(params: Mapping[str, Any], name: str) -> int:
    """Output width of a layer, from its weight; 0, which is then reported as missing or misshapen, where there is none."""
    return int(params[name].shape[0]) if name in params and params[name].shape else 0


def check_count(name: str, value: object) -> None:
    """A whole number of at least one."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if int(value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_heads(channels: int, num_heads: int) -> None:
    """The channels must split evenly over the heads."""
    check_count("num_heads", num_heads)
    if channels % num_heads:
        raise ValueError(f"c = {channels} channels must be divisible by num_heads = {num_heads}")


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … and {len(names) - most} more" if len(names) > most else "")


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape)
