"""Somebody's port to Flax, for b h w c images, and a mistake that Flax invites: its GELU is the tanh one unless told otherwise."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

import scalablevit_ref as sv

Norm = partial(nn.LayerNorm, epsilon=1e-6)


def attend(q, k, v, heads, scale):
    q, k, v = (rearrange(t, "b n (heads d) -> b heads n d", heads=heads) for t in (q, k, v))
    z = jax.nn.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1) @ v
    return rearrange(z, "b heads n d -> b n (heads d)")


class WindowAttention(nn.Module):
    heads: int
    window: int

    @nn.compact
    def __call__(self, x):
        c, p = x.shape[-1], self.window
        qkv = nn.Dense(3 * c)(x)
        tokens = rearrange(qkv, "b (i p) (j q) c -> (b i j) (p q) c", p=p, q=p)
        z = attend(*jnp.split(tokens, 3, axis=-1), self.heads, (c / self.heads) ** -0.5)
        z = rearrange(z, "(b i j) (p q) c -> b (i p) (j q) c", b=x.shape[0], i=x.shape[1] // p, p=p)
        return nn.Dense(c)(z + nn.Conv(c, (3, 3), padding=1, feature_group_count=c)(qkv[..., 2 * c :]))


class ScalableAttention(nn.Module):
    heads: int
    reduction: int
    ratio: float

    @nn.compact
    def __call__(self, x):
        b, _, _, c = x.shape
        s, width = self.reduction, int(c * self.ratio) if self.reduction > 1 else c
        q = nn.Dense(width)(x)
        if s > 1:
            y = nn.Conv(c, (s, s), (s, s), "VALID", feature_group_count=c)(x)
            y = nn.gelu(nn.LayerNorm(epsilon=1e-5)(nn.Conv(width, (1, 1))(y)), approximate=False)
            k, v = nn.Dense(width)(y), nn.Dense(c)(y)
        else:
            k, v = jnp.split(nn.Dense(2 * c)(x), 2, axis=-1)
        q, k, v = (t.reshape(b, -1, t.shape[-1]) for t in (q, k, v))
        return nn.Dense(c)(attend(q, k, v, self.heads, (c / self.heads * self.ratio) ** -0.5).reshape(x.shape))


class FeedForward(nn.Module):
    hidden: int
    exact: bool

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(self.hidden)(x)
        y = nn.gelu(y, approximate=False) if self.exact else nn.gelu(y)
        return nn.Dense(x.shape[-1])(y)


class Layer(nn.Module):
    attention: nn.Module
    feed_forward: nn.Module

    @nn.compact
    def __call__(self, x):
        x = x + self.attention(Norm()(x))
        return x + self.feed_forward(Norm()(x))


class Stem(nn.Module):
    dim: int
    stride: int

    @nn.compact
    def __call__(self, x):
        kernel, pad = 2 * self.stride - 1, self.stride - 1
        return Norm()(nn.Conv(self.dim, (kernel, kernel), (self.stride, self.stride), ((pad, pad), (pad, pad)))(x))


class Position(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Conv(x.shape[-1], (3, 3), padding=1, feature_group_count=x.shape[-1])(x)


class Port(nn.Module):
    """A network with the settings of `config`."""

    config: sv.ScalableViTConfig
    exact: bool = False

    @nn.compact
    def __call__(self, x):
        config = self.config
        for k, dim in enumerate(config.embed_dims):
            heads, hidden = config.num_heads[k], int(dim * config.mlp_ratios[k])
            x = Stem(dim, 2 if k else config.patch_size)(x)
            for i in range(config.depths[k]):
                if i % 2:
                    attention = ScalableAttention(heads, config.sr_ratios[k], config.c_ratios[k])
                else:
                    attention = WindowAttention(heads, config.window_sizes[k])
                x = Layer(attention, FeedForward(hidden, self.exact))(x)
                if i == 0:
                    x = Position()(x)
        return nn.Dense(config.num_classes)(Norm()(x).mean(axis=(1, 2)))


def bound(module, size):
    """With variables; the comparison puts in weights of its own."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *size, module.config.in_chans)))
    return module.bind(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))


def port(exact=False):
    """The variant `digits`: four stages of two blocks."""
    return bound(Port(sv.variant("digits"), exact), (112, 112))


def mended():
    return port(exact=True)
