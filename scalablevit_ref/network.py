"""The network, from top to bottom as the paper has it: stages of blocks over a shrinking map, and a classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.backends import in_groups
from scalablevit_ref.backends.einops import rearrange, reduce
from scalablevit_ref.blocks import Tap, patch_embed, peg, residual_block, untapped
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.operation_checks import check_network
from scalablevit_ref.ops import gelu, layer_norm, linear
from scalablevit_ref.parameters import block_kind, children, modules

Result = TypeVar("Result")


def scalable_vit(
    images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig, *, tap: Tap = untapped
) -> Float[Array, "b classes"]:
    """Class logits of a batch of images; without a last Linear (`num_classes=0`, `head="none"`) the features it would see.

    The official classifier's `forward`. The height and width need not be equal; unless `config.pad_windows`, each stage's map,
    ⌈size / stride⌉ tokens a side, must be divisible by its window.

    Parameters
    ----------
    images : b c h w
        Of the network's channels, floating point.
    params : mapping
        Names and shapes are those of `parameter_shapes(config)`.
    config : ScalableViTConfig
        The network.
    tap : function
        Sees each intermediate of the whole batch under the official module's name, as in `trace`; what it returns is used.

    Raises
    ------
    ValueError or TypeError
        Before any work is done, for images, parameters or a mixture of libraries, dtypes or devices that do not fit.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, (images, labels) = load_checkpoint(digits.CHECKPOINT), digits.test_images()
    >>> logits = scalable_vit(digits.preprocess(images[1:4]), found.params, found.config)
    >>> logits.argmax(axis=1), labels[1:4]
    (array([9, 2, 4]), array([9, 2, 4]))
    """
    check_network(images, params, config, tap=tap)
    return _run(logits, images, params, config, tap)


def stage_features(
    images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig, *, tap: Tap = untapped
) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """The map that each stage ends with, normed where the config has stage norms: strides 4, 8, 16, 32 for a detector's pyramid.

    The official detection backbone's `forward`, whose maps are b c h w. The arguments are those of `scalable_vit`; `params` are
    those of the whole config.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> [y.shape for y in stage_features(x, found.params, found.config)]
    [(1, 28, 28, 16), (1, 14, 14, 32), (1, 7, 7, 48), (1, 4, 4, 64)]
    """
    check_network(images, params, config, tap=tap)
    return _run(stage_maps, images, params, config, tap)


def _run(network: Callable[..., Result], images: Array, params: Params, config: ScalableViTConfig, tap: Tap) -> Result:
    """A backend may take the batch in groups of images; a tap sees it whole."""
    if tap is not untapped:
        return network(images, params, config, tap)
    return in_groups(lambda group: network(group, params, config, tap), images)


def stage_maps(
    images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig, tap: Tap
) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """The map that each stage ends with."""
    p = children(params)
    embeds, pegs, stages, norms = (children(p.get(part, {})) for part in ("patch_embeds", "pos_block", "stages", "norm_list"))
    embed_eps = config.embed_norm_eps or config.norm_eps

    x = rearrange(images, "b c h w -> b h w c")
    maps = []
    for k in range(config.num_stages):
        stage, stride = str(k), 2 if k else config.patch_size
        x = tap(f"patch_embeds.{k}", patch_embed(x, embeds[stage], patch_size=stride, eps=embed_eps))
        blocks = children(stages[stage])  # by number, not in the mapping's order: jax.jit sorts its keys
        for i in range(config.depths[k]):
            name = f"stages.{k}.{i}"
            attn = partial(iwsa if block_kind(i) == "iwsa" else ssa, **attention_settings(config, k, i))
            part = partial(_tap_part, tap, name)
            x = tap(name, residual_block(x, blocks[str(i)], attn, norm_eps=config.norm_eps, tap=part))
            if i == 0:
                x = tap(f"pos_block.{k}", peg(x, pegs[stage]))
        if config.stage_norms:
            x = tap(f"norm_list.{k}", layer_norm(x, **norms[stage], eps=config.norm_eps))
        maps.append(x)
    return tuple(maps)


def attention_settings(config: ScalableViTConfig, k: int, i: int) -> dict[str, Any]:
    """What the attention of block i of stage k is called with: keyword arguments of `iwsa` or of `ssa`, as `block_kind(i)` says."""
    if block_kind(i) == "iwsa":
        return {"num_heads": config.num_heads[k], "window_size": config.window_sizes[k], "pad": config.pad_windows}
    reduction = {"sr_ratio": config.sr_ratios[k], "c_ratio": config.c_ratios[k]}
    return {"num_heads": config.num_heads[k], **reduction, "values": config.ssa_values, "ssa_scale": config.ssa_scale}


def logits(images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig, tap: Tap) -> Float[Array, "b classes"]:
    """The stages, the mean over the last one's tokens, and the head."""
    x = stage_maps(images, params, config, tap)[-1]
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


def _tap_part(tap: Tap, name: str, part: str, x: Any) -> Any:
    return tap(f"{name}.{part}", x)


def trace(images: Float[Array, "b c h w"], params: Params, config: ScalableViTConfig) -> dict[str, Any]:
    """Every named intermediate in the order it is computed, under the official module's name; the last is `logits`.

    Maps are b h w c: `patch_embeds.k`, `stages.k.i.{norm1,attn,norm2,mlp}`, `stages.k.i`, `pos_block.k`, `norm_list.k`, `norm`;
    `head.0` … `head.3`, `head` and `logits` are b c.

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> list(trace(x, found.params, found.config))[:3]
    ['patch_embeds.0', 'stages.0.0.norm1', 'stages.0.0.attn']
    """
    intermediates: dict[str, Any] = {}

    def keep(name: str, x: Any) -> Any:
        intermediates[name] = x
        return x

    scalable_vit(images, params, config, tap=keep)
    return intermediates
