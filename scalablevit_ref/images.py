"""Image files to network input, as the official evaluation does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scalablevit_ref.arguments import check_count, check_path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
"""What is decoded: pixels alone. Pillow would hand an EPS to Ghostscript, which runs it."""


def load_image(path: str | Path, size: int = 224) -> np.ndarray:
    """One RGB image as float32 c h w: shorter side to size · 256/224 (bicubic), centre crop, ImageNet mean and deviation.

    Source: the official evaluation transform (resize to 256, crop to 224). Needs Pillow.

    Raises OSError naming the file if it cannot be read as an image, or is more than 100 times as long as wide.
    """
    check_path("path", path)
    check_count("size", size)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as file:
            image = file.convert("RGB")
    except UnidentifiedImageError:
        raise OSError(f"{path} is not an image in one of the formats {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read image {path}: {error}") from error
    shorter = int(size * 256 / 224)
    w, h = image.size
    if max(w, h) > 100 * min(w, h):  # its shorter side is enlarged, and the longer with it
        raise OSError(f"{path} is {w} x {h} pixels, more than 100 times as long as wide")
    w, h = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)
    image = image.resize((w, h), Image.Resampling.BICUBIC)
    left, top = round((w - size) / 2), round((h - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    pixels = (pixels - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
