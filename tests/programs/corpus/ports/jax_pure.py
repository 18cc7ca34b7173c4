"""ScalableViT as plain functions of JAX: `init(key, cfg)` draws a tree of parameters, `apply` takes it with images.

For experiments with backbones, where a network is a function and a tree and nothing else. Images are b c h w, maps b h w c;
matrices are (in, out), kernels HWIO.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Tree = dict[str, Any]


def stream(key: Any) -> Iterator[Any]:
    """Yield as many keys as are wanted."""
    while True:
        key, sub = jax.random.split(key)
        yield sub


def init_dense(key: Any, fan_in: int, fan_out: int, bias: bool = True) -> Tree:
    w = 0.02 * jax.random.truncated_normal(key, -2.0, 2.0, (fan_in, fan_out))
    return {"w": w, "b": jnp.zeros(fan_out)} if bias else {"w": w}


def init_conv(key: Any, size: int, fan_in: int, fan_out: int, groups: int = 1) -> Tree:
    std = (2.0 * groups / (size * size * fan_out)) ** 0.5
    kernel = std * jax.random.normal(key, (size, size, fan_in // groups, fan_out))
    return {"kernel": kernel, "bias": jnp.zeros(fan_out)}


def init_ln(dim: int) -> Tree:
    return {"gamma": jnp.ones(dim), "beta": jnp.zeros(dim)}


def init_windowed(keys: Iterator[Any], cfg: Any, k: int) -> Tree:
    c = cfg.embed_dims[k]
    qkv = init_dense(next(keys), c, 3 * c, cfg.qkv_bias)
    return {"qkv": qkv, "lim": init_conv(next(keys), 3, c, c, groups=c), "out": init_dense(next(keys), c, c)}


def init_scaled(keys: Iterator[Any], cfg: Any, k: int) -> Tree:
    c, s, bias = cfg.embed_dims[k], cfg.sr_ratios[k], cfg.qkv_bias
    width = int(c * cfg.c_ratios[k]) if s > 1 else c
    p = {"q": init_dense(next(keys), c, width, bias)}
    if s > 1:
        p["tile"] = init_conv(next(keys), s, c, c, groups=c)
        p["point"] = init_conv(next(keys), 1, c, width)
        p["ln"] = init_ln(width)
    p["k"] = init_dense(next(keys), width, width, bias)
    p["v"] = init_dense(next(keys), width, c, bias)
    p["out"] = init_dense(next(keys), c, c)
    return p


def init_block(keys: Iterator[Any], cfg: Any, k: int, i: int) -> Tree:
    c = cfg.embed_dims[k]
    hidden = int(c * cfg.mlp_ratios[k])
    attn = init_scaled(keys, cfg, k) if i % 2 else init_windowed(keys, cfg, k)
    ffn = {"up": init_dense(next(keys), c, hidden), "down": init_dense(next(keys), hidden, c)}
    return {"ln_a": init_ln(c), "attn": attn, "ln_f": init_ln(c), "ffn": ffn}


def init_stage(keys: Iterator[Any], cfg: Any, k: int) -> Tree:
    c = cfg.embed_dims[k]
    fan_in, size = (cfg.embed_dims[k - 1], 3) if k else (cfg.in_chans, 7)
    return {
        "patch": init_conv(next(keys), size, fan_in, c),
        "patch_ln": init_ln(c),
        "blocks": [init_block(keys, cfg, k, i) for i in range(cfg.depths[k])],
        "pos": init_conv(next(keys), 3, c, c, groups=c),
    }


def init_head(keys: Iterator[Any], cfg: Any) -> Tree:
    c = cfg.embed_dims[-1]
    if cfg.head == "mlp":
        return {
            "hidden": init_dense(next(keys), c, 4096),
            "ln": init_ln(4096),
            "classes": init_dense(next(keys), 4096, cfg.num_classes),
        }
    return {"classes": init_dense(next(keys), c, cfg.num_classes)}


def init(key: Any, cfg: Any) -> Tree:
    keys = stream(key)
    stages = [init_stage(keys, cfg, k) for k in range(len(cfg.depths))]
    return {"stages": stages, "ln": init_ln(cfg.embed_dims[-1]), "head": init_head(keys, cfg)}


def dense(p: Tree, x: Any) -> Any:
    y = jnp.einsum("...i,io->...o", x, p["w"])
    return y + p["b"] if "b" in p else y


def conv(p: Tree, x: Any, *, stride: int = 1, pad: int = 0, groups: int = 1) -> Any:
    y = lax.conv_general_dilated(
        x,
        p["kernel"],
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y + p["bias"]


def layer_norm(p: Tree, x: Any, eps: float) -> Any:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    x = (x - mean) * lax.rsqrt(var + eps)
    return x * p["gamma"] + p["beta"]


def gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def cut(x: Any, size: int) -> Any:
    """Cut b h w c into windows: b n t c, of t = size² tokens."""
    b, h, w, c = x.shape
    x = jnp.reshape(x, (b, h // size, size, w // size, size, c))
    x = jnp.swapaxes(x, 2, 3)
    return jnp.reshape(x, (b, -1, size * size, c))


def paste(x: Any, size: int, h: int, w: int) -> Any:
    """Undo `cut`."""
    b, _, _, c = x.shape
    x = jnp.reshape(x, (b, h // size, w // size, size, size, c))
    x = jnp.swapaxes(x, 2, 3)
    return jnp.reshape(x, (b, h, w, c))


def attend(q: Any, k: Any, v: Any, scale: float) -> Any:
    """Attention of one head in one window: q, k and v are t d."""
    scores = lax.dot_general(q, k, (((1,), (1,)), ((), ())))
    probs = jax.nn.softmax(scores * scale, axis=-1)
    return lax.dot_general(probs, v, (((1,), (0,)), ((), ())))


def windowed(p: Tree, x: Any, heads: int, size: int) -> Any:
    """Attention in windows, and a convolution of the values over their borders."""
    _, h, w, c = x.shape
    scale = (c // heads) ** -0.5
    q, k, v = jnp.split(dense(p["qkv"], x), 3, axis=-1)
    qw, kw, vw = (cut(a, size) for a in (q, k, v))
    qw, kw, vw = (jnp.reshape(a, (*a.shape[:3], heads, -1)) for a in (qw, kw, vw))
    per_head = jax.vmap(attend, in_axes=(1, 1, 1, None), out_axes=1)
    per_window = jax.vmap(per_head, in_axes=(0, 0, 0, None))
    per_image = jax.vmap(per_window, in_axes=(0, 0, 0, None))
    z = per_image(qw, kw, vw, scale)
    z = jnp.reshape(z, (*z.shape[:3], c))
    z = paste(z, size, h, w)
    z = z + conv(p["lim"], v, pad=1, groups=c)
    return dense(p["out"], z)


def scaled(p: Tree, x: Any, heads: int, s: int, ratio: float) -> Any:
    """Attention to fewer tokens, with queries and keys of scaled width."""
    b, h, w, c = x.shape
    scale = (c / heads * ratio) ** -0.5
    y = x
    if s > 1:
        y = conv(p["tile"], y, stride=s, groups=c)
        y = conv(p["point"], y)
        y = layer_norm(p["ln"], y, 1e-5)
        y = gelu(y)
    q = dense(p["q"], x)
    k = dense(p["k"], y)
    v = dense(p["v"], y)
    q = jnp.reshape(q, (b, h * w, heads, -1))
    k = jnp.reshape(k, (b, -1, heads, k.shape[-1] // heads))
    v = jnp.reshape(v, (b, -1, heads, v.shape[-1] // heads))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
    probs = jax.nn.softmax(scores, axis=-1)
    z = jnp.einsum("bhqk,bkhd->bqhd", probs, v)
    z = jnp.reshape(z, (b, h, w, c))
    return dense(p["out"], z)


def feed_forward(p: Tree, x: Any) -> Any:
    x = dense(p["up"], x)
    x = gelu(x)
    return dense(p["down"], x)


def block(p: Tree, x: Any, cfg: Any, k: int, i: int) -> Any:
    y = layer_norm(p["ln_a"], x, cfg.norm_eps)
    if i % 2:
        y = scaled(p["attn"], y, cfg.num_heads[k], cfg.sr_ratios[k], cfg.c_ratios[k])
    else:
        y = windowed(p["attn"], y, cfg.num_heads[k], cfg.window_sizes[k])
    x = x + y
    y = layer_norm(p["ln_f"], x, cfg.norm_eps)
    y = feed_forward(p["ffn"], y)
    return x + y


def position(p: Tree, x: Any) -> Any:
    return x + conv(p, x, pad=1, groups=x.shape[-1])


def stage(p: Tree, x: Any, cfg: Any, k: int) -> Any:
    stride = 2 if k else cfg.patch_size
    x = conv(p["patch"], x, stride=stride, pad=stride - 1)
    x = layer_norm(p["patch_ln"], x, cfg.norm_eps)
    for i, q in enumerate(p["blocks"]):
        x = block(q, x, cfg, k, i)
        if i == 0:
            x = position(p["pos"], x)
    return x


def classify(p: Tree, x: Any, cfg: Any) -> Any:
    if cfg.head == "mlp":
        x = dense(p["hidden"], x)
        x = layer_norm(p["ln"], x, cfg.norm_eps)
        x = gelu(x)
    return dense(p["classes"], x)


@functools.partial(jax.jit, static_argnames=("cfg",))
def apply(params: Tree, images: Any, *, cfg: Any) -> Any:
    x = jnp.transpose(images, (0, 2, 3, 1))
    for k, p in enumerate(params["stages"]):
        x = stage(p, x, cfg, k)
    x = layer_norm(params["ln"], x, cfg.norm_eps)
    x = jnp.mean(x, axis=(1, 2))
    return classify(params["head"], x, cfg)


def build(config: Any) -> Any:
    params = init(jax.random.key(0), config)
    return functools.partial(apply, params, cfg=config)
