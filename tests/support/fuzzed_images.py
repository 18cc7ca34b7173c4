"""Images of every format that is decoded, damaged: an array of the right shape, or an OSError of one line that names the file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.images import load_image

SIZE = 32
"""Height and width to which images are brought, in pixels."""


def image_seeds() -> dict[str, bytes]:
    """A small sound image of each format, and of each kind that the format has."""
    from PIL import Image

    rgb = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype="u1")
    color = Image.fromarray(rgb)
    alpha = Image.fromarray(np.dstack([rgb, rgb[..., 0]]), "RGBA")
    grey = color.convert("L")
    paletted = color.quantize(7)
    found: dict[str, bytes] = {}

    def kept(name: str, image: Any, kind: str, **options: Any) -> None:
        out = io.BytesIO()
        image.save(out, kind, **options)
        found[name] = out.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    for name, image in {"rgb": color, "rgba": alpha, "grey": grey, "palette": paletted, "one": grey.convert("1")}.items():
        kept(f"{name}.png", image, "PNG")
    kept("sixteen.png", Image.fromarray(np.arange(108, dtype="u2").reshape(9, 12)), "PNG")
    kept("animated.png", color, "PNG", save_all=True, append_images=[color.rotate(180)])
    kept("see_through.png", paletted, "PNG", transparency=1, exif=exif, icc_profile=b"x" * 200, dpi=(72, 72))
    kept("rgb.jpg", color, "JPEG", exif=exif, comment=b"a comment")
    kept("progressive.jpg", color, "JPEG", progressive=True, quality=30)
    kept("grey.jpg", grey, "JPEG")
    kept("cmyk.jpg", color.convert("CMYK"), "JPEG")
    kept("one.gif", paletted, "GIF", transparency=1)
    kept("animated.gif", paletted, "GIF", save_all=True, append_images=[paletted.rotate(180)], comment=b"a comment", loop=0)
    for name, image in {"rgb": color, "rgba": alpha, "grey": grey, "palette": paletted, "one": grey.convert("1")}.items():
        kept(f"{name}.bmp", image, "BMP")
    for name, image in {"rgb": color, "grey": grey, "one": grey.convert("1")}.items():
        kept(f"{name}.ppm", image, "PPM")
    found["plain.ppm"] = b"P3\n# a comment\n2 2\n255\n" + b"1 2 3 " * 4
    found["plain.pbm"] = b"P1\n4 2\n1 0 1 0\n0 1 0 1\n"
    found["wide.ppm"] = b"P6 2 1 65535\n" + bytes(12)
    found["floats.pfm"] = b"Pf\n2 1\n-1.0\n" + bytes(8)
    kept("lossy.webp", color, "WEBP")
    kept("lossless.webp", alpha, "WEBP", lossless=True, exif=exif)
    kept("animated.webp", color, "WEBP", save_all=True, append_images=[color.rotate(180)])
    return found


def repaired_png(data: bytes) -> bytes:
    """A PNG with right checksums and lengths that stay within the file: they are no obstacle to whoever makes one."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        length = min(length, max(len(data) - at - 12, 0))
        chunk = data[at + 4 : at + 8 + length]
        parts.append(struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk)))
        at += 12 + length
    return b"".join(parts)


def read_image(path: Path, data: bytes) -> np.ndarray | str:
    """The array, or the line that is said; a file that ends with "!" keeps the checksums that it has."""
    path.write_bytes(data[:-1] if data.endswith(b"!") else repaired_png(data))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = load_image(path, SIZE)
        except OSError as error:
            said = str(error)
            assert said.isprintable(), "an error of more than one line"
            assert str(path) in said, f"an error that does not name the file: {said}"
            return said
        finally:
            assert not warned, f"a warning beside the answer: {warned[0].message}"
    assert (found.shape, found.dtype) == ((3, SIZE, SIZE), np.float32), f"an array of {found.shape} and {found.dtype}"
    assert np.isfinite(found).all(), "numbers that are not finite"
    assert np.abs(found).max() < 3, "a pixel out of range"
    return found
