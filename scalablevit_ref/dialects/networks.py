"""The ports as networks that the tools run (`scalablevit_ref.networks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checks import check_shapes
from scalablevit_ref.dialects import flax_port
from scalablevit_ref.dialects.config import Config, check_size, is_norm_bias, shapes
from scalablevit_ref.dialects.layers import AS_NAMED, PortWiring, layer_shapes, layers
from scalablevit_ref.dialects.mistakes import MISTAKES
from scalablevit_ref.dialects.vit_pytorch import scalable_vit
from scalablevit_ref.edits import Mistake
from scalablevit_ref.layers import Layer
from scalablevit_ref.networks import network_of
from scalablevit_ref.parameters import Shapes

SIZES: tuple[int, ...] = (112, 224, *range(32, 2049, 32))
"""Sizes of images, in pixels a side, in the order in which they are tried."""


@dataclass(frozen=True)
class VitPytorch:
    """vit_pytorch's network; the Flax port's weights are brought under its names first."""

    config: Config
    runs_as_named: ClassVar[bool] = False
    wiring: ClassVar[PortWiring] = AS_NAMED
    mistakes: ClassVar[tuple[Mistake, ...]] = MISTAKES

    @property
    def in_chans(self) -> int:
        return self.config.channels

    def parameter_shapes(self) -> Shapes:
        return shapes(self.config)

    def aliases(self) -> tuple[dict[str, str], ...]:
        """Those of the Flax port, without their root; its norms' biases are those that it would have."""
        rows = flax_port.table(self.config.depth)
        names = {row.vit_pytorch: row.flax.removeprefix("params.") for row in rows}
        for name in self.parameter_shapes():
            if is_norm_bias(name):
                gain = names[f"{name.rpartition('.')[0]}.{'g' if name.endswith('.b') else 'weight'}"]
                names[name] = f"{gain.removesuffix('scale')}bias"
        return ({name: names[name] for name in self.parameter_shapes()},)

    def checked_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Also the Flax port's tree, which has no norm biases and may have one norm more."""
        expected = self.parameter_shapes()
        if isinstance(params, Mapping) and any(name.startswith("params") for name in params):
            params = flax_port.as_vit_pytorch(params, self.config)
            expected = {name: shape for name, shape in expected.items() if name in params or not is_norm_bias(name)}
            check_shapes({name: value for name, value in params.items() if name in expected}, expected)
        else:
            check_shapes(params, expected)
        return dict(params)

    def layers(self, wiring: PortWiring | None = None) -> dict[str, Layer]:
        return layers(self.config, wiring or AS_NAMED)

    def layer_shapes(self, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.config, images)

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


network_of.register(Config, VitPytorch)
