"""How the cost of the two attentions grows with the image: the exponent of the tokens, in time and in multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend
from scalablevit_ref.benchmark.timing import interleaved
from scalablevit_ref.blocks import block
from scalablevit_ref.config import variant
from scalablevit_ref.cost import cost
from scalablevit_ref.parameters import block_kind, children, parameter_shapes
from scalablevit_ref.testing import random_images, random_params

SIZES = (224, 448, 672, 896)
"""Images whose stage-0 maps of 56 to 224 tokens a side are timed."""


def growth(name: str, library: str = "numpy", *, sizes: Sequence[int] = SIZES, rounds: int = 5) -> list[dict[str, Any]]:
    """One row for each kind of block of stage 0: `exponent` p of time ~ tokensᵖ, `counted` the same of multiply-adds."""
    config = variant(name)
    blocks = children(children(children(random_params(parameter_shapes(config), dtype="float32"))["stages"])["0"])
    rows = []
    for i in range(min(2, config.depths[0])):
        kind = block_kind(i)
        params = to_backend(blocks[str(i)], library)
        options: dict[str, Any] = {"kind": kind, "num_heads": config.num_heads[0], "norm_eps": config.norm_eps}
        if kind == "iwsa":
            options |= {"window_size": config.window_sizes[0]}
        else:
            options |= {"sr_ratio": config.sr_ratios[0], "c_ratio": config.c_ratios[0], "values": config.ssa_values}
        sides = [size // config.patch_size for size in sizes]
        maps = {side: to_backend(random_images((1, side, side, config.embed_dims[0]), dtype="float32"), library) for side in sides}
        calls = {str(side): partial(block, x, params, **options) for side, x in maps.items()}
        seconds = [min(times) for times in interleaved(calls, rounds).values()]
        counted = [_counted(name, i, size) for size in sizes]
        tokens = [side**2 for side in sides]
        rows.append(
            {"kind": kind, "tokens": tokens, "seconds": seconds, "exponent": _slope(tokens, seconds)}
            | {"multiply_adds": counted, "counted": _slope(tokens, counted)}
        )
    return rows


def _counted(name: str, i: int, size: int) -> int:
    return sum(layer.multiply_adds for layer in cost(variant(name), size).layers if layer.name.startswith(f"stages.0.{i}."))


def _slope(tokens: Sequence[float], figures: Sequence[float]) -> float:
    return float(np.polyfit(np.log(tokens), np.log(figures), 1)[0])
