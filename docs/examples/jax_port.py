"""Somebody's port to plain JAX functions of one tree of parameters, and a mistake that JAX invites: its padding is SAME."""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

import scalablevit_ref as sv

CONFIG = sv.variant("digits")


def dense(x, p):
    return x @ p["w"] + p["b"]


def conv(x, p, stride=1, padding="VALID"):
    axes = ("NHWC", "HWIO", "NHWC")
    groups = x.shape[-1] // p["w"].shape[2]
    return lax.conv_general_dilated(x, p["w"], (stride, stride), padding, None, None, axes, groups) + p["b"]


def norm(x, p, eps=1e-6):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + eps) * p["w"] + p["b"]


def attend(q, k, v, heads, scale):
    q, k, v = (rearrange(t, "b n (heads d) -> b heads n d", heads=heads) for t in (q, k, v))
    return rearrange(jax.nn.softmax(q @ k.swapaxes(-1, -2) * scale) @ v, "b heads n d -> b n (heads d)")


def window_attention(x, p, heads, window):
    qkv = dense(x, p["qkv"])
    tokens = rearrange(qkv, "b (i p) (j q) c -> (b i j) (p q) c", p=window, q=window)
    z = attend(*jnp.split(tokens, 3, axis=-1), heads, (x.shape[-1] / heads) ** -0.5)
    z = rearrange(z, "(b i j) (p q) c -> b (i p) (j q) c", b=x.shape[0], i=x.shape[1] // window, p=window)
    return dense(z + conv(qkv[..., 2 * x.shape[-1] :], p["local"], padding="SAME"), p["out"])


def scalable_attention(x, p, heads, reduction, ratio):
    y = x
    if reduction > 1:
        y = conv(conv(x, p["tile"], reduction), p["point"])
        y = jax.nn.gelu(norm(y, p["norm"], 1e-5), approximate=False)
    q, k, v = (rearrange(t, "b h w c -> b (h w) c") for t in (dense(x, p["q"]), dense(y, p["k"]), dense(y, p["v"])))
    return dense(attend(q, k, v, heads, (x.shape[-1] / heads * ratio) ** -0.5).reshape(x.shape), p["out"])


def block(x, p, k, i):
    y, heads = norm(x, p["norm1"]), CONFIG.num_heads[k]
    if i % 2:
        x = x + scalable_attention(y, p["attention"], heads, CONFIG.sr_ratios[k], CONFIG.c_ratios[k])
    else:
        x = x + window_attention(y, p["attention"], heads, CONFIG.window_sizes[k])
    return x + dense(jax.nn.gelu(dense(norm(x, p["norm2"]), p["up"]), approximate=False), p["down"])


def forward(params, images, padding="SAME"):
    """Images b c h w to logits. With padding `None` each side gets the stride less one."""
    x = jnp.moveaxis(images, 1, -1)
    for k, stage in enumerate(params["stages"]):
        stride = 2 if k else CONFIG.patch_size
        x = norm(conv(x, stage["embed"], stride, padding or [(stride - 1, stride - 1)] * 2), stage["norm"])
        for i, p in enumerate(stage["blocks"]):
            x = block(x, p, k, i)
            if i == 0:
                x = x + conv(x, stage["position"], padding="SAME")
    return dense(norm(x, params["norm"]).mean((1, 2)), params["head"])


def zeros(*shape):
    return {"w": jnp.zeros(shape), "b": jnp.zeros(shape[-1])}


def tree():
    """All parameters; the comparison puts in weights of its own."""
    stages, chans = [], CONFIG.in_chans
    for k, c in enumerate(CONFIG.embed_dims):
        s, kernel = CONFIG.sr_ratios[k], 3 if k else 7
        width = int(c * CONFIG.c_ratios[k]) if s > 1 else c
        windows = {"qkv": zeros(c, 3 * c), "local": zeros(3, 3, 1, c), "out": zeros(c, c)}
        scalable = {"q": zeros(c, width), "k": zeros(width, width), "v": zeros(width, c), "out": zeros(c, c)}
        if s > 1:
            scalable |= {"tile": zeros(s, s, 1, c), "point": zeros(1, 1, c, width), "norm": zeros(width)}
        hidden = int(c * CONFIG.mlp_ratios[k])
        halves = {"norm1": zeros(c), "norm2": zeros(c), "up": zeros(c, hidden), "down": zeros(hidden, c)}
        blocks = [{"attention": scalable if i % 2 else windows, **halves} for i in range(CONFIG.depths[k])]
        embed = {"embed": zeros(kernel, kernel, chans, c), "norm": zeros(c), "position": zeros(3, 3, 1, c)}
        stages.append({**embed, "blocks": jax.tree.map(jnp.copy, blocks)})
        chans = c
    return {"stages": stages, "norm": zeros(c), "head": zeros(c, CONFIG.num_classes)}


def port():
    """A function of images alone."""
    return functools.partial(forward, tree())


def mended():
    return jax.jit(functools.partial(forward, tree(), padding=None))
