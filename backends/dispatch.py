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
    elif hasattr(x, "__array_namespace__"):
        from scalablevit_ref.backends import standard

        module = standard
    else:
        hint = "; torch.from_dlpack(x) or cupy.from_dlpack(x) takes it over where it is" if hasattr(x, "__dlpack__") else ""
        raise TypeError(f"expected an array of NumPy, PyTorch, JAX, CuPy or an array-API library, got {_type_name(x)}{hint}")
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
