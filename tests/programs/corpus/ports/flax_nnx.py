"""ScalableViT in Flax nnx: images are b c h w, maps are b h w c.

Written from the paper for a code base of detectors in JAX: a stage holds its patches (`embed`), its blocks (`body`) and its
position encoding (`cpe`); a block mixes tokens, then channels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def attend(q: Any, k: Any, v: Any, scale: float) -> Any:
    """Attention of b h t d: heads are the second axis."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * scale
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v)


def split_heads(x: Any, heads: int) -> Any:
    """Turn b t c into b heads t d."""
    b, t, c = x.shape
    return x.reshape(b, t, heads, c // heads).transpose(0, 2, 1, 3)


def merge_heads(x: Any) -> Any:
    """Turn b heads t d into b t c."""
    b, heads, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, t, heads * d)


def to_windows(x: Any, size: int) -> Any:
    """Cut b h w c into windows: b·n size² c."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def from_windows(x: Any, size: int, h: int, w: int) -> Any:
    """Put windows together again: b h w c."""
    c = x.shape[-1]
    x = x.reshape(-1, h // size, w // size, size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def depthwise(dim: int, size: int, rngs: nnx.Rngs, **kwargs: Any) -> nnx.Conv:
    return nnx.Conv(dim, dim, (size, size), feature_group_count=dim, rngs=rngs, **kwargs)


class WindowMixer(nnx.Module):
    """Interactive window attention: windows, and a depthwise convolution of the values across them."""

    def __init__(self, dim: int, heads: int, window: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.window = window
        self.scale = (dim // heads) ** -0.5
        self.to_qkv = nnx.Linear(dim, dim * 3, use_bias=bias, rngs=rngs)
        self.local = depthwise(dim, 3, rngs, padding=1)
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        _, h, w, _ = x.shape
        q, k, v = jnp.split(self.to_qkv(x), 3, axis=-1)
        qw, kw, vw = (split_heads(to_windows(t, self.window), self.heads) for t in (q, k, v))
        y = merge_heads(attend(qw, kw, vw, self.scale))
        y = from_windows(y, self.window, h, w)
        y = y + self.local(v)
        return self.out(y)


class ScalableMixer(nnx.Module):
    """Scalable attention: fewer keys and values, queries and keys of another width."""

    def __init__(self, dim: int, heads: int, reduction: int, ratio: float, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.reduction = reduction
        self.scale = (dim / heads * ratio) ** -0.5
        width = int(dim * ratio)
        if reduction > 1:
            self.to_q = nnx.Linear(dim, width, use_bias=bias, rngs=rngs)
            self.shrink = depthwise(dim, reduction, rngs, strides=reduction, padding="VALID")
            self.widen = nnx.Conv(dim, width, (1, 1), rngs=rngs)
            self.ln = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
            self.to_k = nnx.Linear(width, width, use_bias=bias, rngs=rngs)
            self.to_v = nnx.Linear(width, dim, use_bias=bias, rngs=rngs)
        else:
            self.to_q = nnx.Linear(dim, dim, use_bias=bias, rngs=rngs)
            self.to_kv = nnx.Linear(dim, dim * 2, use_bias=bias, rngs=rngs)
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        tokens = x.reshape(b, h * w, c)
        q = self.to_q(tokens)
        if self.reduction > 1:
            y = self.shrink(x)
            y = self.widen(y)
            y = jax.nn.gelu(self.ln(y), approximate=False)
            y = y.reshape(b, -1, y.shape[-1])
            k = self.to_k(y)
            v = self.to_v(y)
        else:
            k, v = jnp.split(self.to_kv(tokens), 2, axis=-1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        z = merge_heads(attend(q, k, v, self.scale))
        z = self.out(z)
        return z.reshape(b, h, w, c)


class ChannelMixer(nnx.Module):
    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(dim, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.up(x)
        x = jax.nn.gelu(x, approximate=False)
        return self.down(x)


class Block(nnx.Module):
    """A token mixer and a channel mixer, each with a norm before it and a shortcut around it."""

    def __init__(self, dim: int, token_mixer: nnx.Module, hidden: int, eps: float, *, rngs: nnx.Rngs) -> None:
        self.norm_t = nnx.LayerNorm(dim, epsilon=eps, rngs=rngs)
        self.token_mixer = token_mixer
        self.norm_c = nnx.LayerNorm(dim, epsilon=eps, rngs=rngs)
        self.channel_mixer = ChannelMixer(dim, hidden, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        t = self.norm_t(x)
        t = self.token_mixer(t)
        x = x + t
        m = self.norm_c(x)
        m = self.channel_mixer(m)
        return x + m


class Embed(nnx.Module):
    """Overlapping patches."""

    def __init__(self, chans: int, dim: int, stride: int, eps: float, *, rngs: nnx.Rngs) -> None:
        kernel = 2 * stride - 1
        self.conv = nnx.Conv(chans, dim, (kernel, kernel), strides=stride, padding=stride - 1, rngs=rngs)
        self.norm = nnx.LayerNorm(dim, epsilon=eps, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.conv(x)
        return self.norm(x)


class PositionConv(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.conv = depthwise(dim, 3, rngs, padding=1)

    def __call__(self, x: Any) -> Any:
        p = self.conv(x)
        return x + p


class Stage(nnx.Module):
    """Patches, blocks that alternate between the two token mixers, and a position encoding behind the first of them."""

    def __init__(self, config: Any, k: int, *, rngs: nnx.Rngs) -> None:
        dim = config.embed_dims[k]
        heads = config.num_heads[k]
        hidden = int(dim * config.mlp_ratios[k])
        chans = config.embed_dims[k - 1] if k else config.in_chans
        eps = config.norm_eps
        bias = config.qkv_bias
        self.embed = Embed(chans, dim, 2 if k else 4, eps, rngs=rngs)
        body = []
        for i in range(config.depths[k]):
            mixer: nnx.Module
            if i % 2 == 0:
                mixer = WindowMixer(dim, heads, config.window_sizes[k], bias=bias, rngs=rngs)
            else:
                mixer = ScalableMixer(dim, heads, config.sr_ratios[k], config.c_ratios[k], bias=bias, rngs=rngs)
            body.append(Block(dim, mixer, hidden, eps, rngs=rngs))
        self.body = nnx.List(body)
        self.cpe = PositionConv(dim, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.embed(x)
        for i, block in enumerate(self.body):
            x = block(x)
            if i == 0:
                x = self.cpe(x)
        return x


class Classifier(nnx.Module):
    """One linear layer, or the official two of 4096 hidden units."""

    def __init__(self, dim: int, classes: int, kind: str, eps: float, *, rngs: nnx.Rngs) -> None:
        self.kind = kind
        if kind == "mlp":
            self.hidden = nnx.Linear(dim, 4096, rngs=rngs)
            self.norm = nnx.LayerNorm(4096, epsilon=eps, rngs=rngs)
        self.last = nnx.Linear(4096 if kind == "mlp" else dim, classes, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        if self.kind == "mlp":
            x = self.hidden(x)
            x = self.norm(x)
            x = jax.nn.gelu(x, approximate=False)
        return self.last(x)


class ScalableViT(nnx.Module):
    def __init__(self, config: Any, *, rngs: nnx.Rngs) -> None:
        self.stages = nnx.List([Stage(config, k, rngs=rngs) for k in range(len(config.depths))])
        self.norm = nnx.LayerNorm(config.embed_dims[-1], epsilon=config.norm_eps, rngs=rngs)
        self.head = Classifier(config.embed_dims[-1], config.num_classes, config.head, config.norm_eps, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        x = images.transpose(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x)
        x = self.norm(x)
        x = x.mean(axis=(1, 2))
        return self.head(x)


def build(config: Any) -> nnx.Module:
    return ScalableViT(config, rngs=nnx.Rngs(0))
