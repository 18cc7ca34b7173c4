"""NumPy: products through BLAS, elementwise work in place and in blocks that stay in the cache."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from einops import rearrange
from numpy.lib.stride_tricks import sliding_window_view

from scalablevit_ref import ops
from scalablevit_ref._typing import Array

NAME = "numpy"

BLOCK = 1 << 15
"""Elements worked on at a time, few enough that a chain of in-place steps never leaves the second-level cache."""

exp = np.exp


def pad(x: Array, top: int, bottom: int, left: int, right: int) -> Array:
    b, h, w, c = x.shape
    padded = np.zeros((b, top + h + bottom, left + w + right, c), x.dtype)
    padded[:, top : top + h, left : left + w] = x
    return padded


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """One matrix product for all leading axes; float16, which BLAS lacks, is multiplied in float32 and rounded once."""
    wide = _wide(x.dtype)
    y = x.reshape(-1, x.shape[-1]).astype(wide, copy=False) @ weight.T.astype(wide, copy=False)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], -1).astype(x.dtype, copy=False)


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    rows = x.reshape(-1, x.shape[-1])
    out = np.empty_like(rows, order="C")
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(_wide(x.dtype), copy=False)
        y = part - part.mean(axis=1, keepdims=True)
        variance = np.einsum("n c, n c -> n", y, y)[:, None] / y.shape[1]
        y /= np.sqrt(variance + eps)
        y *= weight
        y += bias
        out[start : start + step] = y
    return out.reshape(x.shape)


def gelu(x: Array) -> Array:
    flat = x.reshape(-1)
    out = np.empty_like(flat)
    small = x.dtype.itemsize <= 4
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        out[start : start + BLOCK] = _gelu32(block.astype(np.float32, copy=False)) if small else ops.gelu.definition(block)
    return out.reshape(x.shape)


def gelu_tanh(x: Array) -> Array:
    """The definition, in float32 for the 16-bit types, whose squares overflow."""
    return ops.gelu_tanh.definition(x.astype(_wide(x.dtype), copy=False)).astype(x.dtype, copy=False)


def erf(x: Array) -> Array:
    """The definition with its recurrence in place."""
    t = 2.0 / (2.0 + x)
    y = 4.0 * t - 2.0
    d, previous, spare = np.zeros_like(y), np.zeros_like(y), np.empty_like(y)
    for coefficient in reversed(ops.ERFC_SERIES[1:]):
        np.multiply(y, d, out=spare)
        spare -= previous
        spare += coefficient
        d, previous, spare = spare, d, previous
    return 1.0 - t * np.exp(0.5 * y * d - previous + ops.ERFC_SERIES[0] - x * x)


# atanh(erf(x/√2)) / x as a polynomial in x², highest power first, fitted so that erf errs by at most half a float32 eps
_TANH_SERIES = (1.7561731e-09, -1.32263423e-07, 3.96474525e-06, -5.53061982e-05, -3.25949659e-05, 0.0363330841, 0.797884941)


def _gelu32(x: Array) -> Array:
    """x/2 · (1 + tanh(x·P(x²))): the tanh form with seven terms in place of two, which is the exact GELU to float32's last bits."""
    clipped = np.clip(x, -8, 8)  # beyond, the tanh is 1 to the last bit
    square = clipped * clipped
    y = square * _TANH_SERIES[0]
    for coefficient in _TANH_SERIES[1:-1]:
        y += coefficient
        y *= square
    y += _TANH_SERIES[-1]
    y *= clipped
    np.tanh(y, out=y)
    y += 1
    y *= 0.5
    y *= x
    return y


def softmax(x: Array) -> Array:
    return _softmax_in_place(x.astype(_wide(x.dtype))).astype(x.dtype, copy=False)


def attention(q: Array, k: Array, v: Array, *, scale: float) -> Array:
    dtype, wide = q.dtype, _wide(q.dtype)
    q, k, v = (t.astype(wide, copy=False) for t in (q, k, v))
    return (_softmax_in_place((q * scale) @ k.swapaxes(-1, -2)) @ v).astype(dtype, copy=False)


def _softmax_in_place(x: Array) -> Array:
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def conv2d(x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """Depthwise kernels by shifted products, dense ones as one matrix product over all patches."""
    x = ops.pad(x, top=padding, bottom=padding, left=padding, right=padding)
    c_out, _, kh, kw = weight.shape
    if groups == 1:
        patches = sliding_window_view(x, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
        return linear(rearrange(patches, "b h w c kh kw -> b h w (c kh kw)"), rearrange(weight, "o c kh kw -> o (c kh kw)"), bias)
    if groups != c_out or groups != x.shape[-1]:
        return ops.conv2d.definition(x, weight, bias, stride=stride, groups=groups)
    b, h, w = x.shape[0], (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((b, h, w, c_out), x.dtype)
    if bias is not None:
        y += bias
    term = np.empty_like(y)
    for i, j in product(range(kh), range(kw)):
        patch = x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]
        y += np.multiply(patch, weight[:, 0, i, j], out=term)
    return y


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype to accumulate in: float32 for the 16-bit types."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def device(x: Array) -> Any:
    return "cpu"


def from_numpy(x: Array, dtype: str | None, device: Any) -> Array:
    if device not in (None, "cpu"):
        raise ValueError(f"NumPy arrays live on the cpu, not on {device!r}")
    if dtype == "bfloat16":
        import ml_dtypes

        return np.array(x, dtype=ml_dtypes.bfloat16, order="C")
    return np.array(x, dtype=dtype, order="C")


def to_numpy(x: Array) -> Array:
    return x
