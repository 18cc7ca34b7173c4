# ruff: noqa
# mypy: ignore-errors
"""ScalableViT on top of a Swin Transformer code base: windows are cut before qkv, maps travel as (B, H*W, C) with H and W beside them."""

import torch
import torch.nn as nn


def window_partition(x, window_size):
    """(B, H, W, C) -> (num_windows*B, window_size, window_size, C)"""
    B, H, W, C = x.shape
    x = x.view(B, H // window_size, window_size, W // window_size, window_size, C)
    windows = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window_size, window_size, C)
    return windows


def window_reverse(windows, window_size, H, W):
    """(num_windows*B, window_size, window_size, C) -> (B, H, W, C)"""
    B = int(windows.shape[0] / (H * W / window_size / window_size))
    x = windows.view(B, H // window_size, W // window_size, window_size, window_size, -1)
    x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)
    return x


class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features=None, out_features=None, act_layer=nn.GELU):
        super().__init__()
        out_features = out_features or in_features
        hidden_features = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x):
        x = self.fc1(x)
        x = self.act(x)
        x = self.fc2(x)
        return x


class WindowAttention(nn.Module):
    """Window based multi-head self attention; returns its values too, which the block needs for the local interaction."""

    def __init__(self, dim, window_size, num_heads, qkv_bias=True):
        super().__init__()
        self.dim = dim
        self.window_size = window_size
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x):
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]

        q = q * self.scale
        attn = q @ k.transpose(-2, -1)
        attn = self.softmax(attn)

        x = (attn @ v).transpose(1, 2).reshape(B_, N, C)
        v = v.transpose(1, 2).reshape(B_, N, C)
        return x, v


class InteractiveWindowAttention(nn.Module):
    def __init__(self, dim, num_heads, window_size, qkv_bias=True):
        super().__init__()
        self.window_size = window_size
        self.wmsa = WindowAttention(dim, window_size, num_heads, qkv_bias)
        self.local = nn.Conv2d(dim, dim, kernel_size=3, stride=1, padding=1, groups=dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, H, W):
        B, L, C = x.shape
        ws = self.window_size
        x = x.view(B, H, W, C)

        x_windows = window_partition(x, ws).view(-1, ws * ws, C)
        attn_windows, v_windows = self.wmsa(x_windows)
        x = window_reverse(attn_windows.view(-1, ws, ws, C), ws, H, W)
        v = window_reverse(v_windows.view(-1, ws, ws, C), ws, H, W)

        lim = self.local(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + lim
        return self.out(x.reshape(B, L, C))


class ScalableAttention(nn.Module):
    def __init__(self, dim, num_heads, sr_ratio, expand, qkv_bias=True):
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.qk_dim = int(dim * expand) if sr_ratio > 1 else dim
        self.scale = (dim // num_heads * expand) ** -0.5
        self.q = nn.Linear(dim, self.qk_dim, bias=qkv_bias)
        if sr_ratio > 1:
            self.sr_dw = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio, groups=dim)
            self.sr_pw = nn.Conv2d(dim, self.qk_dim, kernel_size=1)
            self.sr_norm = nn.LayerNorm(self.qk_dim)
            self.sr_act = nn.GELU()
        self.kv = nn.Linear(self.qk_dim, self.qk_dim + dim, bias=qkv_bias)
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, H, W):
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, self.qk_dim // self.num_heads).permute(0, 2, 1, 3)

        if self.sr_ratio > 1:
            y = x.transpose(1, 2).reshape(B, C, H, W)
            y = self.sr_dw(y)
            y = self.sr_pw(y)
            y = y.flatten(2).transpose(1, 2)
            y = self.sr_act(self.sr_norm(y))
        else:
            y = x
        M = y.shape[1]
        k, v = self.kv(y).split([self.qk_dim, self.dim], dim=-1)
        k = k.reshape(B, M, self.num_heads, self.qk_dim // self.num_heads).permute(0, 2, 1, 3)
        v = v.reshape(B, M, self.num_heads, self.dim // self.num_heads).permute(0, 2, 1, 3)

        attn = (q * self.scale) @ k.transpose(-2, -1)
        attn = self.softmax(attn)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.out(x)


class ScalableBlock(nn.Module):
    """A SwinTransformerBlock whose even numbers attend in windows and whose odd ones attend to all of a reduced map."""

    def __init__(self, dim, index, num_heads, window_size, sr_ratio, expand, mlp_ratio, qkv_bias, norm_layer):
        super().__init__()
        self.norm1 = norm_layer(dim)
        if index % 2 == 0:
            self.attn = InteractiveWindowAttention(dim, num_heads, window_size, qkv_bias)
        else:
            self.attn = ScalableAttention(dim, num_heads, sr_ratio, expand, qkv_bias)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(in_features=dim, hidden_features=int(dim * mlp_ratio))

    def forward(self, x, H, W):
        shortcut = x
        x = self.norm1(x)
        x = self.attn(x, H, W)
        x = shortcut + x

        x = x + self.mlp(self.norm2(x))
        return x


class PositionModule(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x, H, W):
        B, L, C = x.shape
        feat = x.transpose(1, 2).view(B, C, H, W)
        feat = self.dwconv(feat) + feat
        return feat.flatten(2).transpose(1, 2)


class OverlapPatchMerging(nn.Module):
    """(B, C, H, W) -> (B, H'*W', dim), H', W'"""

    def __init__(self, in_dim, dim, ratio, norm_layer):
        super().__init__()
        self.reduction = nn.Conv2d(in_dim, dim, kernel_size=2 * ratio - 1, stride=ratio, padding=ratio - 1)
        self.norm = norm_layer(dim)

    def forward(self, x):
        x = self.reduction(x)
        _, _, H, W = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = self.norm(x)
        return x, H, W


class BasicLayer(nn.Module):
    """A stage: downsample first, then the blocks, with the position module after the first of them."""

    def __init__(self, in_dim, dim, ratio, depth, norm_layer, **settings):
        super().__init__()
        self.dim = dim
        self.downsample = OverlapPatchMerging(in_dim, dim, ratio, norm_layer)
        self.blocks = nn.ModuleList([ScalableBlock(dim, i, norm_layer=norm_layer, **settings) for i in range(depth)])
        self.pos = PositionModule(dim)

    def forward(self, x):
        x, H, W = self.downsample(x)
        for i, blk in enumerate(self.blocks):
            x = blk(x, H, W)
            if i == 0:
                x = self.pos(x, H, W)
        return x, H, W


class ScalableSwin(nn.Module):
    def __init__(
        self,
        in_chans,
        num_classes,
        embed_dims,
        depths,
        num_heads,
        window_sizes,
        sr_ratios,
        expands,
        mlp_ratios,
        qkv_bias=True,
        norm_eps=1e-6,
        patch_size=4,
        mlp_head=True,
    ):
        super().__init__()

        def norm_layer(dim):
            return nn.LayerNorm(dim, eps=norm_eps)

        self.num_layers = len(depths)
        self.num_features = embed_dims[-1]

        self.layers = nn.ModuleList()
        for i_layer in range(self.num_layers):
            layer = BasicLayer(
                in_dim=in_chans if i_layer == 0 else embed_dims[i_layer - 1],
                dim=embed_dims[i_layer],
                ratio=patch_size if i_layer == 0 else 2,
                depth=depths[i_layer],
                num_heads=num_heads[i_layer],
                window_size=window_sizes[i_layer],
                sr_ratio=sr_ratios[i_layer],
                expand=expands[i_layer],
                mlp_ratio=mlp_ratios[i_layer],
                qkv_bias=qkv_bias,
                norm_layer=norm_layer,
            )
            self.layers.append(layer)

        self.norm = norm_layer(self.num_features)
        self.avgpool = nn.AdaptiveAvgPool1d(1)
        features = self.num_features
        if mlp_head:
            self.pre_head = nn.Sequential(nn.Linear(features, 4096), norm_layer(4096), nn.GELU())
            features = 4096
        else:
            self.pre_head = nn.Identity()
        self.head = nn.Linear(features, num_classes) if num_classes > 0 else nn.Identity()

    def forward_features(self, x):
        for layer in self.layers:
            x, H, W = layer(x)
            B, _, C = x.shape
            if layer is not self.layers[-1]:
                x = x.transpose(1, 2).reshape(B, C, H, W)
        x = self.norm(x)
        x = self.avgpool(x.transpose(1, 2))
        return torch.flatten(x, 1)

    def forward(self, x):
        x = self.forward_features(x)
        x = self.pre_head(x)
        x = self.head(x)
        return x


def build(config):
    return ScalableSwin(
        in_chans=config.in_chans,
        num_classes=config.num_classes,
        embed_dims=config.embed_dims,
        depths=config.depths,
        num_heads=config.num_heads,
        window_sizes=config.window_sizes,
        sr_ratios=config.sr_ratios,
        expands=config.c_ratios,
        mlp_ratios=config.mlp_ratios,
        qkv_bias=config.qkv_bias,
        norm_eps=config.norm_eps,
        patch_size=config.patch_size,
        mlp_head=config.head == "mlp",
    )
