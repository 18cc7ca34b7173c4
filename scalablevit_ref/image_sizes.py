"""Which sizes of images a network takes, and how large the maps of its stages are for them."""

from __future__ import annotations

from scalablevit_ref.arguments import check_count
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import brief

SEARCH = 8192
"""How far below and above a size that does not fit one that fits is searched for, in pixels."""


def map_sizes(config: ScalableViTConfig, size: int) -> list[int]:
    """Tokens along one side of each stage's map, for an image of that many pixels: ⌈size / stride⌉.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> map_sizes(variant("small"), 224)
    [56, 28, 14, 7]
    """
    return [-(-size // stride) for stride in config.strides]


def sides(image_size: object) -> tuple[int, int]:
    """Height and width of what is given as one number or as a pair. Raises ValueError or TypeError for anything else."""
    pair = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(pair) != 2:
        raise ValueError(f"image_size must be one number or (height, width), got {brief(image_size)}")
    for side in pair:
        check_count("image_size", side)
    return int(pair[0]), int(pair[1])


def check_image_size(config: ScalableViTConfig, h: int, w: int) -> None:
    """Raise ValueError, with the nearest sizes that work, for images whose maps are not of whole windows or hold no whole tile."""
    for size in (h, w):
        if not _size_fits(config, size):
            sides = ", ".join(map(str, map_sizes(config, size)))
            windows = "" if config.pad_windows else f"be divisible by window_sizes = {config.window_sizes} and "
            near = [n for n in (_next_size(config, size, -1), _next_size(config, size, 1)) if n]
            raise ValueError(
                f"images of {h} x {w}: {size} pixels give maps of {sides} tokens a side, which must {windows}be at least "
                f"sr_ratios = {config.sr_ratios}; the nearest sizes that work are {' and '.join(map(str, near)) or 'none'}"
            )


def nearest_image_size(config: ScalableViTConfig, size: int) -> int:
    """`size` if the network takes it, else the next larger number of pixels that it takes. ValueError if there is none."""
    fit = size if _size_fits(config, size) else _next_size(config, size, 1)
    if fit is None:
        raise ValueError(f"no image of {size} to {size + SEARCH} pixels fits window_sizes = {config.window_sizes}")
    return fit


def usual_image_size(config: ScalableViTConfig) -> int:
    """A size to try a network at: 112 pixels a side if it takes them, else the nearest from 224 on. ValueError if there is none."""
    return 112 if _size_fits(config, 112) else nearest_image_size(config, 224)


def _next_size(config: ScalableViTConfig, size: int, step: int) -> int | None:
    sizes = (size + step * away for away in range(1, SEARCH))
    return next((n for n in sizes if n > 0 and _size_fits(config, n)), None)


def _size_fits(config: ScalableViTConfig, size: int) -> bool:
    """Whether each stage's map has whole windows and, where the stage has an SSA block, at least one whole tile."""
    for k, side in enumerate(map_sizes(config, size)):
        whole_windows = config.pad_windows or side % config.window_sizes[k] == 0
        a_tile = config.depths[k] == 1 or side >= config.sr_ratios[k]
        if not (whole_windows and a_tile):
            return False
    return True
