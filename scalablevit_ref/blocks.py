"""The parts of a stage: patch embedding, position encoding, MLP, and the two blocks around the paper's attentions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.attention import Attend, iwsa, ssa
from scalablevit_ref.config import BlockKind, SSAScale, SSAValues
from scalablevit_ref.operation_checks import (
    check_block,
    check_iwsa,
    check_mlp,
    check_patch_embed,
    check_peg,
    check_residual,
    check_ssa,
)
from scalablevit_ref.ops import attention, conv2d, gelu, layer_norm, linear
from scalablevit_ref.parameters import children, modules

Activation = Callable[[Array], Array]
"""Called as `ops.gelu` is, on the hidden units of an MLP."""

Tap = Callable[[str, Any], Any]
"""Gets each intermediate with its name as it is computed; what it returns takes the intermediate's place."""


def untapped(name: str, x: Any) -> Any:
    return x


def patch_embed(x: Float[Array, "b h w c_in"], params: Params, *, patch_size: int, eps: float = 1e-6) -> Float[Array, "b h2 w2 c"]:
    """Overlapping patches: a convolution of kernel 2·patch_size − 1, stride patch_size, then LayerNorm; h' = ⌈h / patch_size⌉.

    Official module: `patch_embeds.k`: kernel 7, stride 4, padding 3 in stage 0; kernel 3, stride 2, padding 1 in the others.

    Examples
    --------
    >>> from scalablevit_ref import parameters, testing
    >>> params = testing.random_params(parameters.patch_embed_shapes(3, 8, patch_size=4))
    >>> patch_embed(testing.random_images((1, 32, 48, 3)), params, patch_size=4).shape
    (1, 8, 12, 8)
    """
    check_patch_embed(x, params, patch_size=patch_size, eps=eps)
    p = modules(params)
    return layer_norm(conv2d(x, **p["proj"], stride=patch_size, padding=patch_size - 1), **p["norm"], eps=float(eps))


def peg(x: Float[Array, "b h w c"], params: Params) -> Float[Array, "b h w c"]:
    """Position encoding generator: x plus a depthwise 3 × 3 convolution of x (Chu et al., arXiv 2102.10882).

    Once a stage, after its first block. Official module: `pos_block.k`.

    Examples
    --------
    >>> from scalablevit_ref import parameters, testing
    >>> params = testing.random_params(parameters.peg_shapes(8))
    >>> peg(testing.random_images((1, 6, 4, 8)), params).shape
    (1, 6, 4, 8)
    """
    check_peg(x, params)
    return x + conv2d(x, **modules(params)["proj.0"], padding=1, groups=x.shape[-1])


def mlp(x: Float[Array, "b h w c"], params: Params, *, activation: Activation = gelu) -> Float[Array, "b h w c"]:
    """fc2(GELU(fc1(x))), c → m·c → c, with the exact GELU or another `activation`. Official module: `stages.k.i.mlp`.

    Examples
    --------
    >>> from scalablevit_ref import parameters, testing
    >>> params = testing.random_params(parameters.mlp_shapes(8, 32))
    >>> mlp(testing.random_images((1, 6, 4, 8)), params).shape
    (1, 6, 4, 8)
    """
    check_mlp(x, params, activation=activation)
    p = modules(params)
    return linear(activation(linear(x, **p["fc1"])), **p["fc2"])


def iwsa_block(
    x: Float[Array, "b h w c"],
    params: Params,
    *,
    num_heads: int,
    window_size: int,
    pad: bool = False,
    norm_eps: float = 1e-6,
    attend: Attend = attention,
    activation: Activation = gelu,
    tap: Tap = untapped,
) -> Float[Array, "b h w c"]:
    """The block whose attention is `iwsa`: `stages.k.i`, i even. The arguments are those of `block`."""
    check_iwsa(x, params, num_heads=num_heads, window_size=window_size, pad=pad, attend=attend, in_block=True)
    check_residual(norm_eps=norm_eps, activation=activation, tap=tap)
    attn = partial(iwsa, num_heads=num_heads, window_size=window_size, pad=pad, attend=attend)
    return residual_block(x, params, attn, norm_eps=norm_eps, activation=activation, tap=tap)


def ssa_block(
    x: Float[Array, "b h w c"],
    params: Params,
    *,
    num_heads: int,
    sr_ratio: int,
    c_ratio: float,
    values: SSAValues = "unscaled",
    ssa_scale: SSAScale = "scaled",
    norm_eps: float = 1e-6,
    attend: Attend = attention,
    activation: Activation = gelu,
    tap: Tap = untapped,
) -> Float[Array, "b h w c"]:
    """The block whose attention is `ssa`: `stages.k.i`, i odd. The arguments are those of `block`."""
    settings: Any = {"num_heads": num_heads, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "values": values, "ssa_scale": ssa_scale}
    check_ssa(x, params, **settings, attend=attend, in_block=True)
    check_residual(norm_eps=norm_eps, activation=activation, tap=tap)
    attn = partial(ssa, **settings, attend=attend)
    return residual_block(x, params, attn, norm_eps=norm_eps, activation=activation, tap=tap)


def residual_block(
    x: Float[Array, "b h w c"],
    params: Params,
    attn: Callable[[Array, Params], Array],
    *,
    norm_eps: float,
    activation: Activation = gelu,
    tap: Tap = untapped,
) -> Float[Array, "b h w c"]:
    """x += attn(norm1(x)); x += mlp(norm2(x)), of input that is checked; `attn` is `iwsa` or `ssa` with its settings."""
    p, norm_eps = children(params), float(norm_eps)
    y = tap("norm1", layer_norm(x, **p["norm1"], eps=norm_eps))
    x = x + tap("attn", attn(y, p["attn"]))
    y = tap("norm2", layer_norm(x, **p["norm2"], eps=norm_eps))
    return x + tap("mlp", mlp(y, p["mlp"], activation=activation))


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
    ssa_scale: SSAScale = "scaled",
    scale: SSAScale | None = None,
    pad: bool = False,
    attend: Attend = attention,
    activation: Activation = gelu,
    tap: Tap = untapped,
) -> Float[Array, "b h w c"]:
    """x += attention(norm1(x)); x += mlp(norm2(x)). Official module: `stages.k.i`.

    Parameters
    ----------
    x : b h w c
        The map.
    params : mapping
        Names and shapes are those of `parameters.block_shapes`.
    kind : "iwsa" or "ssa"
        "iwsa" needs window_size and takes pad; "ssa" needs sr_ratio and c_ratio and takes values and ssa_scale.
    num_heads, window_size, sr_ratio, c_ratio, values, ssa_scale, scale, pad, attend
        As those of `iwsa` and `ssa`.
    norm_eps : float
        Epsilon of norm1 and norm2.
    activation : function
        Of the MLP's hidden units.
    tap : function
        Sees `norm1`, `attn`, `norm2` and `mlp`.

    Raises
    ------
    ValueError or TypeError
        For a shape, a parameter or a setting that does not fit.

    Examples
    --------
    >>> from scalablevit_ref import parameters, testing
    >>> settings = {"kind": "iwsa", "num_heads": 2}
    >>> params = testing.random_params(parameters.block_shapes(8, hidden=32, **settings))
    >>> block(testing.random_images((1, 6, 9, 8)), params, window_size=3, **settings).shape
    (1, 6, 9, 8)
    """
    own: Any = {"window_size": window_size, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "pad": pad}
    check_block(x, kind=kind, values=values, ssa_scale=ssa_scale, scale=scale, **own)
    shared: Any = {"num_heads": num_heads, "norm_eps": norm_eps, "attend": attend, "activation": activation, "tap": tap}
    if kind == "iwsa":
        return iwsa_block(x, params, window_size=cast("int", window_size), pad=pad, **shared)
    reduction: Any = {
        "sr_ratio": sr_ratio,
        "c_ratio": c_ratio,
        "values": values,
        "ssa_scale": ssa_scale if scale is None else scale,
    }
    return ssa_block(x, params, **reduction, **shared)
