"""The modules below the network: the specification's functions, with modules of `mlx.nn` in the place of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from scalablevit_ref import attention, blocks
from scalablevit_ref.adapters.of_modules import Parts, attention_parts, embedding_parts, module_at, of_modules, position_parts, run
from scalablevit_ref.blocks import Tap
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import attention_settings
from scalablevit_ref.parameters import block_kind, children, modules

Arrays = Mapping[str, mx.array]


class Layer(nn.Module):
    """A function of the specification and the modules it runs: `attn.q` is an `nn.Linear`, `attn.reduction[0]` an `nn.Conv2d`.

    Parameters
    ----------
    function
        One of those below, which `by_modules` made.
    params
        Initial values under local names, `reduction.0.weight`, in MLX's layout.
    parts
        By the names of the modules, what `nn.Conv2d` or `nn.LayerNorm` takes beside sizes.
    settings
        The function's keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], params: Arrays, parts: Parts, **settings: Any) -> None:
        super().__init__()
        self._run = partial(function, **settings)
        self._paths = " ".join(modules(params))
        for name, inner in children(params).items():
            held = children(inner)
            if "" in held or not all(key.isdecimal() for key in held):
                setattr(self, name, leaf(inner, **parts.get(name, {})))
            else:
                setattr(self, name, [leaf(values, **parts.get(f"{name}.{key}", {})) for key, values in held.items()])

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self._run(x, self)
        return y


def leaf(params: Arrays, **settings: Any) -> nn.Module:
    """The module of `mlx.nn` with these parameters: a Linear, a Conv2d or, of one axis, a LayerNorm."""
    shape, bias = params["weight"].shape, "bias" in params
    made: nn.Module
    if len(shape) == 1:
        made = nn.LayerNorm(shape[0], **settings)
    elif len(shape) == 2:
        made = nn.Linear(shape[1], shape[0], bias=bias)
    else:
        made = nn.Conv2d(shape[3] * settings.get("groups", 1), shape[0], (shape[1], shape[2]), bias=bias, **settings)
    made.update(dict(params))
    return made


def runnable(layer: Layer) -> dict[str, dict[str, Any]]:
    """What stands in for `parameters.modules`: of each module's name the arguments of `run`."""
    return {name: {"module": module_at(layer, name)} for name in layer._paths.split()}


by_modules = partial(of_modules, module=__name__, modules=runnable, linear=run, layer_norm=run, conv2d=run)

patch_embed = by_modules(blocks.patch_embed)
peg = by_modules(blocks.peg)
mlp = by_modules(blocks.mlp)
iwsa = by_modules(attention.iwsa)
ssa = by_modules(attention.ssa)


def embedding(params: Arrays, *, patch_size: int, eps: float) -> Layer:
    """`patch_embeds.k`."""
    return Layer(patch_embed, params, embedding_parts(patch_size=patch_size, eps=eps), patch_size=patch_size, eps=eps)


def position(params: Arrays) -> Layer:
    """`pos_block.k`."""
    return Layer(peg, params, position_parts(len(params["proj.0.weight"])))


class Block(nn.Module):
    """`sv.block`; its parts lie in the order of the official state dict."""

    def __init__(self, params: Mapping[str, Arrays], config: ScalableViTConfig, k: int, i: int) -> None:
        super().__init__()
        attend_by, parts = iwsa if block_kind(i) == "iwsa" else ssa, attention_parts(config, k, i)
        self.norm1 = leaf(params["norm1"], eps=config.norm_eps)
        self.attn = Layer(attend_by, params["attn"], parts, **attention_settings(config, k, i))
        self.norm2 = leaf(params["norm2"], eps=config.norm_eps)
        self.mlp = Layer(mlp, params["mlp"], {})

    def __call__(self, x: mx.array, tap: Tap = blocks.untapped, name: str = "") -> mx.array:
        for norm, branch in (("norm1", "attn"), ("norm2", "mlp")):
            y = tap(f"{name}.{norm}", self[norm](x))
            x = x + tap(f"{name}.{branch}", self[branch](y))
        return x
