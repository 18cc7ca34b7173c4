"""tinygrad: lazy tensors, whose kernels a compiler of its own makes of the graph when a number is asked for.

Its `erf` and its exact GELU are approximations to 1e-7, so that the definitions stand for them.
"""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
from scalablevit_ref.backends.start import FAULTS, said
from tinygrad import Device, Tensor, dtypes

from scalablevit_ref import ops
from scalablevit_ref.errors import brief

NAME = "tinygrad"


def exp(x: Tensor) -> Tensor:
    return x.exp()


def zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor.zeros(*shape, dtype=x.dtype, device=x.device)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.linear(weight.T, bias)


def gelu(x: Tensor) -> Tensor:
    """The definition, whose `abs` is a method here."""
    magnitude = _wide(x).abs()
    return ((_wide(x) + magnitude * ops.erf.definition(magnitude * 0.5**0.5)) * 0.5).cast(x.dtype).contiguous()


def gelu_tanh(x: Tensor) -> Tensor:
    """x/2 · (1 + tanh y) is x · sigmoid(2 y)."""
    wide = _wide(x)
    return (wide * ((8.0 / pi) ** 0.5 * (wide + 0.044715 * wide * wide * wide)).sigmoid()).cast(x.dtype).contiguous()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    y: Tensor = ops.layer_norm.definition(_wide(x), _wide(weight), _wide(bias), eps=eps)
    return y.cast(x.dtype).contiguous()


def softmax(x: Tensor) -> Tensor:
    return _wide(x).softmax().cast(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    weights = (_wide(q) @ _wide(k).transpose(-2, -1) * scale).softmax()
    return (weights.cast(v.dtype) @ v).cast(q.dtype)


def _wide(x: Tensor) -> Tensor:
    """In float32 for the 16-bit types."""
    return x.cast(dtypes.float32) if x.dtype.itemsize < 4 else x


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    y = x.permute(0, 3, 1, 2).conv2d(weight, bias, groups=groups, stride=stride, padding=padding)
    return y.permute(0, 2, 3, 1)


def pad(x: Tensor, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Tensor:
    return x.pad(((0, 0), (top, bottom), (left, right), (0, 0))) if top or bottom or left or right else x


def device(x: Tensor) -> Any:
    return x.device


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Tensor:
    """`device`: its name, "CPU" or "cuda:1"."""
    place, wanted = _place(device), str(x.dtype if dtype is None else dtype)
    if wanted == "bfloat16":  # which it does not take from NumPy
        import ml_dtypes

        return Tensor(np.array(x, ml_dtypes.bfloat16, order="C").view(np.uint16), device=place).bitcast(dtypes.bfloat16).realize()
    try:
        return Tensor(np.array(x, wanted, order="C"), device=place).realize()
    except KeyError:
        raise TypeError(f"params_or_array holds {wanted}, which tinygrad does not have") from None


def _place(device: Any) -> str:
    """Raises ValueError or TypeError for what is no device of tinygrad's, or one that does not start here."""
    if not isinstance(device, str | None):
        raise TypeError(f"device must be the name of one of tinygrad's, got {brief(device)}")
    try:
        place: str = Device[Device.canonicalize(device)].device
    except FAULTS as error:
        raise ValueError(f"tinygrad has no device {device or 'at all'!r} here ({said(error)}); CPU needs clang") from None
    return place


def to_numpy(x: Tensor) -> np.ndarray:
    """Of the tensor itself, so that it is not computed again where it is asked for once more, or where others are made of it."""
    numbers: np.ndarray
    if x.realize().dtype == dtypes.bfloat16:
        import ml_dtypes

        numbers = x.bitcast(dtypes.uint16).numpy().view(ml_dtypes.bfloat16)
    else:
        numbers = x.numpy()
    return numbers
