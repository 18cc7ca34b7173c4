"""One configuration of the community ports, with parameters and images of the conformance recipe."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import is_norm_bias
from tests.support import recipe

OPTIONS: dict[str, Any] = {
    "num_classes": 5,
    "dim": 8,
    "depth": (1, 2),
    "heads": (1, 2),
    "reduction_factor": (2, 1),
    "window_size": (3, None),
    "ssa_dim_key": (5, 4),
    "ssa_dim_value": 3,
    "iwsa_dim_key": 2,
    "iwsa_dim_value": (4, 6),
    "ff_expansion_factor": 2,
}
CONFIG = vit_pytorch.Config(**OPTIONS)


def parameters(shapes: Any, seed: int) -> dict[str, np.ndarray]:
    """The recipe's, with vit_pytorch's `g`, `b` and Flax's `kernel` (fan_in: all axes but the last), `scale` and `bias`."""
    params = {}
    for name, shape in dict(shapes).items():
        u, leaf = recipe.uniform(name, shape, seed), name.rpartition(".")[2]
        if leaf in ("g", "b", "scale", "bias"):
            params[name] = 0.25 * u + (leaf in ("g", "scale"))
        elif leaf == "kernel":
            params[name] = u * np.sqrt(3.0 / np.prod(shape[:-1]))
        else:
            params[name] = recipe.parameter(name, shape, seed)
    return params


def images(shape: Any, seed: int = 7) -> np.ndarray:
    return recipe.image(shape, seed)


@cache
def case_parameters(case: str) -> dict[str, np.ndarray]:
    """What takes as long to make as the network to run."""
    loaded = recipe.load(case)
    return parameters(loaded["parameters"], loaded["seed"])


@cache
def vit_params() -> dict[str, np.ndarray]:
    return parameters(vit_pytorch.parameter_shapes(CONFIG), seed=3)


@cache
def flax_params() -> dict[str, np.ndarray]:
    return parameters(flax_port.parameter_shapes(CONFIG), seed=3)


def unbiased() -> dict[str, np.ndarray]:
    """A state dict of vit_pytorch whose norm biases are zero."""
    state = parameters(vit_pytorch.parameter_shapes(CONFIG), seed=3)
    return {name: np.zeros_like(value) if is_norm_bias(name) else value for name, value in state.items()}
