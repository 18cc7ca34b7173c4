"""vit_pytorch's network as a table of layers, in the order that its names intend: IWSA, then the second feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scalablevit_ref._typing import Array, Params
from scalablevit_ref.dialects.config import Config
from scalablevit_ref.dialects.port import NORM_EPS, channel_norm, feed_forward, iwsa, peg, ssa, strided_conv
from scalablevit_ref.layers import IMAGES, Layer, head_linear, mean, total
from scalablevit_ref.ops import gelu, layer_norm
from scalablevit_ref.parameters import modules


@dataclass(frozen=True)
class PortWiring:
    """How the layers are connected; the defaults are what the names intend, not what vit_pytorch runs."""

    second_feed_forward: Literal["after IWSA", "before IWSA"] = "after IWSA"
    last_norm: Literal["missing", "there"] = "missing"


AS_NAMED = PortWiring()


def layers(config: Config, wiring: PortWiring = AS_NAMED) -> dict[str, Layer]:
    table: dict[str, Layer] = {}

    def add(name: str, function: Callable[..., Any], *sources: str, **settings: object) -> str:
        table[name] = Layer(name, function, sources, settings)
        return name

    last = len(config.depth) - 1
    x: tuple[str, ...] = (add("to_patches", stem, IMAGES),)
    for k, depth in enumerate(config.depth):
        stage = config.stage(k)
        ssa_settings = {"heads": stage["heads"], "s": stage["reduction_factor"]}
        iwsa_settings = {"heads": stage["heads"], "window_size": stage["window_size"]}
        for j in range(depth):
            name = f"layers.{k}.0.layers.{j}"
            x = (*x, add(f"{name}.0", ssa_layer, *x, **ssa_settings))
            x = (*x, add(f"{name}.1", feed_forward_layer, *x))
            if j == 0:
                x = (add(f"{name}.2", peg, *x),)
            if wiring.second_feed_forward == "after IWSA":
                x = (*x, add(f"{name}.4", iwsa_layer, *x, **iwsa_settings))
                x = (*x, add(f"{name}.3", feed_forward_layer, *x))
            else:
                x = (*x, add(f"{name}.3", feed_forward_layer, *x))
                x = (*x, add(f"{name}.4", iwsa_layer, *x, **iwsa_settings))
        if k < last or wiring.last_norm == "there":
            x = (add(f"layers.{k}.0.norm", channel_norm, *x),)
        x = (add(f"layers.{k}.0", total, *x),)
        if k < last:
            x = (add(f"layers.{k}.1", downsample, *x),)
    pooled = add("mlp_head.0", mean, *x)
    add("logits", total, add("mlp_head.2", head_linear, add("mlp_head.1", head_norm, pooled)))
    return table


def layer_shapes(config: Config, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of every layer's output, b h w c or b c."""
    batch, _, h, w = images
    shapes: dict[str, tuple[int, ...]] = {}
    h, w, dim = -(-h // 4), -(-w // 4), config.dim
    for name in layers(config, PortWiring(last_norm="there")):
        if name in ("mlp_head.0", "mlp_head.1"):
            shapes[name] = (batch, dim)
        elif name in ("mlp_head.2", "logits"):
            shapes[name] = (batch, config.num_classes)
        else:
            if name.endswith(".1") and name.count(".") == 2:  # layers.k.1, the downsampling
                h, w, dim = -(-h // 2), -(-w // 2), 2 * dim
            shapes[name] = (batch, h, w, dim)
    return shapes


def stem(x: Array, params: Params) -> Array:
    return strided_conv(x, params, stride=4, padding=3, same=False)


def downsample(x: Array, params: Params) -> Array:
    return strided_conv(x, modules(params)["conv"], stride=2, padding=1, same=False)


def ssa_layer(x: Array, params: Params, *, heads: int, s: int) -> Array:
    return ssa(channel_norm(x, modules(params)["norm"]), params, heads=heads, s=s)


def iwsa_layer(x: Array, params: Params, *, heads: int, window_size: int | None) -> Array:
    return iwsa(channel_norm(x, modules(params)["norm"]), params, heads=heads, window_size=window_size)


def feed_forward_layer(x: Array, params: Params) -> Array:
    return feed_forward(x, params, gelu=gelu)


def head_norm(x: Array, params: Params) -> Array:
    gain = params["weight"]
    return layer_norm(x, gain, params.get("bias", gain * 0.0), eps=NORM_EPS)
