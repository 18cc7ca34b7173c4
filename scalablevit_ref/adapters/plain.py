"""The official network in plain `torch.nn`, as its authors write it, on b n c tokens; its state dict is the official one.

What the benchmark's ratios are against, and the independent oracle of the tests: views and permutes where the specification has
einops, modules where that has functions, and no code of it but the settings. To be run eagerly, as people run the official one.
"""

# mypy: disable-error-code="no-any-return"
# (what a module gives is Any)

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit_ref.config import ScalableViTConfig


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.matmul(torch.matmul(q, k.transpose(-2, -1)).mul(scale).softmax(dim=-1), v)


class SSA(nn.Module):
    """Fewer keys, of scaled width. Without a reduction (s = 1) plain attention, whose scale keeps its r_c."""

    def __init__(self, config: ScalableViTConfig, stage: int) -> None:
        super().__init__()
        dim, self.heads, self.s = config.embed_dims[stage], config.num_heads[stage], config.sr_ratios[stage]
        ratio, bias = config.c_ratios[stage], config.qkv_bias
        width = dim if self.s == 1 else int(dim * ratio)
        v_width = width if config.ssa_values == "scaled" else dim
        self.scale = (dim / self.heads * (ratio if config.ssa_scale == "scaled" else 1)) ** -0.5
        self.q = nn.Linear(dim, width, bias)
        if self.s > 1:
            self.reduction = nn.Sequential(nn.Conv2d(dim, dim, self.s, self.s, groups=dim), nn.Conv2d(dim, width, 1))
            self.norm_act = nn.Sequential(nn.LayerNorm(width, eps=1e-5), nn.GELU())
        if self.s > 1 and config.ssa_values == "unscaled":
            self.k, self.v = nn.Linear(width, width, bias), nn.Linear(width, dim, bias)
        else:
            self.kv = nn.Linear(width, width + v_width, bias)
        self.proj = nn.Linear(v_width, dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, n, c = x.shape
        y = x
        if self.s > 1:
            y = self.reduction(x.transpose(1, 2).reshape(b, c, h, w)).flatten(2).transpose(1, 2)
            y = self.norm_act(y)
        k, v = self.kv(y).chunk(2, dim=-1) if hasattr(self, "kv") else (self.k(y), self.v(y))
        q, k, v = (t.reshape(b, t.shape[1], self.heads, -1).transpose(1, 2) for t in (self.q(x), k, v))
        return self.proj(attend(q, k, v, self.scale).transpose(1, 2).reshape(b, n, -1))


class IWSA(nn.Module):
    """Attention in windows; the local interactive module convolves the value map and is added before `proj`."""

    def __init__(self, config: ScalableViTConfig, stage: int) -> None:
        super().__init__()
        dim, self.heads, self.p = config.embed_dims[stage], config.num_heads[stage], config.window_sizes[stage]
        self.qkv = nn.Linear(dim, 3 * dim, config.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.lim_func = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, n, c = x.shape
        p, d = self.p, c // self.heads
        x = F.pad(x.view(b, h, w, c), (0, 0, 0, -w % p, 0, -h % p))  # pads nothing where windows divide the map
        rows, columns = x.shape[1], x.shape[2]
        qkv = self.qkv(x)
        lim = self.lim_func(qkv[..., 2 * c :].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        windows = qkv.view(b, rows // p, p, columns // p, p, 3, self.heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = windows.reshape(3, b, rows // p, columns // p, self.heads, p * p, d)
        z = attend(q, k, v, d**-0.5).view(b, rows // p, columns // p, self.heads, p, p, d)
        z = z.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, rows, columns, c) + lim
        return self.proj(z[:, :h, :w].reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: ScalableViTConfig, stage: int, i: int) -> None:
        super().__init__()
        dim = config.embed_dims[stage]
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = (IWSA if i % 2 == 0 else SSA)(config, stage)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratios[stage]))

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = x + self.attn(self.norm1(x), h, w)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, dim: int, stride: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, 2 * stride - 1, stride, stride - 1)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # still a map, b h w c, for its size


class PosCNN(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, _, c = x.shape
        image = x.transpose(1, 2).view(b, c, h, w)
        return (self.proj(image) + image).flatten(2).transpose(1, 2)


class ScalableViT(nn.Module):
    """Images b c h w to logits; `features` is the detection backbone's forward pass, maps b c h w."""

    def __init__(self, config: ScalableViTConfig) -> None:
        super().__init__()
        dims, stages = config.embed_dims, range(len(config.embed_dims))
        eps = config.norm_eps if config.embed_norm_eps is None else config.embed_norm_eps
        self.patch_embeds = nn.ModuleList(
            PatchEmbed((config.in_chans, *dims)[k], dims[k], 2 if k else config.patch_size, eps) for k in stages
        )
        self.pos_block = nn.ModuleList(PosCNN(dim) for dim in dims)
        if config.stage_norms:
            self.norm_list = nn.ModuleList(nn.LayerNorm(dim, eps=config.norm_eps) for dim in dims)
        self.stages = nn.ModuleList(nn.ModuleList(Block(config, k, i) for i in range(config.depths[k])) for k in stages)
        if not config.stage_norms:
            self.norm = nn.LayerNorm(dims[-1], eps=config.norm_eps)
        classes = config.num_classes
        self.head: nn.Module
        if config.head == "mlp":
            last = nn.Linear(4096, classes) if classes else nn.Identity()
            self.head = nn.Sequential(nn.Linear(dims[-1], 4096), nn.LayerNorm(4096, eps=config.norm_eps), nn.GELU(), last)
        elif config.head == "linear":
            self.head = nn.Linear(dims[-1], classes) if classes else nn.Identity()

    def features(self, x: Tensor) -> list[Tensor]:
        maps = []
        stages: Any = self.stages
        for k, blocks in enumerate(stages):
            x = self.patch_embeds[k](x)
            b, h, w, c = x.shape
            x = x.reshape(b, h * w, c)
            for i, block in enumerate(blocks):
                x = block(x, h, w)
                if i == 0:
                    x = self.pos_block[k](x, h, w)
            if hasattr(self, "norm_list"):
                x = self.norm_list[k](x)
            x = x.transpose(1, 2).reshape(b, c, h, w)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)[-1].flatten(2).transpose(1, 2)
        if hasattr(self, "norm"):
            x = self.norm(x)
        x = x.mean(dim=1)
        return self.head(x) if hasattr(self, "head") else x
