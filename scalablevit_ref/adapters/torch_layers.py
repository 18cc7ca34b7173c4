"""The modules below the network: the specification's functions, with modules in the place of operations on parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from scalablevit_ref import attention, blocks, ops
from scalablevit_ref.adapters.of_modules import Parts, attention_parts, embedding_parts, of_modules, position_parts
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.backends.torch import linear
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import attention_settings
from scalablevit_ref.parameters import block_kind, modules

Tensors = Mapping[str, Tensor]
Settings = Mapping[str, Any]


class Layer(nn.Module):
    """A function of the specification and the modules it runs: `attn.q` is an `nn.Linear`, `attn.reduction.0` an `nn.Conv2d`.

    They are called, by attribute: hooks, parametrisations and whatever takes the place of one have effect.

    Parameters
    ----------
    function
        One of those below, which `by_modules` made.
    params
        Initial values under local names, `reduction.0.weight`.
    parts
        By the names of the modules, what `nn.Conv2d` or `nn.LayerNorm` takes beside sizes.
    settings
        The function's keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], params: Tensors, parts: Parts, **settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings
        leaves = modules(params)
        self.paths = {name: name.split(".") for name in leaves}
        for name, values in leaves.items():
            *path, last = self.paths[name]
            owner: nn.Module = self
            for step in path:
                if not hasattr(owner, step):
                    owner.add_module(step, nn.ModuleList())
                owner = owner.get_submodule(step)
            owner.add_module(last, leaf(values, **parts.get(name, {})))

    def part(self, path: list[str]) -> Any:
        """The module that is there now."""
        found: Any = self
        for step in path:
            found = getattr(found, step)
        return found

    def forward(self, x: Tensor, **changed: Any) -> Tensor:
        """The function of x; `changed` settings take the place of the layer's own."""
        name, path = next(iter(self.paths.items()))
        first = self.part(path)
        if type(first) in (nn.Linear, nn.Conv2d) and x.dtype != first.weight.dtype:
            if not torch.is_autocast_enabled(x.device.type):
                dtypes = dtype_name(x), dtype_name(first.weight)
                raise TypeError(f"x is {dtypes[0]} but parameter '{name}.weight' is {dtypes[1]}")
            x = x.to(first.weight.dtype)  # what came before may have been autocast; the parameters are not
        y: Tensor = self.function(x, self, **self.settings, **changed)
        return y

    def extra_repr(self) -> str:
        return ", ".join([self.function.__name__, *(f"{name}={value}" for name, value in self.settings.items())])


def leaf(params: Tensors, **settings: Any) -> nn.Module:
    """The module of `torch.nn` with these parameters: a Linear, a Conv2d or, of one axis, a LayerNorm."""
    shape = params["weight"].shape
    made: nn.Module
    if len(shape) == 1:
        made = nn.LayerNorm(shape[0], **settings, device="meta")  # where no values are drawn
    elif len(shape) == 2:
        made = nn.Linear(shape[1], shape[0], bias="bias" in params, device="meta")
    else:
        wide_in = shape[1] * settings.get("groups", 1)
        made = nn.Conv2d(wide_in, shape[0], (shape[2], shape[3]), bias="bias" in params, **settings, device="meta")
    for name, value in params.items():
        made.register_parameter(name, nn.Parameter(value))
    return made


def runnable(layer: Layer) -> dict[str, dict[str, nn.Module]]:
    """What stands in for `parameters.modules`: of each module's name the arguments of `run`."""
    return {name: {"module": layer.part(path)} for name, path in layer.paths.items()}


def run(x: Tensor, module: nn.Module, **settings: Any) -> Any:
    """What stands in for `ops.linear` and `ops.layer_norm`; the module has its settings itself."""
    if type(module) is nn.Linear and not torch.compiler.is_compiling() and not _is_changed(module):
        return linear(x, module.weight, module.bias)  # what it would do, by the backend's own product
    return module(x)


def run_head(x: Tensor, module: nn.Module) -> Any:
    """The classifier, of which a Sequential's parts run one by one."""
    if type(module) is nn.Sequential and not torch.compiler.is_compiling() and not _is_changed(module):
        for part in module:
            x = run(x, part)
        return x
    return run(x, module)


LINEAR = nn.Linear.forward
"""Torch's own, which a library may replace for all modules."""


def _is_changed(module: nn.Module) -> bool:
    """Whether hooks, or another forward than torch's, would have effect where the module is called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    forward = "forward" in vars(module) or nn.Linear.forward is not LINEAR
    return any(hooks) or bool(_has_any_global_hook()) or forward  # type: ignore[no-untyped-call]


def run_on_map(x: Tensor, module: nn.Module, **settings: Any) -> Any:
    """What stands in for `ops.conv2d`, of b h w c: channels last, to torch's convolutions."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


by_modules = partial(of_modules, module=__name__, modules=runnable, linear=run, layer_norm=run, conv2d=run_on_map)

patch_embed = by_modules(blocks.patch_embed)
peg = by_modules(blocks.peg)
mlp = by_modules(blocks.mlp)
iwsa = by_modules(attention.iwsa)
ssa = by_modules(attention.ssa)


def embedding(params: Tensors, *, patch_size: int, eps: float) -> Layer:
    """`patch_embeds.k`."""
    return Layer(patch_embed, params, embedding_parts(patch_size=patch_size, eps=eps), patch_size=patch_size, eps=eps)


def position(params: Tensors) -> Layer:
    """`pos_block.k`."""
    return Layer(peg, params, position_parts(len(params["proj.0.weight"])))


class Block(nn.Module):
    """`sv.block`, with dropout and stochastic depth; its parts lie in the order of the official state dict.

    Where it is `checkpointed`, what is inside is computed again for the gradients, and not kept.
    """

    checkpointed = False

    norm1: nn.LayerNorm
    attn: Layer
    norm2: nn.LayerNorm
    mlp: Layer

    def __init__(
        self, params: Mapping[str, Tensors], config: ScalableViTConfig, k: int, i: int, *, drop: float, attn_drop: float
    ) -> None:
        super().__init__()
        attend = {"attend": partial(attention_with_dropout, rate=attn_drop)} if attn_drop else {}
        activation = {"activation": partial(gelu_with_dropout, rate=drop)} if drop else {}
        attend_by, parts = iwsa if block_kind(i) == "iwsa" else ssa, attention_parts(config, k, i)
        for name, p in params.items():
            part: nn.Module
            if name == "attn":
                part = Dropped(attend_by, p, parts, in_training=attend, after=drop, **attention_settings(config, k, i))
            elif name == "mlp":
                part = Dropped(mlp, p, {}, in_training=activation, after=drop)
            else:
                part = leaf(p, eps=config.norm_eps)
            self.add_module(name, part)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointed and torch.is_grad_enabled():
            kept: Tensor = checkpoint(self.branches, x, use_reentrant=False)
            return kept
        return self.branches(x)

    def branches(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class Dropped(Layer):
    """A layer with dropout of its output and, in training mode, within: by functions that take the place of its own."""

    def __init__(
        self,
        function: Callable[..., Any],
        params: Tensors,
        parts: Parts,
        *,
        in_training: Settings,
        after: float,
        **settings: Any,
    ) -> None:
        super().__init__(function, params, parts, **settings)
        self.in_training, self.drop = in_training, nn.Dropout(after)

    def forward(self, x: Tensor, **changed: Any) -> Tensor:
        if self.training:
            changed = {**self.in_training, **changed}
        y: Tensor = self.drop(super().forward(x, **changed))
        return y


def attention_with_dropout(q: Tensor, k: Tensor, v: Tensor, *, scale: float, rate: float) -> Tensor:
    """`ops.attention` with dropout of its weights, in torch's fused attention, which takes four axes."""
    batch = q.shape[:-3]
    q, k, v = (x.flatten(0, -4) for x in (q, k, v))
    z = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, scale=scale)
    return z.reshape(*batch, *z.shape[1:])


def gelu_with_dropout(x: Tensor, *, rate: float) -> Tensor:
    """`ops.gelu` with dropout of the hidden units."""
    return F.dropout(ops.gelu(x), rate)


class DropPath(nn.Module):
    """Stochastic depth: a sample's branch is left out with probability `rate`, and scaled by 1 / (1 − rate) where it is not."""

    rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"{self.rate:.3g}"
