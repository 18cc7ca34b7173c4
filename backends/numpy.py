"""NumPy: products through BLAS, elementwise work in place, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from einops import rearrange
from numpy.lib.stride_tricks import sliding_window_view
from scalablevit_ref.backends.numberless import usable as usable
from scalablevit_ref.backends.threads import share, threads_at_hand

from scalablevit_ref import ops
from scalablevit_ref._typing import Array
from scalablevit_ref.errors import brief

NAME = "numpy"

BLOCK = 1 << 15
"""Most array elements worked on at a time: few enough that a chain of in-place steps never leaves the second-level cache."""

GROUP = 4
"""Most images that one thread takes through the network at once."""

QUERIES = 128
"""Most queries in one product of `attention`: few enough that BLAS wakes no threads of its own."""

exp = np.exp


def zeros(x: Array, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, x.dtype)


def pad(x: Array, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Array:
    """One array of zeros, into which the map is copied."""
    if not (top or bottom or left or right):
        return x
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


def in_groups(function: Callable[[Array], Any], images: Array) -> Any:
    """A batch in groups of at most `GROUP` images, shared among threads.

    So memory beyond images and results is bounded whatever the batch: for each thread GROUP images, each with four times its
    largest array: the hidden layer of stage 0's MLP (3.2 MB in `small` at 224 × 224: 51 MB a thread), in the narrowest networks
    the patches of the first convolution.
    """
    if len(images) < 2:
        return function(images)
    groups = _blocks(len(images), min(GROUP, -(-len(images) // threads_at_hand())))
    found: dict[int, Any] = {}

    def run(i: int) -> None:
        found[i] = function(images[groups[i]])

    share(run, range(len(groups)))
    results = [found[i] for i in range(len(groups))]
    if isinstance(results[0], tuple):
        return tuple(np.concatenate(maps) for maps in zip(*results, strict=True))
    return np.concatenate(results)


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    tokens = x.reshape(-1, x.shape[-1])
    out, wide = np.empty_like(tokens, order="C"), _wide(x.dtype)

    for rows in _blocks(len(tokens), BLOCK // tokens.shape[1]):
        part = tokens[rows].astype(wide, copy=False)
        y = np.subtract(part, _sums(part)[:, None] / part.shape[1], out=out[rows] if wide == x.dtype else part)
        y *= 1 / np.sqrt(np.einsum("n c, n c -> n", y, y)[:, None] / y.shape[1] + eps)
        y *= weight
        y += bias
        out[rows] = y
    return out.reshape(x.shape)


def _sums(x: Array) -> Array:
    """Over the last axis, which is short: einsum needs a third of the time of `sum`."""
    sums: Array = np.einsum("... c -> ...", x)
    return sums


def gelu(x: Array) -> Array:
    flat = x.reshape(-1)
    out = np.empty_like(flat)

    for cut in _blocks(flat.size, BLOCK):
        if x.dtype == np.float32:
            _gelu32(flat[cut], out[cut])
        elif x.dtype.itemsize < 4:
            wide = flat[cut].astype(np.float32)
            _gelu32(wide.copy(), wide)
            out[cut] = wide
        else:
            out[cut] = ops.gelu.definition(flat[cut])
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


def _gelu32(x: Array, y: Array) -> None:
    """y = x/2 · (1 + tanh(x·P(x²))): the tanh form with seven terms in place of two, the exact GELU to float32's last bits.

    Where the powers overflow the tanh is 1 or −1, as it should be.
    """
    with np.errstate(over="ignore"):
        square = x * x
        np.multiply(square, _TANH_SERIES[0], out=y)
        for coefficient in _TANH_SERIES[1:-1]:
            y += coefficient
            y *= square
        y += _TANH_SERIES[-1]
        y *= x
    np.tanh(y, out=y)
    y += 1
    y *= 0.5
    y *= x


def softmax(x: Array) -> Array:
    y = x.astype(_wide(x.dtype))
    y -= y.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y.astype(x.dtype, copy=False)


def attention(q: Array, k: Array, v: Array, *, scale: float) -> Array:
    """Queries in blocks whose logits stay in the cache; the weights are divided by their sum after they have met the values."""
    dtype, wide = q.dtype, _wide(q.dtype)
    batch, n = q.shape[:-2], q.shape[-2]
    q, k, v = (t.reshape(-1, *t.shape[-2:]).astype(wide, copy=False) for t in (q, k, v))
    tile = max(t for t in range(1, min(n, QUERIES) + 1) if n % t == 0)  # queries of one small product
    q = rearrange(q, "g (tiles n) d -> g tiles n d", n=tile)
    k, v = k.swapaxes(-1, -2)[:, None], v[:, None]
    z = np.empty((*q.shape[:-1], v.shape[-1]), wide)

    tiles = max(1, BLOCK // (tile * k.shape[-1]))
    for cut in product(_blocks(len(q), tiles // q.shape[1]), _blocks(q.shape[1], tiles)):
        weights = (q[cut] * scale) @ k[cut[0]]
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        np.matmul(weights, v[cut[0]], out=z[cut])
        z[cut] *= 1 / _sums(weights)[..., None]
    return z.reshape(*batch, n, -1).astype(dtype, copy=False)


def conv2d(x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """Depthwise kernels by shifted products, dense ones as one matrix product over all patches."""
    x = ops.pad(x, top=padding, bottom=padding, left=padding, right=padding)
    c_out, _, kh, kw = weight.shape
    if groups == 1:
        patches = sliding_window_view(x, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
        in_runs = patches.size > weight.size  # the larger of the two is copied in the order in which it lies
        order = "kh kw c" if in_runs else "c kh kw"
        return linear(rearrange(patches, f"b h w c kh kw -> b h w ({order})"), rearrange(weight, f"o c kh kw -> o ({order})"), bias)
    if groups != c_out or groups != x.shape[-1]:
        return ops.conv2d.definition(x, weight, bias, stride=stride, groups=groups)
    return _depthwise(x, weight, bias, stride)


def _depthwise(x: Array, weight: Array, bias: Array | None, stride: int) -> Array:
    c, _, kh, kw = weight.shape
    b, h, w = x.shape[0], (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.empty((b, h, w, c), x.dtype)
    kernel = rearrange(weight, "c 1 kh kw -> kh kw c")
    rows_of = "n h w c -> n h (w c)" if stride == 1 else "n h w c -> n h w c"  # without a stride a row lies in one run
    if stride == 1:
        kernel = np.tile(kernel, (1, 1, w))

    step = max(1, BLOCK // (w * c))
    for images, rows in product(_blocks(b, step // h), _blocks(h, step)):
        out = rearrange(y[images, rows], rows_of)
        term = np.empty_like(out)
        for i, j in product(range(kh), range(kw)):
            top = i + stride * rows.start
            lines = slice(top, top + stride * (rows.stop - rows.start - 1) + 1, stride)
            patch = rearrange(x[images, lines, j : j + stride * (w - 1) + 1 : stride], rows_of)
            if i == j == 0:
                np.multiply(patch, kernel[i, j], out=out)
            else:
                out += np.multiply(patch, kernel[i, j], out=term)
        if bias is not None:
            y[images, rows] += bias
    return y


def _blocks(count: int, step: int) -> list[slice]:
    """Runs of at most `step`, and at least one, of `count`."""
    step = max(1, step)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype to accumulate in: float32 for the 16-bit types."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def device(x: Array) -> Any:
    return "cpu"


def from_numpy(x: Array, dtype: str | None, device: Any) -> Array:
    if not (device is None or (isinstance(device, str) and device == "cpu")):
        raise ValueError(f"device: NumPy arrays live on the cpu, not on {brief(device)}")
    if dtype == "bfloat16":
        import ml_dtypes

        return np.array(x, dtype=ml_dtypes.bfloat16, order="C")
    return np.array(x, dtype=dtype, order="C")


def to_numpy(x: Array) -> Array:
    return x
