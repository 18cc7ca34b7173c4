"""JAX: XLA's products at full precision, whatever the device's default; sums of the 16-bit types in float32.

Nothing here branches on a value or on a device, so that every op passes `jit`, `grad` and `vmap` and runs on sharded arrays.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scalablevit_ref.backends.dispatch import Anywhere

from scalablevit_ref import ops
from scalablevit_ref.errors import brief

NAME = "jax"

exp = jnp.exp
erf = lax.erf

HIGHEST = lax.Precision.HIGHEST
"""Precision of every product: GPUs and TPUs otherwise round float32 factors to TF32 or bfloat16."""


def zeros(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.zeros(shape, x.dtype)


def pad(x: jax.Array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> jax.Array:
    """Without a copy where there is nothing to add, which JAX would make outside of `jit`."""
    return jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))) if top or bottom or left or right else x


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Without a transposition of the weight, whose layout XLA's product takes as it is."""
    contracted = (((x.ndim - 1,), (1,)), ((), ()))
    y = lax.dot_general(x, weight, contracted, precision=HIGHEST, preferred_element_type=_wide(x.dtype))
    return (y if bias is None else y + bias).astype(x.dtype)


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, *, eps: float) -> jax.Array:
    wide = (t.astype(_wide(x.dtype)) for t in (x, weight, bias))
    y: jax.Array = ops.layer_norm.definition(*wide, eps=eps).astype(x.dtype)
    return y


def gelu(x: jax.Array) -> jax.Array:
    wide = x.astype(_wide(x.dtype))
    return (0.5 * wide * (1 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The definition, in float32 for the 16-bit types, whose squares overflow."""
    y: jax.Array = ops.gelu_tanh.definition(x.astype(_wide(x.dtype))).astype(x.dtype)
    return y


def softmax(x: jax.Array) -> jax.Array:
    return jax.nn.softmax(x.astype(_wide(x.dtype))).astype(x.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float) -> jax.Array:
    def multiply(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(pattern, a, b, precision=HIGHEST, preferred_element_type=_wide(q.dtype))

    weights = jax.nn.softmax(multiply("...nd,...md->...nm", q, k) * scale)
    return multiply("...nm,...me->...ne", weights.astype(v.dtype), v).astype(q.dtype)


def conv2d(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """Depthwise kernels as a sum of shifted products, which XLA fuses into one loop: on a CPU 5 to 65 times as fast as its own."""
    wide = _wide(x.dtype)
    if groups == x.shape[-1] == weight.shape[0]:
        y = _depthwise(x.astype(wide), weight.astype(wide), stride, padding)
    else:
        y = lax.conv_general_dilated(
            x,
            weight,
            window_strides=(stride, stride),
            padding=((padding, padding), (padding, padding)),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=groups,
            precision=HIGHEST,
        )
    return (y if bias is None else y + bias).astype(x.dtype)


def _depthwise(x: jax.Array, weight: jax.Array, stride: int, padding: int) -> jax.Array:
    x = pad(x, top=padding, bottom=padding, left=padding, right=padding)
    kh, kw = weight.shape[2:]
    h, w = ((size - k) // stride + 1 for size, k in zip(x.shape[1:3], (kh, kw), strict=True))
    return sum(
        (
            x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride] * weight[:, 0, i, j]
            for i, j in product(range(kh), range(kw))
        ),
        start=jnp.zeros((), x.dtype),
    )


def _wide(dtype: Any) -> Any:
    """The dtype to accumulate in: float32 for the 16-bit types."""
    return jnp.promote_types(dtype, jnp.float32)


def device(x: jax.Array) -> Any:
    """The devices that hold the array; what JAX itself may still place (a tracer, an array committed to none) is anywhere."""
    if isinstance(x, jax.core.Tracer) or not x.committed:
        return Anywhere()
    return x.devices()


def usable(x: jax.Array) -> bool:
    """Not so: an array that was donated to a function, or deleted."""
    return isinstance(x, jax.core.Tracer) or not x.is_deleted()


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> jax.Array:
    """`device`: a `jax.Device`, a `jax.sharding.Sharding`, or a platform's name, "cpu" or "gpu:1"."""
    wanted = jnp.dtype(x.dtype if dtype is None else dtype)
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise ValueError(
            f"JAX has no {wanted} unless its x64 mode is on: jax.config.update('jax_enable_x64', True) turns it on; "
            f"dtype={jax.dtypes.canonicalize_dtype(wanted).name!r} does without"
        )
    place = _named(device) if isinstance(device, str) else device
    if not isinstance(place, jax.Device | jax.sharding.Sharding | None):
        raise TypeError(f"device must be a jax.Device, a jax.sharding.Sharding or a platform's name, got {brief(device)}")
    array: jax.Array = jax.device_put(np.array(x, dtype=wanted, order="C"), place)
    return array


def _named(name: str) -> jax.Device:
    platform, _, index = name.partition(":")
    try:
        return jax.devices(platform or "none")[int(index or 0)]  # "" would be the default
    except (RuntimeError, ValueError, IndexError):
        present = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise ValueError(f"JAX has no device {name!r}, only {present}; a GPU needs pip install 'jax[cuda13]'") from None


def to_numpy(x: jax.Array) -> np.ndarray:
    return np.asarray(x)
