"""The modules below the network: each calls a function of the specification on parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scalablevit_ref import ops
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import mlp
from scalablevit_ref.parameters import block_kind

Tensors = Mapping[str, Tensor]


class Layer(nn.Module):
    """A function of the specification, with its parameters and settings; `a.b.weight` is held by modules without a forward."""

    def __init__(self, function: Callable[..., Any], params: Tensors, **settings: Any) -> None:
        super().__init__()
        self.function, self.names, self.settings = function, tuple(params), settings
        for name, value in params.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for step in path:
                if not hasattr(owner, step):
                    owner.add_module(step, nn.Module())
                owner = owner.get_submodule(step)
            owner.register_parameter(leaf, nn.Parameter(value))

    def params(self) -> dict[str, Tensor]:
        """By attribute, so that whatever takes a parameter's place (`functional_call`, a parametrisation) is seen."""
        found: dict[str, Any] = {}
        for name in self.names:
            value: Any = self
            for step in name.split("."):
                value = getattr(value, step)
            found[name] = value
        return found

    def forward(self, x: Tensor) -> Tensor:
        params = self.params()
        if params and torch.is_autocast_enabled(x.device.type):  # what came before may have been autocast; the parameters are not
            x = x.to(params[self.names[0]].dtype)
        y: Tensor = self.function(x, params, **self.settings)
        return y

    def extra_repr(self) -> str:
        return ", ".join([self.function.__name__, *(f"{name}={value}" for name, value in self.settings.items())])


def layer_norm(x: Tensor, params: Tensors, *, eps: float) -> Any:
    return ops.layer_norm(x, **params, eps=eps)


def linear(x: Tensor, params: Tensors) -> Any:
    return ops.linear(x, **params)


def gelu(x: Tensor, params: Tensors) -> Any:
    return ops.gelu(x)


class Block(nn.Module):
    """`sv.block`, with dropout and stochastic depth; its parts lie in the order of the official state dict."""

    norm1: Layer
    attn: Layer
    norm2: Layer
    mlp: Layer

    def __init__(
        self, params: Mapping[str, Tensors], config: ScalableViTConfig, k: int, i: int, *, drop: float, attn_drop: float
    ) -> None:
        super().__init__()
        heads, eps = config.num_heads[k], config.norm_eps
        for name, p in params.items():
            layer: Layer
            if name == "mlp":
                layer = Dropped(mlp, p, within=drop, after=drop)
            elif name != "attn":
                layer = Layer(layer_norm, p, eps=eps)
            elif block_kind(i) == "iwsa":
                settings: dict[str, Any] = {"window_size": config.window_sizes[k], "pad": config.pad_windows}
                layer = Dropped(iwsa, p, within=attn_drop, after=drop, num_heads=heads, **settings)
            else:
                settings = {"sr_ratio": config.sr_ratios[k], "c_ratio": config.c_ratios[k]}
                settings |= {"values": config.ssa_values, "scale": config.ssa_scale}
                layer = Dropped(ssa, p, within=attn_drop, after=drop, num_heads=heads, **settings)
            self.add_module(name, layer)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class Dropped(Layer):
    """Dropout within an attention (of its weights) or an MLP (of its hidden units), and of its output."""

    def __init__(self, function: Callable[..., Any], params: Tensors, *, within: float, after: float, **settings: Any) -> None:
        super().__init__(function, params, **settings)
        self.within, self.drop = within, nn.Dropout(after)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.within:
            y = super().forward(x)
        else:
            with DropWithin(self.within, after=F.gelu if self.function is mlp else torch.softmax):
                y = super().forward(x)
        dropped: Tensor = self.drop(y)
        return dropped


class DropWithin(TorchFunctionMode):
    """While it is entered, dropout follows every call of one function of torch's, and takes place in its fused attention."""

    def __init__(self, rate: float, *, after: Callable[..., Any]) -> None:
        super().__init__()
        self.rate, self.after = rate, after

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = {"dropout_p": self.rate} if func is F.scaled_dot_product_attention else {}
        y = func(*args, **(kwargs or {}), **fused)
        return F.dropout(y, self.rate) if func is self.after else y


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
