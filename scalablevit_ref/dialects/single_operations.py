"""Weights of single operations from the official network to vit_pytorch's and back, where the mathematics allows.

Only the attention itself: the ports' norms have another epsilon and stay outside. All functions take arrays of any library under
the operation's local names and return NumPy arrays. What no weights can do is refused with the reason; what cannot be undone bit
for bit must be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.arguments import check_choice
from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checks import width
from scalablevit_ref.config import CHOICES, SSAScale
from scalablevit_ref.dialects.weights import Arrays, fitting
from scalablevit_ref.errors import CheckpointError, option
from scalablevit_ref.parameters import Shapes, has_qkv_bias, iwsa_shapes, ssa_shapes


def fold_ssa_scale(params: Mapping[str, Any], *, c_ratio: float) -> Arrays:
    """An official SSA's parameters for scale="head_dim" in place of scale="scaled": r_c^-½ folded into q's weight and bias.

    Where s = 1, c_ratio = 1 does the same: `small_0`'s last stage, √(32/40). One-way: the products are rounded.

    Examples
    --------
    >>> bool(fold_ssa_scale({"q.weight": np.eye(2)}, c_ratio=4)["q.weight"][0, 0] == 0.5)
    True
    """
    arrays: Arrays = to_numpy(dict(params))
    for name in ("q.weight", "q.bias"):
        if name in arrays:
            arrays[name] = (arrays[name].astype(np.float64) * c_ratio**-0.5).astype(arrays[name].dtype)
    return arrays


def official_ssa_to_vit_pytorch(
    params: Mapping[str, Any], *, num_heads: int, c_ratio: float, scale: SSAScale = "scaled", one_way: bool = False
) -> Arrays:
    """An official SSA with s = 1 as vit_pytorch's (`to_q`, `to_k`, `to_v`, `to_out.0`), with dim_key = dim_value = c / H.

    The norm, which has another epsilon there, is not part of it. Without biases of q, k, v and without an r_c in the scale
    `vit_pytorch_ssa_to_official` undoes it.

    Parameters
    ----------
    params
        Of the official SSA, under its local names.
    num_heads, c_ratio, scale
        Its settings.
    one_way
        Fold r_c into q; drop the key's bias, which never changes an output; fold the value's, which adds a constant to every token,
        into `to_out.0`'s.

    Raises
    ------
    CheckpointError
        For s > 1, a query bias, a fold that was not asked for, and parameters that do not fit.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"num_heads": 2, "c_ratio": 1}
    >>> params = random_params(ssa_shapes(8, sr_ratio=1, qkv_bias=False, **settings))
    >>> theirs = official_ssa_to_vit_pytorch(params, scale="head_dim", **settings)
    >>> theirs["to_q.weight"].shape, theirs["to_out.0.weight"].shape
    ((8, 8, 1, 1), (8, 8, 1, 1))
    """
    check_choice("ssa_scale", scale, CHOICES["ssa_scale"])
    if any(name.startswith(("reduction.", "norm_act.")) for name in params):
        raise CheckpointError(
            "between the reduction and k, v of an SSA with s > 1 there are a LayerNorm and a GELU; vit_pytorch has one dense "
            "convolution there, which is linear"
        )
    dim, biased = width(params, "proj.weight"), has_qkv_bias(params)
    arrays = fitting(params, ssa_shapes(dim, num_heads=num_heads, sr_ratio=1, c_ratio=c_ratio, qkv_bias=biased))
    _check_divides(dim, num_heads)
    folds = ["the biases of k and v"] * biased + ["r_c into q"] * (scale == "scaled" and c_ratio != 1)
    _ask(folds, one_way)
    out_bias = arrays["proj.bias"]
    if biased:
        _refuse_biases({"q.bias": arrays["q.bias"]}, "there is nowhere to fold a query's bias")
        exact = arrays["proj.weight"].astype(np.float64) @ np.split(arrays["kv.bias"], 2)[1].astype(np.float64)
        out_bias = (out_bias.astype(np.float64) + exact).astype(out_bias.dtype)
    q = (fold_ssa_scale(arrays, c_ratio=c_ratio) if scale == "scaled" else arrays)["q.weight"]
    k, v = np.split(arrays["kv.weight"], 2)
    return _as_convolutions({"to_q": q, "to_k": k, "to_v": v, "to_out.0": arrays["proj.weight"]}) | {"to_out.0.bias": out_bias}


def vit_pytorch_ssa_to_official(params: Mapping[str, Any], *, heads: int) -> Arrays:
    """The inverse: vit_pytorch's SSA with reduction_factor 1 as the official one with s = 1, r_c = 1 and no biases of q, k, v.

    Raises
    ------
    CheckpointError
        For a larger reduction_factor, and head widths other than c / heads, which the official one cannot have.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"num_heads": 2, "c_ratio": 1}
    >>> params = random_params(ssa_shapes(8, sr_ratio=1, qkv_bias=False, **settings))
    >>> theirs = official_ssa_to_vit_pytorch(params, scale="head_dim", **settings)
    >>> again = vit_pytorch_ssa_to_official(theirs, heads=2)
    >>> all((again[name] == x).all() for name, x in params.items())
    True
    """
    dim = width(params, "to_out.0.weight")
    if tuple(getattr(params.get("to_k.weight"), "shape", ()))[2:] not in ((), (1, 1)):
        raise CheckpointError(
            "a dense s × s convolution is not the official reduction, a depthwise one with a LayerNorm and a GELU behind it",
            key="to_k.weight",
            expected="reduction_factor 1",
            found=tuple(params["to_k.weight"].shape),
        )
    arrays = fitting(params, _port_shapes(dim))
    _check_divides(dim, heads)
    q, k, v, proj = (_as_linear(arrays[f"{name}.weight"]) for name in ("to_q", "to_k", "to_v", "to_out.0"))
    return {"q.weight": q, "kv.weight": np.concatenate([k, v]), "proj.weight": proj, "proj.bias": arrays["to_out.0.bias"]}


def official_iwsa_to_vit_pytorch(params: Mapping[str, Any], *, num_heads: int, one_way: bool = False) -> Arrays:
    """An official IWSA as vit_pytorch's, with dim_key = dim_value = c / H; the norm is not part of it.

    Parameters
    ----------
    params
        Of the official IWSA, under its local names.
    num_heads
        Its heads.
    one_way
        Always needed: LIM's depthwise kernel becomes the diagonal of a dense one, which `vit_pytorch_iwsa_to_official` takes back;
        a key's bias, which never changes an output, is dropped.

    Raises
    ------
    CheckpointError
        For a bias of q or v, a move that was not asked for, and parameters that do not fit.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> params = random_params(iwsa_shapes(8, qkv_bias=False))
    >>> theirs = official_iwsa_to_vit_pytorch(params, num_heads=2, one_way=True)
    >>> theirs["to_q.weight"].shape, theirs["local_interactive_module.weight"].shape
    ((8, 8, 1, 1), (8, 8, 3, 3))
    """
    dim, biased = width(params, "proj.weight"), has_qkv_bias(params)
    arrays = fitting(params, iwsa_shapes(dim, qkv_bias=biased))
    _check_divides(dim, num_heads)
    _ask(["LIM's depthwise kernel into a dense one"] + ["the key's bias"] * biased, one_way)
    if biased:
        q, _, v = np.split(arrays["qkv.bias"], 3)
        _refuse_biases(
            {"q": q, "v": v}, "there is nowhere to fold a query's bias, and LIM's zero padding meets a value's at the border"
        )
    q, k, v = np.split(arrays["qkv.weight"], 3)
    lim = np.zeros((dim, dim, 3, 3), arrays["lim_func.weight"].dtype)
    lim[np.arange(dim), np.arange(dim)] = arrays["lim_func.weight"][:, 0]
    converted = _as_convolutions({"to_q": q, "to_k": k, "to_v": v, "to_out.0": arrays["proj.weight"]})
    converted |= {"to_out.0.bias": arrays["proj.bias"], "local_interactive_module.weight": lim}
    return converted | {"local_interactive_module.bias": arrays["lim_func.bias"]}


def vit_pytorch_iwsa_to_official(params: Mapping[str, Any], *, heads: int) -> Arrays:
    """The inverse: vit_pytorch's IWSA as the official one without biases of q, k, v.

    Raises
    ------
    CheckpointError
        Where LIM's kernel is not diagonal, or the heads have another width than c / heads.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> params = random_params(iwsa_shapes(8, qkv_bias=False))
    >>> theirs = official_iwsa_to_vit_pytorch(params, num_heads=2, one_way=True)
    >>> again = vit_pytorch_iwsa_to_official(theirs, heads=2)
    >>> all((again[name] == x).all() for name, x in params.items())
    True
    """
    dim = width(params, "to_out.0.weight")
    lim = "local_interactive_module"
    arrays = fitting(params, _port_shapes(dim) | {f"{lim}.weight": (dim, dim, 3, 3), f"{lim}.bias": (dim,)})
    _check_divides(dim, heads)
    between = arrays[f"{lim}.weight"][~np.eye(dim, dtype=bool)]
    if np.any(between != 0):
        raise CheckpointError(
            "LIM mixes channels here; the official one is depthwise and cannot",
            key=f"{lim}.weight",
            expected="zeros off the diagonal",
            found=f"{np.count_nonzero(between)} other entries",
        )
    q, k, v, proj = (_as_linear(arrays[f"{name}.weight"]) for name in ("to_q", "to_k", "to_v", "to_out.0"))
    depthwise = rearrange(arrays[f"{lim}.weight"][np.arange(dim), np.arange(dim)], "c kh kw -> c 1 kh kw")
    converted = {"qkv.weight": np.concatenate([q, k, v]), "proj.weight": proj, "proj.bias": arrays["to_out.0.bias"]}
    return converted | {"lim_func.weight": depthwise, "lim_func.bias": arrays[f"{lim}.bias"]}


def _port_shapes(dim: int) -> Shapes:
    """An attention of the ports whose queries, keys and values all have c channels."""
    kernels: Shapes = {f"{name}.weight": (dim, dim, 1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    return kernels | {"to_out.0.bias": (dim,)}


def _as_convolutions(weights: Mapping[str, np.ndarray]) -> Arrays:
    return {f"{name}.weight": rearrange(x, "o i -> o i 1 1") for name, x in weights.items()}


def _as_linear(kernel: np.ndarray) -> np.ndarray:
    return rearrange(kernel, "o i 1 1 -> o i")


def _check_divides(dim: int, heads: int) -> None:
    if heads < 1 or dim % heads:
        raise CheckpointError("the channels do not divide by the heads", expected=f"a multiple of {heads}", found=dim)


def _ask(moves: list[str], one_way: bool) -> None:
    if moves and not one_way:
        raise CheckpointError(f"one-way: this folds or drops {' and '.join(moves)}; ", option("one_way", True), " asks for it")


def _refuse_biases(biases: Mapping[str, np.ndarray], reason: str) -> None:
    for name, x in biases.items():
        if np.any(x != 0):
            raise CheckpointError(f"the target has no biases of q, k and v, and {reason}", key=name, expected="zeros")
