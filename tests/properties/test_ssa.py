"""Properties of scalable self-attention, v3 and v1. The numbers are those of the table in `docs/proof.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import ssa_shapes
from scalablevit_ref.testing.arrays import MAX_TOLERANCE
from scalablevit_ref.testing.strategies import Case, ssa_cases
from tests.support.library import Agree, Library


def run(xp: Library, case: Case, params: Mapping[str, np.ndarray] | None = None, *, x: np.ndarray | None = None) -> np.ndarray:
    """`ssa` on this library, with some parameters or `x` replaced, as a NumPy array."""
    return sv.to_numpy(sv.ssa(xp(case.x if x is None else x), xp(case.params | dict(params or {})), **case.settings))


def random(case: Case) -> np.random.Generator:
    """For what a property draws besides the case."""
    return np.random.default_rng([case.seed, 1])


def with_bias(case: Case) -> Case:
    """The same case with biases on q, k and v."""
    settings = {name: value for name, value in case.settings.items() if name != "scale"}
    return case.but(shapes=ssa_shapes(case.shape[-1], **settings))


def rows(case: Case, part: str) -> tuple[str, slice]:
    """The Linear that makes "q", "k" or "v", and in which of its rows."""
    if f"{part}.weight" in case.shapes:
        return part, slice(None)
    half = case.shapes["kv.weight"][0] // 2
    return "kv", slice(half) if part == "k" else slice(half, None)


def bias_added(case: Case, part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A bias on the keys or the values on top of what there is, small or large: all biases, and what was added."""
    biases = {name: np.zeros(shape) for name, shape in with_bias(case).shapes.items() if name.endswith(".bias")}
    biases |= {name: case.params[name].copy() for name in biases if name in case.params}
    name, where = rows(case, part)
    rng, total = random(case), biases[f"{name}.bias"][where]
    b = rng.choice([1, 100]) * rng.standard_normal(total.shape)
    total += b
    return biases, b


def dense_reduction(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Depthwise s × s and 1 × 1 convolution as one: a kernel and a bias."""
    narrow = params["reduction.1.weight"][:, :, 0, 0]
    weight = narrow[:, :, None, None] * params["reduction.0.weight"][None, :, 0]
    return {"weight": weight, "bias": narrow @ params["reduction.0.bias"] + params["reduction.1.bias"]}


class Oracle:
    """SSA from `torch.nn.functional` alone, and how many eps an implementation may be off it.

    tolerance: T, or what a rounding before the LayerNorm becomes if that is more. A token whose channels are nearly equal is
        spread by |y| / √(variance + eps), a logit's error is the relative error of a softmax's weights. T with normal data
        but for few tokens of two channels; 1 to 4 T with whole numbers up to 8.
    gradient_tolerance: of a key bias. What each logit of a query adds, scale·q·dS, cancels over the keys; it is as large as
        |q|·|v|·scale times the values' gradient.
    """

    def __init__(self, case: Case, *, dense: bool = False) -> None:
        """With `dense`, one convolution reduces in place of two."""
        p: dict[str, Any] = {name: torch.from_numpy(value) for name, value in case.params.items()}
        s, heads, (b, h, w, c) = case.settings["sr_ratio"], case.settings["num_heads"], case.shape
        x = torch.from_numpy(case.x)
        y, spread = x.flatten(1, 2), 1.0
        if s > 1:
            y = x.permute(0, 3, 1, 2)
            if dense:
                y = F.conv2d(y, **{name: torch.from_numpy(value) for name, value in dense_reduction(case.params).items()}, stride=s)
            else:
                y = F.conv2d(y, p["reduction.0.weight"], p["reduction.0.bias"], stride=s, groups=c)
                y = F.conv2d(y, p["reduction.1.weight"], p["reduction.1.bias"])
            y = y.flatten(2).transpose(1, 2)
            spread = float((y.abs().amax(-1) / (y.var(-1, correction=0) + 1e-5).sqrt()).max())
            y = F.gelu(F.layer_norm(y, y.shape[-1:], p["norm_act.0.weight"], p["norm_act.0.bias"], 1e-5))
        q = F.linear(x.flatten(1, 2), p["q.weight"], p.get("q.bias"))
        if "k.weight" in p:
            k, v = (F.linear(y, p[f"{name}.weight"], p.get(f"{name}.bias")) for name in "kv")
        else:
            k, v = F.linear(y, p["kv.weight"], p.get("kv.bias")).chunk(2, dim=-1)
        scale = (c / heads * (case.settings["c_ratio"] if case.settings["scale"] == "scaled" else 1)) ** -0.5
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).reshape(b, h, w, -1)
        self.output = F.linear(z, p["proj.weight"], p["proj.bias"]).numpy()
        longest_q, longest_k, longest_v = (float(t.norm(dim=-1).max()) for t in (q, k, v))
        self.tolerance = max(MAX_TOLERANCE, spread * max(1, longest_q * longest_k * scale))
        self.gradient_tolerance = MAX_TOLERANCE * max(1, longest_q * longest_v * scale)


@given(case=ssa_cases(whole_tiles=True))
def test_07_a_flipped_map_and_kernel_flip_the_output(case: Case, xp: Library, agree: Agree) -> None:
    name = "reduction.0.weight"
    kernel = {name: case.params[name][..., ::-1]} if name in case.params else {}
    agree(run(xp, case, kernel, x=case.x[:, :, ::-1]), run(xp, case)[:, :, ::-1], tolerance=Oracle(case).tolerance)


@given(case=ssa_cases())
def test_14_a_key_bias_changes_nothing(case: Case, xp: Library, agree: Agree) -> None:
    """It adds q·b to every logit of a query, which softmax takes off again, but for rounding in proportion to b."""
    biases, b = bias_added(case, "k")
    agree(run(xp, case, biases), run(xp, case), tolerance=MAX_TOLERANCE * (1 + np.linalg.norm(b)))


@given(case=ssa_cases())
def test_14_a_key_bias_has_no_gradient(case: Case, agree: Agree) -> None:
    case = with_bias(case)
    params = sv.to_backend(case.params, "torch")
    names = ("k.bias", "v.bias") if "k.bias" in params else ("kv.bias",)
    for name in names:
        params[name].requires_grad_()
    y = sv.ssa(sv.to_backend(case.x, "torch"), params, **case.settings)
    (y * torch.from_numpy(random(case).standard_normal(case.shape))).sum().backward()
    gradient = torch.cat([params[name].grad for name in names])
    expected = gradient.clone()
    expected[: case.shapes["q.weight"][0]] = 0  # as many keys as queries, before the values
    agree(gradient, expected, tolerance=Oracle(case).gradient_tolerance)


@given(case=ssa_cases())
def test_15_a_value_bias_shifts_the_output_by_its_projection(case: Case, xp: Library, agree: Agree) -> None:
    """Compared as sums, since subtracting two outputs would leave their rounding."""
    biases, b = bias_added(case, "v")
    agree(run(xp, case, biases), run(xp, case) + case.params["proj.weight"] @ b)


@given(case=ssa_cases())
def test_17_permuting_heads_changes_nothing(case: Case, xp: Library, agree: Agree) -> None:
    heads = case.settings["num_heads"]
    order = random(case).permutation(heads)

    def permuted(x: np.ndarray) -> np.ndarray:
        return x.reshape(heads, -1, *x.shape[1:])[order].reshape(x.shape)

    changes = {name: value.copy() for name, value in case.params.items()}
    for name, where in (rows(case, part) for part in "qkv"):
        for leaf in {f"{name}.weight", f"{name}.bias"} & set(changes):
            changes[leaf][where] = permuted(changes[leaf][where])
    changes["proj.weight"] = permuted(changes["proj.weight"].T).T
    agree(run(xp, case, changes), run(xp, case))


@given(case=ssa_cases(sr_ratios=(1,)))
def test_19_without_reduction_it_is_multi_head_attention(case: Case, xp: Library, agree: Agree) -> None:
    """With r_c = 1. The scale (d·r_c)^-½ keeps its r_c though nothing is reduced: there torch gets queries that hold it."""
    r_c = case.settings["c_ratio"] if case.settings["scale"] == "scaled" else 1
    p = {name: torch.from_numpy(value) for name, value in case.params.items()}
    weight, bias = (
        torch.cat([p[f"q.{leaf}"] / r_c**0.5, p[f"kv.{leaf}"]]) if f"q.{leaf}" in p else None for leaf in ("weight", "bias")
    )
    tokens = torch.from_numpy(case.x).flatten(1, 2).transpose(0, 1)  # n b c
    expected, _ = F.multi_head_attention_forward(
        *(tokens, tokens, tokens, case.shape[-1], case.settings["num_heads"]),
        *(weight, bias, None, None, False, 0.0, p["proj.weight"], p["proj.bias"]),
    )
    agree(run(xp, case), expected.transpose(0, 1).reshape(case.shape), tolerance=Oracle(case).tolerance)


@given(case=ssa_cases(sr_ratios=(2, 4)))
def test_20_with_reduction_it_is_conv_norm_gelu_and_attention_of_torch(case: Case, xp: Library, agree: Agree) -> None:
    expected = Oracle(case)
    agree(run(xp, case), expected.output, tolerance=expected.tolerance)


@given(case=ssa_cases(whole_tiles=True))
def test_21_permuting_tiles_permutes_the_output(case: Case, xp: Library, agree: Agree) -> None:
    s, (_, h, w, _) = case.settings["sr_ratio"], case.shape
    order = random(case).permutation((h // s) * (w // s))

    def permuted(x: np.ndarray) -> np.ndarray:
        moved = rearrange(x, "b (gh sh) (gw sw) c -> (gh gw) b sh sw c", sh=s, sw=s)[order]
        return rearrange(moved, "(gh gw) b sh sw c -> b (gh sh) (gw sw) c", gh=h // s)

    agree(run(xp, case, x=permuted(case.x)), permuted(run(xp, case)), tolerance=Oracle(case).tolerance)


@given(case=ssa_cases(sr_ratios=(2, 4)))
def test_22_the_reduction_is_one_dense_convolution(case: Case, xp: Library, agree: Agree) -> None:
    expected = Oracle(case, dense=True)
    agree(run(xp, case), expected.output, tolerance=expected.tolerance)
    s, p = case.settings["sr_ratio"], xp(case.params)
    y = ops.conv2d(xp(case.x), p["reduction.0.weight"], p["reduction.0.bias"], stride=s, groups=case.shape[-1])
    y = ops.conv2d(y, p["reduction.1.weight"], p["reduction.1.bias"])
    agree(y, ops.conv2d(xp(case.x), **xp(dense_reduction(case.params)), stride=s))
