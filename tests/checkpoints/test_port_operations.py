"""Single operations from the official network to vit_pytorch's and back: functions, bits and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import CheckpointError
from scalablevit_ref.dialects import port
from scalablevit_ref.dialects.single_operations import (
    fold_ssa_scale,
    official_iwsa_to_vit_pytorch,
    official_ssa_to_vit_pytorch,
    vit_pytorch_iwsa_to_official,
    vit_pytorch_ssa_to_official,
)
from scalablevit_ref.parameters import iwsa_shapes, ssa_shapes
from scalablevit_ref.testing import random_images, random_params
from tests.support.bit_patterns import assert_same_bits
from tests.support.library import Agree, Library

DIM, HEADS = 12, 3


def official_ssa(*, bias: bool) -> dict[str, np.ndarray]:
    return random_params(ssa_shapes(DIM, num_heads=HEADS, sr_ratio=1, c_ratio=1, qkv_bias=bias))


@pytest.mark.parametrize("c_ratio", [1, 1.25])
@pytest.mark.parametrize("bias", [False, True])
def test_official_ssa_to_vit_pytorch(c_ratio: float, bias: bool, xp: Library, agree: Agree) -> None:
    x, params = xp(random_images((2, 4, 6, DIM))), official_ssa(bias=bias)
    if bias:
        params["q.bias"] = np.zeros(DIM)
    folds = bias or c_ratio != 1
    if folds:
        with pytest.raises(CheckpointError, match=r"one-way: .*one_way=True asks for it"):
            official_ssa_to_vit_pytorch(params, num_heads=HEADS, c_ratio=c_ratio)
    converted = official_ssa_to_vit_pytorch(params, num_heads=HEADS, c_ratio=c_ratio, one_way=folds)
    expected = sv.ssa(x, xp(params), num_heads=HEADS, sr_ratio=1, c_ratio=c_ratio)
    agree(port.ssa(x, xp(converted), heads=HEADS, s=1), sv.to_numpy(expected))
    if not folds:
        assert_same_bits(vit_pytorch_ssa_to_official(converted, heads=HEADS), params)


def test_vit_pytorch_ssa_to_official(xp: Library, agree: Agree) -> None:
    shapes = {f"{name}.weight": (DIM, DIM, 1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")} | {"to_out.0.bias": (DIM,)}
    params, x = random_params(shapes), xp(random_images((2, 4, 6, DIM)))
    converted = vit_pytorch_ssa_to_official(params, heads=HEADS)
    expected = port.ssa(x, xp(params), heads=HEADS, s=1)
    agree(sv.ssa(x, xp(converted), num_heads=HEADS, sr_ratio=1, c_ratio=1), sv.to_numpy(expected))
    assert_same_bits(official_ssa_to_vit_pytorch(converted, num_heads=HEADS, c_ratio=1), params)


@pytest.mark.parametrize("bias", [False, True])
def test_official_iwsa_to_vit_pytorch(bias: bool, xp: Library, agree: Agree) -> None:
    x, params = xp(random_images((2, 4, 6, DIM))), random_params(iwsa_shapes(DIM, qkv_bias=bias))
    if bias:
        params["qkv.bias"][:DIM] = params["qkv.bias"][2 * DIM :] = 0
        assert params["qkv.bias"].any()  # the key's
    with pytest.raises(CheckpointError, match="one-way: this folds or drops LIM's depthwise kernel into a dense one"):
        official_iwsa_to_vit_pytorch(params, num_heads=HEADS)
    converted = official_iwsa_to_vit_pytorch(params, num_heads=HEADS, one_way=True)
    expected = sv.iwsa(x, xp(params), num_heads=HEADS, window_size=2)
    agree(port.iwsa(x, xp(converted), heads=HEADS, window_size=2), sv.to_numpy(expected))
    back = vit_pytorch_iwsa_to_official(converted, heads=HEADS)
    assert_same_bits(back, {name: value for name, value in params.items() if name != "qkv.bias"})


def test_a_dense_lim_has_no_official_equal() -> None:
    params = official_iwsa_to_vit_pytorch(random_params(iwsa_shapes(DIM, qkv_bias=False)), num_heads=HEADS, one_way=True)
    params["local_interactive_module.weight"][3, 4, 1, 1] = 1e-30
    with pytest.raises(CheckpointError, match=r"LIM mixes channels.*found 1 other entries"):
        vit_pytorch_iwsa_to_official(params, heads=HEADS)


@pytest.mark.parametrize(("part", "name"), [(0, "q"), (2, "v")])
def test_biases_of_iwsa_are_refused(part: int, name: str) -> None:
    params = random_params(iwsa_shapes(DIM))
    params["qkv.bias"] *= np.repeat(np.arange(3) == part, DIM)
    with pytest.raises(CheckpointError, match=f"^{name}: the target has no biases of q, k and v"):
        official_iwsa_to_vit_pytorch(params, num_heads=HEADS, one_way=True)


def test_a_query_s_bias_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^q\.bias: .*nowhere to fold a query's bias"):
        official_ssa_to_vit_pytorch(official_ssa(bias=True), num_heads=HEADS, c_ratio=1, one_way=True)


def test_a_reduction_is_refused_both_ways() -> None:
    params = random_params(ssa_shapes(DIM, num_heads=HEADS, sr_ratio=2, c_ratio=1, qkv_bias=False))
    with pytest.raises(CheckpointError, match="there are a LayerNorm and a GELU"):
        official_ssa_to_vit_pytorch(params, num_heads=HEADS, c_ratio=1, one_way=True)
    theirs = official_ssa_to_vit_pytorch(official_ssa(bias=False), num_heads=HEADS, c_ratio=1)
    theirs["to_k.weight"] = theirs["to_v.weight"] = np.zeros((DIM, DIM, 2, 2))
    with pytest.raises(CheckpointError, match=r"to_k\.weight: a dense s × s convolution is not the official reduction"):
        vit_pytorch_ssa_to_official(theirs, heads=HEADS)


def test_head_widths_the_official_network_cannot_have() -> None:
    params: dict[str, Any] = official_ssa_to_vit_pytorch(official_ssa(bias=False), num_heads=HEADS, c_ratio=1)
    params |= {"to_q.weight": np.zeros((15, DIM, 1, 1)), "to_k.weight": np.zeros((15, DIM, 1, 1))}
    with pytest.raises(CheckpointError, match=r"wrong shape \(2\): to_q.weight expected \(12, 12, 1, 1\) got \(15, 12, 1, 1\)"):
        vit_pytorch_ssa_to_official(params, heads=HEADS)
    with pytest.raises(CheckpointError, match="the channels do not divide by the heads; expected a multiple of 5, found 12"):
        official_ssa_to_vit_pytorch(official_ssa(bias=False), num_heads=5, c_ratio=1)


@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_the_scale_folds_into_q(sr_ratio: int, xp: Library, agree: Agree) -> None:
    settings: dict[str, Any] = {"num_heads": HEADS, "sr_ratio": sr_ratio, "c_ratio": 1.25}
    params, x = random_params(ssa_shapes(DIM, **settings)), xp(random_images((2, 4, 6, DIM)))
    folded = xp(fold_ssa_scale(params, c_ratio=1.25))
    expected = sv.to_numpy(sv.ssa(x, xp(params), **settings))
    agree(sv.ssa(x, folded, **settings, scale="head_dim"), expected)
    if sr_ratio == 1:  # small_0's last stage: √(32/40)
        assert np.allclose(sv.to_numpy(folded["q.bias"]), params["q.bias"] * (32 / 40) ** 0.5, rtol=1e-15)
        agree(sv.ssa(x, folded, num_heads=HEADS, sr_ratio=1, c_ratio=1), expected)
