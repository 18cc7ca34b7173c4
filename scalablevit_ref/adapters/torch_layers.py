"""The modules below the network: each calls a function of the specification on parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit_ref import ops
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.blocks import mlp
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import attention_settings
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

    def forward(self, x: Tensor, **changed: Any) -> Tensor:
        """The function of x; `changed` settings take the place of the layer's own."""
        params = self.params()
        if params and torch.is_autocast_enabled(x.device.type):  # what came before may have been autocast; the parameters are not
            x = x.to(params[self.names[0]].dtype)
        y: Tensor = self.function(x, params, **self.settings, **changed)
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
        attention = iwsa if block_kind(i) == "iwsa" else ssa
        attend = {"attend": partial(attention_with_dropout, rate=attn_drop)} if attn_drop else {}
        activation = {"activation": partial(gelu_with_dropout, rate=drop)} if drop else {}
        for name, p in params.items():
            layer: Layer
            if name == "attn":
                layer = Dropped(attention, p, in_training=attend, after=drop, **attention_settings(config, k, i))
            elif name == "mlp":
                layer = Dropped(mlp, p, in_training=activation, after=drop)
            else:
                layer = Layer(layer_norm, p, eps=config.norm_eps)
            self.add_module(name, layer)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class Dropped(Layer):
    """A layer with dropout of its output and, in training mode, within: by functions that take the place of its own."""

    def __init__(
        self, function: Callable[..., Any], params: Tensors, *, in_training: Mapping[str, Any], after: float, **settings: Any
    ) -> None:
        super().__init__(function, params, **settings)
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
