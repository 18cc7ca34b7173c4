"""The modules below the network: the specification's functions, with nnx modules in the place of operations on parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scalablevit_ref import attention, blocks, ops
from scalablevit_ref.adapters.of_modules import Parts, attention_parts, embedding_parts, module_at, of_modules, position_parts, run
from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import attention_settings
from scalablevit_ref.parameters import block_kind, children, modules

Arrays = Mapping[str, Any]

Drop = Callable[[jax.Array], jax.Array]
"""An `nnx.Dropout`, or `whole` where the rate is zero: each module costs time in every call of `nnx.jit`."""


def whole(x: jax.Array) -> jax.Array:
    """X, of which nothing is dropped."""
    return x


@dataclass(frozen=True)
class Rates:
    """What a block drops in training mode, and by which random numbers.

    Attributes
    ----------
    drop
        Share of each layer's output and of the MLP's hidden units.
    attn_drop
        Share of the attention weights.
    rngs
        Of the network.
    """

    drop: float
    attn_drop: float
    rngs: nnx.Rngs

    def dropout(self, rate: float, **settings: Any) -> Drop:
        return nnx.Dropout(rate, rngs=self.rngs, **settings) if rate else whole


class Operation(nnx.Module):
    """An operation of the specification and its parameters, under the official names and in the official layout.

    Parameters
    ----------
    params
        Initial values: a weight, and a bias where there is one.
    settings
        What the operation takes beside them.
    """

    run: Callable[..., Any]

    def __init__(self, params: Arrays, **settings: float) -> None:
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))
        self.settings = tuple(settings.items())

    def __call__(self, x: jax.Array) -> jax.Array:
        params = {name: getattr(self, name)[...] for name in ("weight", "bias") if hasattr(self, name)}
        if x.dtype != params["weight"].dtype:  # JAX would compute in the wider one
            raise TypeError(f"x is {x.dtype} but the weight of {type(self).__name__} is {params['weight'].dtype}")
        y: jax.Array = self.run(x, **params, **dict(self.settings))
        return y


class Linear(Operation):
    """`ops.linear`; its weight is out × in, which `nnx.Linear` keeps turned, as `kernel`."""

    run = staticmethod(ops.linear)


class Conv2d(Operation):
    """`ops.conv2d` of a map b h w c; its weight is out × in / groups × h × w."""

    run = staticmethod(ops.conv2d)


class LayerNorm(Operation):
    """`ops.layer_norm` over the channels."""

    run = staticmethod(ops.layer_norm)


class GELU(nnx.Module):
    """`ops.gelu`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = ops.gelu(x)
        return y


def leaf(params: Arrays, **settings: float) -> Operation:
    """The module with these parameters: a Linear, a Conv2d or, of one axis, a LayerNorm."""
    kinds: dict[int, type[Operation]] = {1: LayerNorm, 2: Linear, 4: Conv2d}
    return kinds[params["weight"].ndim](params, **settings)


class Layer(nnx.Module):
    """A function of the specification and the modules it runs: `attn.q` is a `Linear`, `attn.reduction[0]` a `Conv2d`.

    They are called, by attribute: whatever takes the place of one has effect.

    Parameters
    ----------
    function
        One of those below, which `by_modules` made.
    params
        Initial values under local names, `reduction.0.weight`.
    parts
        By the names of the modules, what a `Conv2d` or a `LayerNorm` takes beside its parameters.
    drop
        Dropout of what the layer gives.
    settings
        The function's keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], params: Arrays, parts: Parts, *, drop: Drop = whole, **settings: Any) -> None:
        self.function, self.settings = function, tuple(settings.items())
        self.paths = tuple(modules(params))
        for name, inner in children(params).items():
            held = children(inner)
            if all(key.isdecimal() for key in held):
                setattr(self, name, nnx.List([leaf(values, **parts.get(f"{name}.{key}", {})) for key, values in held.items()]))
            else:
                setattr(self, name, leaf(inner, **parts.get(name, {})))
        self.drop = drop

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = self.drop(self.function(x, self, **dict(self.settings), **self.within()))
        return y

    def within(self) -> dict[str, Callable[..., Any]]:
        """Functions that take the place of the specification's own."""
        return {}


class Attention(Layer):
    """An attention, with dropout of its weights."""

    def __init__(self, *args: Any, attn_drop: Drop, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.attn_drop = attn_drop

    def within(self) -> dict[str, Callable[..., Any]]:
        dropping = isinstance(self.attn_drop, nnx.Dropout) and not self.attn_drop.deterministic
        return {"attend": partial(attention_with_dropout, drop=self.attn_drop)} if dropping else {}


class Mlp(Layer):
    """The MLP, with dropout of its hidden units by the same rate as of what it gives."""

    def within(self) -> dict[str, Callable[..., Any]]:
        return {"activation": lambda x: self.drop(ops.gelu(x))}


def attention_with_dropout(q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, drop: Drop) -> jax.Array:
    """`ops.attention` with dropout of its weights."""
    multiply = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    weights = ops.softmax(multiply("...nd,...md->...nm", q, k) * scale)
    return multiply("...nm,...me->...ne", drop(weights), v)


def runnable(layer: Layer) -> dict[str, dict[str, Any]]:
    """What stands in for `parameters.modules`: of each module's name the arguments of `run`."""
    return {name: {"module": module_at(layer, name)} for name in layer.paths}


by_modules = partial(of_modules, module=__name__, modules=runnable, linear=run, layer_norm=run, conv2d=run)

patch_embed = by_modules(blocks.patch_embed)
peg = by_modules(blocks.peg)
mlp = by_modules(blocks.mlp)
iwsa = by_modules(attention.iwsa)
ssa = by_modules(attention.ssa)


def embedding(params: Arrays, rates: Rates, *, patch_size: int, eps: float) -> Layer:
    """`patch_embeds.k`; its dropout is a module at any rate, so that `nnx.view(model, deterministic=True)` finds one."""
    parts, drop = embedding_parts(patch_size=patch_size, eps=eps), nnx.Dropout(rates.drop, rngs=rates.rngs if rates.drop else None)
    return Layer(patch_embed, params, parts, drop=drop, patch_size=patch_size, eps=eps)


def position(params: Arrays) -> Layer:
    """`pos_block.k`."""
    return Layer(peg, params, position_parts(len(params["proj.0.weight"])))


class Block(nnx.Module):
    """`sv.block`, with dropout and stochastic depth.

    Parameters
    ----------
    params
        Initial values by the names of the block's parts.
    config, k, i
        The network, and which block of which stage this is.
    rates, drop_path
        What is dropped; `drop_path` is the share of samples that each branch leaves out.
    """

    def __init__(
        self,
        params: Mapping[str, Arrays],
        config: ScalableViTConfig,
        k: int,
        i: int,
        *,
        rates: Rates,
        drop_path: float,
    ) -> None:
        attend_by, parts = iwsa if block_kind(i) == "iwsa" else ssa, attention_parts(config, k, i)
        drops = {"drop": rates.dropout(rates.drop), "attn_drop": rates.dropout(rates.attn_drop)}
        self.norm1 = leaf(params["norm1"], eps=config.norm_eps)
        self.attn = Attention(attend_by, params["attn"], parts, **drops, **attention_settings(config, k, i))
        self.norm2 = leaf(params["norm2"], eps=config.norm_eps)
        self.mlp = Mlp(mlp, params["mlp"], {}, drop=rates.dropout(rates.drop))
        self.drop_path = rates.dropout(drop_path, broadcast_dims=(1, 2, 3))

    def __call__(self, x: jax.Array, tap: Tap = untapped, name: str = "") -> jax.Array:
        for norm, branch in (("norm1", "attn"), ("norm2", "mlp")):
            y = tap(f"{name}.{norm}", getattr(self, norm)(x))
            x = x + self.drop_path(tap(f"{name}.{branch}", getattr(self, branch)(y)))
        return x
