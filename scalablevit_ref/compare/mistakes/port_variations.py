"""The layers of vit_pytorch's network, which its Flax port shares, with the slips as settings; see `dialects.port`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from einops import rearrange

from scalablevit_ref.compare.mistakes.slips import (
    INTERLEAVED,
    Array,
    Variation,
    attend,
    conv,
    gelu,
    norm,
    ordered,
    padded,
    scale_of,
)
from scalablevit_ref.dialects.port import NORM_EPS
from scalablevit_ref.parameters import modules


def strided_conv(x: Array, params: Mapping[str, Array], v: Variation, *, stride: int, padding: int) -> Array:
    weight = params["weight"]
    return conv(padded(x, weight.shape[2], stride, padding, v), weight, params.get("bias"), stride=stride, v=v)


def stem(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return strided_conv(x, params, v, stride=4, padding=3)


def downsample(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return strided_conv(x, modules(params)["conv"], v, stride=2, padding=1)


def channel_norm(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    gain = params["g"].reshape(-1)
    return norm(x, {"weight": gain, "bias": params["b"].reshape(-1) if "b" in params else 0 * gain}, NORM_EPS, v)


def head_norm(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    return norm(x, {"bias": 0 * params["weight"], **params}, NORM_EPS, v)


def ssa(x: Array, params: Mapping[str, Array], v: Variation, *, heads: int, s: int) -> Array:
    p, h = modules(params), x.shape[1]
    x = channel_norm(x, p["norm"], v)
    q = conv(x, **p["to_q"], v=v)
    key, value = (strided_conv(x, p[name], v, stride=s, padding=0) for name in ("to_k", "to_v"))
    part = {name: "(d heads)" if v.interleaved in cases else "(heads d)" for name, cases in INTERLEAVED.items()}
    q, key, value = (
        rearrange(t, f"b h w {part[name]} -> b heads (h w) d", heads=heads)
        for name, t in zip("qkv", ordered({"q": q, "k": key, "v": value}, v), strict=True)
    )
    z = attend(q, key, value, _scale(v, q, x, heads), v)
    return conv(rearrange(z, f"b heads (h w) d -> b h w {part['merge']}", h=h), **p["to_out.0"], v=v)


def iwsa(x: Array, params: Mapping[str, Array], v: Variation, *, heads: int, window_size: int | None) -> Array:
    p, (h, w) = modules(params), x.shape[1:3]
    x = channel_norm(x, p["norm"], v)
    q, key, value = ordered({name[-1]: conv(x, **p[name], v=v) for name in ("to_q", "to_k", "to_v")}, v)

    def lim(t: Array) -> Array:
        return conv(padded(t, 3, 1, 1, v), **p["local_interactive_module"], v=v)

    part = {name: "(d heads)" if v.interleaved in cases else "(heads d)" for name, cases in INTERLEAVED.items()}
    cut = {"ph": window_size or h, "pw": window_size or w, "heads": heads}
    windows = (
        rearrange(t, f"b (gh ph) (gw pw) {part[name]} -> b gh gw heads (ph pw) d", **cut)
        for name, t in (("q", q), ("k", key), ("v", lim(value) if v.lim == "before the attention" else value))
    )
    q, key, values = windows
    z = attend(q, key, values, _scale(v, q, x, heads), v)
    z = rearrange(z, f"b gh gw heads (ph pw) d -> b (gh ph) (gw pw) {part['merge']}", ph=cut["ph"])
    if v.lim == "added before proj":
        z = z + lim(value)
    return conv(z, **p["to_out.0"], v=v)


def feed_forward(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    p = modules(params)
    return conv(gelu(conv(channel_norm(x, p["net.0"], v), **p["net.1"], v=v), v), **p["net.4"], v=v)


def peg(x: Array, params: Mapping[str, Array], v: Variation) -> Array:
    y = conv(padded(x, 3, 1, 1, v), **modules(params)["proj"], groups=x.shape[-1], v=v)
    return x + y if v.identity == "added" else y


def _scale(v: Variation, q: Array, x: Array, heads: int) -> float:
    return scale_of(v, q.shape[-1], q.shape[-1], x.shape[-1], heads * q.shape[-1])


PORT_KINDS: dict[str, Callable[..., np.ndarray]] = {
    "stem": stem,
    "downsample": downsample,
    "port_ssa": ssa,
    "feed_forward": feed_forward,
    "port_peg": peg,
    "port_iwsa": iwsa,
    "channel_norm": channel_norm,
    "head_norm": head_norm,
}
