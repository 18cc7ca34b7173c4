"""How images are prepared for a network, as far as its configuration tells."""

from __future__ import annotations

from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.image_sizes import nearest_image_size, usual_image_size
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD

_GREY_DIGITS = (0.296, 0.317)
"""Mean and deviation of the embedded example's images (`digits.MEAN`, `digits.STD`)."""


def preparation(config: ScalableViTConfig) -> tuple[int, list[float], list[float]]:
    """Pixels a side, and the mean and deviation of each channel: 224 and ImageNet's.

    For other than three channels those are not known, but for the digits'; a mean of 0 and a deviation of 1 then leave pixels as
    they are.
    """
    nearest = nearest_image_size(config, 224)
    size = nearest if nearest == 224 else usual_image_size(config)  # the digits': 112
    mean, deviation = (IMAGENET_MEAN, IMAGENET_STD) if config.in_chans == 3 else ((0.0,), (1.0,))
    if config == variant("digits"):
        mean, deviation = ((value,) for value in _GREY_DIGITS)
    each = config.in_chans // len(mean)
    return size, [*mean] * each, [*deviation] * each
