"""The slips that ports make, as settings, and the steps that layers are made of with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalablevit_ref import ops
from scalablevit_ref.dialects.port import same_padding

Array = np.ndarray
LIM = Literal[
    "added before proj", "missing", "of x", "of q", "of k", "of z", "per window", "residual", "after proj", "before the attention"
]


@dataclass(frozen=True)
class Variation:
    """The slips; the defaults are none."""

    gelu: Literal["exact", "tanh", "sigmoid", "relu", "silu", "none"] = "exact"
    eps: float | None = None
    eps_place: Literal["inside the root", "outside the root"] = "inside the root"
    variance: Literal["biased", "unbiased"] = "biased"
    norm: Literal["with gain and shift", "without shift", "without either", "missing"] = "with gain and shift"
    kernels: Literal["as they are", "flipped", "transposed"] = "as they are"
    padding: Literal["symmetric", "same", "replicated"] = "symmetric"
    without_bias: str | None = None  # parameters by their names in the whole network
    transposed: str | None = None
    interleaved: Literal["no", "all", "q and k", "v", "q, k and v", "merge"] = "no"
    order: str = "q k v"
    thirds: Literal["(three heads d)", "(heads three d)", "(heads d three)"] = "(three heads d)"
    scale: Literal["own", "d", "c", "none", "1/d", "c'"] = "own"
    windows: Literal["tiles", "grid", "columns first when cut", "columns first when merged", "transposed inside when merged"] = (
        "tiles"
    )
    filling: Literal["tokens", "after qkv", "masked", "hidden from LIM"] = "tokens"  # of windows that a map does not fill
    lim: LIM = "added before proj"
    activation: Literal["after the norm", "before the norm"] = "after the norm"
    identity: Literal["added", "missing"] = "added"
    pool: Literal["mean", "max", "sum"] = "mean"
    map: Literal["h w", "w h"] = "h w"
    factors: Literal["as they are", "bfloat16", "tf32"] = "as they are"


NONE = Variation()


def gelu(x: Array, v: Variation) -> Array:
    forms: dict[str, Callable[[Array], Array]] = {
        "exact": ops.gelu,
        "tanh": ops.gelu_tanh,
        "sigmoid": lambda x: x * _sigmoid(1.702 * x),
        "silu": lambda x: x * _sigmoid(x),
        "relu": lambda x: np.maximum(x, 0),
        "none": lambda x: x,
    }
    return forms[v.gelu](x)


INTERLEAVED = {
    "q": ("all", "q and k", "q, k and v"),
    "k": ("all", "q and k", "q, k and v"),
    "v": ("all", "v", "q, k and v"),
    "merge": ("all", "merge"),
}
"""Which of the slips concern the split of q, of k and of v into heads, and the merge."""


def ordered(tensors: dict[str, Array], v: Variation) -> list[Array]:
    """q, k and v where a port takes them in another order; those that then do not fit each other stay."""
    taken = [tensors[name] for name in v.order.split()]
    fits = all(a.shape == b.shape for a, b in zip(taken, tensors.values(), strict=True))
    return taken if fits else list(tensors.values())


def scale_of(v: Variation, own: float, d: float, c: float, width: float) -> float:
    scales = {"own": own**-0.5, "d": d**-0.5, "c": c**-0.5, "none": 1.0, "1/d": 1 / d, "c'": width**-0.5}
    return float(scales[v.scale])


def attend(q: Array, key: Array, value: Array, scale: float, v: Variation, mask: Array | None = None) -> Array:
    """mask: what is added to the logits."""
    if v.factors == "as they are" and mask is None:
        return np.asarray(ops.attention(q, key, value, scale=scale))
    scores = _rounded(q, v) @ _rounded(key, v).swapaxes(-1, -2) * scale
    weights = ops.softmax(scores if mask is None else scores + mask)
    return np.asarray(_rounded(weights, v) @ _rounded(value, v))


def linear(x: Array, weight: Array, bias: Array | None = None, *, v: Variation) -> Array:
    return np.asarray(ops.linear(_rounded(x, v), _rounded(weight, v), bias))


def conv(x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, groups: int = 1, v: Variation) -> Array:
    """Of a map that is already padded."""
    return np.asarray(ops.conv2d(_rounded(x, v), _rounded(weight, v), bias, stride=stride, groups=groups))


def padded(x: Array, kernel: int, stride: int, padding: int, v: Variation) -> Array:
    if v.padding == "same":  # as TensorFlow and Flax do: whole steps, the odd row and column at the end
        (top, bottom), (left, right) = (same_padding(size, kernel, stride) for size in x.shape[1:3])
        return np.asarray(ops.pad(x, top=top, bottom=bottom, left=left, right=right))
    if v.padding == "replicated":
        return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")
    return np.asarray(ops.pad(x, top=padding, bottom=padding, left=padding, right=padding))


def norm(x: Array, params: Mapping[str, Array], eps: float, v: Variation) -> Array:
    if v.norm == "missing":
        return x
    x = x - x.mean(axis=-1, keepdims=True)
    variance = (x * x).sum(axis=-1, keepdims=True) / (x.shape[-1] - (v.variance == "unbiased"))
    eps = eps if v.eps is None else v.eps
    y: Array = x / (np.sqrt(variance + eps) if v.eps_place == "inside the root" else np.sqrt(variance) + eps)
    if v.norm == "without either":
        return y
    y = y * params["weight"]
    return y + params["bias"] if v.norm == "with gain and shift" else y


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _rounded(x: Array, v: Variation) -> Array:
    """The factors of a product as units with short mantissas take them: 8 bits of bfloat16, 11 of TF32, to nearest even."""
    if v.factors == "as they are":
        return x
    drop = {"bfloat16": 16, "tf32": 13}[v.factors]
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = bits + np.uint32((1 << (drop - 1)) - 1) + ((bits >> np.uint32(drop)) & np.uint32(1))
    return (bits & ~np.uint32((1 << drop) - 1)).view(np.float32).astype(x.dtype)
