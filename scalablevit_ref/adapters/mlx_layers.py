"""The modules below the network: the specification's functions, with modules of `mlx.nn` in the place of parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, cast

import mlx.core as mx
from mlx import nn

from scalablevit_ref import attention, blocks
from scalablevit_ref.attention import SSA_NORM_EPS
from scalablevit_ref.blocks import Tap
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import attention_settings
from scalablevit_ref.parameters import block_kind, children, modules

Arrays = Mapping[str, mx.array]
Parts = Mapping[str, Mapping[str, Any]]


class Layer(nn.Module):
    """A function of the specification and the modules it runs: `attn.q` is an `nn.Linear`, `attn.reduction[0]` an `nn.Conv2d`.

    Parameters
    ----------
    function
        One of those below, which `of_modules` made.
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

    def part(self, path: str) -> Any:
        """The module that is there now."""
        found: Any = self
        for step in path.split("."):
            found = found[int(step)] if step.isdecimal() else getattr(found, step)
        return found

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


def of_modules(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of the specification where `linear(x, **p["q"])` runs the module `q` of a layer, given as its `params`.

    It is the function's own code, in a copy of its module's namespace. Nothing is checked: an image is, where the network begins,
    and parameters are by the modules that hold them.
    """
    plain = cast("FunctionType", inspect.unwrap(function))
    namespace = {name: unchecked if name.startswith("check_") else value for name, value in plain.__globals__.items()}
    namespace |= {"modules": runnable, "linear": run, "layer_norm": run, "conv2d": run}
    made = FunctionType(plain.__code__, namespace, plain.__name__, plain.__defaults__)
    made.__kwdefaults__ = plain.__kwdefaults__
    return made


def runnable(layer: Layer) -> dict[str, dict[str, Any]]:
    """What stands in for `parameters.modules`: of each module's name the arguments of `run`."""
    return {name: {"module": layer.part(name)} for name in layer._paths.split()}


def run(x: mx.array, module: Any, **settings: Any) -> Any:
    """What stands in for an operation with parameters; the module has its settings itself, and maps are b h w c to MLX too."""
    return module(x)


def unchecked(*args: Any, **settings: Any) -> None:
    """What stands in for the checks."""


patch_embed = of_modules(blocks.patch_embed)
peg = of_modules(blocks.peg)
mlp = of_modules(blocks.mlp)
iwsa = of_modules(attention.iwsa)
ssa = of_modules(attention.ssa)


def embedding(params: Arrays, *, patch_size: int, eps: float) -> Layer:
    """`patch_embeds.k`."""
    parts: Parts = {"proj": {"stride": patch_size, "padding": patch_size - 1}, "norm": {"eps": eps}}
    return Layer(patch_embed, params, parts, patch_size=patch_size, eps=eps)


def position(params: Arrays) -> Layer:
    """`pos_block.k`."""
    return Layer(peg, params, {"proj.0": {"padding": 1, "groups": len(params["proj.0.weight"])}})


class Block(nn.Module):
    """`sv.block`; its parts lie in the order of the official state dict."""

    def __init__(self, params: Mapping[str, Arrays], config: ScalableViTConfig, k: int, i: int) -> None:
        super().__init__()
        depthwise = {"groups": config.embed_dims[k]}
        parts: Parts
        if block_kind(i) == "iwsa":
            attend_by, parts = iwsa, {"lim_func": {"padding": 1, **depthwise}}
        else:
            reduction = {"stride": config.sr_ratios[k], **depthwise}
            attend_by, parts = ssa, {"reduction.0": reduction, "norm_act.0": {"eps": SSA_NORM_EPS}}
        self.norm1 = leaf(params["norm1"], eps=config.norm_eps)
        self.attn = Layer(attend_by, params["attn"], parts, **attention_settings(config, k, i))
        self.norm2 = leaf(params["norm2"], eps=config.norm_eps)
        self.mlp = Layer(mlp, params["mlp"], {})

    def __call__(self, x: mx.array, tap: Tap = blocks.untapped, name: str = "") -> mx.array:
        for norm, branch in (("norm1", "attn"), ("norm2", "mlp")):
            y = tap(f"{name}.{norm}", self[norm](x))
            x = x + tap(f"{name}.{branch}", self[branch](y))
        return x
