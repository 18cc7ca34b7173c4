"""The layers once more, with the slips that ports make as settings: what a comparison tries when it looks for a mistake.

With a `Variation()` each layer is the specification's (a property of the tests); with one setting changed it is what a port
computes that made this slip. Plain NumPy, to be read beside `attention` and `network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from einops import rearrange

from scalablevit_ref import ops
from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.compare.mistakes.port_variations import PORT_KINDS
from scalablevit_ref.compare.mistakes.slips import (
    INTERLEAVED,
    NONE,
    Array,
    Variation,
    attend,
    conv,
    gelu,
    linear,
    norm,
    ordered,
    padded,
    scale_of,
)
from scalablevit_ref.layers import IMAGES, Layer
from scalablevit_ref.parameters import modules


def run(layer: Layer, x: Array, params: Mapping[str, Array], v: Variation = NONE) -> Array:
    """What this layer makes of `x` (b h w c; after pooling b c; the first patch embedding takes the images, b c h w).

    params: those of the whole network, float64 or whatever `x` is.
    """
    prefix = f"{layer.name}."
    own = {name.removeprefix(prefix): _changed(name, value, v) for name, value in params.items() if name.startswith(prefix)}
    if IMAGES in layer.sources:
        x = rearrange(x, "b c h w -> b h w c")
    turned = v.map == "w h" and x.ndim == 4
    if turned:
        x = rearrange(x, "b h w c -> b w h c")
    y = _KINDS[layer.kind](x, own, v, **layer.settings)
    return rearrange(y, "b w h c -> b h w c") if turned and y.ndim == 4 else y  # `mean` leaves no map


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
    x = padded(x, kernel, patch_size, patch_size - 1, v)
    return norm(conv(x, **p["proj"], stride=patch_size, v=v), p["norm"], eps, v)


def peg(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    y = conv(padded(x, 3, 1, 1, v), **modules(params)["proj.0"], groups=x.shape[-1], v=v)
    return x + y if v.identity == "added" else y


def layer_norm(x: Array, params: Mapping[str, Array], v: Variation, *, eps: float) -> Array:
    return norm(x, params, eps, v)


def mlp(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    p = modules(params)
    return linear(gelu(linear(x, **p["fc1"], v=v), v), **p["fc2"], v=v)


def last_linear(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return linear(x, **params, v=v)


def mean(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    if x.ndim == 2:
        return x
    pools: dict[str, Array] = {"mean": x.mean(axis=(1, 2)), "max": x.max(axis=(1, 2)), "sum": x.sum(axis=(1, 2))}
    return pools[v.pool]


def activation(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return gelu(x, v)


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
    q = linear(x, **p["q"], v=v)
    if sr_ratio == 1:
        key, value = np.split(linear(x, **p["kv"], v=v), 2, axis=-1)
    else:
        y = x
        if v.padding == "same":
            y = padded(y, sr_ratio, sr_ratio, 0, v)
        y = conv(y, **p["reduction.0"], stride=sr_ratio, groups=c, v=v)
        y = conv(y, **p["reduction.1"], v=v)
        steps = [lambda t: norm(t, p["norm_act.0"], SSA_NORM_EPS, v), lambda t: gelu(t, v)]
        for step in steps if v.activation == "after the norm" else reversed(steps):
            y = step(y)
        if values == "unscaled":
            key, value = linear(y, **p["k"], v=v), linear(y, **p["v"], v=v)
        else:
            key, value = np.split(linear(y, **p["kv"], v=v), 2, axis=-1)
    q, key, value = ordered({"q": q, "k": key, "v": value}, v)
    part = {name: "(d heads)" if v.interleaved in cases else "(heads d)" for name, cases in INTERLEAVED.items()}
    q, key, value = (
        rearrange(t, f"b h w {part[name]} -> b heads (h w) d", heads=num_heads) for name, t in (("q", q), ("k", key), ("v", value))
    )
    d = c / num_heads
    factor = scale_of(v, d * c_ratio if scale == "scaled" else d, d, c, num_heads * key.shape[-1])
    z = attend(q, key, value, factor, v)
    return linear(rearrange(z, f"b heads (h w) d -> b h w {part['merge']}", h=h), **p["proj"], v=v)


def iwsa(x: Array, params: Mapping[str, Array], v: Variation, *, num_heads: int, window_size: int, pad: bool) -> Array:
    p, (h, w, c), s = modules(params), x.shape[1:], window_size

    def filled(t: Array) -> Array:
        return np.asarray(ops.pad(t, bottom=-h % s, right=-w % s))

    qkv = filled(linear(x, **p["qkv"], v=v)) if v.filling == "after qkv" else linear(filled(x), **p["qkv"], v=v)
    x = filled(x)
    qkv = rearrange(qkv, f"b h w {v.thirds} -> three b h w (heads d)", three=3, heads=num_heads)
    q, key, value = ordered(dict(zip("qkv", qkv, strict=True)), v)

    def lim(t: Array) -> Array:
        t = filled(t[:, :h, :w, :]) if v.filling == "hidden from LIM" else t
        return conv(padded(t, 3, 1, 1, v), **p["lim_func"], groups=c, v=v)

    values = lim(value) if v.lim == "before the attention" else value
    part = {name: "(d heads)" if v.interleaved in cases else "(heads d)" for name, cases in INTERLEAVED.items()}
    rows, columns = ("(ph gh)", "(pw gw)") if v.windows == "grid" else ("(gh ph)", "(gw pw)")
    grid = {"gh": x.shape[1] // s, "gw": x.shape[2] // s, "heads": num_heads}
    cut = "(b gw gh)" if v.windows == "columns first when cut" else "(b gh gw)"
    windows = (
        rearrange(t, f"b {rows} {columns} {part[name]} -> {cut} heads (ph pw) d", **grid)
        for name, t in (("q", q), ("k", key), ("v", values))
    )
    q_windows, key_windows, value_windows = windows
    mask = None
    if v.filling == "masked":
        real = filled(np.ones((len(x), h, w, 1)))
        real = rearrange(real, f"b {rows} {columns} 1 -> {cut} 1 1 (ph pw)", gh=grid["gh"], gw=grid["gw"])
        mask = np.where(real, 0.0, -np.inf)
    z = attend(q_windows, key_windows, value_windows, scale_of(v, c / num_heads, c / num_heads, c, c), v, mask)
    merged = "(b gw gh)" if v.windows == "columns first when merged" else "(b gh gw)"
    inside = "(pw ph)" if v.windows == "transposed inside when merged" else "(ph pw)"
    z = rearrange(z, f"{merged} heads {inside} d -> b {rows} {columns} {part['merge']}", ph=s, pw=s, **grid)

    if v.lim == "per window":
        tiles = rearrange(value, "b (gh ph) (gw pw) c -> (b gh gw) ph pw c", ph=s, pw=s)
        z = z + rearrange(lim(tiles), "(b gh gw) ph pw c -> b (gh ph) (gw pw) c", gh=grid["gh"], gw=grid["gw"])
    elif v.lim in ("added before proj", "of x", "residual", "of q", "of k", "of z"):
        of = {"of x": x, "of q": q, "of k": key, "of z": z}.get(v.lim, value)
        z = z + lim(of) + (value if v.lim == "residual" else 0)
    out = linear(z[:, :h, :w, :], **p["proj"], v=v)
    return out + lim(value)[:, :h, :w, :] if v.lim == "after proj" else out


_KINDS: dict[str, Callable[..., Array]] = {
    "patch_embed": patch_embed,
    "layer_norm": layer_norm,
    "iwsa": iwsa,
    "ssa": ssa,
    "mlp": mlp,
    "peg": peg,
    "mean": mean,
    "linear": last_linear,
    "gelu": activation,
    "sum": total,
    **PORT_KINDS,
}
