"""ScalableViT in the manner of a PyTorch image library: maps are (B, C, H, W) between stages, tokens (B, N, C) inside."""

# ruff: noqa: N806, RET504, RUF007 - as a library of this style writes it

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """(B, H, W, C) -> (B * num_windows, window_size * window_size, C)."""
    B, H, W, C = x.shape
    x = x.view(B, H // window_size, window_size, W // window_size, window_size, C)
    x = x.permute(0, 1, 3, 2, 4, 5).contiguous()
    return x.view(-1, window_size * window_size, C)


def window_reverse(windows: Tensor, window_size: int, size: Size) -> Tensor:
    """(B * num_windows, window_size * window_size, C) -> (B, H, W, C)."""
    H, W = size
    C = windows.shape[-1]
    maps = windows.view(-1, H // window_size, W // window_size, window_size, window_size, C)
    maps = maps.permute(0, 1, 3, 2, 4, 5).contiguous()
    return maps.view(-1, H, W, C)


def to_map(x: Tensor, size: Size) -> Tensor:
    """(B, N, C) -> (B, C, H, W)."""
    B, _, C = x.shape
    return x.transpose(1, 2).reshape(B, C, *size)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


class DropPath(nn.Module):
    """Stochastic depth per sample."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


class LayerScale(nn.Module):
    def __init__(self, dim: int, init_values: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Overlapping patches of the image, stride 4."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, norm_eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=2 * patch_size - 1, stride=patch_size, padding=patch_size - 1)
        self.norm = LayerNorm2d(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return self.norm(x)


class Downsample(nn.Module):
    def __init__(self, dim: int, out_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1)
        self.norm = LayerNorm2d(out_dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.norm(x)
        return x


class PosConv(nn.Module):
    """Conditional position encoding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        feat = to_map(x, size)
        feat = self.dw(feat) + feat
        return to_tokens(feat)


class Ffn(nn.Module):
    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.w2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.w1(x)
        x = self.act(x)
        x = self.drop(x)
        x = self.w2(x)
        return self.drop(x)


class WindowAttention(nn.Module):
    """Attention inside windows; a depthwise convolution of the values lets the windows interact."""

    def __init__(self, dim: int, num_heads: int, window_size: int, qkv_bias: bool = True, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        B, N, C = x.shape
        H, W = size
        qkv = self.qkv(x).view(B, H, W, 3 * C)
        local = self.dwconv(qkv[..., 2 * C :].permute(0, 3, 1, 2))

        windows = window_partition(qkv, self.window_size)
        T = windows.shape[1]
        windows = windows.view(-1, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = windows.unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        attn = attn.softmax(dim=-1)
        attn = self.attn_drop(attn)
        out = (attn @ v).transpose(1, 2).reshape(-1, T, C)
        out = window_reverse(out, self.window_size, (H, W)).view(B, N, C)

        out = out + to_tokens(local)
        return self.proj(out)


class ScalableAttention(nn.Module):
    """Attention to fewer tokens of scaled width."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, c_ratio: float, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        head_dim = dim // num_heads
        self.scale = (head_dim * c_ratio) ** -0.5
        if sr_ratio > 1:
            inner = int(dim * c_ratio)
            self.q = nn.Linear(dim, inner, bias=qkv_bias)
            self.reduce = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio, groups=dim)
            self.expand = nn.Conv2d(dim, inner, kernel_size=1)
            self.norm = nn.LayerNorm(inner, eps=1e-5)
            self.act = nn.GELU()
            self.k = nn.Linear(inner, inner, bias=qkv_bias)
            self.v = nn.Linear(inner, dim, bias=qkv_bias)
        else:
            self.q = nn.Linear(dim, dim, bias=qkv_bias)
            self.kv = nn.Linear(dim, dim * 2, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        return x.view(B, N, self.num_heads, C // self.num_heads).transpose(1, 2)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        B, N, C = x.shape
        q = self.q(x)
        if self.sr_ratio > 1:
            feat = to_map(x, size)
            feat = self.expand(self.reduce(feat))
            y = to_tokens(feat)
            y = self.norm(y)
            y = self.act(y)
            k = self.k(y)
            v = self.v(y)
        else:
            k, v = self.kv(x).chunk(2, dim=-1)
        q, k, v = self.heads(q), self.heads(k), self.heads(v)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        out = out.transpose(1, 2).reshape(B, N, C)
        return self.proj(out)


class Block(nn.Module):
    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        init_values: float | None = None,
        norm_layer: Any = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attn
        self.ls1 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.ffn = Ffn(dim, int(dim * mlp_ratio), drop)
        self.ls2 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), size)))
        x = x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))
        return x


class Stage(nn.Module):
    """Window attention in even blocks, scalable attention in odd blocks."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        window_size: int,
        sr_ratio: int,
        c_ratio: float,
        mlp_ratio: float,
        qkv_bias: bool = True,
        norm_layer: Any = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(depth):
            if i % 2 == 0:
                attn: nn.Module = WindowAttention(dim, num_heads, window_size, qkv_bias)
            else:
                attn = ScalableAttention(dim, num_heads, sr_ratio, c_ratio, qkv_bias)
            self.blocks.append(Block(dim, attn, mlp_ratio, norm_layer=norm_layer))
        self.pos = PosConv(dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        x = to_tokens(x)
        for i, block in enumerate(self.blocks):
            x = block(x, size)
            if i == 0:
                x = self.pos(x, size)
        return to_map(x, size)


class MlpHead(nn.Module):
    def __init__(self, dim: int, num_classes: int, hidden: int = 4096, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden, eps=norm_eps)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.norm(self.fc1(x))))


class ScalableViT(nn.Module):
    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 20, 2),
        num_heads: tuple[int, ...] = (2, 4, 8, 16),
        mlp_ratios: tuple[float, ...] = (4, 4, 4, 4),
        sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
        c_ratios: tuple[float, ...] = (1.25, 1.25, 1.25, 1),
        window_sizes: tuple[int, ...] = (7, 7, 7, 7),
        patch_size: int = 4,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        mlp_head: bool = True,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        norm_layer = partial(nn.LayerNorm, eps=norm_eps)
        self.stem = Stem(in_chans, embed_dims[0], patch_size, norm_eps)
        self.downsamples = nn.ModuleList(
            Downsample(dim, out_dim, norm_eps) for dim, out_dim in zip(embed_dims[:-1], embed_dims[1:], strict=True)
        )
        self.stages = nn.Sequential(
            *(
                Stage(
                    dim=embed_dims[k],
                    depth=depths[k],
                    num_heads=num_heads[k],
                    window_size=window_sizes[k],
                    sr_ratio=sr_ratios[k],
                    c_ratio=c_ratios[k],
                    mlp_ratio=mlp_ratios[k],
                    qkv_bias=qkv_bias,
                    norm_layer=norm_layer,
                )
                for k in range(len(embed_dims))
            )
        )
        self.norm = norm_layer(embed_dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        if mlp_head:
            self.head: nn.Module = MlpHead(embed_dims[-1], num_classes, norm_eps=norm_eps)
        else:
            self.head = nn.Linear(embed_dims[-1], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stages[0](x)
        for down, stage in zip(self.downsamples, self.stages[1:], strict=True):
            x = stage(down(x))
        return self.norm(to_tokens(x))

    def forward_head(self, x: Tensor) -> Tensor:
        x = x.mean(dim=1)
        x = self.head_drop(x)
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        x = self.forward_head(x)
        return x


def build(config: Any) -> nn.Module:
    model = ScalableViT(
        in_chans=config.in_chans,
        num_classes=config.num_classes,
        embed_dims=config.embed_dims,
        depths=config.depths,
        num_heads=config.num_heads,
        mlp_ratios=config.mlp_ratios,
        sr_ratios=config.sr_ratios,
        c_ratios=config.c_ratios,
        window_sizes=config.window_sizes,
        patch_size=config.patch_size,
        qkv_bias=config.qkv_bias,
        norm_eps=config.norm_eps,
        mlp_head=config.head == "mlp",
    )
    return model.eval()
