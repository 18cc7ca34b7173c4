"""Which backend an array belongs to: decided by the type that owns it, with no global state."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from scalablevit_ref.arguments import check_function
from scalablevit_ref.errors import brief

Result = TypeVar("Result")


@runtime_checkable
class Backend(Protocol):
    """What a backend module provides. Any function of `scalablevit_ref.ops` it has besides is its native version of that op.

    Examples
    --------
    >>> import numpy as np
    >>> backend(np.ones(2)).NAME, backend(np.ones(2)).device(np.ones(2))
    ('numpy', 'cpu')
    """

    NAME: str

    def exp(self, x: Any) -> Any:
        """Elementwise exponential."""

    def zeros(self, x: Any, shape: tuple[int, ...]) -> Any:
        """Zeros of this shape, of the dtype and on the device of `x`. Only the definition of `pad` asks for them."""

    def device(self, x: Any) -> Any:
        """Where the array lives, as something that compares and prints."""

    def from_numpy(self, x: Any, dtype: str | None, device: Any) -> Any:
        """A NumPy array as this library's, on that device."""

    def to_numpy(self, x: Any) -> Any:
        """This library's array as a NumPy array on the host."""


class Anywhere:
    """Device of an array that its library has not placed yet: equal to every device."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "any"


FURTHER = {
    "mlx": ("mlx.core", "array"),
    "tensorflow": ("tensorflow", "Tensor", "Variable"),
    "paddle": ("paddle", "Tensor"),
    "tinygrad": ("tinygrad", "Tensor"),
}
"""Libraries that no other library's compiler traces: the module and the names of each one's array types."""

TRACED = {"paddle": ("paddle.pir", "Value")}
"""The same for what a library puts in an array's place while it traces a program, where that is of another type."""

BACKENDS = ("numpy", "torch", "jax", "cupy", *FURTHER)
"""The libraries that have a backend here, each in the module of its name."""

SPELLED = dict(zip(BACKENDS, ("NumPy", "PyTorch", "JAX", "CuPy", "MLX", "TensorFlow", "PaddlePaddle", "tinygrad"), strict=True))
"""The libraries' own names."""

ENCLOSING = {"flint": "certified"}
"""Backends whose arrays enclose the exact result, which are slower by orders of magnitude: the module and the extra of each."""

NEEDED = ("NAME", "exp", "zeros", "device", "from_numpy", "to_numpy")
"""What a module must have to be registered; one with a `pad` of its own needs no `zeros`."""

registered: dict[str, tuple[type, Backend]] = {}
"""Backends from outside by their names, with the types they serve; read for arrays that none of `BACKENDS` owns."""


def register(array_type: type, module: Any) -> None:
    """Let a backend from outside serve arrays of `array_type`; `to_backend` knows it by its NAME. Registered again, it is replaced.

    Parameters
    ----------
    array_type : type
        The arrays of libraries that have a backend here, those of subclasses too, stay with it. Of several registered types
        that fit an array, the last one counts.
    module : module
        Or anything else that has what `Backend` names; one with a `pad` of its own needs no `zeros`.

    Raises
    ------
    TypeError
        For what is no type, and for a module that lacks one of those names.
    ValueError
        For the name of a backend that is here.
    """
    if not isinstance(array_type, type):
        raise TypeError(f"array_type must be a type, got {brief(array_type)}")
    missing = [name for name in NEEDED if not _has(module, name) and not (name == "zeros" and _has(module, "pad"))]
    if missing:
        given = module.__name__ if _has(module, "__name__") else brief(module)
        raise TypeError(f"a backend must have {', '.join(missing)}; {given} has not")
    if not isinstance(module.NAME, str):
        raise TypeError(f"module.NAME must be a string, got {brief(module.NAME)}")
    if module.NAME in (*BACKENDS, *ENCLOSING):
        raise ValueError(f"module.NAME must be none of {', '.join((*BACKENDS, *ENCLOSING))}, got {module.NAME!r}")
    registered.pop(module.NAME, None)
    registered[module.NAME] = array_type, module


def backend(x: Any, name: str = "x") -> Backend:
    """The backend module that owns array `x`. Raises TypeError, which calls it by its `name`, for anything else."""
    module: Any
    if _owned_by(x, "numpy", "ndarray"):
        from scalablevit_ref.backends import numpy

        module = numpy
    elif _owned_by(x, "torch", "Tensor"):
        from scalablevit_ref.backends import torch

        module = torch
    elif _owned_by(x, "jax", "Array"):
        from scalablevit_ref.backends import jax

        module = jax
    elif _owned_by(x, "cupy", "ndarray"):
        from scalablevit_ref.backends import cupy

        module = cupy
    elif _owned_by(x, "scalablevit_ref.backends.sizes", "Sizes"):
        from scalablevit_ref.backends import sizes

        module = sizes
    elif _owned_by(x, "scalablevit_ref.backends.views", "Array"):
        from scalablevit_ref.backends import graph

        module = graph
    elif _owned_by(x, "scalablevit_ref.backends.balls", "Balls"):
        from scalablevit_ref.backends import flint

        module = flint
    elif own := [name for kinds in (FURTHER, TRACED) for name, kind in kinds.items() if _owned_by(x, *kind)]:
        module = import_module(f"scalablevit_ref.backends.{own[0]}")
    elif found := [served for array_type, served in registered.values() if isinstance(x, array_type)]:
        module = found[-1]
    elif hasattr(type(x), "__array_namespace__"):
        from scalablevit_ref.backends import standard

        module = standard
    else:
        hint = "; torch.from_dlpack(x) or cupy.from_dlpack(x) takes it over where it is" if hasattr(type(x), "__dlpack__") else ""
        known = ", ".join((*SPELLED.values(), *registered))
        raise TypeError(f"{name}: expected an array of {known} or an array-API library, got {_type_name(x)}{hint}")
    return cast("Backend", module)


def in_groups(function: Callable[[Any], Result], images: Any) -> Result:
    """`function(images)`. A backend may call it for some images at a time, to keep what lies between the layers small."""
    check_function("function", function)
    run: Callable[..., Result] | None = getattr(backend(images, "images"), "in_groups", None)
    return function(images) if run is None else run(function, images)


def _has(module: Any, name: str) -> bool:
    try:
        return hasattr(module, name)
    except Exception:  # whatever a foreign object says to that
        return False


def _owned_by(x: Any, library: str, *array_types: str) -> bool:
    module = sys.modules.get(library)
    kinds = (getattr(module, name, None) for name in array_types)  # a library that did not start may have left a part of itself
    return any(kind is not None and isinstance(x, kind) for kind in kinds)


def _type_name(x: Any) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def dtype_name(x: Any) -> str:
    """The name of an array's dtype, `float32` for NumPy's, PyTorch's and every other library's type of that name.

    It is the last word of what the dtype prints: `torch.float32`, `<dtype: 'float32'>`, and `dtypes.float`, which is C's name.
    """
    word = str(x.dtype).rstrip("'>").rpartition(".")[2].rpartition("'")[2]
    return C_NAMES.get(word, word)


C_NAMES = {"half": "float16", "float": "float32", "double": "float64"}
