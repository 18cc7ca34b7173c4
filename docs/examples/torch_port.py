"""Somebody's port to PyTorch, with names and layouts of its own, and a mistake: the heads of stages.1.0 are interleaved."""

import torch.nn.functional as F
from einops import rearrange
from torch import nn

import scalablevit_ref as sv


class ChannelNorm(nn.LayerNorm):
    """Over the channels of a b c h w map."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    def __init__(self, dim, heads, window, split="(heads d)"):
        super().__init__()
        self.heads, self.window, self.split = heads, window, split
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.out = nn.Conv2d(dim, dim, 1)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x):
        maps = self.to_qkv(x).chunk(3, dim=1)
        cut = f"b {self.split} (gh p) (gw q) -> (b gh gw) heads (p q) d"
        q, k, v = (rearrange(t, cut, heads=self.heads, p=self.window, q=self.window) for t in maps)
        z = F.scaled_dot_product_attention(q, k, v)
        merge = f"(b gh gw) heads (p q) d -> b {self.split} (gh p) (gw q)"
        z = rearrange(z, merge, gh=x.shape[2] // self.window, gw=x.shape[3] // self.window, p=self.window)
        return self.out(z + self.local(maps[2]))


class ScalableAttention(nn.Module):
    def __init__(self, dim, heads, reduction, ratio):
        super().__init__()
        self.heads, self.scale = heads, (dim / heads * ratio) ** -0.5
        width = int(dim * ratio) if reduction > 1 else dim
        self.to_q = nn.Conv2d(dim, width, 1)
        self.reduce = None
        if reduction > 1:
            shrink = nn.Conv2d(dim, dim, reduction, reduction, groups=dim)
            self.reduce = nn.Sequential(shrink, nn.Conv2d(dim, width, 1), ChannelNorm(width, eps=1e-5), nn.GELU())
            self.to_k, self.to_v = nn.Conv2d(width, width, 1), nn.Conv2d(width, dim, 1)
        else:
            self.to_kv = nn.Conv2d(dim, 2 * dim, 1)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        y = self.reduce(x) if self.reduce else x
        k, v = (self.to_k(y), self.to_v(y)) if self.reduce else self.to_kv(y).chunk(2, dim=1)
        q, k, v = (rearrange(t, "b (heads d) h w -> b heads (h w) d", heads=self.heads) for t in (self.to_q(x), k, v))
        z = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(rearrange(z, "b heads (h w) d -> b (heads d) h w", h=x.shape[2]))


class Layer(nn.Module):
    def __init__(self, dim, attention, hidden):
        super().__init__()
        self.before, self.attention = ChannelNorm(dim, eps=1e-6), attention
        self.between, self.feed = (
            ChannelNorm(dim, eps=1e-6),
            nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1)),
        )

    def forward(self, x):
        x = x + self.attention(self.before(x))
        return x + self.feed(self.between(x))


class Stem(nn.Module):
    def __init__(self, channels, dim, stride):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, dim, 2 * stride - 1, stride, stride - 1), ChannelNorm(dim, eps=1e-6)

    def forward(self, x):
        return self.norm(self.conv(x))


class Position(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x):
        return x + self.conv(x)


class Port(nn.Module):
    """A network with these settings. `splits`: how each stage's channels are split into heads in its windows."""

    def __init__(self, config, splits=()):
        super().__init__()
        dims = config.embed_dims
        self.body = nn.ModuleList()
        for k, dim in enumerate(dims):
            heads, hidden = config.num_heads[k], int(dim * config.mlp_ratios[k])
            layers = [Stem((config.in_chans, *dims)[k], dim, 2 if k else config.patch_size)]
            for i in range(config.depths[k]):
                if i % 2:
                    attention = ScalableAttention(dim, heads, config.sr_ratios[k], config.c_ratios[k])
                else:
                    attention = WindowAttention(dim, heads, config.window_sizes[k], *splits[k : k + 1])
                layers.append(Layer(dim, attention, hidden))
                if i == 0:
                    layers.append(Position(dim))
            self.body.append(nn.Sequential(*layers))
        self.norm, self.classifier = nn.LayerNorm(dims[-1], eps=1e-6), nn.Linear(dims[-1], config.num_classes)

    def forward(self, x):
        for stage in self.body:
            x = stage(x)
        return self.classifier(self.norm(x.flatten(2).transpose(1, 2)).mean(dim=1))


class DigitsPort(Port):
    """The variant `digits`: four stages of two blocks."""

    def __init__(self, split="(d heads)"):
        super().__init__(sv.variant("digits"), ("(heads d)", split, "(heads d)", "(heads d)"))


def mended():
    return DigitsPort(split="(heads d)")


def twice_wrong():
    """With a second mistake that no list knows: stages.2.0 has Mish for GELU."""
    network = DigitsPort()
    network.body[2][1].feed[1] = nn.Mish()
    return network
