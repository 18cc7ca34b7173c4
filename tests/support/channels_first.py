"""A port in a style of its own, b c h w with 1 × 1 convolutions, whose mistakes are other lines in its source."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import inspect
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit_ref.config import ScalableViTConfig


class ChannelNorm(nn.Module):
    def __init__(self, c: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma, self.beta, self.eps = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c)), eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).square().mean(1, keepdim=True)
        x = (x - mean) / (variance + self.eps).sqrt()
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


class WindowMixer(nn.Module):
    def __init__(self, c: int, heads: int, p: int) -> None:
        super().__init__()
        self.heads, self.p = heads, p
        self.inner, self.outer = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)
        self.local = nn.Conv2d(c, c, 3, padding=1, groups=c)

    def cut(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, self.heads, c // self.heads, h // self.p, self.p, w // self.p, self.p)
        return x.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, self.heads, self.p**2, c // self.heads)

    def paste(self, x: Tensor, h: int, w: int) -> Tensor:
        x = x.view(-1, h // self.p, w // self.p, self.heads, self.p, self.p, x.shape[-1])
        return x.permute(0, 3, 6, 1, 4, 2, 5).reshape(x.shape[0], -1, h, w)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q, k, v = self.inner(x).chunk(3, 1)
        weights = self.cut(q) @ self.cut(k).mT * (q.shape[1] // self.heads) ** -0.5
        z = self.paste(weights.softmax(-1) @ self.cut(v), h, w)
        lim = self.local(v)
        return self.outer(z + lim)


class FewKeysMixer(nn.Module):
    def __init__(self, c: int, heads: int, s: int, ratio: float) -> None:
        super().__init__()
        self.heads, self.s, width = heads, s, int(c * ratio) if s > 1 else c
        self.scale = (c / heads * ratio) ** -0.5
        self.query, self.outer = nn.Conv2d(c, width, 1), nn.Conv2d(c, c, 1)
        if s > 1:
            self.squeeze, self.widen = nn.Conv2d(c, c, s, s, groups=c), nn.Conv2d(c, width, 1)
            self.norm = ChannelNorm(width, 1e-5)
            self.key, self.value = nn.Conv2d(width, width, 1), nn.Conv2d(width, c, 1)
        else:
            self.both = nn.Conv2d(c, 2 * c, 1)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2] * x.shape[3]).mT

    def forward(self, x: Tensor) -> Tensor:
        if self.s > 1:
            y = self.widen(self.squeeze(x))
            y = F.gelu(self.norm(y))
            k, v = self.key(y), self.value(y)
        else:
            k, v = self.both(x).chunk(2, 1)
        weights = (self.split(self.query(x)) @ self.split(k).mT * self.scale).softmax(-1)
        z = (weights @ self.split(v)).mT
        return self.outer(z.reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self, c: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(c, hidden, 1), nn.Conv2d(hidden, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Unit(nn.Module):
    def __init__(self, c: int, mixer: nn.Module, hidden: int) -> None:
        super().__init__()
        self.before, self.mixer, self.between, self.mlp = ChannelNorm(c), mixer, ChannelNorm(c), Mlp(c, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        x = x + self.mixer(y)
        y = self.between(x)
        return x + self.mlp(y)


class Stem(nn.Module):
    def __init__(self, c_in: int, c: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c_in, c, 2 * stride - 1, stride, stride - 1), ChannelNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Position(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Port(nn.Module):
    def __init__(self, config: ScalableViTConfig) -> None:
        super().__init__()
        dims = config.embed_dims
        self.stems = nn.ModuleList(Stem((config.in_chans, *dims)[k], c, 2 if k else 4) for k, c in enumerate(dims))
        self.positions = nn.ModuleList(Position(c) for c in dims)
        self.levels = nn.ModuleList(nn.ModuleList(self.unit(config, k, i) for i in range(n)) for k, n in enumerate(config.depths))
        self.norm, self.head = ChannelNorm(dims[-1]), nn.Linear(dims[-1], config.num_classes)

    @staticmethod
    def unit(config: ScalableViTConfig, k: int, i: int) -> Unit:
        c, heads = config.embed_dims[k], config.num_heads[k]
        few = FewKeysMixer(c, heads, config.sr_ratios[k], config.c_ratios[k])
        return Unit(c, few if i % 2 else WindowMixer(c, heads, config.window_sizes[k]), int(c * config.mlp_ratios[k]))

    def forward(self, x: Tensor) -> Tensor:
        levels: Any = self.levels
        for stem, position, units in zip(self.stems, self.positions, levels, strict=True):
            x = stem(x)
            for i, unit in enumerate(units):
                x = unit(x)
                x = position(x) if i == 0 else x
        x = self.norm(x)
        x = x.mean((2, 3))
        return self.head(x)


def mistaken(port: nn.Module, kind: type[nn.Module], old: str, new: str, method: str = "forward") -> None:
    """In all modules of this kind, `new` stands where `old` stood in the source of a method."""
    source = inspect.cleandoc("class _:\n" + inspect.getsource(getattr(kind, method))).removeprefix("class _:\n")
    assert source.count(old) == 1, (old, source)
    lines: dict[str, Any] = dict(globals())
    exec(compile(source.replace(old, new), "mistake.py", "exec"), lines)
    for module in port.modules():
        if type(module) is kind:
            setattr(module, method, types.MethodType(lines[method], module))
