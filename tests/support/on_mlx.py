"""The network as MLX's users compile it, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

import scalablevit_ref as sv


def compiled(config: sv.ScalableViTConfig, traces: list[tuple[int, ...]] | None = None) -> Callable[[Any, Any], Any]:
    """Logits of images and parameters under `mx.compile`; the images' shape of each trace is put into `traces`."""

    def logits(images: mx.array, params: Mapping[str, mx.array]) -> mx.array:
        if traces is not None:
            traces.append(images.shape)
        return sv.scalable_vit(images, params, config)

    return mx.compile(logits)


def gradients(function: Callable[[dict[str, mx.array]], mx.array], inputs: Any, seed: int) -> dict[str, np.ndarray]:
    """Of a random weighting of what `function` gives, in float64."""

    def weighted(arrays: dict[str, mx.array]) -> mx.array:
        y = function(arrays)
        probe = np.random.default_rng(seed).standard_normal(y.shape)
        return (y * mx.array(probe, mx.float64)).sum()

    found: dict[str, np.ndarray] = sv.to_numpy(mx.grad(weighted)(sv.to_backend(inputs, "mlx", "float64")))
    return found
