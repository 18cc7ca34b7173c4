"""Random parameters and images in which every bias, gain and epsilon counts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import default_rng

from scalablevit_ref.parameters import is_gain


def random_params(shapes: Mapping[str, Sequence[int]], seed: int = 0, dtype: Any = "float64") -> dict[str, np.ndarray]:
    """Kernels N / √fan_in, gains 1 + 0.3 N, biases 0.3 N: unlike `init_params`, nothing hides behind a zero or a one.

    Equal for equal seeds whatever the dtype; each parameter has a random stream of its own, told from its name.
    """
    params = {}
    for name, shape in shapes.items():
        values = default_rng([seed, zlib.crc32(name.encode())]).standard_normal(tuple(shape))
        if len(shape) > 1:
            values /= np.prod(shape[1:]) ** 0.5
        else:
            values = 0.3 * values + (1.0 if is_gain(name) else 0.0)
        params[name] = values.astype(dtype)
    return params


def random_images(shape: Sequence[int], seed: int = 0, dtype: Any = "float64") -> np.ndarray:
    """Normal pixels, as images are after normalisation: b c h w."""
    return default_rng([seed, zlib.crc32(b"images")]).standard_normal(tuple(shape)).astype(dtype)
