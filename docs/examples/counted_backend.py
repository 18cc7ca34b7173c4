"""The backend of `counted`: what the definitions and einops need, and one native op."""

from typing import Any

import numpy as np
from counted import Array
from einops._backends import AbstractBackend
from scipy.special import ndtr

NAME = "counted"
exp = np.exp


def zeros(x: Array, shape: tuple[int, ...]) -> Array:
    return Array(np.zeros(shape, x.dtype))


def device(x: Array) -> str:
    return "cpu"


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Array:
    return Array(np.array(x, dtype=dtype, order="C"))


def to_numpy(x: Array) -> np.ndarray:
    return x.held


def gelu(x: Array) -> Array:  # native: called in place of the definition
    return (x * ndtr(x)).astype(x.dtype)


class Einops(AbstractBackend):  # found by einops, which calls x.reshape and x.transpose
    framework_name = "counted"  # the module of `Array`
    is_appropriate_type = staticmethod(lambda x: isinstance(x, Array))
    is_float_type = staticmethod(lambda x: x.dtype.kind == "f")
    reduce = staticmethod(Array.reduce)
    concat = staticmethod(Array.joined)
