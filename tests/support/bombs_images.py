"""Images made to take time or memory, or to be something else: what makes each, and what is said of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.bombs_traces import Made, fifo, folder_called, lazily, link, nowhere, written


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(w: int, h: int, *, bits: int = 8, color: int = 2, interlaced: int = 0, data: bytes = b"", before: bytes = b"") -> bytes:
    """A PNG that says it has this size; data: what its pixels are deflated to, by default next to nothing."""
    head = struct.pack(">IIBBBBB", w, h, bits, color, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", data or zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


def saved(kind: str, shape: tuple[int, int] = (40, 60), **options: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype="u1")).save(out, kind, **options)
    return out.getvalue()


def jpeg_of(w: int, h: int, **options: Any) -> bytes:
    """A JPEG that says it has this size; a progressive one is held whole while it is decoded."""
    data = saved("JPEG", **options)
    at = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", h, w) + data[at + 4 :]


def gif(w: int, h: int, inner: tuple[int, int] = (1, 1)) -> bytes:
    """A GIF of a screen and of a picture on it."""
    head = b"GIF89a" + struct.pack("<HHBBB", w, h, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, *inner, 0) + b"\x02\x02\x44\x01\x00;"


def bmp(w: int, h: int, *, bits: int = 24, compression: int = 0, offset: int = 54, data: bytes = bytes(64)) -> bytes:
    head = b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, offset)
    return head + struct.pack("<IiiHHIIiiII", 40, w, h, 1, bits, compression, len(data), 0, 0, 0, 0) + data


def webp(w: int, h: int) -> bytes:
    """A lossless WebP whose header says it has this size."""
    data = bytearray(saved("WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    (word,) = struct.unpack("<I", data[at : at + 4])
    data[at : at + 4] = struct.pack("<I", (word & ~0xFFFFFFF) | (w - 1) | (h - 1) << 14)
    return bytes(data)


def text_chunk(megabytes: int) -> bytes:
    return chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(megabytes << 20), 9))


TOO_LARGE = "pixels|cannot read image"

DAMAGED = "cannot read image|is not an image"

NONE = "is not an image"

HEADS = {"PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF89a", "BMP": b"BM", "WEBP": b"RIFF", "JPEG": b"\xff\xd8\xff"}
"""How a file of each format begins."""

SIZES = ((13_300, 13_300), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (10_000, 8_000))
"""Widths and heights of images that would take all memory."""


def cut_off(kind: str) -> Callable[[Path], Path]:
    return lazily("x", lambda: saved(kind)[: 200 if kind == "GIF" else -40])


IMAGE_BOMBS: Made = {
    "a FIFO": (fifo("x.png"), "a FIFO"),
    "a device": (link("x.png", "/dev/zero"), "a device"),
    "a folder": (folder_called("x.png"), "a folder"),
    "a link to itself": (link("x.png", "x.png"), "symbolic links|levels of"),
    "nowhere": (nowhere("x.png"), "No such file|no such file"),
    "empty": (written("x.png", b""), NONE),
    "a text": (written("x.png", b"hello"), NONE),
    "a picture of vectors": (written("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), NONE),
    "an EPS": (written("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n"), NONE),
    "a TIFF": (lazily("x.png", lambda: saved("TIFF")), NONE),
    "an icon": (lazily("x.png", lambda: saved("ICO")), NONE),
    **{f"a {kind} of a head alone": (written("x", start), NONE) for kind, start in HEADS.items()},
    **{f"a {kind} that is cut off": (cut_off(kind), DAMAGED) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM")},
    **{f"a PNG of {w} x {h}": (written("x.png", png(w, h)), TOO_LARGE) for w, h in SIZES},
    "a PNG of one bit": (written("x.png", png(30_000, 30_000, bits=1, color=0)), TOO_LARGE),
    "a PNG in passes": (written("x.png", png(13_000, 13_000, interlaced=1)), TOO_LARGE),
    "a PNG of sixteen bits": (written("x.png", png(9_000, 9_000, bits=16, color=6)), TOO_LARGE),
    "a PNG that inflates": (lazily("x.png", lambda: png(9_000, 9_000, data=zlib.compress(bytes(9_000 * 27_001), 9))), TOO_LARGE),
    "a PNG of no pixels": (written("x.png", png(0, 9)), DAMAGED),
    "a PNG without pixels": (written("x.png", png(9, 9).replace(b"IDAT", b"IDAX")), DAMAGED),
    "a PNG of a colour that is none": (written("x.png", png(9, 9, color=5)), DAMAGED),
    "a PNG of a wrong checksum": (written("x.png", png(9, 9)[:29] + b"\0\0\0\0" + png(9, 9)[33:]), DAMAGED),
    "a PNG of a text that inflates": (lazily("x.png", lambda: png(40, 40, before=text_chunk(80))), DAMAGED),
    "a PNG of many texts": (lazily("x.png", lambda: png(40, 40, before=text_chunk(1) * 90)), DAMAGED),
    "a PNG of a long chunk": (written("x.png", png(40, 40).replace(b"\0\0\0\x0dIHDR", b"\xff\xff\xff\xffIHDR")), DAMAGED),
    "a PNG that is too long": (lazily("x.png", lambda: saved("PNG", (1, 5_000))), "100 times as long as wide"),
    "a PNG that is too high": (lazily("x.png", lambda: saved("PNG", (5_000, 1))), "100 times as long as wide"),
    **{f"a JPEG of {side} x {side}": (lazily("x.jpg", partial(jpeg_of, side, side)), TOO_LARGE) for side in (60_000, 65_500)},
    **{f"a JPEG of {w} x {h}": (lazily("x.jpg", partial(jpeg_of, w, h)), None) for w, h in SIZES if w < 20_000},  # at a part of it
    "a JPEG of many scans": (lazily("x.jpg", lambda: jpeg_of(13_000, 13_000, progressive=True)), TOO_LARGE),
    "a JPEG of four inks": (lazily("x.jpg", lambda: jpeg_of(0, 13_000)), DAMAGED),
    "a GIF of a large screen": (written("x.gif", gif(60_000, 60_000)), TOO_LARGE),
    "a GIF of a large picture": (written("x.gif", gif(1, 1, (60_000, 60_000))), TOO_LARGE),
    "a GIF without a picture": (written("x.gif", gif(9, 9)[:19] + b";"), DAMAGED),
    "a BMP of 30,000 x 30,000": (written("x.bmp", bmp(30_000, 30_000)), TOO_LARGE),
    "a BMP of 2^31 x 1": (written("x.bmp", bmp(2**31 - 1, 1)), TOO_LARGE),
    "a BMP of 1 x -2^31": (written("x.bmp", bmp(1, -(2**31))), TOO_LARGE),
    "a BMP of runs": (lazily("x.bmp", lambda: bmp(20_000, 20_000, bits=8, compression=1, data=b"\xff\x00" * 500)), TOO_LARGE),
    "a BMP of pixels beyond it": (written("x.bmp", bmp(9, 9, offset=2**31)), DAMAGED),
    "a BMP of no pixels": (written("x.bmp", bmp(0, 0)), DAMAGED),
    "a PPM of 60,000 x 60,000": (written("x.ppm", b"P6 60000 60000 255\n" + bytes(99)), TOO_LARGE),
    "a PPM of many digits": (written("x.ppm", b"P6 " + b"9" * 5000 + b" 1 255\n"), DAMAGED),
    "a PPM of words": (lazily("x.ppm", lambda: b"P3 8000 8000 255\n" + b"1 " * 1_000_000), TOO_LARGE),
    "a PPM of a comment": (lazily("x.ppm", lambda: b"P6\n#" + b"x" * 5_000_000), DAMAGED),
    "a PPM of no pixels": (written("x.ppm", b"P6 0 0 255\n"), DAMAGED),
    "a PPM of letters": (written("x.ppm", b"P6 a b c\n"), DAMAGED),
    "a WebP of 16,383 x 16,383": (lazily("x.webp", lambda: webp(16_383, 16_383)), TOO_LARGE),
    "a WebP of a size that is not its own": (lazily("x.webp", lambda: webp(1_000, 900)), DAMAGED),
}  # fmt: skip
"""Given to `load_image`."""
