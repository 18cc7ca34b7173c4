"""The official preprocessing as transformers' image processor, by the functions of `scalablevit_ref.images`: the same pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import ImagesKwargs

from scalablevit_ref import digits
from scalablevit_ref.arguments import check_choice
from scalablevit_ref.checkpoints.transformers_folder import DIGITS, OFFICIAL, SCHEMES
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD, centred, normalised, resized


class ScalableViTImagesKwargs(ImagesKwargs, total=False):  # type: ignore[misc, call-arg]
    """What may be given beside transformers' own.

    scheme
        "official", or "digits" for the embedded example's images of 8 x 8 pixels.
    """

    scheme: str


class ScalableViTImageProcessor(PilBackend):  # type: ignore[misc]
    """Shorter side to 256 pixels, bicubic; the middle 224 x 224; ImageNet's mean and deviation.

    `sv.images.load_image` gives the same pixels, bit for bit. It takes images of Pillow, and arrays and tensors of uint8, h w,
    h w c or c h w; or whatever transformers loads. The settings are transformers' own, and say whether it is done
    here, and of what size: `size`, `crop_size`, `resample`, `image_mean`, `image_std`, `do_resize`, `do_center_crop`, `do_rescale`,
    `do_normalize`.

    Attributes
    ----------
    scheme : str
        "official"; or "digits", which takes the embedded example's images, grey values of 0 to 16, as `digits.preprocess` does.
    """

    valid_kwargs = ScalableViTImagesKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012  (transformers copies it)

    scheme = OFFICIAL
    do_resize = True
    size = {"shortest_edge": 256}  # noqa: RUF012
    default_to_square = False
    resample = Image.Resampling.BICUBIC
    do_center_crop = True
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_MEAN
    image_std = IMAGENET_STD
    do_convert_rgb = True

    def process_image(self, image: Any, scheme: str = OFFICIAL, **settings: Any) -> np.ndarray:
        """One image as uint8 "h w c"; in the scheme "digits" "8 8". Raises ValueError for other than whole numbers of 8 bits."""
        check_choice("scheme", scheme, SCHEMES)
        if isinstance(image, Image.Image):
            if scheme == DIGITS:
                return np.asarray(image.convert("L"))
            if image.mode != "RGB" and (settings.get("do_convert_rgb") or image.mode != "L"):
                image = image.convert("RGB")
            return np.atleast_3d(np.asarray(image))
        if scheme == DIGITS:
            settings |= {"do_convert_rgb": False}
        pixels: np.ndarray = np.moveaxis(super().process_image(image, **settings), 0, -1)
        if pixels.dtype != np.uint8:
            raise ValueError(f"images must be Pillow's, or arrays of uint8 with values of 0 to 255, got {pixels.dtype}")
        return pixels[..., 0] if scheme == DIGITS else pixels

    def _preprocess(self, images: list[np.ndarray], *, return_tensors: Any = None, **settings: Any) -> BatchFeature:
        if settings["scheme"] == DIGITS:
            made = list(digits.preprocess(np.stack(images)))
        else:
            made = [_prepared(image, **settings) for image in images]
        return BatchFeature(data={"pixel_values": made}, tensor_type=return_tensors)


def _prepared(
    pixels: np.ndarray,
    *,
    do_resize: bool,
    size: Any,
    resample: Any,
    do_center_crop: bool,
    crop_size: Any,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    image_mean: Any,
    image_std: Any,
    **others: Any,
) -> np.ndarray:
    """float32 "c h w" of uint8 "h w c"."""
    if pixels.shape[-1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {pixels.shape[-1]}")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if do_resize and size.shortest_edge:
        image = resized(image, size.shortest_edge, resample)
    elif do_resize:
        image = image.resize((size.width, size.height), resample)
    if do_center_crop:
        image = centred(image, crop_size.height, crop_size.width)
    mean, deviation = (image_mean, image_std) if do_normalize else (0.0, 1.0)
    return normalised(np.atleast_3d(np.asarray(image)), mean, deviation, levels=1 / rescale_factor if do_rescale else 1.0)
