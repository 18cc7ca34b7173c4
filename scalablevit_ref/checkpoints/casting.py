"""Tensors of another dtype, and what is lost on the way to a narrower one."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import LazyTensor, is_finite, numpy_dtype, values

Lost = dict[str, tuple[int, int]]
"""By tensor, how many values became zero and how many infinite."""


def cast_to(name: str, x: Any, dtype: str | None, *, finite: bool, lost: Lost) -> Any:
    """A tensor that becomes another dtype when it is read; what it loses then is entered in `lost`.

    finite: raise CheckpointError in place of an infinite value that was finite.
    """
    if dtype is None or x.dtype.name == dtype:
        return x

    def read() -> np.ndarray:
        given = values(x)
        with np.errstate(over="ignore", invalid="ignore"):
            made = given.astype(numpy_dtype(dtype))
        if finite and not is_finite(made) and is_finite(given):
            largest = float(np.abs(given.astype(np.float64)).max())
            raise CheckpointError(f"values too large for {dtype}", key=name, found=f"up to {largest:.4g}")
        lost[name] = (int(np.count_nonzero(given) - np.count_nonzero(made)), _infinite(made) - _infinite(given))
        return made

    return LazyTensor(tuple(x.shape), numpy_dtype(dtype), read)


def _infinite(x: np.ndarray) -> int:
    return int(np.count_nonzero(np.isinf(x)))
