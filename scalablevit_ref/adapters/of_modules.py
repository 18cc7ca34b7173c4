"""The specification's functions run by a library's own modules: what the layers of several adapters have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, cast

from einops import rearrange, reduce

from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.blocks import Tap
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.parameters import block_kind

Parts = Mapping[str, Mapping[str, Any]]
"""By the names of modules, what a convolution or a norm takes beside sizes."""


def of_modules(function: Callable[..., Any], module: str, **instead: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of the specification where `linear(x, **p["q"])` runs the module `q` of a layer, given as its `params`.

    It is the function's own code, in a copy of its module's namespace. Nothing is checked: an image is, where the network begins,
    and parameters are by the modules that hold them. The copy has no `__name__`, by which torch.compile would find the original.

    Parameters
    ----------
    function
        With operations on parameters.
    module
        The name of the module that keeps what is made under the function's name, where pickle finds it.
    instead
        What stands in for functions that the code calls: for `modules`, and for the operations with parameters.
    """
    plain = cast("FunctionType", inspect.unwrap(function))
    namespace = {name: _unchecked if name.startswith("check_") else value for name, value in plain.__globals__.items()}
    del namespace["__name__"]
    made = FunctionType(plain.__code__, namespace | instead, plain.__name__, plain.__defaults__)
    made.__kwdefaults__, made.__module__ = plain.__kwdefaults__, module
    made.__doc__ = f"`{plain.__module__}.{plain.__name__}` by the modules of a layer."
    return made


def run(x: Any, module: Any, **settings: Any) -> Any:
    """What stands in for an operation with parameters, where the module takes x as it is and has its settings itself."""
    return module(x)


def module_at(layer: Any, path: str) -> Any:
    """The module that is now at this path, `reduction.0`, of attributes and places in lists."""
    found = layer
    for step in path.split("."):
        found = found[int(step)] if step.isdecimal() else getattr(found, step)
    return found


def _unchecked(*args: Any, **settings: Any) -> None:
    """What stands in for the checks."""


def embedding_parts(*, patch_size: int, eps: float) -> Parts:
    """Of `patch_embeds.k`."""
    return {"proj": {"stride": patch_size, "padding": patch_size - 1}, "norm": {"eps": eps}}


def position_parts(channels: int) -> Parts:
    """Of `pos_block.k`."""
    return {"proj.0": {"padding": 1, "groups": channels}}


def attention_parts(config: ScalableViTConfig, k: int, i: int) -> Parts:
    """Of `stages.k.i.attn`."""
    depthwise = {"groups": config.embed_dims[k]}
    if block_kind(i) == "iwsa":
        return {"lim_func": {"padding": 1, **depthwise}}
    return {"reduction.0": {"stride": config.sr_ratios[k], **depthwise}, "norm_act.0": {"eps": SSA_NORM_EPS}}


def network_maps(network: Any, images: Any, tap: Tap) -> list[Any]:
    """What `network.stage_maps` gives, by modules that are named as the official ones: a map b h w c for each stage."""
    x, maps = rearrange(images, "b c h w -> b h w c"), []
    for k, blocks in enumerate(network.stages):
        x = tap(f"patch_embeds.{k}", network.patch_embeds[k](x))
        for i, block in enumerate(blocks):
            x = tap(f"stages.{k}.{i}", block(x, tap, f"stages.{k}.{i}"))
            if i == 0:
                x = tap(f"pos_block.{k}", network.pos_block[k](x))
        if network.config.stage_norms:
            x = tap(f"norm_list.{k}", network.norm_list[k](x))
        maps.append(x)
    return maps


def network_logits(network: Any, images: Any, tap: Tap) -> Any:
    """What `network.logits` gives, likewise."""
    config: ScalableViTConfig = network.config
    x = network_maps(network, images, tap)[-1]
    if not config.stage_norms:
        x = tap("norm", network.norm(x))
    x = reduce(x, "b h w c -> b c", "mean")
    if config.head == "mlp":
        for i, part in enumerate(network.head):
            x = tap(f"head.{i}", part(x))
        x = tap("head", x if config.num_classes else tap("head.3", x))
    elif config.head == "linear":
        x = tap("head", network.head(x) if config.num_classes else x)
    return tap("logits", x)
