"""Properties of the single operations, native versions and definitions alike. The numbers are those of `docs/proof.md`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import iwsa_shapes, mlp_shapes, patch_embed_shapes, peg_shapes
from scalablevit_ref.testing.strategies import SEEDS, Case, contents
from tests.support.drawn_ops import OPS, convolutions, layer_norm_amplification, linears, maps
from tests.support.library import Agree, Library

EXPECTED: dict[str, Any] = {
    "linear": F.linear,
    "conv2d": lambda x, weight, bias=None, **how: F.conv2d(x.permute(0, 3, 1, 2), weight, bias, **how).permute(0, 2, 3, 1),
    "layer_norm": lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, bias, eps),
    "attention": lambda x, k, v, scale: torch.einsum("...nm, ...me -> ...ne", (x @ k.mT * scale).softmax(-1), v),
    "softmax": lambda x: x.softmax(-1),
    "gelu": lambda x: F.gelu(x, approximate="none"),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "pad": lambda x, top, bottom, left, right: F.pad(x, (0, 0, left, right, top, bottom)),
}


@given(cases=OPS)
def test_01_every_library_computes_each_op(cases: dict[str, Case], xp: Library, agree: Agree) -> None:
    """As dispatched and by definition, against torch's functions. A LayerNorm's error is bounded by its amplification."""
    for name, case in cases.items():
        tensors = {key: torch.from_numpy(value) for key, value in case.params.items()}
        expected = EXPECTED[name](torch.tensor(case.x), **tensors, **case.settings)
        tolerance = 64.0
        if name == "layer_norm":
            tolerance *= max(1.0, layer_norm_amplification(case.x, case.settings["eps"]) / 4)
        for function in (getattr(ops, name), getattr(ops, name).definition):
            agree(function(xp(case.x), *xp(case.params).values(), **case.settings), expected, tolerance=tolerance, what=name)


@given(case=st.one_of(linears(), convolutions()), seed=SEEDS, dtype=st.sampled_from(["float32", "float64"]))
def test_02_linear_and_conv2d_are_exact_on_integers(case: Case, seed: int, dtype: str, xp: Library, agree: Agree) -> None:
    """Whole numbers in -8 … 8 leave nothing to round: every library gives the same bits, in whatever order it sums."""
    x, params = contents(case.shape, seed, "integers"), integers(case)
    name = "conv2d" if case.settings else "linear"
    expected = EXPECTED[name](torch.tensor(x), **{key: torch.from_numpy(value) for key, value in params.items()}, **case.settings)
    for function in (getattr(ops, name), getattr(ops, name).definition):
        agree.exactly(function(xp(x, dtype), **xp(params, dtype), **case.settings), sv.to_backend(expected, "torch", dtype))


@given(case=maps(channels=(4, 8)))
def test_02_peg_and_patch_embed_convolution_are_exact_on_integers(case: Case, xp: Library, agree: Agree) -> None:
    x, c = contents(case.shape, case.seed, "integers"), case.shape[-1]
    params = integers(case.but(shapes=peg_shapes(c)))
    weight, bias = (torch.from_numpy(params[f"proj.0.{name}"]) for name in ("weight", "bias"))
    image = torch.tensor(x).permute(0, 3, 1, 2)
    expected = (image + F.conv2d(image, weight, bias, padding=1, groups=c)).permute(0, 2, 3, 1)
    agree.exactly(sv.peg(xp(x), xp(params)), expected)


@given(case=maps(channels=(4, 8)))
def test_02_lim_is_exact_on_integers(case: Case, xp: Library, agree: Agree) -> None:
    """With zero queries and windows of 2 x 2 attention is a mean of four, exact too, so that the whole of IWSA is."""
    b, h, w, c = (size * times for size, times in zip(case.shape, (1, 2, 2, 1), strict=True))
    x, params = contents((b, h, w, c), case.seed, "integers"), integers(case.but(shapes=iwsa_shapes(c)))
    params["qkv.weight"][:c] = params["qkv.bias"][:c] = 0
    p = {name: torch.from_numpy(value) for name, value in params.items()}
    v = F.linear(torch.tensor(x), p["qkv.weight"][2 * c :], p["qkv.bias"][2 * c :]).permute(0, 3, 1, 2)
    z = F.interpolate(F.avg_pool2d(v, 2), scale_factor=2) + F.conv2d(
        v, p["lim_func.weight"], p["lim_func.bias"], padding=1, groups=c
    )
    expected = F.linear(z.permute(0, 2, 3, 1), p["proj.weight"], p["proj.bias"])
    agree.exactly(sv.iwsa(xp(x), xp(params), num_heads=2, window_size=2), expected)


def integers(case: Case) -> dict[str, np.ndarray]:
    return {name: contents(shape, case.seed + i, "integers") for i, (name, shape) in enumerate(case.shapes.items(), 1)}


@given(case=maps(channels=(8, 32)), eps=st.sampled_from([1e-6, 1e-5, 1e-2]), exponent=st.sampled_from([-3, 0]))
def test_23_a_layer_norm_leaves_the_variance_v_over_v_plus_eps(
    case: Case, eps: float, exponent: int, xp: Library, agree: Agree
) -> None:
    """v is the biased variance. On x·1e-3 it is about 1e-6, so that the value of eps and its place inside the root show."""
    x, c = contents(case.shape, case.seed) * 10.0**exponent, case.shape[-1]
    y = sv.to_numpy(ops.layer_norm(xp(x), xp(np.ones(c)), xp(np.zeros(c)), eps=eps))
    v = x.var(-1)
    agree(y.var(-1), v / (v + eps))
    agree(y.mean(-1) + 1, np.ones_like(v))
    shift = np.random.default_rng(case.seed).integers(-4, 5, (*case.shape[:-1], 1)).astype(np.float64)
    tolerance = 64 * max(1.0, layer_norm_amplification(x + shift, eps))  # x + shift is rounded before any norm can see it
    agree(ops.layer_norm(xp(x + shift), xp(np.ones(c)), xp(np.zeros(c)), eps=eps), y, tolerance=tolerance)


@given(case=maps(), size=st.sampled_from([0.01, 1.0, 6.0]))
def test_01_gelu_is_the_exact_one(case: Case, size: float, xp: Library, agree: Agree) -> None:
    """x·Φ(x) by the C library's erf and erfc, which keeps the digits of the left tail."""
    x = case.x * size
    expected = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.reshape(-1).tolist()]).reshape(x.shape)
    agree(ops.gelu(xp(x)), expected)
    agree(ops.gelu.definition(xp(x)), expected)
    erf = np.array([math.erf(abs(v)) for v in x.reshape(-1).tolist()]).reshape(x.shape)
    agree(1 + sv.to_numpy(ops.erf(xp(abs(x)))), 1 + erf)  # its error is promised against 1


@given(case=maps(), shift=st.sampled_from([0.0, 1e3, -1e3, 1e6]))
def test_01_softmax_is_the_exponentials_over_their_sum(case: Case, shift: float, xp: Library, agree: Agree) -> None:
    """Whatever the shift of a row: its largest entry is taken off first, so that nothing overflows."""
    x = np.round(case.x * 1024) / 1024  # a shift of it is exact
    rows = [[math.exp(v - max(row)) for v in row] for row in x.reshape(-1, x.shape[-1]).tolist()]
    expected = np.array([[v / math.fsum(row) for v in row] for row in rows]).reshape(x.shape)
    y = sv.to_numpy(ops.softmax(xp(x + shift)))
    agree(y, expected)
    agree(y.sum(-1), np.ones(x.shape[:-1]))
    agree(ops.softmax.definition(xp(x + shift)), expected)


@given(case=maps(), patch_size=st.integers(1, 4), hidden=st.integers(1, 9))
def test_01_every_library_computes_patch_embed_peg_and_mlp(
    case: Case, patch_size: int, hidden: int, xp: Library, agree: Agree
) -> None:
    c = case.shape[-1]
    image = torch.tensor(case.x).permute(0, 3, 1, 2)

    def drawn(shapes: dict[str, tuple[int, ...]]) -> tuple[Any, dict[str, torch.Tensor]]:
        params = case.but(shapes=shapes).params
        return xp(params), {name: torch.from_numpy(value) for name, value in params.items()}

    params, p = drawn(patch_embed_shapes(c, 8, patch_size))
    y = F.conv2d(image, p["proj.weight"], p["proj.bias"], patch_size, patch_size - 1).permute(0, 2, 3, 1)
    tolerance = 64 * max(1.0, layer_norm_amplification(y.numpy(), 1e-4) / 4)
    expected = F.layer_norm(y, (8,), p["norm.weight"], p["norm.bias"], 1e-4)
    agree(sv.patch_embed(xp(case.x), params, patch_size=patch_size, eps=1e-4), expected, tolerance=tolerance)

    params, p = drawn(peg_shapes(c))
    expected = (image + F.conv2d(image, p["proj.0.weight"], p["proj.0.bias"], padding=1, groups=c)).permute(0, 2, 3, 1)
    agree(sv.peg(xp(case.x), params), expected)

    params, p = drawn(mlp_shapes(c, hidden))
    y = F.gelu(F.linear(torch.tensor(case.x), p["fc1.weight"], p["fc1.bias"]))
    agree(sv.mlp(xp(case.x), params), F.linear(y, p["fc2.weight"], p["fc2.bias"]))
