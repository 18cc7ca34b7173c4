"""The backend of `counted`: what the definitions need, einops' functions for a library that it does not know, and one native op."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from counted import Array
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


def namespace(x: Array) -> SimpleNamespace:  # the functions of the array API standard that einops calls
    reductions = {how: lambda x, axis, how=how: x.reduce(how, axis) for how in ("mean", "max", "sum")}
    return SimpleNamespace(reshape=Array.reshape, permute_dims=Array.transpose, concat=Array.joined, **reductions)
