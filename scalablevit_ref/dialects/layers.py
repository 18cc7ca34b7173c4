"""vit_pytorch's network as a table of layers, in the order that its names intend: IWSA, then the second feed-forward."""

from __future__ import annotations

from collections.abc import Sequence

from scalablevit_ref.dialects.config import Config
from scalablevit_ref.layers import IMAGES, Kind, Layer, Wiring


def layers(config: Config, wiring: Wiring) -> dict[str, Layer]:
    table: dict[str, Layer] = {}

    def add(name: str, kind: Kind, *sources: str, **settings: object) -> str:
        table[name] = Layer(name, kind, sources, settings)
        return name

    last = len(config.depth) - 1
    x: tuple[str, ...] = (add("to_patches", "stem", IMAGES),)
    for k, depth in enumerate(config.depth):
        stage = config.stage(k)
        ssa = {"heads": stage["heads"], "s": stage["reduction_factor"]}
        iwsa = {"heads": stage["heads"], "window_size": stage["window_size"]}
        for j in range(depth):
            name = f"layers.{k}.0.layers.{j}"
            x = (*x, add(f"{name}.0", "port_ssa", *x, **ssa))
            x = (*x, add(f"{name}.1", "feed_forward", *x))
            if j == 0:
                x = (add(f"{name}.2", "port_peg", *x),)
            if wiring.second_feed_forward == "after IWSA":
                x = (*x, add(f"{name}.4", "port_iwsa", *x, **iwsa))
                x = (*x, add(f"{name}.3", "feed_forward", *x))
            else:
                x = (*x, add(f"{name}.3", "feed_forward", *x))
                x = (*x, add(f"{name}.4", "port_iwsa", *x, **iwsa))
        if k < last or wiring.last_norm == "there":
            x = (add(f"layers.{k}.0.norm", "channel_norm", *x),)
        x = (add(f"layers.{k}.0", "sum", *x),)
        if k < last:
            x = (add(f"layers.{k}.1", "downsample", *x),)
    pooled = add("mlp_head.0", "mean", *x)
    add("logits", "sum", add("mlp_head.2", "linear", add("mlp_head.1", "head_norm", pooled)))
    return table


def layer_shapes(config: Config, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of every layer's output, b h w c or b c."""
    batch, _, h, w = images
    shapes: dict[str, tuple[int, ...]] = {}
    h, w, dim = -(-h // 4), -(-w // 4), config.dim
    for name in layers(config, Wiring(last_norm="there")):
        if name in ("mlp_head.0", "mlp_head.1"):
            shapes[name] = (batch, dim)
        elif name in ("mlp_head.2", "logits"):
            shapes[name] = (batch, config.num_classes)
        else:
            if name.endswith(".1") and name.count(".") == 2:  # layers.k.1, the downsampling
                h, w, dim = -(-h // 2), -(-w // 2), 2 * dim
            shapes[name] = (batch, h, w, dim)
    return shapes
