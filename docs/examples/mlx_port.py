"""Somebody's port to MLX, for b h w c images, and a mistake that MLX invites: its LayerNorm's eps is 1e-5 unless told otherwise."""

import mlx.core as mx
from mlx import nn

import scalablevit_ref as sv


def heads_apart(x, heads):
    b, n, c = x.shape
    return x.reshape(b, n, heads, c // heads).transpose(0, 2, 1, 3)


def attend(q, k, v, heads, scale):
    q, k, v = (heads_apart(t, heads) for t in (q, k, v))
    z = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    return z.transpose(0, 2, 1, 3).reshape(z.shape[0], z.shape[2], -1)


class WindowAttention(nn.Module):
    def __init__(self, dim, heads, window):
        super().__init__()
        self.heads, self.window = heads, window
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def __call__(self, x):
        b, h, w, c = x.shape
        p = self.window
        qkv = self.in_proj(x)
        tokens = qkv.reshape(b, h // p, p, w // p, p, 3 * c).swapaxes(2, 3).reshape(-1, p * p, 3 * c)
        z = attend(*mx.split(tokens, 3, axis=-1), self.heads, (c / self.heads) ** -0.5)
        z = z.reshape(b, h // p, w // p, p, p, c).swapaxes(2, 3).reshape(b, h, w, c)
        return self.out_proj(z + self.local(qkv[..., 2 * c :]))


class ScalableAttention(nn.Module):
    def __init__(self, dim, heads, reduction, ratio):
        super().__init__()
        width = int(dim * ratio) if reduction > 1 else dim
        self.heads, self.scale = heads, (dim / heads * ratio) ** -0.5
        self.query, self.out_proj = nn.Linear(dim, width), nn.Linear(dim, dim)
        if reduction > 1:
            self.tiles = nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim)
            self.widen, self.norm = nn.Conv2d(dim, width, 1), nn.LayerNorm(width)
            self.key, self.value = nn.Linear(width, width), nn.Linear(width, dim)
        else:
            self.key_value = nn.Linear(dim, 2 * dim)

    def __call__(self, x):
        b = x.shape[0]
        if "tiles" in self:
            y = nn.gelu(self.norm(self.widen(self.tiles(x))))
            k, v = self.key(y), self.value(y)
        else:
            k, v = mx.split(self.key_value(x), 2, axis=-1)
        q, k, v = (t.reshape(b, -1, t.shape[-1]) for t in (self.query(x), k, v))
        return self.out_proj(attend(q, k, v, self.heads, self.scale).reshape(x.shape))


class Layer(nn.Module):
    def __init__(self, dim, hidden, mixer, eps):
        super().__init__()
        self.mixer = mixer
        self.ln_mixer, self.ln_ffn = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def __call__(self, x):
        x = x + self.mixer(self.ln_mixer(x))
        return x + self.ffn(self.ln_ffn(x))


class Stage(nn.Module):
    def __init__(self, config, k, eps):
        super().__init__()
        dim, before = config.embed_dims[k], (config.in_chans, *config.embed_dims)[k]
        stride, hidden = 2 if k else config.patch_size, int(dim * config.mlp_ratios[k])
        self.down = nn.Conv2d(before, dim, 2 * stride - 1, stride=stride, padding=stride - 1)
        self.ln = nn.LayerNorm(dim, eps=1e-6)
        self.peg = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.layers = []
        for i in range(config.depths[k]):
            if i % 2:
                mixer = ScalableAttention(dim, config.num_heads[k], config.sr_ratios[k], config.c_ratios[k])
            else:
                mixer = WindowAttention(dim, config.num_heads[k], config.window_sizes[k])
            self.layers.append(Layer(dim, hidden, mixer, eps))

    def __call__(self, x):
        x = self.ln(self.down(x))
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0:
                x = x + self.peg(x)
        return x


class Port(nn.Module):
    """A network with the settings of `config`; `eps` is that of the layers' norms."""

    def __init__(self, config, eps=1e-5):
        super().__init__()
        self.stages = [Stage(config, k, eps) for k in range(len(config.embed_dims))]
        self.ln = nn.LayerNorm(config.embed_dims[-1], eps=1e-6)
        self.classes = nn.Linear(config.embed_dims[-1], config.num_classes)

    def __call__(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.classes(self.ln(x).mean(axis=(1, 2)))


def port():
    """The variant `digits`: four stages of two blocks."""
    return Port(sv.variant("digits"))


def mended():
    return Port(sv.variant("digits"), eps=1e-6)
