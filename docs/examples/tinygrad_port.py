"""Somebody's port to tinygrad, and a mistake that tinygrad invites: its `gelu` is the approximation by tanh."""

from tinygrad import Tensor, nn

import scalablevit_ref as sv

CONFIG = sv.variant("digits")


def exact_gelu(x):
    return x * 0.5 * (1 + (x * 0.5**0.5).erf())


def attend(q, k, v, heads, scale):
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    return (q @ k.transpose(-2, -1) * scale).softmax(-1).matmul(v).transpose(1, 2).flatten(2)


class Windows:
    def __init__(self, c, heads, window):
        self.heads, self.window = heads, window
        self.to_qkv, self.local, self.out = nn.Linear(c, 3 * c), nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Linear(c, c)

    def __call__(self, x, gelu):
        b, h, w, c = x.shape
        p, qkv = self.window, self.to_qkv(x)
        cut = qkv.reshape(b, h // p, p, w // p, p, 3 * c).permute(0, 1, 3, 2, 4, 5).reshape(-1, p * p, 3 * c)
        z = attend(*cut.chunk(3, dim=-1), self.heads, (c / self.heads) ** -0.5)
        z = z.reshape(b, h // p, w // p, p, p, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        near = self.local(qkv[:, :, :, 2 * c :].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.out(z + near)


class Global:
    def __init__(self, c, heads, reduce, ratio):
        self.heads, self.ratio, self.reduce = heads, ratio, reduce
        width = int(c * ratio) if reduce > 1 else c
        self.query, self.out = nn.Linear(c, width), nn.Linear(c, c)
        if reduce > 1:
            self.tile, self.point = nn.Conv2d(c, c, reduce, stride=reduce, groups=c), nn.Conv2d(c, width, 1)
            self.squeeze_norm = nn.LayerNorm(width)
            self.key, self.value = nn.Linear(width, width), nn.Linear(width, c)
        else:
            self.key_value = nn.Linear(c, 2 * c)

    def __call__(self, x, gelu):
        b, h, w, c = x.shape
        if self.reduce > 1:
            y = self.point(self.tile(x.permute(0, 3, 1, 2))).flatten(2).transpose(1, 2)
            y = gelu(self.squeeze_norm(y))
            k, v = self.key(y), self.value(y)
        else:
            k, v = self.key_value(x.reshape(b, h * w, c)).chunk(2, dim=-1)
        q = self.query(x.reshape(b, h * w, c))
        return self.out(attend(q, k, v, self.heads, (c / self.heads * self.ratio) ** -0.5).reshape(b, h, w, c))


class Layer:
    def __init__(self, k, i):
        c, heads = CONFIG.embed_dims[k], CONFIG.num_heads[k]
        self.pre, self.post = nn.LayerNorm(c, eps=1e-6), nn.LayerNorm(c, eps=1e-6)
        if i % 2:
            self.mixer = Global(c, heads, CONFIG.sr_ratios[k], CONFIG.c_ratios[k])
        else:
            self.mixer = Windows(c, heads, CONFIG.window_sizes[k])
        hidden = int(c * CONFIG.mlp_ratios[k])
        self.up, self.down = nn.Linear(c, hidden), nn.Linear(hidden, c)

    def __call__(self, x, gelu):
        x = x + self.mixer(self.pre(x), gelu)
        return x + self.down(gelu(self.up(self.post(x))))


class Level:
    def __init__(self, k):
        c, stride = CONFIG.embed_dims[k], 2 if k else CONFIG.patch_size
        chans = CONFIG.embed_dims[k - 1] if k else CONFIG.in_chans
        self.stem = nn.Conv2d(chans, c, 2 * stride - 1, stride=stride, padding=stride - 1)
        self.stem_norm = nn.LayerNorm(c, eps=1e-6)
        self.layers = [Layer(k, i) for i in range(CONFIG.depths[k])]
        self.where = nn.Conv2d(c, c, 3, padding=1, groups=c)

    def __call__(self, x, gelu):
        x = self.stem_norm(self.stem(x).permute(0, 2, 3, 1))
        for i, layer in enumerate(self.layers):
            x = layer(x, gelu)
            if i == 0:
                x = x + self.where(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x.permute(0, 3, 1, 2)


class Net:
    def __init__(self, gelu):
        self.gelu = gelu
        self.levels = [Level(k) for k in range(CONFIG.num_stages)]
        c = CONFIG.embed_dims[-1]
        self.last_norm, self.classifier = nn.LayerNorm(c, eps=1e-6), nn.Linear(c, CONFIG.num_classes)

    def __call__(self, images):
        for level in self.levels:
            images = level(images, self.gelu)
        return self.classifier(self.last_norm(images.flatten(2).transpose(1, 2)).mean(axis=1))


def port():
    return Net(Tensor.gelu)


def mended():
    return Net(exact_gelu)
