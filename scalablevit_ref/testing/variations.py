"""The layers once more, with the slips that ports make as settings: what a comparison tries when it looks for a mistake.

With a `Variation()` each layer is the specification's (a property of the tests); with one setting changed it is what a port
computes that made this slip. Plain NumPy, to be read beside `attention` and `network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi
from typing import Literal

import numpy as np
from einops import rearrange

from scalablevit_ref import ops
from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.parameters import modules
from scalablevit_ref.testing.layers import Layer

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
    padding: Literal["symmetric", "same", "none", "replicated"] = "symmetric"
    without_bias: str | None = None  # parameters by their names in the whole network
    transposed: str | None = None
    interleaved: Literal["no", "all", "q and k", "v", "q, k and v", "merge"] = "no"
    order: str = "q k v"
    thirds: Literal["(three heads d)", "(heads three d)", "(heads d three)"] = "(three heads d)"
    scale: Literal["own", "d", "c", "none", "1/d", "c'/H"] = "own"
    windows: Literal["tiles", "grid", "columns first when cut", "columns first when merged", "transposed inside when merged"] = (
        "tiles"
    )
    lim: LIM = "added before proj"
    activation: Literal["after the norm", "before the norm"] = "after the norm"
    identity: Literal["added", "missing"] = "added"
    pool: Literal["mean", "max", "sum"] = "mean"
    map: Literal["h w", "w h"] = "h w"
    factors: Literal["as they are", "bfloat16", "tf32"] = "as they are"


NONE = Variation()


def run(layer: Layer, x: Array, params: Mapping[str, Array], v: Variation = NONE) -> Array:
    """What this layer makes of `x` (b h w c; after pooling b c; the first patch embedding takes the images, b c h w).

    params: those of the whole network, float64 or whatever `x` is.
    """
    prefix = f"{layer.name}."
    own = {name.removeprefix(prefix): _changed(name, value, v) for name, value in params.items() if name.startswith(prefix)}
    if layer.kind == "patch_embed" and layer.name.endswith(".0"):
        x = rearrange(x, "b c h w -> b h w c")
    turned = v.map == "w h" and x.ndim == 4
    if turned:
        x = rearrange(x, "b h w c -> b w h c")
    y = _KINDS[layer.kind](x, own, v, **layer.settings)
    return rearrange(y, "b w h c -> b h w c") if turned else y


def _changed(name: str, value: Array, v: Variation) -> Array:
    """A parameter as a port would hold it that mistook its axes, or forgot it."""
    if v.without_bias == name:
        return np.zeros_like(value)
    if v.transposed == name:
        return value.T if value.ndim == 2 else value.swapaxes(0, 1)
    if value.ndim == 4 and value.shape[-1] > 1 and v.kernels != "as they are":
        return value[:, :, ::-1, ::-1] if v.kernels == "flipped" else value.swapaxes(-1, -2)
    return value


def patch_embed(x: Array, params: Mapping[str, Array], v: Variation, *, patch_size: int, eps: float) -> Array:
    p = modules(params)
    kernel = 2 * patch_size - 1
    x = _padded(x, kernel, patch_size, patch_size - 1, v)
    return _norm(_conv(x, **p["proj"], stride=patch_size, v=v), p["norm"], eps, v)


def peg(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    y = _conv(_padded(x, 3, 1, 1, v), **modules(params)["proj.0"], groups=x.shape[-1], v=v)
    return x + y if v.identity == "added" else y


def layer_norm(x: Array, params: Mapping[str, Array], v: Variation, *, eps: float) -> Array:
    return _norm(x, params, eps, v)


def mlp(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    p = modules(params)
    return _linear(gelu(_linear(x, **p["fc1"], v=v), params, v), **p["fc2"], v=v)


def linear(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return _linear(x, **params, v=v)


def gelu(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    forms: dict[str, Callable[[Array], Array]] = {
        "exact": ops.gelu,
        "tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3))),
        "sigmoid": lambda x: x * _sigmoid(1.702 * x),
        "silu": lambda x: x * _sigmoid(x),
        "relu": lambda x: np.maximum(x, 0),
        "none": lambda x: x,
    }
    return forms[v.gelu](x)


def mean(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    if x.ndim == 2:
        return x
    return {"mean": x.mean(axis=(1, 2)), "max": x.max(axis=(1, 2)), "sum": x.sum(axis=(1, 2))}[v.pool]


def total(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return x


def ssa(
    x: Array,
    params: Mapping[str, Array],
    v: Variation,
    *,
    num_heads: int,
    sr_ratio: int,
    c_ratio: float,
    values: str,
    scale: str,
) -> Array:
    p, h, c = modules(params), x.shape[1], x.shape[-1]
    q = _linear(x, **p["q"], v=v)
    if sr_ratio == 1:
        key, value = np.split(_linear(x, **p["kv"], v=v), 2, axis=-1)
    else:
        y = x
        if v.padding == "same":
            y = _padded(y, sr_ratio, sr_ratio, 0, v)
        y = _conv(y, **p["reduction.0"], stride=sr_ratio, groups=c, v=v)
        y = _conv(y, **p["reduction.1"], v=v)
        steps = [lambda t: _norm(t, p["norm_act.0"], SSA_NORM_EPS, v), lambda t: gelu(t, {}, v)]
        for step in steps if v.activation == "after the norm" else reversed(steps):
            y = step(y)
        if values == "unscaled":
            key, value = _linear(y, **p["k"], v=v), _linear(y, **p["v"], v=v)
        else:
            key, value = np.split(_linear(y, **p["kv"], v=v), 2, axis=-1)
    q, key, value = _ordered({"q": q, "k": key, "v": value}, v)
    part = {name: "(d heads)" if v.interleaved in cases else "(heads d)" for name, cases in _INTERLEAVED.items()}
    q, key, value = (
        rearrange(t, f"b h w {part[name]} -> b heads (h w) d", heads=num_heads) for name, t in (("q", q), ("k", key), ("v", value))
    )
    d = c / num_heads
    factor = _scale(v, d * c_ratio if scale == "scaled" else d, d, c, key.shape[-1])
    z = _attend(q, key, value, factor, v)
    return _linear(rearrange(z, f"b heads (h w) d -> b h w {part['merge']}", h=h), **p["proj"], v=v)


def iwsa(x: Array, params: Mapping[str, Array], v: Variation, *, num_heads: int, window_size: int, pad: bool) -> Array:
    p, (h, w, c), s = modules(params), x.shape[1:], window_size
    x = ops.pad(x, bottom=-h % s, right=-w % s)
    qkv = rearrange(_linear(x, **p["qkv"], v=v), f"b h w {v.thirds} -> three b h w (heads d)", three=3, heads=num_heads)
    q, key, value = _ordered(dict(zip("qkv", qkv, strict=True)), v)

    def lim(t: Array) -> Array:
        return _conv(_padded(t, 3, 1, 1, v), **p["lim_func"], groups=c, v=v)

    values = lim(value) if v.lim == "before the attention" else value
    part = {name: "(d heads)" if v.interleaved in cases else "(heads d)" for name, cases in _INTERLEAVED.items()}
    rows, columns = ("(ph gh)", "(pw gw)") if v.windows == "grid" else ("(gh ph)", "(gw pw)")
    grid = {"gh": x.shape[1] // s, "gw": x.shape[2] // s, "heads": num_heads}
    cut = "(b gw gh)" if v.windows == "columns first when cut" else "(b gh gw)"
    windows = [
        rearrange(t, f"b {rows} {columns} {part[name]} -> {cut} heads (ph pw) d", **grid)
        for name, t in (("q", q), ("k", key), ("v", values))
    ]
    z = _attend(*windows, _scale(v, c / num_heads, c / num_heads, c, c // num_heads), v)
    merged = "(b gw gh)" if v.windows == "columns first when merged" else "(b gh gw)"
    inside = "(pw ph)" if v.windows == "transposed inside when merged" else "(ph pw)"
    z = rearrange(z, f"{merged} heads {inside} d -> b {rows} {columns} {part['merge']}", ph=s, pw=s, **grid)

    if v.lim == "per window":
        tiles = rearrange(value, "b (gh ph) (gw pw) c -> (b gh gw) ph pw c", ph=s, pw=s)
        z = z + rearrange(lim(tiles), "(b gh gw) ph pw c -> b (gh ph) (gw pw) c", gh=grid["gh"], gw=grid["gw"])
    elif v.lim in ("added before proj", "of x", "residual", "of q", "of k", "of z"):
        of = {"of x": x, "of q": q, "of k": key, "of z": z}.get(v.lim, value)
        z = z + lim(of) + (value if v.lim == "residual" else 0)
    out = _linear(z[:, :h, :w, :], **p["proj"], v=v)
    return out + lim(value)[:, :h, :w, :] if v.lim == "after proj" else out


_KINDS: dict[str, Callable[..., Array]] = {
    "patch_embed": patch_embed,
    "layer_norm": layer_norm,
    "iwsa": iwsa,
    "ssa": ssa,
    "mlp": mlp,
    "peg": peg,
    "mean": mean,
    "linear": linear,
    "gelu": gelu,
    "sum": total,
}

_INTERLEAVED = {
    "q": ("all", "q and k", "q, k and v"),
    "k": ("all", "q and k", "q, k and v"),
    "v": ("all", "v", "q, k and v"),
    "merge": ("all", "merge"),
}
"""Which of the slips concern the split of q, of k and of v into heads, and the merge."""


def _ordered(tensors: dict[str, Array], v: Variation) -> list[Array]:
    """q, k and v where a port takes them in another order; those that then do not fit each other stay."""
    taken = [tensors[name] for name in v.order.split()]
    fits = all(a.shape == b.shape for a, b in zip(taken, tensors.values(), strict=True))
    return taken if fits else list(tensors.values())


def _scale(v: Variation, own: float, d: float, c: float, width: float) -> float:
    scales = {"own": own**-0.5, "d": d**-0.5, "c": c**-0.5, "none": 1.0, "1/d": 1 / d, "c'/H": width**-0.5}
    return float(scales[v.scale])


def _attend(q: Array, key: Array, value: Array, scale: float, v: Variation) -> Array:
    if v.factors == "as they are":
        return np.asarray(ops.attention(q, key, value, scale=scale))
    weights = ops.softmax(_rounded(q, v) @ _rounded(key, v).swapaxes(-1, -2) * scale)
    return np.asarray(_rounded(weights, v) @ _rounded(value, v))


def _linear(x: Array, weight: Array, bias: Array | None = None, *, v: Variation) -> Array:
    return np.asarray(ops.linear(_rounded(x, v), _rounded(weight, v), bias))


def _conv(x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, groups: int = 1, v: Variation) -> Array:
    """Of a map that is already padded."""
    return np.asarray(ops.conv2d(_rounded(x, v), _rounded(weight, v), bias, stride=stride, groups=groups))


def _padded(x: Array, kernel: int, stride: int, padding: int, v: Variation) -> Array:
    if v.padding == "same":  # as TensorFlow and Flax do: whole steps, the odd row and column at the end
        (top, bottom), (left, right) = (same_padding(size, kernel, stride) for size in x.shape[1:3])
        return np.asarray(ops.pad(x, top=top, bottom=bottom, left=left, right=right))
    if v.padding == "replicated":
        return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")
    return np.asarray(ops.pad(x, top=padding, bottom=padding, left=padding, right=padding))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, for ⌈size / stride⌉ steps."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _norm(x: Array, params: Mapping[str, Array], eps: float, v: Variation) -> Array:
    if v.norm == "missing":
        return x
    x = x - x.mean(axis=-1, keepdims=True)
    variance = (x * x).sum(axis=-1, keepdims=True) / (x.shape[-1] - (v.variance == "unbiased"))
    eps = eps if v.eps is None else v.eps
    y = x / (np.sqrt(variance + eps) if v.eps_place == "inside the root" else np.sqrt(variance) + eps)
    if v.norm == "without either":
        return y
    return y * params["weight"] + (params["bias"] if v.norm == "with gain and shift" else 0)


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
