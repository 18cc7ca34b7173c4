"""Calls that mypy must refuse: the step `types` of `tests.lint` fails where one of the `ignore`s below is not needed. Never run.

An op has the signature of its definition, so that an editor and mypy see a wrong argument before anything runs.
"""

from __future__ import annotations

from typing import Any

from scalablevit_ref import iwsa, mlp, ops, ssa


def right(x: Any, weight: Any, bias: Any) -> None:
    ops.linear(ops.linear(x, weight), weight, bias)
    ops.layer_norm(x, weight, bias, eps=1e-6)
    ops.conv2d.definition(x, weight, stride=2, padding=1)
    ops.pad(x, top=1)
    mlp(x, {}, activation=ops.gelu_tanh)
    ssa(x, {}, num_heads=1, sr_ratio=1, c_ratio=1, attend=ops.attention, scale="head_dim")


def wrong(x: Any, weight: Any, bias: Any) -> None:
    ops.layer_norm(x, weight, bias, eps=1e-6, bogus=1)  # type: ignore[call-arg]
    ops.layer_norm(x, weight, bias)  # type: ignore[call-arg]
    ops.linear(x)  # type: ignore[call-arg]
    ops.conv2d(x, weight, bias, 2)  # type: ignore[call-arg]
    ops.conv2d(x, weight, stride="2")  # type: ignore[arg-type]
    ops.attention(x, x, x, scale="scaled")  # type: ignore[arg-type]
    ops.layer_norm.definition(x, weight, bias, eps=1e-6, bogus=1)  # type: ignore[call-arg]
    ops.gelu.native(x)  # type: ignore[attr-defined]
    mlp(x, {}, activation="gelu")  # type: ignore[arg-type]
    ssa(x, {}, num_heads=1, sr_ratio=1, c_ratio=1, ssa_scale=0.125)  # type: ignore[arg-type]
    iwsa(x, {}, num_heads=1, window_size=None)  # type: ignore[arg-type]
