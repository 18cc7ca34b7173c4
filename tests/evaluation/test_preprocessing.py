"""Images are prepared pixel for pixel as torchvision and timm do it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit_ref.evaluation import preprocessing
from scalablevit_ref.images import load_image
from tests.support import transforms

SIZES = {"wide.jpg": (500, 375), "tall.jpg": (375, 501), "square.png": (256, 256), "tiny.png": (31, 57), "long.webp": (900, 120)}
MODES = {"grey.jpg": "L", "palette.png": "P", "alpha.png": "RGBA", "cmyk.jpg": "CMYK", "bits.png": "1"}


def draw(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name, (w, h) in {**SIZES, **dict.fromkeys(MODES, (300, 241))}.items():
        smooth = random.integers(0, 256, (h // 16 + 2, w // 16 + 2, 3)).astype(np.uint8)
        image = Image.fromarray(smooth).resize((w, h), Image.Resampling.BICUBIC)
        image.convert(MODES.get(name, "RGB")).save(folder / name)


@pytest.mark.parametrize("size", [224, 384, 199])
def test_as_others_do_it(tmp_path: Path, size: int) -> None:
    """The same bits, whatever size, mode and format an image has; what decoders of their own do included."""
    if not (find_spec("torchvision") and find_spec("timm")):
        pytest.skip("needs torchvision and timm, installed with --no-deps")
    draw(tmp_path)
    command = [sys.executable, "-W", "ignore", transforms.__file__, str(tmp_path), str(size)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert len(found.files) == 2 * (len(SIZES) + len(MODES))
        for key in found.files:
            path = tmp_path / key.split()[1]
            np.testing.assert_array_equal(load_image(path, size), found[key], strict=True, err_msg=key)
            ours = preprocessing(3, size)
            np.testing.assert_array_equal(ours.inputs([ours.pixels(path.read_bytes())])[0], found[key], strict=True, err_msg=key)


def test_pixels_in_memory_are_prepared_as_those_of_a_file(tmp_path: Path) -> None:
    draw(tmp_path)
    for name in ("square.png", "wide.jpg", "grey.jpg"):
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image)
        ours = preprocessing(3, None)
        np.testing.assert_array_equal(ours.inputs([ours.pixels(pixels)])[0], load_image(tmp_path / name))


def test_what_is_no_image_of_that_network() -> None:
    ours = preprocessing(3, None)
    for pixels in (np.zeros((8, 8, 2), np.uint8), np.zeros((1, 224, 224), np.float32)):
        with pytest.raises(ValueError, match=r"must (be|have shape)"):
            ours.pixels(pixels)
    for pixels in (np.zeros((9, 9), np.uint8), np.full((8, 8), 17, np.uint8)):
        with pytest.raises(ValueError, match=r"a digit is grey, 8 x 8 pixels of 0 to 16"):
            preprocessing(1, None).pixels(pixels)
    with pytest.raises(ValueError, match=r"no preprocessing is known for images of 4 channels"):
        preprocessing(4, None)
