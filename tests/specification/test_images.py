"""The official evaluation preprocessing: shorter side to 256, bicubic; centre crop 224; ImageNet mean and deviation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
