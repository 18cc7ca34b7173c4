"""MLX: its kernels in float32 and in 16 bits; in float64, which only its CPU has, the definitions.

There `exp`, `erf`, `softmax`, LayerNorm and convolution compute in float32, or refuse; products, powers and sums are exact.
Arrays lie in memory that all of MLX's devices share: what computes with them is `mx.default_device()`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import e
from typing import Any, TypeVar, cast

import mlx.core as mx
import numpy as np
from einops import rearrange

from scalablevit_ref import ops
from scalablevit_ref.errors import brief

Native = TypeVar("Native", bound=Callable[..., mx.array])

NAME = "mlx"


def below_float64(native: Native) -> Native:
    """The native version of an op, and in float64 its definition."""

    @wraps(native)
    def run(x: mx.array, *args: Any, **kwargs: Any) -> Any:
        return (getattr(ops, native.__name__).definition if x.dtype == mx.float64 else native)(x, *args, **kwargs)

    return cast("Native", run)


def exp(x: mx.array) -> mx.array:
    return e**x if x.dtype == mx.float64 else mx.exp(x)


def zeros(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    return mx.zeros(shape, x.dtype)


def pad(x: mx.array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> mx.array:
    return mx.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)]) if top or bottom or left or right else x


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """With the bias added before the sum is rounded to 16 bits."""
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


@below_float64
def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, *, eps: float) -> mx.array:
    return mx.fast.layer_norm(x, weight, bias, eps)


@below_float64
def gelu(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    return (0.5 * wide * (1 + mx.erf(wide * 0.5**0.5))).astype(x.dtype)


@below_float64
def gelu_tanh(x: mx.array) -> mx.array:
    """The definition, in float32 for the 16-bit types, whose squares overflow."""
    y: mx.array = ops.gelu_tanh.definition(x.astype(mx.float32))
    return y.astype(x.dtype)


@below_float64
def softmax(x: mx.array) -> mx.array:
    return mx.softmax(x, axis=-1, precise=True)


@below_float64
def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float) -> mx.array:
    """The fused kernel takes four axes."""
    batch = q.shape[:-2]
    q, k, v = (t.reshape(-1, batch[-1], *t.shape[-2:]) for t in (q, k, v))
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale).reshape(*batch, *q.shape[-2:-1], v.shape[-1])


@below_float64
def conv2d(
    x: mx.array, weight: mx.array, bias: mx.array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> mx.array:
    y = mx.conv2d(x, rearrange(weight, "o i h w -> o h w i"), stride, padding, groups=groups)
    return y if bias is None else y + bias


def device(x: mx.array) -> Any:
    return mx.default_device()


def usable(x: mx.array) -> bool:
    """Not so: float64 where a GPU is the default device."""
    return x.dtype != mx.float64 or mx.default_device() == mx.cpu


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> mx.array:
    """`device`: "cpu" or "gpu", `mx.cpu` or `mx.gpu`. It must be there; the array can be computed with on any."""
    name = x.dtype.name if dtype is None else dtype
    kind = {"bool": mx.bool_}.get(name) or getattr(mx, name, None)
    if not isinstance(kind, mx.Dtype):
        raise TypeError(f"params_or_array holds {name}, which MLX does not have")
    place = _found(device)
    if kind == mx.float64 and place == mx.gpu:
        raise ValueError(
            "MLX has no float64 on a GPU: mx.set_default_device(mx.cpu) computes on the CPU; dtype='float32' does without"
        )
    if name == "bfloat16":
        import ml_dtypes

        return mx.array(np.array(x, ml_dtypes.bfloat16, order="C").view(np.uint16)).view(kind)
    return mx.array(np.array(x, dtype, order="C"), kind)


def _found(device: Any) -> Any:
    """The device of this name, which must be there; for None the default one."""
    if device is None:
        return mx.default_device()
    kind = getattr(mx, device, None) if device in ("cpu", "gpu") else device
    if not isinstance(kind, mx.Device | mx.DeviceType):
        raise TypeError(f"device must be 'cpu', 'gpu' or one of MLX's, got {brief(device)}")
    if not mx.is_available(kind):
        raise ValueError(f"MLX has no device {device} here, only the CPU")
    return kind


def to_numpy(x: mx.array) -> np.ndarray:
    if x.dtype == mx.bfloat16:
        import ml_dtypes

        return np.array(x.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.array(x)
