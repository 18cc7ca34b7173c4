"""A port to MLX without modules: a function of a tree of arrays, weights (in, out), kernels (h, w, in, out), own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

import scalablevit_ref as sv

Tree = dict[str, Any]


def tree_of(params: dict[str, np.ndarray], config: sv.ScalableViTConfig) -> Tree:
    """Official parameters as this port keeps them."""
    p = {name: mx.array(np.ascontiguousarray(own_layout(x)).astype(np.float32)) for name, x in params.items()}
    stages = []
    for k in range(config.num_stages):
        blocks = []
        for i in range(config.depths[k]):
            b = {name.removeprefix(f"stages.{k}.{i}."): x for name, x in p.items() if name.startswith(f"stages.{k}.{i}.")}
            block = {part: weights(b, part) for part in dict.fromkeys(name.rpartition(".")[0] for name in b)}
            blocks.append({WORDS.get(name, name): value for name, value in block.items()})
        stages.append(
            {
                "embed": weights(p, f"patch_embeds.{k}.proj"),
                "ln": weights(p, f"patch_embeds.{k}.norm"),
                "cpe": weights(p, f"pos_block.{k}.proj.0"),
                "blocks": blocks,
            }
        )
    return {"stages": stages, "ln": weights(p, "norm"), "classes": weights(p, "head")}


WORDS = {
    "norm1": "ln_a",
    "norm2": "ln_b",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "attn.qkv": "in",
    "attn.proj": "out",
    "attn.lim_func": "local",
    "attn.q": "query",
    "attn.k": "key",
    "attn.v": "value",
    "attn.kv": "both",
    "attn.reduction.0": "tiles",
    "attn.reduction.1": "mix",
    "attn.norm_act.0": "ln_kv",
}


def own_layout(x: np.ndarray) -> np.ndarray:
    return x.T if x.ndim == 2 else x.transpose(2, 3, 1, 0) if x.ndim == 4 else x


def weights(p: dict[str, mx.array], name: str) -> Tree:
    return {"w": p[f"{name}.weight"], "b": p[f"{name}.bias"]}


def dense(x: mx.array, p: Tree) -> mx.array:
    return x @ p["w"] + p["b"]


def conv(x: mx.array, p: Tree, stride: int = 1, pad: int = 0, groups: int = 1) -> mx.array:
    return mx.conv2d(x, p["w"].transpose(3, 0, 1, 2), stride, pad, groups=groups) + p["b"]


def norm(x: mx.array, p: Tree, eps: float = 1e-6) -> mx.array:
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) * mx.rsqrt(x.var(axis=-1, keepdims=True) + eps) * p["w"] + p["b"]


def attend(q: mx.array, k: mx.array, v: mx.array, heads: int, scale: float) -> mx.array:
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(0, 2, 1, 3) for t in (q, k, v))
    z = mx.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1) @ v
    return z.transpose(0, 2, 1, 3).flatten(2)


def window_attention(x: mx.array, p: Tree, heads: int, size: int) -> mx.array:
    b, h, w, c = x.shape
    qkv = dense(x, p["in"])
    tokens = qkv.reshape(b, h // size, size, w // size, size, 3 * c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size, 3 * c)
    z = attend(tokens[..., :c], tokens[..., c : 2 * c], tokens[..., 2 * c :], heads, (c / heads) ** -0.5)
    z = z.reshape(b, h // size, w // size, size, size, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
    return dense(z + conv(qkv[..., 2 * c :], p["local"], pad=1, groups=c), p["out"])


def scalable_attention(x: mx.array, p: Tree, heads: int, s: int, ratio: float) -> mx.array:
    b, h, w, c = x.shape
    q = dense(x, p["query"])
    if s > 1:
        y = conv(conv(x, p["tiles"], s, groups=c), p["mix"])
        y = nn.gelu(norm(y, p["ln_kv"], 1e-5))
        k, v = dense(y, p["key"]), dense(y, p["value"])
    else:
        k, v = mx.split(dense(x, p["both"]), 2, axis=-1)
    z = attend(*(t.reshape(b, -1, t.shape[-1]) for t in (q, k, v)), heads, (c / heads * ratio) ** -0.5)
    return dense(z.reshape(b, h, w, c), p["out"])


def feed_forward(x: mx.array, p: Tree) -> mx.array:
    return dense(nn.gelu(dense(x, p["up"])), p["down"])


def forward(tree: Tree, x: mx.array, config: sv.ScalableViTConfig) -> mx.array:
    """Logits of images b h w c."""
    for k, stage in enumerate(tree["stages"]):
        stride = 2 if k else config.patch_size
        x = norm(conv(x, stage["embed"], stride, stride - 1), stage["ln"])
        for i, p in enumerate(stage["blocks"]):
            y = norm(x, p["ln_a"])
            if i % 2:
                x = x + scalable_attention(y, p, config.num_heads[k], config.sr_ratios[k], config.c_ratios[k])
            else:
                x = x + window_attention(y, p, config.num_heads[k], config.window_sizes[k])
            x = x + feed_forward(norm(x, p["ln_b"]), p)
            if i == 0:
                x = x + conv(x, stage["cpe"], pad=1, groups=x.shape[-1])
    return dense(norm(x, tree["ln"]).mean(axis=(1, 2)), tree["classes"])


def function_port(params: dict[str, np.ndarray], config: sv.ScalableViTConfig) -> Callable[[mx.array], mx.array]:
    tree = tree_of(params, config)
    return lambda images: forward(tree, images, config)
