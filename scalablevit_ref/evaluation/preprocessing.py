"""From an image as it is kept to a network's input: the official evaluation for RGB, the embedded example's own for its digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalablevit_ref import digits
from scalablevit_ref.images import cropped, decoded, normalised


@dataclass(frozen=True)
class Preprocessing:
    """In two steps: `pixels` takes most of the time and gives small whole numbers, which other processes do; `inputs` makes floats.

    Attributes
    ----------
    channels
        Of the network.
    size
        Pixels a side.

    Examples
    --------
    >>> official = preprocessing(3, None)
    >>> pixels = official.pixels(np.zeros((300, 400, 3), np.uint8))
    >>> pixels.shape, official.inputs([pixels]).shape
    ((224, 224, 3), (1, 3, 224, 224))
    """

    channels: int
    size: int

    def pixels(self, image: bytes | Path | np.ndarray) -> np.ndarray:
        """uint8 "h w 3", of a digit "8 8"; a floating image as it is.

        Raises OSError for a damaged one, ValueError for another kind.
        """
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            if image.ndim != 3 or image.shape[0] != self.channels:
                raise ValueError(f"preprocessed images must have shape ({self.channels}, h, w), got {image.shape}")
            return image.astype(np.float32, copy=False)
        return _digit(image) if self.channels == 1 else self._rgb(image)

    def inputs(self, pixels: list[np.ndarray]) -> np.ndarray:
        """float32 "b c h w" of what `pixels` gave."""
        stacked = np.stack(pixels)
        if stacked.dtype != np.uint8:
            return stacked
        return digits.preprocess(stacked) if self.channels == 1 else normalised(stacked)

    def _rgb(self, image: bytes | Path | np.ndarray) -> np.ndarray:
        if isinstance(image, np.ndarray):
            from PIL import Image

            if image.ndim == 3 and image.shape[-1] not in (1, 3):
                raise ValueError(f"pixels must be h w or h w 3, got {image.shape}")
            found = cropped(Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image), self.size)
        else:
            found = cropped(decoded(image), self.size)
        return np.broadcast_to(found, (*found.shape[:2], 3))


def preprocessing(channels: int, size: int | None) -> Preprocessing:
    """That of a network, for images of `size` pixels a side or of the usual size. Raises ValueError for one that has none.

    Examples
    --------
    >>> preprocessing(3, 384), preprocessing(1, None)
    (Preprocessing(channels=3, size=384), Preprocessing(channels=1, size=112))
    """
    if channels == 3:
        return Preprocessing(channels, size or 224)
    if channels == 1 and size in (None, digits.IMAGE_SIZE):
        return Preprocessing(channels, digits.IMAGE_SIZE)
    asked = f" of {size} pixels a side" if size else ""
    raise ValueError(
        f"no preprocessing is known for images of {channels} channels{asked}: "
        f"only the official one of RGB, and that of the embedded digits, {digits.IMAGE_SIZE} pixels a side"
    )


def _digit(image: bytes | Path | np.ndarray) -> np.ndarray:
    pixels = image if isinstance(image, np.ndarray) else np.asarray(decoded(image).convert("L"))
    if pixels.shape != (8, 8) or pixels.max() > digits.LEVELS:
        raise ValueError(f"a digit is grey, 8 x 8 pixels of 0 to {digits.LEVELS}, got {pixels.shape} up to {pixels.max()}")
    return pixels
