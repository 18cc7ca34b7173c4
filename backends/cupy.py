"""CuPy: products through cuBLAS, and one kernel each for what else would be many passes over memory.

Everything runs on the current device and stream, as in CuPy itself, and nothing waits for the GPU or copies to the host.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy
import numpy as np
from cupy.lib.stride_tricks import as_strided
from einops import rearrange
from scalablevit_ref.backends.cupy_kernels import FOUR, LANES, SOURCE

from scalablevit_ref import ops
from scalablevit_ref._typing import Array

NAME = "cupy"

BLOCK = 256
"""Threads of one block of a CUDA kernel's grid."""

exp = cupy.exp


def zeros(x: Array, shape: tuple[int, ...]) -> Array:
    return cupy.zeros(shape, x.dtype)


def pad(x: Array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Array:
    """One array of zeros, into which the map is copied."""
    if not (top or bottom or left or right):
        return x
    b, h, w, c = x.shape
    padded = cupy.zeros((b, top + h + bottom, left + w + right, c), x.dtype)
    padded[:, top : top + h, left : left + w] = x
    return padded


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """One matrix product for all leading axes; cuBLAS sums float16 in float32."""
    y = x.reshape(-1, x.shape[-1]) @ weight.T
    if bias is not None:
        _add_bias(y, bias)
    return y.reshape(*x.shape[:-1], -1)


def _add_bias(y: Array, bias: Array) -> None:
    """To each row of an array that was just made, whose address is a multiple of all that a kernel reads at once."""
    if y.dtype == np.float16 or y.shape[1] % FOUR or not y.flags.c_contiguous:
        y += bias
    elif y.size:
        fours = y.size // FOUR
        _launch("add_bias", fours, y, _dense(bias), np.int64(fours), np.int32(y.shape[1]))


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    t, weight, bias = (_dense(a) for a in (x, weight, bias))
    y, c = cupy.empty_like(t), x.shape[-1]
    rows = t.size // c
    _launch("layer_norm", rows * LANES, t, weight, bias, y, np.int64(rows), np.int32(c), t.dtype.type(eps))
    return y.astype(x.dtype, copy=False)


def gelu(x: Array) -> Array:
    t = _dense(x)
    y = cupy.empty_like(t)
    _launch("gelu", t.size, t, y, np.int64(t.size))
    return y.astype(x.dtype, copy=False)


def gelu_tanh(x: Array) -> Array:
    """The definition, in float32 for float16, whose squares overflow."""
    return ops.gelu_tanh.definition(_dense(x)).astype(x.dtype, copy=False)


def softmax(x: Array) -> Array:
    t = _dense(x)
    return _softmax(t, cupy.empty_like(t), 1.0).astype(x.dtype, copy=False)


def attention(q: Array, k: Array, v: Array, *, scale: float) -> Array:
    dtype = q.dtype
    q, k, v = (_dense(t) for t in (q, k, v))
    logits = q @ k.swapaxes(-1, -2)
    return (_softmax(logits, logits, scale) @ v).astype(dtype, copy=False)


def _softmax(x: Array, y: Array, scale: float) -> Array:
    m = x.shape[-1]
    rows = x.size // m
    _launch("softmax", rows * LANES, x, y, np.int64(rows), np.int32(m), x.dtype.type(scale))
    return y


def conv2d(x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """Depthwise kernels in one pass, dense ones as one matrix product over all patches: CuPy has no cuDNN to call."""
    c_out, _, kh, kw = weight.shape
    if groups == c_out == x.shape[-1]:
        return _depthwise(x, weight, bias, stride, padding)
    x = ops.pad(x, top=padding, bottom=padding, left=padding, right=padding)
    if groups > 1:
        return ops.conv2d.definition(x, weight, bias, stride=stride, groups=groups)
    (b, h, w, c), (image, row, column, channel) = x.shape, x.strides
    shape = (b, (h - kh) // stride + 1, (w - kw) // stride + 1, c, kh, kw)  # `sliding_window_view` asks the GPU about kh and kw
    patches = as_strided(x, shape, (image, stride * row, stride * column, channel, row, column))
    return linear(rearrange(patches, "b h w c kh kw -> b h w (c kh kw)"), rearrange(weight, "o c kh kw -> o (c kh kw)"), bias)


def _depthwise(x: Array, weight: Array, bias: Array | None, stride: int, padding: int) -> Array:
    t, weight = _dense(x), _dense(weight)
    bias = cupy.zeros(weight.shape[0], t.dtype) if bias is None else _dense(bias)
    (b, h, w, c), (kh, kw) = t.shape, weight.shape[2:]
    h2, w2 = ((size + 2 * padding - k) // stride + 1 for size, k in zip((h, w), (kh, kw), strict=True))
    y = cupy.empty((b, h2, w2, c), t.dtype)
    sizes = map(np.int32, (h, w, c, h2, w2, kh, kw, stride, padding))
    _launch("depthwise", y.size, t, weight, bias, y, np.int64(y.size), *sizes)
    return y.astype(x.dtype, copy=False)


def _dense(x: Array) -> Array:
    """What a kernel can read: row by row without gaps, and float32 in place of float16."""
    return cupy.ascontiguousarray(x, dtype=np.promote_types(x.dtype, np.float32))


def _launch(name: str, threads: int, *arguments: Any) -> None:
    _kernel(name, arguments[0].dtype.char)((-(-threads // BLOCK),), (BLOCK,), arguments)


@cache
def _kernel(name: str, dtype: str) -> Any:
    return cupy.RawModule(code=SOURCE, options=(f"-DREAL={ {'f': 'float', 'd': 'double'}[dtype] }",)).get_function(name)


def device(x: Array) -> Any:
    """The array's GPU, which must be the current one, where CuPy puts every result."""
    if x.device != cupy.cuda.Device():
        raise ValueError(f"an array is on {x.device} but {cupy.cuda.Device()} is current: call inside `with x.device:`")
    return x.device


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Array:
    """`device`: a `cupy.cuda.Device`, its number, or "cuda" or "cuda:1"; None is the current one."""
    if not cupy.cuda.is_available():
        raise ValueError(
            "CuPy finds no GPU it can use; it needs one and NVIDIA's driver. Without: backend 'numpy', 'torch' or 'jax'"
        )
    if "bfloat16" in (dtype, x.dtype.name if dtype is None else None):
        raise ValueError("CuPy has no bfloat16; give dtype='float16' or 'float32'")
    with cupy.cuda.Device(_number(device)):
        return cupy.array(x, dtype=dtype, order="C")


def _number(device: Any) -> Any:
    if not isinstance(device, str):
        return device
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit() or int(index or 0) >= cupy.cuda.runtime.getDeviceCount():
        raise ValueError(f"CuPy has no device {device!r}; there are cuda:0 to cuda:{cupy.cuda.runtime.getDeviceCount() - 1}")
    return int(index or 0)


def to_numpy(x: Array) -> np.ndarray:
    held: np.ndarray = cupy.asnumpy(x)
    return held
