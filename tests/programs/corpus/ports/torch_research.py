# ruff: noqa
# mypy: ignore-errors
"""ScalableViT in one file, as a researcher writes it: maps stay b c h w, einops and einsum, Residual(PreNorm(…)), windows by Unfold and fold."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from einops.layers.torch import Rearrange, Reduce
from torch import einsum, nn

# helpers


def exists(val):
    return val is not None


def default(val, d):
    return val if exists(val) else d


def cast_tuple(val, length=1):
    return val if isinstance(val, tuple) else ((val,) * length)


# helper classes


class LayerNorm2d(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x):
        var = torch.var(x, dim=1, unbiased=False, keepdim=True)
        mean = torch.mean(x, dim=1, keepdim=True)
        return (x - mean) / (var + self.eps).sqrt() * self.g + self.b


class PreNorm(nn.Module):
    def __init__(self, dim, fn, eps=1e-6):
        super().__init__()
        self.norm = LayerNorm2d(dim, eps=eps)
        self.fn = fn

    def forward(self, x, **kwargs):
        x = self.norm(x)
        return self.fn(x, **kwargs)


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x, **kwargs):
        return self.fn(x, **kwargs) + x


def ConvMLP(dim, mult=4, dropout=0.0):
    hidden = int(dim * mult)
    return nn.Sequential(
        nn.Conv2d(dim, hidden, 1),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Conv2d(hidden, dim, 1),
        nn.Dropout(dropout),
    )


def PEG(dim, kernel_size=3):
    return Residual(nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim))


def PatchEmbed(dim_in, dim_out, kernel_size, stride, eps=1e-6):
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, kernel_size, stride=stride, padding=kernel_size // 2),
        LayerNorm2d(dim_out, eps=eps),
    )


# attention


class IWSA(nn.Module):
    def __init__(self, dim, heads=8, window_size=7, bias=True, dropout=0.0):
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.scale = (dim // heads) ** -0.5

        self.w_qkv = nn.Parameter(torch.randn(dim * 3, dim) * dim**-0.5)
        self.b_qkv = nn.Parameter(torch.zeros(dim * 3)) if bias else None

        self.windows = nn.Unfold(window_size, stride=window_size)
        self.lim = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        h, p, (height, width) = self.heads, self.window_size, x.shape[-2:]

        qkv = F.linear(rearrange(x, "b c x y -> b x y c"), self.w_qkv, self.b_qkv)
        qkv = rearrange(qkv, "b x y c -> b c x y")
        local = self.lim(qkv.chunk(3, dim=1)[-1])

        # windows: l of them, t tokens in each
        qkv = self.windows(qkv)
        q, k, v = rearrange(qkv, "b (three h d t) l -> three b l h t d", three=3, h=h, t=p * p)

        sim = einsum("b l h i d, b l h j d -> b l h i j", q, k) * self.scale
        attn = sim.softmax(dim=-1)
        attn = self.dropout(attn)
        out = einsum("b l h i j, b l h j d -> b l h i d", attn, v)

        out = rearrange(out, "b l h t d -> b (h d t) l")
        out = F.fold(out, (height, width), p, stride=p)
        out = out + local
        return self.to_out(out)


class SSA(nn.Module):
    def __init__(self, dim, heads=8, reduction=1, ratio=1.25, bias=True, dropout=0.0):
        super().__init__()
        self.heads = heads
        self.scale = (dim / heads * ratio) ** -0.5
        dim_qk = int(dim * ratio) if reduction > 1 else dim

        self.reduce = (
            nn.Sequential(
                nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim),
                nn.Conv2d(dim, dim_qk, 1),
                LayerNorm2d(dim_qk, eps=1e-5),
                nn.GELU(),
            )
            if reduction > 1
            else nn.Identity()
        )

        self.w_q = nn.Parameter(torch.randn(dim_qk, dim) * dim**-0.5)
        self.w_k = nn.Parameter(torch.randn(dim_qk, dim_qk) * dim_qk**-0.5)
        self.w_v = nn.Parameter(torch.randn(dim, dim_qk) * dim_qk**-0.5)
        self.b_q = nn.Parameter(torch.zeros(dim_qk, 1)) if bias else 0.0
        self.b_k = nn.Parameter(torch.zeros(dim_qk, 1)) if bias else 0.0
        self.b_v = nn.Parameter(torch.zeros(dim, 1)) if bias else 0.0

        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        h, (height, width) = self.heads, x.shape[-2:]

        tokens = rearrange(x, "b c x y -> b c (x y)")
        context = rearrange(self.reduce(x), "b c x y -> b c (x y)")

        q = einsum("b c n, o c -> b o n", tokens, self.w_q) + self.b_q
        k = einsum("b c n, o c -> b o n", context, self.w_k) + self.b_k
        v = einsum("b c n, o c -> b o n", context, self.w_v) + self.b_v
        q, k, v = (rearrange(t, "b (h d) n -> b h n d", h=h) for t in (q, k, v))

        sim = einsum("b h i d, b h j d -> b h i j", q * self.scale, k)
        attn = sim.softmax(dim=-1)
        attn = self.dropout(attn)
        out = einsum("b h i j, b h j d -> b h i d", attn, v)

        out = rearrange(out, "b h (x y) d -> b (h d) x y", x=height, y=width)
        return self.to_out(out)


# the network


def Stage(dim_in, dim, depth, kernel_size, stride, heads, window_size, reduction, ratio, mult=4, bias=True, eps=1e-6, dropout=0.0):
    layers = [PatchEmbed(dim_in, dim, kernel_size, stride, eps=eps)]

    for ind in range(depth):
        if ind % 2 == 0:
            attn = IWSA(dim, heads=heads, window_size=window_size, bias=bias, dropout=dropout)
        else:
            attn = SSA(dim, heads=heads, reduction=reduction, ratio=ratio, bias=bias, dropout=dropout)

        layers.append(Residual(PreNorm(dim, attn, eps=eps)))
        layers.append(Residual(PreNorm(dim, ConvMLP(dim, mult, dropout), eps=eps)))

        if ind == 0:
            layers.append(PEG(dim))

    return nn.Sequential(*layers)


class ScalableViT(nn.Module):
    def __init__(
        self,
        *,
        num_classes,
        dims,
        depths,
        heads,
        mults=4,
        reductions=(8, 4, 2, 1),
        ratios=(1.25, 1.25, 1.25, 1.0),
        window_sizes=7,
        patch_size=4,
        channels=3,
        bias=True,
        eps=1e-6,
        dim_head_hidden=None,
        dropout=0.0,
    ):
        super().__init__()
        num_stages = len(depths)
        mults, window_sizes = cast_tuple(mults, num_stages), cast_tuple(window_sizes, num_stages)

        self.stages = nn.ModuleList([])
        for ind in range(num_stages):
            is_first = ind == 0
            stride = patch_size if is_first else 2

            self.stages.append(
                Stage(
                    channels if is_first else dims[ind - 1],
                    dims[ind],
                    depths[ind],
                    kernel_size=2 * stride - 1,
                    stride=stride,
                    heads=heads[ind],
                    window_size=window_sizes[ind],
                    reduction=reductions[ind],
                    ratio=ratios[ind],
                    mult=mults[ind],
                    bias=bias,
                    eps=eps,
                    dropout=dropout,
                )
            )

        dim = dims[-1]
        self.pool = nn.Sequential(LayerNorm2d(dim, eps=eps), Reduce("b c x y -> b c", "mean"))

        self.to_logits = (
            nn.Sequential(
                nn.Linear(dim, dim_head_hidden),
                nn.LayerNorm(dim_head_hidden, eps=eps),
                nn.GELU(),
                nn.Linear(dim_head_hidden, num_classes),
            )
            if exists(dim_head_hidden)
            else nn.Linear(dim, num_classes)
        )

    def forward(self, img):
        x = img

        for stage in self.stages:
            x = stage(x)

        x = self.pool(x)
        return self.to_logits(x)


def build(config):
    return ScalableViT(
        num_classes=config.num_classes,
        dims=config.embed_dims,
        depths=config.depths,
        heads=config.num_heads,
        mults=config.mlp_ratios,
        reductions=config.sr_ratios,
        ratios=config.c_ratios,
        window_sizes=config.window_sizes,
        patch_size=config.patch_size,
        channels=config.in_chans,
        bias=config.qkv_bias,
        eps=config.norm_eps,
        dim_head_hidden=4096 if config.head == "mlp" else None,
    ).eval()
