"""Any library of the array API standard, by the definitions alone: no native op, the standard's own functions for the rest.

It serves whatever has `__array_namespace__` and is registered for nobody else. `to_backend` cannot name it, since the standard does
not say how a library is imported: register one with its own `from_numpy` beside these functions, and `to_backend` knows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops._backends import AbstractBackend
from scalablevit_ref.backends.dispatch import backend

NAME = "array_api"


def exp(x: Any) -> Any:
    return x.__array_namespace__().exp(x)


def zeros(x: Any, shape: tuple[int, ...]) -> Any:
    return x.__array_namespace__().zeros(shape, dtype=x.dtype, device=x.device)


def device(x: Any) -> Any:
    return x.device


def to_numpy(x: Any) -> np.ndarray:
    return np.from_dlpack(x)


class EinopsBackend(AbstractBackend):
    """What einops needs to rearrange, reduce and pack the standard's arrays; einops finds it by itself among the subclasses."""

    framework_name = "scalablevit_ref"  # a module that is loaded, without which einops would not look further

    def is_appropriate_type(self, tensor: Any) -> bool:
        """Those that this module's functions serve: JAX's arrays have a namespace too, and einops knows them itself."""
        return hasattr(tensor, "__array_namespace__") and backend(tensor).exp is exp

    def reshape(self, x: Any, shape: Any) -> Any:
        return x.__array_namespace__().reshape(x, tuple(shape))

    def transpose(self, x: Any, axes: Any) -> Any:
        return x.__array_namespace__().permute_dims(x, tuple(axes))

    def reduce(self, x: Any, operation: str, axes: Any) -> Any:
        return getattr(x.__array_namespace__(), operation)(x, axis=tuple(axes))

    def is_float_type(self, x: Any) -> bool:
        return bool(x.__array_namespace__().isdtype(x.dtype, "real floating"))

    def add_axis(self, x: Any, new_position: int) -> Any:
        return x.__array_namespace__().expand_dims(x, axis=new_position)

    def concat(self, tensors: Any, axis: int) -> Any:
        return tensors[0].__array_namespace__().concat(tensors, axis=axis)
