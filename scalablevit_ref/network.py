"""The network, from top to bottom as the paper has it: patch embedding, position encoding, block, stages, classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from einops import rearrange, reduce

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.checks import check_count, check_image_size, check_map, check_parameters
from scalablevit_ref.config import BlockKind, ScalableViTConfig, SSAScale, SSAValues, choice
from scalablevit_ref.ops import conv2d, gelu, in_groups, layer_norm, linear
from scalablevit_ref.parameters import (
    block_kind,
    block_shapes,
    children,
    has_qkv_bias,
    mlp_shapes,
    modules,
    parameter_shapes,
    patch_embed_shapes,
    peg_shapes,
    width,
)

Tap = Callable[[str, Any], Any]
"""Gets each intermediate with its name as it is computed; what it returns takes the intermediate's place."""


def untapped(name: str, x: Any) -> Any:
    return x


def patch_embed(x: Float[Array, "b h w c_in"], params: Params, *, patch_size: int, eps: float = 1e-6) -> Float[Array, "b h2 w2 c"]:
    """Overlapping patches: a convolution of kernel 2·patch_size − 1, stride patch_size, then LayerNorm; h' = ⌈h / patch_size⌉.

    Official module: `patch_embeds.k`: kernel 7, stride 4, padding 3 in stage 0; kernel 3, stride 2, padding 1 in the others.
    """
    check_map("x", x, "b h w c")
    check_count("patch_size", patch_size)
    dim = width(params, "proj.weight")
    check_parameters(params, patch_embed_shapes(x.shape[-1], dim, patch_size), x)
    p = modules(params)
    return layer_norm(conv2d(x, **p["proj"], stride=patch_size, padding=patch_size - 1), **p["norm"], eps=eps)


def peg(x: Float[Array, "b h w c"], params: Params) -> Float[Array, "b h w c"]:
    """Position encoding generator: x plus a depthwise 3 × 3 convolution of x (Chu et al., arXiv 2102.10882).

    Once a stage, after its first block. Official module: `pos_block.k`.
    """
    check_map("x", x, "b h w c")
    check_parameters(params, peg_shapes(x.shape[-1]), x)
    return x + conv2d(x, **modules(params)["proj.0"], padding=1, groups=x.shape[-1])


def mlp(x: Float[Array, "b h w c"], params: Params) -> Float[Array, "b h w c"]:
    """fc2(GELU(fc1(x))), c → m·c → c, with the exact GELU. Official module: `stages.k.i.mlp`."""
    check_map("x", x, "b h w c")
    check_parameters(params, mlp_shapes(x.shape[-1], width(params, "fc1.weight")), x)
    p = modules(params)
    return linear(gelu(linear(x, **p["fc1"])), **p["fc2"])


def block(
    x: Float[Array, "b h w c"],
    params: Params,
    *,
    kind: BlockKind,
    num_heads: int,
    window_size: int | None = None,
    sr_ratio: int | None = None,
    c_ratio: float | None = None,
    norm_eps: float = 1e-6,
    values: SSAValues = "unscaled",
    scale: SSAScale = "scaled",
    pad: bool = False,
    tap: Tap = untapped,
) -> Float[Array, "b h w c"]:
    """x += attention(norm1(x)); x += mlp(norm2(x)). Official module: `stages.k.i`.

    kind: "iwsa" needs window_size (and takes pad), "ssa" needs sr_ratio and c_ratio (and takes values and scale).
    tap: sees `norm1`, `attn`, `norm2` and `mlp`.
    """
    check_map("x", x, "b h w c")
    choice("kind", kind)
    needed = {"window_size": window_size} if kind == "iwsa" else {"sr_ratio": sr_ratio, "c_ratio": c_ratio}
    for name, value in needed.items():
        if value is None:
            raise TypeError(f"a block of kind {kind!r} needs {name}")
    shapes = block_shapes(
        x.shape[-1],
        kind=kind,
        hidden=width(params, "mlp.fc1.weight"),
        num_heads=num_heads,
        sr_ratio=sr_ratio,
        c_ratio=c_ratio,
        qkv_bias=has_qkv_bias(params, "attn."),
        values=values,
    )
    check_parameters(params, shapes, x)
    p = children(params)

    y = tap("norm1", layer_norm(x, **p["norm1"], eps=norm_eps))
    if kind == "iwsa":
        y = iwsa(y, p["attn"], num_heads=num_heads, window_size=cast("int", window_size), pad=pad)
    else:
        s, r_c = cast("int", sr_ratio), cast("float", c_ratio)
        y = ssa(y, p["attn"], num_heads=num_heads, sr_ratio=s, c_ratio=r_c, values=values, scale=scale)
    x = x + tap("attn", y)
    y = tap("norm2", layer_norm(x, **p["norm2"], eps=norm_eps))
    return x + tap("mlp", mlp(y, p["mlp"]))


@in_groups
def scalable_vit(
    images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig, *, tap: Tap = untapped
) -> Float[Array, "b classes"]:
    """Class logits of a batch of images; without a last Linear (`num_classes=0`, `head="none"`) the features it would see.

    The official classifier's `forward`. Parameters: `parameter_shapes(config)`. The height and width need not be equal; unless
    `config.pad_windows`, each stage's map, ⌈size / stride⌉ tokens a side, must divide by its window.

    Raises ValueError or TypeError, before any work is done, for images, parameters or a mixture of libraries, dtypes or devices
    that do not fit.
    """
    x = stage_features(images, params, config, tap=tap)[-1]
    p = modules(params)
    if not config.stage_norms:
        x = tap("norm", layer_norm(x, **p["norm"], eps=config.norm_eps))
    x = reduce(x, "b h w c -> b c", "mean")
    if config.head == "mlp":
        x = tap("head.0", linear(x, **p["head.0"]))
        x = tap("head.1", layer_norm(x, **p["head.1"], eps=config.norm_eps))
        x = tap("head.2", gelu(x))
        x = tap("head", tap("head.3", linear(x, **p["head.3"]) if config.num_classes else x))
    elif config.head == "linear":
        x = tap("head", linear(x, **p["head"]) if config.num_classes else x)
    return tap("logits", x)


@in_groups
def stage_features(
    images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig, *, tap: Tap = untapped
) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """The map that each stage ends with, normed where the config has stage norms: strides 4, 8, 16, 32 for a detector's pyramid.

    The official detection backbone's `forward`, whose maps are b c h w. `params` are those of the whole config.
    """
    check_map("images", images, "b c h w", channels=config.in_chans)
    check_image_size(config, *images.shape[2:])
    check_parameters(params, parameter_shapes(config), images, name="images")
    p = children(params)
    embeds, pegs, stages, norms = (children(p.get(part, {})) for part in ("patch_embeds", "pos_block", "stages", "norm_list"))

    x = rearrange(images, "b c h w -> b h w c")
    features = []
    for k in range(config.num_stages):
        stage = str(k)
        stride = config.patch_size if k == 0 else 2
        x = tap(f"patch_embeds.{k}", patch_embed(x, embeds[stage], patch_size=stride, eps=config.embed_norm_eps or config.norm_eps))
        blocks = children(stages[stage])  # by number, not in the mapping's order: jax.jit sorts its keys
        for i in range(config.depths[k]):
            name = f"stages.{k}.{i}"
            x = block(
                x,
                blocks[str(i)],
                kind=block_kind(i),
                num_heads=config.num_heads[k],
                window_size=config.window_sizes[k],
                sr_ratio=config.sr_ratios[k],
                c_ratio=config.c_ratios[k],
                norm_eps=config.norm_eps,
                values=config.ssa_values,
                scale=config.ssa_scale,
                pad=config.pad_windows,
                tap=partial(_tap_part, tap, name),
            )
            x = tap(name, x)
            if i == 0:
                x = tap(f"pos_block.{k}", peg(x, pegs[stage]))
        if config.stage_norms:
            x = tap(f"norm_list.{k}", layer_norm(x, **norms[stage], eps=config.norm_eps))
        features.append(x)
    return tuple(features)


def _tap_part(tap: Tap, name: str, part: str, x: Any) -> Any:
    return tap(f"{name}.{part}", x)


def trace(images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig) -> dict[str, Any]:
    """Every named intermediate in the order it is computed, under the official module's name; the last is `logits`.

    Maps are b h w c: `patch_embeds.k`, `stages.k.i.{norm1,attn,norm2,mlp}`, `stages.k.i`, `pos_block.k`, `norm_list.k`, `norm`;
    `head.0` … `head.3`, `head` and `logits` are b c.
    """
    intermediates: dict[str, Any] = {}

    def keep(name: str, x: Any) -> Any:
        intermediates[name] = x
        return x

    scalable_vit(images, params, config, tap=keep)
    return intermediates
