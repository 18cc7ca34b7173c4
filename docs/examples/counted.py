"""In place of your library: NumPy's numbers behind a type of its own, every pass counted."""

from __future__ import annotations

from typing import Any

import numpy as np


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """`Array.passes` counts how often arrays were gone through to compute something."""

    passes = 0

    def __init__(self, held: np.ndarray) -> None:
        self.held, self.shape, self.dtype = held, held.shape, held.dtype

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        """Each operator is a function of NumPy's, and those of SciPy come here too."""
        Array.passes += 1
        held = (x.held if isinstance(x, Array) else x for x in inputs)
        return Array(getattr(function, method)(*held, **settings))

    def __getitem__(self, index: Any) -> Array:
        return Array(self.held[index])

    def reshape(self, shape: Any) -> Array:
        return Array(self.held.reshape(shape))

    def transpose(self, axes: Any) -> Array:
        return Array(self.held.transpose(axes))

    def reduce(self, how: str, axes: Any) -> Array:
        Array.passes += 1
        return Array(getattr(self.held, how)(axis=axes))

    @staticmethod
    def joined(arrays: Any, axis: int) -> Array:
        Array.passes += 1
        return Array(np.concatenate([x.held for x in arrays], axis))

    def astype(self, dtype: Any) -> Array:
        return Array(self.held.astype(dtype, copy=False))
