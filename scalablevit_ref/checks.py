"""Refuse bad input before any work is done: one exception that names the culprit, what was expected and what came."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from scalablevit_ref.backends import backend
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.config import ScalableViTConfig

FLOATS = ("float16", "bfloat16", "float32", "float64")


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
        raise ValueError(f"c = {channels} channels do not divide by num_heads = {num_heads}")


def map_sizes(config: ScalableViTConfig, size: int) -> list[int]:
    """Tokens along one side of each stage's map, for an image of that many pixels: ⌈size / stride⌉.

    >>> from scalablevit_ref import variant
    >>> map_sizes(variant("small"), 224)
    [56, 28, 14, 7]
    """
    return [-(-size // stride) for stride in config.strides]


def check_image_size(config: ScalableViTConfig, h: int, w: int) -> None:
    """Raise ValueError, with the nearest sizes that work, for images whose maps do not divide or hold no whole tile."""
    for size in (h, w):
        if not _size_fits(config, size):
            sides = ", ".join(map(str, map_sizes(config, size)))
            divide = "" if config.pad_windows else f"divide by window_sizes = {config.window_sizes} and "
            near = [n for n in (_next_size(config, size, -1), _next_size(config, size, 1)) if n]
            raise ValueError(
                f"images of {h} x {w}: {size} pixels give maps of {sides} tokens a side, which must {divide}be at least "
                f"sr_ratios = {config.sr_ratios}; the nearest sizes that work are {' and '.join(map(str, near)) or 'none'}"
            )


def nearest_image_size(config: ScalableViTConfig, size: int) -> int:
    """`size` if the network takes it, else the next larger number of pixels that it takes. ValueError if there is none."""
    fit = size if _size_fits(config, size) else _next_size(config, size, 1)
    if fit is None:
        raise ValueError(f"no image of {size} to {size + SEARCH} pixels fits window_sizes = {config.window_sizes}")
    return fit


def usual_image_size(config: ScalableViTConfig) -> int:
    """A size to try a network at: 112 pixels a side if it takes them, else the nearest from 224 on. ValueError if there is none."""
    return 112 if _size_fits(config, 112) else nearest_image_size(config, 224)


SEARCH = 8192
"""How many pixels around a size that does not fit are searched for one that does."""


def _next_size(config: ScalableViTConfig, size: int, step: int) -> int | None:
    sizes = (size + step * away for away in range(1, SEARCH))
    return next((n for n in sizes if n > 0 and _size_fits(config, n)), None)


def _size_fits(config: ScalableViTConfig, size: int) -> bool:
    return all(
        (config.pad_windows or side % config.window_sizes[k] == 0) and (config.depths[k] == 1 or side >= config.sr_ratios[k])
        for k, side in enumerate(map_sizes(config, size))
    )


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … and {len(names) - most} more" if len(names) > most else "")


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape)
