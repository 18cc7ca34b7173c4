"""The official evaluation preprocessing: shorter side to 256, bicubic; centre crop 224; ImageNet mean and deviation."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit_ref import images
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD, load_image


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_one_colour(tmp_path: Path) -> None:
    """Resampling leaves a single colour alone: only the normalisation shows, by channel."""
    colour = np.array([10, 128, 250], np.uint8)
    x = load_image(save(tmp_path / "plain.png", np.tile(colour, (300, 500, 1))))
    assert x.shape == (3, 224, 224)
    assert x.dtype == np.float32
    expected = (colour / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert np.abs(x - expected[:, None, None]).max() < 1e-6


@pytest.mark.parametrize(("h", "w"), [(256, 320), (320, 256), (256, 256), (256, 321)])
def test_no_resize_only_the_crop(h: int, w: int, tmp_path: Path) -> None:
    """An image whose shorter side is 256 already is cut out of the middle, unchanged."""
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    x = load_image(save(tmp_path / "random.png", pixels))
    top, left = round((h - 224) / 2), round((w - 224) / 2)
    expected = (pixels[top : top + 224, left : left + 224] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert np.abs(x - expected.transpose(2, 0, 1)).max() < 1e-6


def test_resize_is_bicubic_on_the_shorter_side(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (512, 600, 3), dtype=np.uint8)
    x = load_image(save(tmp_path / "random.png", pixels))
    resized = np.asarray(Image.fromarray(pixels).resize((300, 256), Image.Resampling.BICUBIC)) / 255
    expected = (resized[16:240, 38:262] - IMAGENET_MEAN) / IMAGENET_STD
    assert np.abs(x - expected.transpose(2, 0, 1)).max() < 1e-6


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (256, 256), (255, 255, 255)).convert(mode).save(tmp_path / "image.png")
    white = (1 - np.array(IMAGENET_MEAN)) / IMAGENET_STD
    assert np.abs(load_image(tmp_path / "image.png") - white[:, None, None]).max() < 1e-6


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = save(tmp_path / "whole.png", np.zeros((64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "header.png").write_bytes(whole[:8] + b"\0\0\0\1IHDR" + whole[16:])
    Image.new("RGB", (1, 60_000)).save(tmp_path / "thin.png")
    for name, reason in {
        "header.png": "cannot read image",
        "thin.png": "is 1 x 60000 pixels, more than 100 times as long as wide",
        "text.png": "is not an image",
        "cut.png": "cannot read image",
        "absent.png": "cannot read image",
        ".": "cannot read image",
    }.items():
        with pytest.raises(OSError, match=reason) as caught:
            load_image(tmp_path / name)
        assert name.strip(".") in str(caught.value)


def test_what_pillow_would_hand_to_another_program_is_not_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "image.eps")
    with pytest.raises(OSError, match=r"image\.eps is not an image in one of the formats BMP, GIF, JPEG, PNG"):
        load_image(tmp_path / "image.eps")


def official(path: Path, size: int = 224) -> np.ndarray:
    """The transform as it is written down, on the whole image in colours."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    shorter, (w, h) = int(size * 256 / 224), image.size
    w, h = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)
    left, top = round((w - size) / 2), round((h - size) / 2)
    pixels = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size)), np.float32)
    normed = (pixels / 255 - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(normed.transpose(2, 0, 1))


def photograph(h: int, w: int) -> Image.Image:
    """Something smooth with edges and some noise."""
    rows, columns = np.mgrid[:h, :w] / 60
    colours = np.stack([np.sin(rows * (1 + c) + columns) + (columns * (c + 1) % 2 > 1) for c in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 0.05, colours.shape)
    return Image.fromarray(np.uint8(np.clip((colours + noise + 1) * 80, 0, 255)))


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "RGB", {}),
        ("progressive.jpg", "RGB", {"progressive": True, "subsampling": 0}),
        ("cmyk.jpg", "CMYK", {}),
        ("grey.jpg", "L", {"progressive": True}),
        ("a.png", "RGB", {}),
        ("alpha.png", "RGBA", {}),
        ("grey.png", "L", {}),
        ("grey_alpha.png", "LA", {}),
        ("bits.png", "1", {}),
        ("deep.png", "I;16", {}),
        ("palette.png", "P", {"transparency": bytes(range(256))}),
        ("palette.gif", "P", {}),
        ("a.webp", "RGBA", {}),
        ("lossless.webp", "RGB", {"lossless": True}),
        ("a.bmp", "RGB", {}),
        ("a.ppm", "RGB", {}),
        ("a.pgm", "L", {}),
    ],
)
def test_no_bit_of_an_honest_image_depends_on_the_bounds(name: str, mode: str, options: dict[str, object], tmp_path: Path) -> None:
    image = photograph(300, 410)
    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / name, **options)
    with warnings.catch_warnings(action="ignore"):
        expected = official(tmp_path / name)
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(load_image(tmp_path / name), expected)


def jpeg(side: int, *, progressive: bool = False, mode: str = "RGB") -> bytes:
    """Whose header claims so many pixels a side, whatever it holds."""
    written = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(written, "JPEG", progressive=progressive, subsampling=0)
    held = written.getvalue()
    at = held.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    return held[:at] + struct.pack(">HH", side, side) + held[at + 4 :]


def chunk(kind: bytes, held: bytes) -> bytes:
    return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))


def png(side: int, *, channels: int = 3, depth: int = 8, color: int = 2) -> bytes:
    """All zeros."""
    deflate = zlib.compressobj(1)
    row = bytes(1 + (side * channels * depth + 7) // 8)
    body = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def pillow(side: int, mode: str, kind: str, **options: object) -> bytes:
    written = io.BytesIO()
    Image.new(mode, (side, side)).save(written, kind, **options)
    return written.getvalue()


def run_length_bmp(side: int) -> bytes:
    row = b"\xff\x00" * (side // 255) + bytes([side % 255, 0]) * (side % 255 > 0) + b"\0\0"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + row * side + b"\0\1"


AT_THE_BOUND: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "colours.jpg": (6850, jpeg),
    "progressive.jpg": (4330, lambda side: jpeg(side, progressive=True)),
    "cmyk.jpg": (4840, lambda side: jpeg(side, mode="CMYK")),
    "draft.jpg": (13_300, jpeg),
    "colours.png": (6850, png),
    "deep.png": (4840, lambda side: png(side, channels=4, depth=16, color=6)),
    "bits.png": (9600, lambda side: png(side, channels=1, depth=1, color=0)),
    "palette.gif": (6120, lambda side: pillow(side, "P", "GIF")),
    "lossless.webp": (3530, lambda side: pillow(side, "RGB", "WEBP", lossless=True, method=0)),
    "runs.bmp": (6120, run_length_bmp),
    "deep.pgm": (4840, lambda side: b"P5 %d %d 65535\n" % (side, side) + bytes(2 * side * side)),
}
"""Names, pixels a side of what is just accepted, and how to write it."""

MEASURED = """
import re, sys
from pathlib import Path
import numpy
from PIL import Image
from scalablevit_ref.images import load_image
Image.init()

def memory(field):
    return int(re.search(rf"{field}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    load_image(path)
    print(Path(path).name, round(memory("VmHWM") - before))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux tells how much memory was in use at most")
def test_the_largest_images_of_each_format_fit_the_stated_memory(tmp_path: Path) -> None:
    """Measured in a process of its own: never more than 200 MB, and not far from it."""
    for name, (side, write) in AT_THE_BOUND.items():
        (tmp_path / name).write_bytes(write(side))
    paths = [str(tmp_path / name) for name in AT_THE_BOUND]
    done = subprocess.run([sys.executable, "-c", MEASURED, *paths], capture_output=True, text=True, check=True, timeout=600)
    assert not done.stderr
    found = {name: int(megabytes) for name, megabytes in map(str.split, done.stdout.splitlines())}
    assert list(found) == list(AT_THE_BOUND)
    assert max(found.values()) <= 200, found
    assert min(found.values()) >= 110, found


@pytest.mark.parametrize("name", AT_THE_BOUND)
def test_a_larger_image_is_refused_by_its_header(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_DECODED", 188_000)
    side, write = AT_THE_BOUND[name]
    if name in ("colours.jpg", "cmyk.jpg", "draft.jpg"):
        side *= 8
    elif name == "progressive.jpg":
        side = round(1.4 * side)
    (tmp_path / name).write_bytes(write(min(65_000, round(side / 1000**0.5 * 1.1))))
    with pytest.raises(OSError, match=rf"{name} is (\d+) x \1 pixels, which need \d MB, more than 0; make it smaller"):
        load_image(tmp_path / name)


def test_a_jpeg_beyond_the_bound_is_decoded_at_half_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photograph.jpg"
    photograph(1200, 1601).save(path, quality=95)
    expected = official(path)
    assert np.array_equal(load_image(path), expected)
    monkeypatch.setattr(images, "MOST_DECODED", 4 * 1200 * 1601 - 1)
    halved = load_image(path)
    assert halved.shape == expected.shape
    error = np.abs(halved - expected) * np.reshape(IMAGENET_STD, (3, 1, 1)) * 255
    assert not np.array_equal(halved, expected)
    assert error.mean() < 2


def test_pillows_warning_is_not_heard_and_its_settings_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large.jpg").write_bytes(jpeg(9600))
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with warnings.catch_warnings(action="error"):
        load_image(tmp_path / "large.jpg")
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before
    assert capfd.readouterr().err == ""


def scans(count: int) -> bytes:
    """A progressive JPEG in which the last scan comes again and again."""
    held = jpeg(64, progressive=True)
    last = held.rindex(b"\xff\xda")
    return held[:last] + held[last:-2] * count + held[-2:]


DAMAGED = {
    "scans.jpg": (scans(500), "is a JPEG of more than 100 scans"),
    "tower.png": (png(8)[:16] + struct.pack(">II", 1, 2**31 - 1) + png(8)[24:], "is not an image"),
    "no.png": (b"", "is not an image"),
    "huge.ppm": (b"P6 " + b"9" * 400 + b" 1 255\n", "cannot read image"),
    "huger.ppm": (b"P6 999999999 999999999 255\n", "cannot read image"),
    "plain.ppm": (b"P3 1700 1700 255\n" + b"1 " * (3 * 1700 * 1700), "write it as PNG"),
    "negative.bmp": (
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, -8, -8, 1, 24, 0, 0, 0, 0, 0, 0),
        "cannot read image|is not an image|is -8 x",
    ),
    "text.png": (png(8)[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 21))) + png(8)[33:], "cannot read image"),
    "folder.png": (None, "a folder; expected an image"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    held, reason = DAMAGED[name]
    if held is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(held)
    with pytest.raises(OSError, match=reason) as caught:
        load_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in AT_THE_BOUND if name != "draft.jpg"])
def test_cut_off_or_changed_anywhere_it_is_an_image_or_an_error(name: str, tmp_path: Path) -> None:
    held = AT_THE_BOUND[name][1](40)
    rng = np.random.default_rng(len(name))
    path = tmp_path / name
    for _ in range(150):
        changed = bytearray(held[: rng.integers(0, len(held) + 1)] if rng.random() < 0.5 else held)
        for at in rng.integers(0, max(1, len(changed)), 3) if changed else ():
            changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            assert load_image(path).shape == (3, 224, 224)
        except OSError as error:
            assert name in str(error)  # noqa: PT017


def test_a_gif_that_leaves_a_canvas_behind_needs_two(tmp_path: Path) -> None:
    """41 bytes, as fuzzing found them: 150 million grey pixels on a small screen, with a background to be restored."""
    path = tmp_path / "x.gif"
    path.write_bytes(bytes.fromhex("4749463839610c320100000009008200 0021f9040900 00ff00 2c00000000 0cff0009 0000d7030200 3b"))
    with pytest.raises(OSError, match=r"x\.gif is 65292 x 2304 pixels, which need 300 MB, more than 188"):
        load_image(path)


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "sparse.webp").open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBPVP8 ")
        file.truncate(1 << 40)
    with pytest.raises(OSError, match=r"sparse\.webp has 1,099,511,627,776 bytes, more than 167,772,160"):
        load_image(tmp_path / "sparse.webp")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(OSError, match=r"image\.png: a FIFO; expected an image"):
        load_image(tmp_path / "image.png")
    with pytest.raises(OSError, match=r"cannot read image /dev/zero: a device"):
        load_image("/dev/zero")
    for name in ("x" * 300, "", "nul/"):
        with pytest.raises(OSError, match="cannot read image"):
            load_image(name)
    with pytest.raises(ValueError, match="path must be a name that a file can have, without a null character"):
        load_image("a\0b.png")
