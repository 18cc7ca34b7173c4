"""How many parameters a network of the size of `small` has with a divergence that no weights of the official one fit."""

from __future__ import annotations

from math import prod
from typing import Any

import scalablevit_ref as sv
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.parameters import Shapes
from tests.programs.divergences.measure import PORT

SMALL = sv.variant("small")
REPLACED = (
    "reduction.0.weight",
    "reduction.0.bias",
    "reduction.1.weight",
    "reduction.1.bias",
    "norm_act.0.weight",
    "norm_act.0.bias",
)
"""What two dense convolutions, for k and for v, stand in for, with `k.weight` and `v.weight`."""


def parameters(shapes: Shapes, *endings: str) -> int:
    """Of all that these names end in; of all, if none are given."""
    return sum(prod(shape) for name, shape in shapes.items() if not endings or name.endswith(endings))


def counts() -> dict[str, int]:
    shapes = sv.parameter_shapes(SMALL)
    kernels = [shape for name, shape in shapes.items() if name.endswith("lim_func.weight")]
    dense = 0
    for name in shapes:
        if name.endswith("reduction.0.weight"):
            c, _, s, _ = shapes[name]
            width, _ = shapes[name.replace("reduction.0", "k")]
            dense += (width + c) * c * s * s
    reduction = parameters(shapes, *REPLACED, "attn.k.weight", "attn.v.weight")
    port: dict[str, Any] = PORT | {"window_size": 7}
    official_widths = vit_pytorch.Config(**port, ssa_dim_key=(40, 40, 40, 32))
    return {
        "small": parameters(shapes),
        "small in pairs": parameters(sv.parameter_shapes(sv.variant("small", depths=tuple(2 * depth for depth in SMALL.depths)))),
        "small in the figure's widths": parameters(
            sv.parameter_shapes(sv.variant("small", embed_dims=(64, 128, 192, 256), num_heads=(2, 4, 6, 8)))
        ),
        "small, v1": parameters(sv.parameter_shapes(sv.variant("small", ssa_values="scaled"))),
        "large": parameters(sv.parameter_shapes(sv.variant("large"))),
        "lim": sum(prod(shape) for shape in kernels),
        "dense lim": sum(prod(shape) * shape[0] for shape in kernels),
        "reduction": reduction,
        "dense reduction": dense,
        "mlp head": parameters({name: shape for name, shape in shapes.items() if name.startswith("head.")}),
        "linear head": parameters(
            {name: s for name, s in sv.parameter_shapes(sv.variant("small_0")).items() if name.startswith("head.")}
        ),
        "vit_pytorch": parameters(vit_pytorch.parameter_shapes(official_widths)),
        "vit_pytorch, default keys": parameters(vit_pytorch.parameter_shapes(vit_pytorch.Config(**port))),
    }
