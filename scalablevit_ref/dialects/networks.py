"""The ports as networks that the tools run (`scalablevit_ref.networks`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scalablevit_ref.dialects.config import Config, check_size, shapes
from scalablevit_ref.dialects.vit_pytorch import scalable_vit
from scalablevit_ref.network import Tap, untapped
from scalablevit_ref.networks import Network, network_of
from scalablevit_ref.parameters import Shapes

SIZES: tuple[int, ...] = (112, 224, *range(32, 2049, 32))
"""Sizes of images, in pixels a side, in the order in which they are tried."""


@dataclass(frozen=True)
class VitPytorch:
    """vit_pytorch's network; the Flax port's weights are brought under its names first."""

    config: Config

    @property
    def in_chans(self) -> int:
        return self.config.channels

    def parameter_shapes(self) -> Shapes:
        return shapes(self.config)

    def check_image_size(self, h: int, w: int) -> None:
        check_size(self.config, h, w, drops_tiles=True)

    def usual_image_size(self) -> int:
        for size in SIZES:
            try:
                self.check_image_size(size, size)
            except ValueError:
                continue
            return size
        raise ValueError(f"no image of {min(SIZES)} to {max(SIZES)} pixels fits window_size {self.config.window_size}")

    def forward(self, images: Any, params: Any, tap: Tap = untapped) -> Any:
        return scalable_vit(images, params, self.config, tap=tap)


@network_of.register
def _vit_pytorch(config: Config) -> Network:
    return VitPytorch(config)
