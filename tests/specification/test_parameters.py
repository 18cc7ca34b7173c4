"""Shapes of one operation's parameters, for whoever asks without a whole network's configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scalablevit_ref.checks import width
from scalablevit_ref.parameters import block_shapes, has_qkv_bias, iwsa_shapes, ssa_shapes

SSA: dict[str, Any] = {"num_heads": 2, "sr_ratio": 2, "c_ratio": 0.5}


def test_by_default_they_are_the_classifiers() -> None:
    assert iwsa_shapes(8) == iwsa_shapes(8, qkv_bias=True) != iwsa_shapes(8, qkv_bias=False)
    assert ssa_shapes(8, **SSA) == ssa_shapes(8, qkv_bias=True, values="unscaled", **SSA) != ssa_shapes(8, qkv_bias=False, **SSA)
    block: dict[str, Any] = {"kind": "ssa", "hidden": 6} | SSA
    assert block_shapes(8, **block) == block_shapes(8, qkv_bias=True, values="unscaled", **block)
    assert block_shapes(8, **block) != block_shapes(8, values="scaled", **block)


@pytest.mark.parametrize("bias", [True, False])
def test_a_block_has_its_attention(bias: bool) -> None:
    for kind, attention in (("iwsa", iwsa_shapes(8, qkv_bias=bias)), ("ssa", ssa_shapes(8, qkv_bias=bias, **SSA))):
        shapes = block_shapes(8, kind=kind, hidden=6, qkv_bias=bias, **SSA)
        assert {name: shape for name, shape in shapes.items() if name.startswith("attn.")} == {
            f"attn.{name}": shape for name, shape in attention.items()
        }
        assert any(name.endswith(("q.bias", "qkv.bias")) for name in shapes) == bias


@pytest.mark.parametrize("given", [{}, {"sr_ratio": 2}, {"c_ratio": 1.0}])
def test_an_ssa_block_needs_both_ratios(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="needs sr_ratio and c_ratio"):
        block_shapes(8, kind="ssa", hidden=6, num_heads=2, **given)


@pytest.mark.parametrize("name", ["q", "k", "v", "kv", "qkv"])
def test_one_bias_is_enough_to_expect_all(name: str) -> None:
    assert has_qkv_bias({f"attn.{name}.bias": 0}, "attn.")
    assert not has_qkv_bias({f"attn.{name}.weight": 0, "proj.bias": 0}, "attn.")


def test_width() -> None:
    assert width({"fc1.weight": np.zeros((6, 8))}, "fc1.weight") == 6
    assert width({"fc1.weight": np.float64(1)}, "fc1.weight") == width({}, "fc1.weight") == 0
