"""Refuse arrays and parameters that do not fit: one exception that names the culprit, what was expected and what came.

What is no array is checked by `arguments`, and the arguments of each operation by `operation_checks`, before any work is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalablevit_ref.arguments import FLOATS, check_named
from scalablevit_ref.backends import Backend, backend
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.backends.numberless import what_it_is
from scalablevit_ref.errors import brief


def check_array(name: str, x: Any) -> Backend:
    """The backend of an array that can be computed with. Raises TypeError for anything else: no array, or masked, sparse, …"""
    library = backend(x, name)
    usable = getattr(library, "usable", None)
    if usable is not None and not usable(x):
        raise TypeError(f"{name} is {what_it_is(x) or 'an array of a type with which nothing is computed'}")
    return library


def check_map(name: str, x: Any, axes: str, channels: int | None = None) -> None:
    """`x` must be a floating array with these axes, say "b h w c", none of them empty, and this many channels.

    Raises TypeError for a foreign type or a dtype that is not floating, ValueError for a shape.
    """
    check_array(name, x)
    if not getattr(x.dtype, "isnative", True):
        dtype = x.dtype.name
        raise TypeError(f"{name} is {dtype} in the byte order of other machines ({x.dtype}); .astype({dtype!r}) gives this one's")
    if dtype_name(x) not in FLOATS:
        raise TypeError(f"{name} must be floating point ({', '.join(FLOATS)}), got {dtype_name(x)}")
    names = axes.split()
    if len(x.shape) != len(names) or 0 in x.shape:
        raise ValueError(f"{name} must have shape ({', '.join(names)}), no axis empty, got {_shape(x)}")
    if channels is not None and x.shape[names.index("c")] != channels:
        raise ValueError(f"{name} must have {channels} channels (c of {axes!r}), got {x.shape[names.index('c')]}: {_shape(x)}")


def check_parameters(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], x: Any, name: str = "x") -> None:
    """`params` must hold exactly the arrays that `shapes` names, and they must be of the library, dtype and device of `x`.

    Raises as `check_alike` and `check_shapes` do.
    """
    check_alike(params, x, name)
    check_shapes(params, shapes)


def check_alike(params: Mapping[str, Any], x: Any, name: str = "x") -> None:
    """`params` must hold arrays of the library, dtype and device of `x`.

    Raises TypeError where libraries or dtypes are mixed, ValueError where devices are.
    """
    check_named("params", params)
    array_type, library, dtype = type(x), backend(x), x.dtype
    device, usable = library.device(x), getattr(library, "usable", None)
    for key, value in params.items():
        if type(value) is not array_type and (other := backend(value, f"parameter {key!r}")) is not library:
            raise TypeError(f"{name} is a {library.NAME} array but parameter {key!r} is a {other.NAME} array")
        if usable is not None and not usable(value):
            check_array(f"parameter {key!r}", value)
        if value.dtype != dtype:
            raise TypeError(f"{name} is {dtype_name(x)} but parameter {key!r} is {dtype_name(value)}")
        if library.device(value) != device:
            raise ValueError(f"{name} is on device {device} but parameter {key!r} is on {library.device(value)}")


def check_arrays(name: str, params: Mapping[str, Any]) -> None:
    """Raise TypeError for no mapping of names to what has a shape; whose arrays they are is not asked."""
    check_named(name, params)
    for key, value in params.items():
        if not _has_shape(value):
            raise TypeError(f"{name}: {key!r} must be an array, got {brief(value)}")


def check_shapes(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError with one report of every missing, unexpected and misshapen parameter, TypeError for no mapping of arrays."""
    check_arrays("params", params)
    if len(params) != len(shapes) or any(name not in params or _shape(params[name]) != shape for name, shape in shapes.items()):
        raise ValueError("parameters do not fit: " + "; ".join(parameter_problems(params, shapes)))


def parameter_problems(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line each for the missing, the unexpected and the misshapen; empty if all fit."""
    missing = [name for name in shapes if name not in params]
    unexpected = [name for name in params if name not in shapes]
    misshapen = [
        f"{name} expected {shapes[name]} got {_shape(value)}"
        for name, value in params.items()
        if name in shapes and _shape(value) != shapes[name]
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    return [f"{kind} ({len(names)}): {_some(names)}" for kind, names in found.items() if names]


def width(params: Mapping[str, Any], name: str) -> int:
    """Output width of a layer, from its weight; 0, which is then reported as missing or misshapen, where there is none."""
    return int(params[name].shape[0]) if name in params and params[name].shape else 0


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … and {len(names) - most} more" if len(names) > most else "")


def _has_shape(x: Any) -> bool:
    try:
        return isinstance(_shape(x), tuple)
    except Exception:  # whatever a foreign type, or a nested tensor, says to that
        return False


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape)
