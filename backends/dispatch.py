"""Which backend an array belongs to: decided by the type that owns it, with no global state."""

from __future__ import annotations

import sys
from typing import Any, Protocol, cast, runtime_checkable


@runtime_checkable
class Backend(Protocol):
    """What a backend module provides. Any function of `scalablevit_ref.ops` it has besides is its native version of that op."""

    NAME: str

    def exp(self, x: Any) -> Any:
        """Elementwise exponential."""

    def pad(self, x: Any, top: int, bottom: int, left: int, right: int) -> Any:
        """Zeros around a b h w c map."""

    def device(self, x: Any) -> Any:
        """Where the array lives, as something that compares and prints."""

    def from_numpy(self, x: Any, dtype: str | None, device: Any) -> Any:
        """A NumPy array as this library's, on that device."""

    def to_numpy(self, x: Any) -> Any:
        """This library's array as a NumPy array on the host."""


BACKENDS = {"numpy": "numpy", "torch": "torch", "jax": "jax", "cupy": "cupy", "array_api_strict": "standard"}
"""Library to the module here that serves it."""

registered: dict[str, tuple[type, Backend]] = {}
"""Backends from outside by their names, with the types they serve; read for arrays that none of the four libraries owns."""


def register(array_type: type, module: Any) -> None:
    """Let a backend from outside serve arrays of `array_type`; `to_backend` knows it by its NAME. Registered again, it is replaced.

    module: a module, or anything else that has what `Backend` names. NumPy's, PyTorch's, JAX's and CuPy's arrays, those of
        subclasses too, stay with their own backends. Of several types that fit an array, the one that was registered last counts.

    Raises TypeError for what is no type and for a module that lacks one of them, ValueError for the name of a backend that is here.
    """
    if not isinstance(array_type, type):
        raise TypeError(f"array_type must be a type, got {array_type!r}")
    if missing := [name for name in (*Backend.__annotations__, *vars(Backend)) if name[0] != "_" and not hasattr(module, name)]:
        raise TypeError(f"a backend must have {', '.join(missing)}; {getattr(module, '__name__', module)} has not")
    if module.NAME in BACKENDS:
        raise ValueError(f"module.NAME must be none of {', '.join(BACKENDS)}, got {module.NAME!r}")
    registered.pop(module.NAME, None)
    registered[module.NAME] = array_type, module


def backend(x: Any) -> Backend:
    """The backend module that owns array `x`. Raises TypeError for anything else."""
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
    elif found := [served for array_type, served in registered.values() if isinstance(x, array_type)]:
        module = found[-1]
    elif hasattr(x, "__array_namespace__"):
        from scalablevit_ref.backends import standard

        module = standard
    else:
        hint = "; torch.from_dlpack(x) or cupy.from_dlpack(x) takes it over where it is" if hasattr(x, "__dlpack__") else ""
        known = ", ".join(("NumPy", "PyTorch", "JAX", "CuPy", *registered))
        raise TypeError(f"expected an array of {known} or an array-API library, got {_type_name(x)}{hint}")
    return cast("Backend", module)


def _owned_by(x: Any, library: str, array_type: str) -> bool:
    module = sys.modules.get(library)
    return module is not None and isinstance(x, getattr(module, array_type))


def _type_name(x: Any) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def dtype_name(x: Any) -> str:
    """`float32` for NumPy's, PyTorch's and every other library's name of that type."""
    return str(x.dtype).rpartition(".")[2]
