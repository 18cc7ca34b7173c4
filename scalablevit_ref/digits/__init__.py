"""The embedded example: a small ScalableViT that reads handwritten digits, with its weights and the images it was tested on.

    config = sv.variant("digits")
    params = sv.load_checkpoint(digits.CHECKPOINT).params
    images, labels = digits.test_images()
    logits = sv.scalable_vit(digits.preprocess(images), params, config)

Where the images come from, how the weights were trained and what they reach: `README.md` beside this file; `train` repeats it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.arguments import float_dtype
from scalablevit_ref.checks import check_array

CHECKPOINT = Path(__file__).with_name("digits.pth")
"""The trained weights of `variant("digits")`, in the official checkpoint format."""

TEST_IMAGES = Path(__file__).with_name("test.npz")
"""The test split: `images` uint8 n 8 8 and `labels` int64 n."""

IMAGE_SIZE = 112
"""Pixels a side that the network sees: maps of 28, 14, 7 and 4 tokens."""

LEVELS = 16
"""The largest grey value: the source counts the inked pixels of each 4 × 4 tile of a 32 × 32 scan."""

MEAN, STD = 0.296, 0.317
"""Mean and deviation of the training split's pixels, with the largest grey value as 1, after scaling up."""


def test_images() -> tuple[np.ndarray, np.ndarray]:
    """The images that neither training nor model selection saw: uint8 "n 8 8" in 0 … 16, and their digits, int64 "n".

    Examples
    --------
    >>> images, labels = test_images()
    >>> images.shape, labels.shape
    ((370, 8, 8), (370,))
    """
    with np.load(TEST_IMAGES, allow_pickle=False) as split:
        return split["images"], split["labels"]


test_images.__test__ = False  # type: ignore[attr-defined]  # pytest would take an imported `test_…` for a test


def preprocess(images: np.ndarray, dtype: Any = "float32") -> np.ndarray:
    """uint8 "n 8 8" in 0 … 16 to the network's input "n 1 112 112" of this NumPy dtype.

    Bilinear with half-pixel centres, black beyond the edge (torch's `grid_sample` with zeros, `align_corners=False`), then
    (x / 16 − MEAN) / STD. All sums are of whole numbers, so that every machine gives the same bits.

    Raises TypeError for other than uint8, ValueError for another shape or a value above 16.

    Examples
    --------
    >>> images, labels = test_images()
    >>> preprocess(images[:2]).shape
    (2, 1, 112, 112)
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise TypeError(f"images must be a NumPy array of uint8, got {found}")
    check_array("images", images)
    dtype = float_dtype("dtype", dtype)
    if images.ndim != 3 or images.shape[1:] != (8, 8):
        raise ValueError(f"images must have shape (n, 8, 8), got {images.shape}")
    if images.max(initial=0) > LEVELS:
        raise ValueError(f"images must hold values of 0 … {LEVELS}, got {images.max()}")
    weights, unit = _interpolation()
    scaled_up = weights @ images.astype(np.float64) @ weights.T  # whole numbers, exact in float64
    normalised: np.ndarray = (scaled_up / (LEVELS * unit**2) - MEAN) / STD
    return normalised[:, None].astype(dtype, copy=False)


def _interpolation() -> tuple[np.ndarray, int]:
    """Weight of source row j in output row i, "112 8", as whole numbers of 1/unit: unit · max(0, 1 − |distance|)."""
    scale = IMAGE_SIZE // 8
    unit = 2 * scale  # half-pixel centres lie on multiples of 1 / (2 · scale) source pixels
    centre = 2 * np.arange(IMAGE_SIZE) + 1 - scale
    return np.maximum(0, unit - abs(centre[:, None] - unit * np.arange(8))).astype(np.float64), unit
