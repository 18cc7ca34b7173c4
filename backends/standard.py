"""Any library of the array API standard, by the definitions alone: no native op, the standard's own functions for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

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

    return array_api_strict.asarray(x if dtype is None else x.astype(dtype), device=device)


def to_numpy(x: Any) -> np.ndarray:
    return np.from_dlpack(x)
