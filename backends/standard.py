"""Any library of the array API standard, by the definitions alone: no native op, the standard's own functions for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from einops._backends import AbstractBackend
from scalablevit_ref.backends.dispatch import backend

NAME = "array_api"


def exp(x: Any) -> Any:
    return x.__array_namespace__().exp(x)


def pad(x: Any, top: int, bottom: int, left: int, right: int) -> Any:
    xp = x.__array_namespace__()
    b, h, w, c = x.shape

    def zeros(rows: int, columns: int) -> Any:
        return xp.zeros((b, rows, columns, c), dtype=x.dtype, device=x.device)

    x = xp.concat([zeros(h, left), x, zeros(h, right)], axis=2)
    return xp.concat([zeros(top, left + w + right), x, zeros(bottom, left + w + right)], axis=1)


def device(x: Any) -> Any:
    return x.device


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Any:
    import array_api_strict

    return array_api_strict.asarray(np.array(x, dtype=dtype, order="C"), device=device)


def to_numpy(x: Any) -> np.ndarray:
    return np.from_dlpack(x)


class EinopsBackend(AbstractBackend):
    """What einops needs to rearrange and reduce the standard's arrays; einops finds it by itself among the subclasses."""

    framework_name = "scalablevit_ref"  # a module that is loaded, without which einops would not look further

    def is_appropriate_type(self, tensor: Any) -> bool:
        return hasattr(tensor, "__array_namespace__") and backend(tensor).NAME == NAME

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
