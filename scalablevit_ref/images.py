"""Image files to network input, as the official evaluation does it."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.arguments import check_count, check_path
from scalablevit_ref.files.reading import IrregularFileError, open_regular

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
"""What is decoded: pixels alone. Pillow would hand an EPS to Ghostscript, which runs it."""

MOST_BYTES = 160 << 20
"""Largest image file, in bytes: 40 million pixels as they are, without compression, and more than any compressed photograph."""

MOST_DECODED = 188_000_000
"""Most bytes that decoding may hold: 47 million pixels of a JPEG or a PNG in colours, four bytes each, or 12 million of a WebP."""

MOST_SCANS = 100
"""Most scans of a JPEG, each of which goes over the whole image; encoders of progressive ones write ten."""

MOST_PLAIN = 8 << 20
"""Largest PPM whose numbers are written as text, in bytes: Pillow takes a second for two million of them."""


def load_image(path: str | Path, size: int = 224) -> np.ndarray:
    """One RGB image as float32 c h w: shorter side to size · 256/224 (bicubic), centre crop, ImageNet mean and deviation.

    A JPEG beyond `MOST_DECODED` is decoded at a half, a quarter or an eighth of its size, which the resizing makes smaller still.

    Source: the official evaluation transform (resize to 256, crop to 224). Needs Pillow.

    Raises OSError naming the file if it is no regular file, cannot be read as an image, is more than 100 times as long as wide, or
    beyond one of the limits above.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "grey.png"
    ...     Image.new("RGB", (320, 240), "grey").save(path)
    ...     load_image(path).shape
    (3, 224, 224)
    """
    check_path("path", path)
    check_count("size", size)
    return normalised(cropped(decoded(path), size))


def decoded(path: str | Path | bytes) -> Any:
    """An image file, or its bytes, as Pillow's image: grey ("L") if the file is, else "RGB". Raises as `load_image` does.

    Examples
    --------
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (320, 240)).save(file, "PNG")
    >>> decoded(file.getvalue()).size
    (320, 240)
    """
    with _opened(path) as (image, file):
        _bound(image, file)
        grey = image.mode in ("1", "L")
        image = image.convert("L" if grey else "RGB") if image.mode not in ("L", "RGB") else image
        image.load()
    return image


def cropped(image: Any, size: int = 224) -> np.ndarray:
    """Pillow's image, resized and cropped: uint8 "size size c", one channel of a grey image.

    Examples
    --------
    >>> from PIL import Image
    >>> cropped(Image.new("RGB", (320, 240))).shape
    (224, 224, 3)
    """
    return np.asarray(centred(resized(image, int(size * 256 / 224)), size, size)).reshape(size, size, -1)


def resized(image: Any, shorter: int, resample: int | None = None) -> Any:
    """Pillow's image with a shorter side of that many pixels, and as much of the longer; bicubic unless told otherwise.

    Examples
    --------
    >>> from PIL import Image
    >>> resized(Image.new("RGB", (320, 240)), 256).size
    (341, 256)
    """
    from PIL import Image

    w, h = image.size
    w, h = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)
    return image.resize((w, h), Image.Resampling.BICUBIC if resample is None else resample)


def centred(image: Any, height: int, width: int) -> Any:
    """The middle of Pillow's image, black beyond its edges.

    Examples
    --------
    >>> from PIL import Image
    >>> centred(Image.new("RGB", (320, 240)), 224, 224).size
    (224, 224)
    """
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def normalised(pixels: np.ndarray, mean: Any = IMAGENET_MEAN, deviation: Any = IMAGENET_STD, *, levels: float = 255) -> np.ndarray:
    """float32 "… c h w" of uint8 "… h w c", by a mean and a deviation for each channel; of one channel all are made.

    What `levels` is becomes 1 before.

    Examples
    --------
    >>> normalised(np.full((2, 2, 3), 255, np.uint8))[:, 0, 0].round(3)
    array([2.249, 2.429, 2.64 ], dtype=float32)
    """
    scaled: np.ndarray = np.asarray(pixels, np.float32) / np.float32(levels)
    scaled = (scaled - np.array(mean, np.float32)) / np.array(deviation, np.float32)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


@contextmanager
def _opened(path: str | Path | bytes) -> Iterator[tuple[Any, BinaryIO]]:
    """Pillow's image and its file, of which only the header is read. Whatever Pillow raises is an OSError that names the file.

    Its warnings, of large images and of damaged metadata, are no business of whoever reads standard error.
    """
    from PIL import Image, UnidentifiedImageError

    opened = io.BytesIO(path) if isinstance(path, bytes) else None
    path = "the image" if isinstance(path, bytes) else path
    try:
        with opened or open_regular(path, "an image") as file, warnings.catch_warnings(action="ignore"):
            size = _size(file)
            if size > MOST_BYTES:
                raise _RefusedError(f"has {size:,} bytes, more than {MOST_BYTES:,}")
            with Image.open(file, formats=FORMATS) as image:
                yield image, file
    except _RefusedError as error:
        raise OSError(f"{path} {error}") from None
    except IrregularFileError as error:
        raise OSError(f"cannot read image {error}") from None
    except UnidentifiedImageError:
        raise OSError(f"{path} is not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:
        raise OSError(f"cannot read image {path}: {error}") from error


def _size(file: BinaryIO) -> int:
    at = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(at)
    return size


class _RefusedError(Exception):
    """An image beyond one of the limits."""


def _bound(image: Any, file: BinaryIO) -> None:
    """Refuse, or have decoded at a smaller size, what its header says is beyond a limit."""
    w, h = image.size
    if max(w, h) > 100 * min(w, h):  # its shorter side is enlarged, and the longer with it
        raise _RefusedError(f"is {w} x {h} pixels, more than 100 times as long as wide")
    if image.format == "PPM" and image.tile[0][0] == "ppm_plain" and (size := _size(file)) > MOST_PLAIN:
        raise _RefusedError(f"has {size:,} bytes of numbers that are written as text, more than {MOST_PLAIN:,}; write it as PNG")
    scans = _scans(file) if image.format == "JPEG" else 1
    if scans > MOST_SCANS:
        raise _RefusedError(f"is a JPEG of more than {MOST_SCANS} scans")
    factor = 1
    while (needed := _decoded(image, file, scans, factor)) > MOST_DECODED:
        if image.format != "JPEG" or factor == 8:
            raise _RefusedError(
                f"is {w} x {h} pixels, which need {needed // 10**6} MB, more than {MOST_DECODED // 10**6}; make it smaller"
            )
        factor *= 2
    if factor > 1:
        image.draft(image.mode, (w // factor, h // factor))


def _decoded(image: Any, file: BinaryIO, scans: int, factor: int) -> int:
    """Bytes that decoding holds at once, as measured: Pillow's pixels, and a copy in another mode or what the decoder keeps."""
    pixels: int = prod(image.size)
    stored = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    copied = {"1": 1, "L": 0, "RGB": 0}.get(image.mode, 4)
    kept = 0
    if image.format == "WEBP":  # the file, two canvases and a frame
        kept = (8 + len(image.getbands())) * pixels + _size(file)
    elif getattr(image, "dispose", None) is not None:  # of a GIF: what the frame leaves behind
        kept = pixels
    elif scans > 1:  # all coefficients, two bytes each, of channels that may be stored at half the size
        across, down = (max(layer[axis] for layer in image.layer) for axis in (1, 2))
        kept = 2 * pixels * sum(layer[1] * layer[2] for layer in image.layer) // (across * down)
    return pixels * stored // factor**2 + max(kept, pixels * copied // factor**2)


def _scans(file: BinaryIO) -> int:
    """Scans of a JPEG, `MOST_SCANS` and one more of all that have more. Those of the thumbnails in its metadata do not count."""
    at, count, last = file.tell(), 0, b""
    file.seek(2)
    while (head := file.read(4))[:1] == b"\xff" and head[1:2] != b"\xda" and (length := int.from_bytes(head[2:])) >= 2:
        file.seek(length - 2, os.SEEK_CUR)
    file.seek(-len(head), os.SEEK_CUR)
    while count <= MOST_SCANS and (read := file.read(1 << 20)):
        count += (last + read).count(b"\xff\xda")
        last = read[-1:] if read[-1:] == b"\xff" else b""
    file.seek(at)
    return count
