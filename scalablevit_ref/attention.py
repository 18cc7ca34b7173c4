"""The paper's two attentions: scalable self-attention (SSA) and interactive window self-attention (IWSA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scalablevit_ref._typing import Array, Float, Params
from scalablevit_ref.backends.einops import rearrange
from scalablevit_ref.config import SSAScale, SSAValues
from scalablevit_ref.operation_checks import check_iwsa, check_ssa
from scalablevit_ref.ops import attention, conv2d, gelu, layer_norm, linear, pad
from scalablevit_ref.parameters import modules

SSA_NORM_EPS = 1e-5
"""Epsilon of the LayerNorm inside SSA; every other LayerNorm of the classifier has 1e-6."""

Attend = Callable[..., Array]
"""Called as `ops.attention` is: `(q, k, v, *, scale)` of shapes `*b n d`, `*b m d` and `*b m e` gives `*b n e`."""


def ssa(
    x: Float[Array, "b h w c"],
    params: Params,
    *,
    num_heads: int,
    sr_ratio: int,
    c_ratio: float,
    values: SSAValues = "unscaled",
    ssa_scale: SSAScale = "scaled",
    scale: SSAScale | None = None,
    attend: Attend = attention,
) -> Float[Array, "b h w c"]:
    """Scalable self-attention: Z = softmax(Q' K'ᵀ · scale) V' with fewer keys (r_n = s⁻²) of scaled width (c' = int(c · r_c)).

    In the paper: Q' = f_q(X) ∈ n × c·r_c, K' = f_k(X) ∈ n·r_n × c·r_c, V' = f_v(X) ∈ n·r_n × c.
    Official module: `stages.k.i.attn`, i odd.

    Parameters
    ----------
    x : b h w c
        The map, n = h·w tokens.
    params : mapping
        Names and shapes are those of `parameters.ssa_shapes`.
    num_heads : int
        H; head i takes the i-th run of c'/H channels of q and k and of c/H channels of v.
    sr_ratio : int
        s. Rows and columns that do not fill an s × s tile are dropped. With s = 1 this is plain attention of width c, except that
        the scale keeps its r_c.
    c_ratio : float
        r_c.
    values : "unscaled" or "scaled"
        "unscaled" is the paper's V' ∈ n·r_n × c (v3); "scaled" is v1, where V' ∈ n·r_n × c·r_c.
    ssa_scale : "scaled" or "head_dim"
        "scaled" is (d · r_c)^-½ with d = c/H; "head_dim" is d^-½.
    scale : "scaled" or "head_dim", optional
        The old name of `ssa_scale`, for one more release.
    attend : function
        Computes softmax(q kᵀ · scale) v of q "b heads n d"; another one may keep the weights, or be a kernel of your own.

    Raises
    ------
    ValueError or TypeError
        For a shape, a parameter or a setting that does not fit.

    Examples
    --------
    >>> from scalablevit_ref import parameters, testing
    >>> settings = {"num_heads": 2, "sr_ratio": 2, "c_ratio": 1.25}
    >>> params = testing.random_params(parameters.ssa_shapes(8, **settings))
    >>> ssa(testing.random_images((1, 6, 4, 8)), params, **settings).shape
    (1, 6, 4, 8)
    """
    ssa_scale = ssa_scale if scale is None else scale
    settings: Any = {"num_heads": num_heads, "sr_ratio": sr_ratio, "c_ratio": c_ratio, "values": values, "ssa_scale": ssa_scale}
    check_ssa(x, params, **settings, attend=attend)
    _, h, _, c = x.shape
    p = modules(params)

    q = linear(x, **p["q"])  # f_q: b h w c'
    if sr_ratio == 1:
        k, v = _halves(linear(x, **p["kv"]))
    else:
        y = conv2d(x, **p["reduction.0"], stride=sr_ratio, groups=c)  # one s × s tile to one token: b h/s w/s c
        y = conv2d(y, **p["reduction.1"])  # b h/s w/s c'
        y = gelu(layer_norm(y, **p["norm_act.0"], eps=SSA_NORM_EPS))
        if values == "unscaled":
            k, v = linear(y, **p["k"]), linear(y, **p["v"])  # f_k, f_v: c' and c channels
        else:
            k, v = _halves(linear(y, **p["kv"]))  # c' channels each

    q, k, v = (rearrange(t, "b h w (heads d) -> b heads (h w) d", heads=num_heads) for t in (q, k, v))
    head_dim = c / num_heads
    width = head_dim * c_ratio if ssa_scale == "scaled" else head_dim
    z = attend(q, k, v, scale=float(width**-0.5))
    return linear(rearrange(z, "b heads (h w) d -> b h w (heads d)", h=h), **p["proj"])


def iwsa(
    x: Float[Array, "b h w c"],
    params: Params,
    *,
    num_heads: int,
    window_size: int,
    pad: bool = False,
    attend: Attend = attention,
) -> Float[Array, "b h w c"]:
    """Interactive window self-attention: attention inside p × p windows, plus the local interactive module across them.

    In the paper: Z' = Z + F(V), where Z are the windows' attention outputs merged back into a map, V the value map merged
    likewise, and F (LIM) a depthwise 3 × 3 convolution that sees across the windows' borders.
    Official module: `stages.k.i.attn`, i even, with F as `lim_func`.

    Parameters
    ----------
    x : b h w c
        The map.
    params : mapping
        Names and shapes are those of `parameters.iwsa_shapes`.
    num_heads : int
        H; head i takes the i-th run of d = c/H channels of each of q, k and v, the thirds of `qkv`. The scale is d^-½.
    window_size : int
        p. Both h and w must be divisible by it, unless `pad` is set.
    pad : bool
        Put zeros at the right and bottom to whole windows *before* `qkv`, as the detection backbone does. The zeros become tokens
        that carry qkv's bias, take part in every softmax and reach LIM; they are cut off before `proj`.
    attend : function
        Computes softmax(q kᵀ · scale) v of q "b gh gw heads n d"; another one may keep the weights, or be a kernel of your own.

    Raises
    ------
    ValueError or TypeError
        For a shape, a parameter or a setting that does not fit.

    Examples
    --------
    >>> from scalablevit_ref import parameters, testing
    >>> params = testing.random_params(parameters.iwsa_shapes(8))
    >>> iwsa(testing.random_images((1, 6, 9, 8)), params, num_heads=2, window_size=3).shape
    (1, 6, 9, 8)
    """
    check_iwsa(x, params, num_heads=num_heads, window_size=window_size, pad=pad, attend=attend)
    _, h, w, c = x.shape
    p = modules(params)

    x = _pad_to_windows(x, window_size)
    qkv = rearrange(linear(x, **p["qkv"]), "b h w (three c) -> three b h w c", three=3)
    cut = {"ph": window_size, "pw": window_size, "heads": num_heads}
    q, k, v = (rearrange(qkv[i, ...], "b (gh ph) (gw pw) (heads d) -> b gh gw heads (ph pw) d", **cut) for i in range(3))
    z = attend(q, k, v, scale=float((c / num_heads) ** -0.5))
    z = rearrange(z, "b gh gw heads (ph pw) d -> b (gh ph) (gw pw) (heads d)", ph=window_size)
    z = z + conv2d(qkv[2, ...], **p["lim_func"], padding=1, groups=c)  # Z + F(V): windows interact
    return linear(z[:, :h, :w, :], **p["proj"])


def _halves(kv: Float[Array, "b h w c2"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """The first and the second half of the channels."""
    kv = rearrange(kv, "b h w (two c) -> two b h w c", two=2)
    return kv[0, ...], kv[1, ...]


def _pad_to_windows(x: Float[Array, "b h w c"], window_size: int) -> Float[Array, "b h2 w2 c"]:
    """Zeros at the bottom and at the right, to whole windows."""
    _, h, w, _ = x.shape
    return pad(x, top=0, bottom=-h % window_size, left=0, right=-w % window_size)
