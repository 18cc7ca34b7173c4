"""Strategies that draw calls of the single operations, and how far a LayerNorm amplifies errors of what it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from scalablevit_ref.testing.strategies import CONTENTS, SEEDS, Case, grids


@st.composite
def maps(draw: st.DrawFn, channels: Any = (1, 3, 4, 8)) -> Case:
    """A map, with no parameters yet."""
    (down, across), unit = draw(grids()), draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), unit * down, unit * across, draw(st.sampled_from(channels)))
    return Case(shape, {}, {}, draw(SEEDS), draw(CONTENTS))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Dense, depthwise and grouped ones, of any kernel that fits the padded map, with and without a bias."""
    case = draw(maps(channels=(4, 8)))
    c = case.shape[-1]
    groups, padding, stride = draw(st.sampled_from([1, 2, c, c])), draw(st.integers(0, 3)), draw(st.integers(1, 4))
    kernel = [draw(st.integers(1, min(7, size + 2 * padding))) for size in case.shape[1:3]]
    c_out = c if groups == c else draw(st.sampled_from([2, 6]))
    shapes = {"weight": (c_out, c // groups, *kernel)} | ({"bias": (c_out,)} if draw(st.booleans()) else {})
    return case.but(settings={"stride": stride, "padding": padding, "groups": groups}, shapes=shapes)


@st.composite
def linears(draw: st.DrawFn) -> Case:
    case, c_out = draw(maps()), draw(st.integers(1, 9))
    return case.but(shapes={"weight": (c_out, case.shape[-1])} | ({"bias": (c_out,)} if draw(st.booleans()) else {}))


@st.composite
def layer_norms(draw: st.DrawFn) -> Case:
    """Of four channels at least: two nearly equal ones would turn a rounding error into half the output."""
    case = draw(maps(channels=(4, 8, 32)))
    shapes = dict.fromkeys(("weight", "bias"), case.shape[-1:])
    return case.but(settings={"eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2]))}, shapes=shapes)


@st.composite
def attentions(draw: st.DrawFn) -> Case:
    """`x` is q, the parameters are k and v: batch, heads, tokens, width, with more batch axes as windows have them, or fewer."""
    batch = draw(st.sampled_from([(2,), (1, 3), (2, 1, 2, 2)]))
    n, m, d, e = (draw(st.integers(1, 9)) for _ in "nmde")
    shapes = {"k": (*batch, m, d), "v": (*batch, m, e)}
    return Case((*batch, n, d), {"scale": draw(st.sampled_from([0.2, 1.0, 3.0]))}, shapes, draw(SEEDS), draw(CONTENTS))


@st.composite
def paddings(draw: st.DrawFn) -> Case:
    """Zeros on any of the four sides, or on none."""
    return draw(maps()).but(settings={side: draw(st.integers(0, 3)) for side in ("top", "bottom", "left", "right")})


OPS = st.fixed_dictionaries(
    {
        "linear": linears(),
        "conv2d": convolutions(),
        "layer_norm": layer_norms(),
        "attention": attentions(),
        "softmax": maps(),
        "gelu": maps(),
        "gelu_tanh": maps(),
        "pad": paddings(),
    }
)


def layer_norm_amplification(x: np.ndarray, eps: float) -> float:
    """The largest |x| / √(variance + eps) of any token: what a LayerNorm of `x` makes of a relative error of 1 in `x`."""
    x = np.asarray(x)
    return float((abs(x).max(-1) / np.sqrt(x.var(-1) + eps)).max())
