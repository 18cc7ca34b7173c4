"""Somebody's port to PaddlePaddle, and a mistake that Paddle invites: its fused attention takes tokens before heads."""

import paddle.nn.functional as F
from paddle import nn

import scalablevit_ref as sv

CONFIG = sv.variant("digits")


def attend(q, k, v, heads, scale, heads_first):
    """Of tokens b n c. `F.scaled_dot_product_attention` wants b n heads d, and not b heads n d as PyTorch does."""
    q, k, v = (t.reshape([*t.shape[:2], heads, -1]) for t in (q, k, v))
    if heads_first:
        q, k, v = (t.transpose([0, 2, 1, 3]) for t in (q, k, v))
    q = q * (scale * q.shape[-1] ** 0.5)  # the function's own scale is d^-½
    z = F.scaled_dot_product_attention(q, k, v)
    return (z.transpose([0, 2, 1, 3]) if heads_first else z).flatten(2)


class WindowMixer(nn.Layer):
    def __init__(self, c, heads, window, heads_first):
        super().__init__()
        self.heads, self.window, self.heads_first = heads, window, heads_first
        self.to_qkv, self.local, self.out = nn.Linear(c, 3 * c), nn.Conv2D(c, c, 3, padding=1, groups=c), nn.Linear(c, c)

    def forward(self, x):
        b, h, w, c = x.shape
        p, qkv = self.window, self.to_qkv(x)
        cut = qkv.reshape([b, h // p, p, w // p, p, 3 * c]).transpose([0, 1, 3, 2, 4, 5]).reshape([-1, p * p, 3 * c])
        z = attend(*cut.chunk(3, axis=-1), self.heads, (c / self.heads) ** -0.5, self.heads_first)
        z = z.reshape([b, h // p, w // p, p, p, c]).transpose([0, 1, 3, 2, 4, 5]).reshape([b, h, w, c])
        near = self.local(qkv[:, :, :, 2 * c :].transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])
        return self.out(z + near)


class GlobalMixer(nn.Layer):
    def __init__(self, c, heads, reduce, ratio, heads_first):
        super().__init__()
        self.heads, self.ratio, self.reduce, self.heads_first = heads, ratio, reduce, heads_first
        width = int(c * ratio) if reduce > 1 else c
        self.query, self.out = nn.Linear(c, width), nn.Linear(c, c)
        if reduce > 1:
            self.tile, self.point = nn.Conv2D(c, c, reduce, stride=reduce, groups=c), nn.Conv2D(c, width, 1)
            self.squeeze_norm = nn.LayerNorm(width)
            self.key, self.value = nn.Linear(width, width), nn.Linear(width, c)
        else:
            self.key_value = nn.Linear(c, 2 * c)

    def forward(self, x):
        b, h, w, c = x.shape
        if self.reduce > 1:
            y = self.point(self.tile(x.transpose([0, 3, 1, 2]))).flatten(2).transpose([0, 2, 1])
            y = F.gelu(self.squeeze_norm(y))
            k, v = self.key(y), self.value(y)
        else:
            k, v = self.key_value(x.flatten(1, 2)).chunk(2, axis=-1)
        q = self.query(x.flatten(1, 2))
        z = attend(q, k, v, self.heads, (c / self.heads * self.ratio) ** -0.5, self.heads_first)
        return self.out(z.reshape([b, h, w, c]))


class Layer(nn.Layer):
    def __init__(self, k, i, heads_first):
        super().__init__()
        c, heads = CONFIG.embed_dims[k], CONFIG.num_heads[k]
        self.pre, self.post = nn.LayerNorm(c, 1e-6), nn.LayerNorm(c, 1e-6)
        if i % 2:
            self.mixer = GlobalMixer(c, heads, CONFIG.sr_ratios[k], CONFIG.c_ratios[k], heads_first)
        else:
            self.mixer = WindowMixer(c, heads, CONFIG.window_sizes[k], heads_first)
        hidden = int(c * CONFIG.mlp_ratios[k])
        self.up, self.down = nn.Linear(c, hidden), nn.Linear(hidden, c)

    def forward(self, x):
        x = x + self.mixer(self.pre(x))
        return x + self.down(F.gelu(self.up(self.post(x))))


class Level(nn.Layer):
    def __init__(self, k, heads_first):
        super().__init__()
        c, stride = CONFIG.embed_dims[k], 2 if k else CONFIG.patch_size
        chans = CONFIG.embed_dims[k - 1] if k else CONFIG.in_chans
        self.stem = nn.Conv2D(chans, c, 2 * stride - 1, stride=stride, padding=stride - 1)
        self.stem_norm = nn.LayerNorm(c, 1e-6)
        self.layers = nn.LayerList([Layer(k, i, heads_first) for i in range(CONFIG.depths[k])])
        self.where = nn.Conv2D(c, c, 3, padding=1, groups=c)

    def forward(self, x):
        x = self.stem_norm(self.stem(x).transpose([0, 2, 3, 1]))
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0:
                x = x + self.where(x.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])
        return x.transpose([0, 3, 1, 2])


class Net(nn.Layer):
    def __init__(self, heads_first):
        super().__init__()
        self.levels = nn.Sequential(*[Level(k, heads_first) for k in range(CONFIG.num_stages)])
        c = CONFIG.embed_dims[-1]
        self.last_norm, self.classifier = nn.LayerNorm(c, 1e-6), nn.Linear(c, CONFIG.num_classes)

    def forward(self, images):
        tokens = self.levels(images).flatten(2).transpose([0, 2, 1])
        return self.classifier(self.last_norm(tokens).mean(axis=1))


def port():
    """As one writes it who comes from PyTorch."""
    return Net(heads_first=True)


def mended():
    return Net(heads_first=False)
