"""What a tool needs of a network that it runs: one protocol, implemented once for the official network and once for each dialect.

`network_of(config)` finds the implementation by the type of the configuration. A dialect registers its own in its own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, Protocol

from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checks import check_shapes
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.edits import Mistake
from scalablevit_ref.image_sizes import check_image_size, usual_image_size
from scalablevit_ref.layers import OFFICIAL, Layer, Wiring, layer_shapes, layers
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.parameters import Shapes, parameter_shapes


class Network(Protocol):
    """A network with its settings; images are b c h w, parameters a flat mapping under the network's own names."""

    @property
    def config(self) -> Any:
        """The settings, a frozen dataclass."""

    @property
    def in_chans(self) -> int:
        """Channels of the images."""

    @property
    def runs_as_named(self) -> bool:
        """Whether the published modules run in the order that their names say, which is the order of `layers`."""

    def parameter_shapes(self) -> Shapes:
        """Name and shape of every parameter, in the network's own order."""

    def checked_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters under the network's own names. Raises ValueError for names and shapes that do not fit."""

    @property
    def wiring(self) -> Any:
        """How its layers are connected, a frozen dataclass with the right way as defaults; an instance with others is a mistake."""

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Likely mistakes in what is this network's own; the comparator's catalogue holds those of the official one."""

    def layers(self, wiring: Any = None) -> dict[str, Layer]:
        """Every layer by the name of its tap, in the order in which they run; `wiring` connects them otherwise."""

    def layer_shapes(self, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shape of every layer's output, b h w c or b c, for images of shape b c h w."""

    def check_image_size(self, h: int, w: int) -> None:
        """Raise ValueError for images of h × w pixels that the network does not take."""

    def usual_image_size(self) -> int:
        """A size, in pixels a side, to try the network at. Raises ValueError if there is none."""

    def forward(self, images: Any, params: Any, tap: Tap = untapped) -> Any:
        """The logits, or the maps of a backbone without a head; `tap` sees every layer's output."""


@dataclass(frozen=True)
class Official:
    """The official network: the specification itself."""

    config: ScalableViTConfig
    runs_as_named: ClassVar[bool] = True
    wiring: ClassVar[Wiring] = OFFICIAL
    mistakes: ClassVar[tuple[Mistake, ...]] = ()

    @property
    def in_chans(self) -> int:
        return self.config.in_chans

    def parameter_shapes(self) -> Shapes:
        return parameter_shapes(self.config)

    def checked_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        check_shapes(params, self.parameter_shapes())
        return dict(params)

    def layers(self, wiring: Wiring | None = None) -> dict[str, Layer]:
        return layers(self.config, wiring or OFFICIAL)

    def layer_shapes(self, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.config, images)

    def check_image_size(self, h: int, w: int) -> None:
        check_image_size(self.config, h, w)

    def usual_image_size(self) -> int:
        return usual_image_size(self.config)

    def forward(self, images: Any, params: Any, tap: Tap = untapped) -> Any:
        run = stage_features if self.config.stage_norms and self.config.head == "none" else scalable_vit
        return run(images, params, self.config, tap=tap)


@singledispatch
def network_of(config: object) -> Network:
    """The network that a configuration is of. Raises TypeError for what is no configuration."""
    raise TypeError(f"config must be a ScalableViTConfig or a dialect's Config, got {config!r}")


@network_of.register
def _official(config: ScalableViTConfig) -> Network:
    return Official(config)


def random_image_shape(network: Network, batch: int = 2) -> Sequence[int]:
    """b c h w of images that the network takes; two, because a batch of one hides what mixes images."""
    size = network.usual_image_size()
    return batch, network.in_chans, size, size
