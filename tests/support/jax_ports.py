"""Two ports of others: plain `jax.numpy` with the parameters in one tree, and Flax nnx with a projection for each head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from scalablevit_ref.config import ScalableViTConfig

Tree = dict[str, Any]


# Plain functions: maps b h w c, matrices (in, out), kernels (kh, kw, in, out)


def dense(x: Any, p: Tree) -> Any:
    return x @ p["w"] + p["b"]


def conv(x: Any, p: Tree, stride: int = 1, pad: int = 0, groups: int = 1) -> Any:
    axes = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, p["w"], (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=axes, feature_group_count=groups)
    return y + p["b"]


def norm(x: Any, p: Tree, eps: float = 1e-6) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * p["gamma"] + p["beta"]


def attend(q: Any, k: Any, v: Any, heads: int, scale: float) -> Any:
    """Of b n c tokens."""
    q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) * scale)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v).reshape(*q.shape[:2], -1)


def in_windows(x: Any, p: int) -> Any:
    b, h, w, c = x.shape
    return x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(-1, p * p, c)


def out_of_windows(t: Any, p: int, like: Any) -> Any:
    b, h, w, c = like.shape
    return t.reshape(b, h // p, w // p, p, p, c).swapaxes(2, 3).reshape(b, h, w, c)


def windows(x: Any, p: Tree, heads: int, window: int) -> Any:
    q, k, v = (dense(x, p[name]) for name in "qkv")
    tokens = (in_windows(t, window) for t in (q, k, v))
    z = out_of_windows(attend(*tokens, heads, (x.shape[-1] / heads) ** -0.5), window, x)
    return dense(z + conv(v, p["local"], pad=1, groups=x.shape[-1]), p["out"])


def reduced(x: Any, p: Tree, heads: int, s: int, ratio: float) -> Any:
    b, h, w, c = x.shape
    y = x
    if s > 1:
        y = conv(conv(x, p["tile"], stride=s, groups=c), p["point"])
        y = jax.nn.gelu(norm(y, p["ln"], 1e-5), approximate=False)
    q, k, v = (dense(t, p[name]).reshape(b, -1, p[name]["b"].size) for name, t in (("q", x), ("k", y), ("v", y)))
    return dense(attend(q, k, v, heads, (c / heads * ratio) ** -0.5).reshape(b, h, w, c), p["out"])


def forward(params: Tree, images: Any, config: ScalableViTConfig) -> Any:
    """Images b c h w to logits b classes."""
    x = jnp.moveaxis(images, 1, -1)
    for k, stage in enumerate(params["stages"]):
        stride = 2 if k else config.patch_size
        x = norm(conv(x, stage["embed"], stride, stride - 1), stage["embed_norm"])
        for i, block in enumerate(stage["blocks"]):
            y, heads = norm(x, block["pre"]), config.num_heads[k]
            if i % 2:
                x = x + reduced(y, block["mixer"], heads, config.sr_ratios[k], config.c_ratios[k])
            else:
                x = x + windows(y, block["mixer"], heads, config.window_sizes[k])
            hidden = jax.nn.gelu(dense(norm(x, block["mid"]), block["up"]), approximate=False)
            x = x + dense(hidden, block["down"])
            if i == 0:
                x = x + conv(x, stage["position"], pad=1, groups=x.shape[-1])
    return dense(norm(x, params["norm"]).mean((1, 2)), params["head"])


def tree_of(official: Mapping[str, np.ndarray], config: ScalableViTConfig) -> Tree:
    """The official parameters as `forward` takes them."""

    def layer(name: str, rows: slice = slice(None)) -> Tree:
        w = official[f"{name}.weight"][rows]
        return {"w": w.T if w.ndim == 2 else w.transpose(2, 3, 1, 0), "b": official[f"{name}.bias"][rows]}

    def scaled(name: str) -> Tree:
        return {"gamma": official[f"{name}.weight"], "beta": official[f"{name}.bias"]}

    def mixer(name: str, c: int) -> Tree:
        if f"{name}.qkv.weight" in official:
            parts = {x: layer(f"{name}.qkv", slice(i * c, (i + 1) * c)) for i, x in enumerate("qkv")}
            return {**parts, "local": layer(f"{name}.lim_func"), "out": layer(f"{name}.proj")}
        rest = {"q": layer(f"{name}.q"), "out": layer(f"{name}.proj")}
        if f"{name}.kv.weight" in official:
            return {**rest, "k": layer(f"{name}.kv", slice(c)), "v": layer(f"{name}.kv", slice(c, None))}
        tile, point = (layer(f"{name}.reduction.{i}") for i in (0, 1))
        return {
            **rest,
            "tile": tile,
            "point": point,
            "ln": scaled(f"{name}.norm_act.0"),
            "k": layer(f"{name}.k"),
            "v": layer(f"{name}.v"),
        }

    def block(name: str, c: int) -> Tree:
        halves = {"pre": scaled(f"{name}.norm1"), "mid": scaled(f"{name}.norm2")}
        return {
            **halves,
            "mixer": mixer(f"{name}.attn", c),
            "up": layer(f"{name}.mlp.fc1"),
            "down": layer(f"{name}.mlp.fc2"),
        }

    stages = [
        {
            "embed": layer(f"patch_embeds.{k}.proj"),
            "embed_norm": scaled(f"patch_embeds.{k}.norm"),
            "blocks": [block(f"stages.{k}.{i}", c) for i in range(config.depths[k])],
            "position": layer(f"pos_block.{k}.proj.0"),
        }
        for k, c in enumerate(config.embed_dims)
    ]
    return {"stages": stages, "norm": scaled("norm"), "head": layer("head")}


# Flax nnx: images b h w c, a matrix of q, k and v for each head


class Heads(nnx.LinearGeneral):
    def __init__(self, wide: int, heads: int, out: int) -> None:
        super().__init__(wide, (heads, out // heads), rngs=nnx.Rngs(0))


class Mixer(nnx.Module):
    """One class for both attentions; `s` is None where it is that in windows."""

    def __init__(self, c: int, heads: int, window: int, s: int | None, ratio: float) -> None:
        self.window, self.s, self.scale = window, s, (c / heads * (1 if s is None else ratio)) ** -0.5
        width = int(c * ratio) if s is not None and s > 1 else c
        self.query, self.key, self.value = Heads(c, heads, width), Heads(width, heads, width), Heads(width, heads, c)
        self.out = nnx.LinearGeneral((heads, c // heads), c, axis=(-2, -1), rngs=nnx.Rngs(0))
        if s is None:
            self.local = nnx.Conv(c, c, (3, 3), padding=1, feature_group_count=c, rngs=nnx.Rngs(0))
        elif s > 1:
            self.tile = nnx.Conv(c, c, (s, s), s, padding="VALID", feature_group_count=c, rngs=nnx.Rngs(0))
            self.point = nnx.Conv(c, width, (1, 1), rngs=nnx.Rngs(0))
            self.ln = nnx.LayerNorm(width, epsilon=1e-5, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        y = x
        if self.s is not None and self.s > 1:
            y = nnx.gelu(self.ln(self.point(self.tile(x))), approximate=False)
        q, k, v = self.query(x), self.key(y), self.value(y)
        values = v.reshape(*v.shape[:3], -1)
        if self.s is None:
            q, k, v = (in_windows(t.reshape(x.shape), self.window).reshape(-1, self.window**2, *t.shape[3:]) for t in (q, k, v))
        else:
            q, k, v = (t.reshape(len(x), -1, *t.shape[3:]) for t in (q, k, v))
        weights = nnx.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) * self.scale)
        z = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
        z = z.reshape(z.shape[0], z.shape[1], -1)
        z = out_of_windows(z, self.window, x) + self.local(values) if self.s is None else z.reshape(x.shape)
        return self.out(z.reshape(*x.shape[:3], *self.out.in_features))


class Layer(nnx.Module):
    def __init__(self, mixer: Mixer, c: int, hidden: int) -> None:
        self.pre, self.post = (nnx.LayerNorm(c, rngs=nnx.Rngs(0)) for _ in range(2))
        self.mixer = mixer
        self.up, self.down = nnx.Linear(c, hidden, rngs=nnx.Rngs(0)), nnx.Linear(hidden, c, rngs=nnx.Rngs(0))
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        x = x + self.mixer(self.pre(x))
        return x + self.drop(self.down(nnx.gelu(self.up(self.post(x)), approximate=False)))


class HeadwisePort(nnx.Module):
    """Images b h w c to logits."""

    def __init__(self, config: ScalableViTConfig) -> None:
        self.embed, self.embed_norm, self.position, self.blocks = (nnx.List([]) for _ in range(4))
        wide = config.in_chans
        for k, c in enumerate(config.embed_dims):
            stride = 2 if k else config.patch_size
            kernel = (2 * stride - 1,) * 2
            self.embed.append(nnx.Conv(wide, c, kernel, stride, padding=stride - 1, rngs=nnx.Rngs(0)))
            self.embed_norm.append(nnx.LayerNorm(c, rngs=nnx.Rngs(0)))
            self.position.append(nnx.Conv(c, c, (3, 3), padding=1, feature_group_count=c, rngs=nnx.Rngs(0)))
            blocks = []
            for i in range(config.depths[k]):
                s = config.sr_ratios[k] if i % 2 else None
                mixer = Mixer(c, config.num_heads[k], config.window_sizes[k], s, config.c_ratios[k])
                blocks.append(Layer(mixer, c, int(c * config.mlp_ratios[k])))
            self.blocks.append(nnx.List(blocks))
            wide = c
        self.norm = nnx.LayerNorm(wide, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(wide, config.num_classes, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        for embed, norm, position, blocks in zip(self.embed, self.embed_norm, self.position, self.blocks, strict=True):
            x = norm(embed(x))
            for i, block in enumerate(blocks):
                x = block(x)
                if i == 0:
                    x = x + position(x)
        return self.head(self.norm(x).mean((1, 2)))


def headwise_port(config: ScalableViTConfig) -> HeadwisePort:
    """With zeros for weights: drawing them takes JAX half a minute."""
    graph, state = nnx.split(nnx.eval_shape(lambda: HeadwisePort(config)))
    port: HeadwisePort = nnx.merge(graph, jax.tree.map(zeros_like, state))
    return port


def zeros_like(x: Any) -> Any:
    return jax.random.key(0) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(np.zeros(x.shape, x.dtype))


def headwise(official: Mapping[str, np.ndarray], config: ScalableViTConfig) -> dict[str, np.ndarray]:
    """The official parameters under `HeadwisePort`'s names, as a runner has them."""
    tree = tree_of(official, config)
    found: dict[str, np.ndarray] = {}

    def put(name: str, part: Tree) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = part.values()

    for k, stage in enumerate(tree["stages"]):
        put(f"embed.{k}", stage["embed"])
        put(f"embed_norm.{k}", stage["embed_norm"])
        put(f"position.{k}", stage["position"])
        for i, block in enumerate(stage["blocks"]):
            name = f"blocks.{k}.{i}"
            long = {"q": "query", "k": "key", "v": "value"}
            for own, part in block["mixer"].items():
                put(f"{name}.mixer.{long.get(own, own)}", part)
            for own, theirs in (("pre", "pre"), ("mid", "post"), ("up", "up"), ("down", "down")):
                put(f"{name}.{theirs}", block[own])
    put("norm", tree["norm"])
    put("head", tree["head"])
    return found
