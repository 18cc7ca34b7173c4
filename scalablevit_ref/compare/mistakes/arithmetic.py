"""Ops as some ports compute them: with other kernels, borders or axes, or with factors of short mantissas."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from einops import rearrange

from scalablevit_ref import ops
from scalablevit_ref.dialects.port import same_padding
from scalablevit_ref.edits import Changes, Swap

Array = np.ndarray
Function = Callable[..., Array]


def of_conv(part: str, change: Callable[..., tuple[Array, Array, int]]) -> Swap:
    """A convolution of what `change` makes of its map, its kernel and its padding, given those and the stride."""

    def make(conv: Function) -> Function:
        def changed(
            x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
        ) -> Array:
            x, weight, padding = change(x, weight, padding, stride)
            return conv(x, weight, bias, stride=stride, padding=padding, groups=groups)

        return changed

    return Swap(ops.conv2d, make, part)


def flipped(x: Array, weight: Array, padding: int, stride: int) -> tuple[Array, Array, int]:
    kh, kw = weight.shape[2:]
    taps = [weight[:, :, i, j] for i, j in product(reversed(range(kh)), reversed(range(kw)))]
    return x, rearrange(taps, "(kh kw) c_out c_in -> c_out c_in kh kw", kh=kh), padding


def transposed(x: Array, weight: Array, padding: int, stride: int) -> tuple[Array, Array, int]:
    return x, rearrange(weight, "c_out c_in kh kw -> c_out c_in kw kh"), padding


def same(x: Array, weight: Array, padding: int, stride: int) -> tuple[Array, Array, int]:
    (top, bottom), (left, right) = (same_padding(size, k, stride) for size, k in zip(x.shape[1:3], weight.shape[2:], strict=True))
    return ops.pad(x, top=top, bottom=bottom, left=left, right=right), weight, 0


def replicated(x: Array, weight: Array, padding: int, stride: int) -> tuple[Array, Array, int]:
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge"), weight, 0


def turned(conv: Function) -> Function:
    """The convolution of the map b w h c, turned back."""

    def changed(x: Array, *args: Array, **settings: int) -> Array:
        return rearrange(conv(rearrange(x, "b h w c -> b w h c"), *args, **settings), "b w h c -> b h w c")

    return changed


def rounded(x: Array, bits: int) -> Array:
    """The factors of a product as units with short mantissas take them: `bits` of float32's are left out, to nearest even."""
    found = np.ascontiguousarray(x, np.float32).view(np.uint32)
    found = found + np.uint32((1 << (bits - 1)) - 1) + ((found >> np.uint32(bits)) & np.uint32(1))
    return (found & ~np.uint32((1 << bits) - 1)).view(np.float32).astype(x.dtype)


def with_rounded_factors(bits: int) -> Changes:
    def product(function: Function) -> Function:
        return lambda x, weight, *args, **settings: function(rounded(x, bits), rounded(weight, bits), *args, **settings)

    def attention(function: Function) -> Function:
        def changed(q: Array, k: Array, v: Array, *, scale: float) -> Array:
            weights = ops.softmax(rounded(q, bits) @ rounded(k, bits).swapaxes(-1, -2) * scale)
            return np.asarray(rounded(weights, bits) @ rounded(v, bits))

        return changed

    made = ((ops.linear, product), (ops.conv2d, product), (ops.attention, attention))
    return tuple(Swap(function, make, "factors") for function, make in made)
