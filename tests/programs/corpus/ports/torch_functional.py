"""ScalableViT in functional PyTorch: one module that owns every parameter, and plain functions on b h w c maps that use them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

REDUCE_EPS = 1e-5


class Stage(NamedTuple):
    k: int
    cin: int
    c: int
    depth: int
    nh: int
    mult: float
    s: int
    rc: float
    win: int
    stride: int
    eps: float


def plan(cfg: Any) -> list[Stage]:
    out = []
    cin = cfg.in_chans
    for k, c in enumerate(cfg.embed_dims):
        st = Stage(
            k=k,
            cin=cin,
            c=c,
            depth=cfg.depths[k],
            nh=cfg.num_heads[k],
            mult=cfg.mlp_ratios[k],
            s=cfg.sr_ratios[k],
            rc=cfg.c_ratios[k],
            win=cfg.window_sizes[k],
            stride=cfg.patch_size if k == 0 else 2,
            eps=cfg.norm_eps,
        )
        out.append(st)
        cin = c
    return out


class Functional(nn.Module):
    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.stages = plan(cfg)
        self.eps = cfg.norm_eps
        self.p = nn.ParameterDict(parameters(self.stages, cfg))

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 2, 3, 1)
        for st in self.stages:
            x = run_stage(x, self.p, st)
        return run_head(x, self.p, self.eps)


def run_stage(x: Tensor, p: nn.ParameterDict, st: Stage) -> Tensor:
    x = patches(x, p, st)
    for i in range(st.depth):
        x = run_block(x, p, st, i)
        if i == 0:
            x = x + depthwise(x, p[f"s{st.k}_pos"], p[f"s{st.k}_pos_b"])
    return x


def run_head(x: Tensor, p: nn.ParameterDict, eps: float) -> Tensor:
    x = norm(x, p["out_g"], p["out_b"], eps)
    x = x.mean(dim=(1, 2))
    if "cls_w1" in p:
        x = x @ p["cls_w1"] + p["cls_b1"]
        x = norm(x, p["cls_g"], p["cls_h"], eps)
        x = gelu(x)
    return x @ p["cls_w"] + p["cls_b"]


def run_block(x: Tensor, p: nn.ParameterDict, st: Stage, i: int) -> Tensor:
    n = f"s{st.k}b{i}_"
    y = norm(x, p[n + "g1"], p[n + "h1"], st.eps)
    if i % 2 == 0:
        a = window_attn(y, p, n, st)
    elif st.s > 1:
        a = scaled_attn(y, p, n, st)
    else:
        a = plain_attn(y, p, n, st)
    x = x + a
    y = norm(x, p[n + "g2"], p[n + "h2"], st.eps)
    m = feed_forward(y, p, n)
    return x + m


def patches(x: Tensor, p: nn.ParameterDict, st: Stage) -> Tensor:
    w, bias = p[f"s{st.k}_patch"], p[f"s{st.k}_patch_b"]
    size, pad = 2 * st.stride - 1, st.stride - 1
    _, h, wide, _ = x.shape
    oh, ow = (h + 2 * pad - size) // st.stride + 1, (wide + 2 * pad - size) // st.stride + 1
    cols = F.unfold(x.permute(0, 3, 1, 2), size, padding=pad, stride=st.stride)
    x = cols.transpose(1, 2) @ w.reshape(st.c, -1).t() + bias
    x = x.reshape(-1, oh, ow, st.c)
    return norm(x, p[f"s{st.k}_patch_g"], p[f"s{st.k}_patch_h"], st.eps)


def window_attn(x: Tensor, p: nn.ParameterDict, n: str, st: Stage) -> Tensor:
    _, h, w, c = x.shape
    d = c // st.nh
    q, k, v = (x @ p[n + "wqkv"] + p[n + "bqkv"]).chunk(3, dim=-1)
    lim = depthwise(v, p[n + "lim"], p[n + "lim_b"])
    q, k, v = cut(q, st), cut(k, st), cut(v, st)
    sim = torch.einsum("bnhid,bnhjd->bnhij", q, k) * d**-0.5
    o = torch.einsum("bnhij,bnhjd->bnhid", softmax(sim), v)
    o = glue(o, st, h, w)
    o = o + lim
    return o @ p[n + "wo"] + p[n + "bo"]


def cut(t: Tensor, st: Stage) -> Tensor:
    return rearrange(t, "b (gh i) (gw j) (h d) -> b (gh gw) h (i j) d", i=st.win, j=st.win, h=st.nh)


def glue(t: Tensor, st: Stage, h: int, w: int) -> Tensor:
    return rearrange(t, "b (gh gw) h (i j) d -> b (gh i) (gw j) (h d)", gh=h // st.win, gw=w // st.win, i=st.win, j=st.win)


def scaled_attn(x: Tensor, p: nn.ParameterDict, n: str, st: Stage) -> Tensor:
    _, h, w, c = x.shape
    scale = (c / st.nh * st.rc) ** -0.5
    q = x @ p[n + "wq"] + p[n + "bq"]
    y = F.conv2d(x.permute(0, 3, 1, 2), p[n + "red"], p[n + "red_b"], stride=st.s, groups=c).permute(0, 2, 3, 1)
    y = y @ p[n + "mix"] + p[n + "mix_b"]
    y = norm(y, p[n + "gr"], p[n + "hr"], REDUCE_EPS)
    y = gelu(y)
    k = y @ p[n + "wk"] + p[n + "bk"]
    v = y @ p[n + "wv"] + p[n + "bv"]
    o = attend(split(q, st.nh), split(k, st.nh), split(v, st.nh), scale)
    o = merge(o, h, w)
    return o @ p[n + "wo"] + p[n + "bo"]


def plain_attn(x: Tensor, p: nn.ParameterDict, n: str, st: Stage) -> Tensor:
    _, h, w, c = x.shape
    head = c // st.nh
    q = split(x @ p[n + "wq"] + p[n + "bq"], st.nh)
    kv = x @ p[n + "wkv"] + p[n + "bkv"]
    k, v = split(kv[..., :c], st.nh), split(kv[..., c:], st.nh)
    o = attend(q, k, v, 1 / math.sqrt(head * st.rc))
    o = merge(o, h, w)
    return o @ p[n + "wo"] + p[n + "bo"]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    sim = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale
    return torch.einsum("bhqk,bhkd->bhqd", softmax(sim), v)


def split(t: Tensor, nh: int) -> Tensor:
    b, h, w, c = t.shape
    return t.reshape(b, h * w, nh, c // nh).permute(0, 2, 1, 3)


def merge(t: Tensor, h: int, w: int) -> Tensor:
    b, nh, _, d = t.shape
    return t.permute(0, 2, 1, 3).reshape(b, h, w, nh * d)


def feed_forward(x: Tensor, p: nn.ParameterDict, n: str) -> Tensor:
    u = x @ p[n + "w1"] + p[n + "b1"]
    u = gelu(u)
    return u @ p[n + "w2"] + p[n + "b2"]


def depthwise(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), w, bias, padding=1, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)


def norm(x: Tensor, g: Tensor, h: Tensor, eps: float) -> Tensor:
    mu = x.mean(dim=-1, keepdim=True)
    var = ((x - mu) ** 2).mean(dim=-1, keepdim=True)
    return (x - mu) * torch.rsqrt(var + eps) * g + h


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def softmax(t: Tensor) -> Tensor:
    e = torch.exp(t - t.amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)


def parameters(stages: list[Stage], cfg: Any) -> dict[str, Tensor]:
    p: dict[str, Tensor] = {}
    for st in stages:
        size = 2 * st.stride - 1
        p[f"s{st.k}_patch"] = kernel(st.c, st.cin, size)
        p[f"s{st.k}_patch_b"] = vector(st.c)
        p[f"s{st.k}_patch_g"], p[f"s{st.k}_patch_h"] = gain(st.c), vector(st.c)
        for i in range(st.depth):
            n = f"s{st.k}b{i}_"
            p[n + "g1"], p[n + "h1"] = gain(st.c), vector(st.c)
            declare_attn(p, n, st, i, cfg.qkv_bias)
            p[n + "g2"], p[n + "h2"] = gain(st.c), vector(st.c)
            wide = int(st.c * st.mult)
            p[n + "w1"], p[n + "b1"] = matrix(st.c, wide), vector(wide)
            p[n + "w2"], p[n + "b2"] = matrix(wide, st.c), vector(st.c)
        p[f"s{st.k}_pos"], p[f"s{st.k}_pos_b"] = kernel(st.c, 1, 3), vector(st.c)
    last = stages[-1].c
    p["out_g"], p["out_b"] = gain(last), vector(last)
    if cfg.head == "mlp":
        p["cls_w1"], p["cls_b1"] = matrix(last, 4096), vector(4096)
        p["cls_g"], p["cls_h"] = gain(4096), vector(4096)
        last = 4096
    p["cls_w"], p["cls_b"] = matrix(last, cfg.num_classes), vector(cfg.num_classes)
    return p


def declare_attn(p: dict[str, Tensor], n: str, st: Stage, i: int, biased: bool) -> None:
    c, few = st.c, int(st.c * st.rc)
    bias = vector if biased else torch.zeros
    if i % 2 == 0:
        p[n + "wqkv"], p[n + "bqkv"] = matrix(c, 3 * c), bias(3 * c)
        p[n + "lim"], p[n + "lim_b"] = kernel(c, 1, 3), vector(c)
    elif st.s > 1:
        p[n + "wq"], p[n + "bq"] = matrix(c, few), bias(few)
        p[n + "red"], p[n + "red_b"] = kernel(c, 1, st.s), vector(c)
        p[n + "mix"], p[n + "mix_b"] = matrix(c, few), vector(few)
        p[n + "gr"], p[n + "hr"] = gain(few), vector(few)
        p[n + "wk"], p[n + "bk"] = matrix(few, few), bias(few)
        p[n + "wv"], p[n + "bv"] = matrix(few, c), bias(c)
    else:
        p[n + "wq"], p[n + "bq"] = matrix(c, c), bias(c)
        p[n + "wkv"], p[n + "bkv"] = matrix(c, 2 * c), bias(2 * c)
    p[n + "wo"], p[n + "bo"] = matrix(c, c), vector(c)


def matrix(wide_in: int, wide_out: int) -> Tensor:
    return torch.randn(wide_in, wide_out) * wide_in**-0.5


def kernel(out: int, into: int, size: int) -> Tensor:
    return torch.randn(out, into, size, size) / (size * into**0.5)


def vector(c: int) -> Tensor:
    return torch.randn(c) * 0.1


def gain(c: int) -> Tensor:
    return 1 + torch.randn(c) * 0.1


def build(config: Any) -> nn.Module:
    return Functional(config)
