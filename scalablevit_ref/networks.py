"""What a tool needs of a network that it runs: one protocol, implemented once for the official network and once for each dialect.

`network_of(config)` finds the implementation by the type of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, Protocol

from scalablevit_ref.blocks import Tap, untapped
from scalablevit_ref.checks import check_shapes
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.edits import Mistake
from scalablevit_ref.errors import brief
from scalablevit_ref.image_sizes import check_image_size, usual_image_size
from scalablevit_ref.layers import OFFICIAL, Layer, Wiring, layer_shapes, layers
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.parameters import Shapes, parameter_shapes


class Network(Protocol):
    """A network with its settings, as the tools run it. A tool takes a `Network` and asks nothing about the type of the settings.

    Images are b c h w. Parameters are a flat mapping under the network's own names. A layer is what `layers` names; a tap is the
    name under which `forward` shows a layer's output.

    Another port is a module in `dialects/`: its settings, a class with these methods, `network_of.register(Config, ItsNetwork)`.
    `tests/specification/test_networks.py` holds every network to what is promised here.
    """

    @property
    def config(self) -> Any:
        """The settings, a frozen dataclass. `network_of` of it is an equal network."""

    @property
    def in_chans(self) -> int:
        """Channels of the images."""

    @property
    def runs_as_named(self) -> bool:
        """Whether `forward` runs the layers in the order of `layers`.

        `layers` is what the names of the published modules say; `forward` is what the published code runs. Where the two differ, a
        port is held against `layers`.
        """

    def parameter_shapes(self) -> Shapes:
        """Name and shape of every parameter, in the network's own order. `checked_params` and `forward` take exactly these."""

    def aliases(self) -> tuple[dict[str, str], ...]:
        """Other names under which its authors, or a port's, publish its parameters: from its own names to these."""

    def checked_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same parameters under the network's own names, from this network's form or any other form that its authors publish.

        Raises ValueError, naming each, for parameters that are missing, unexpected or misshapen, and TypeError for no mapping.
        """

    @property
    def wiring(self) -> Any:
        """How its layers are connected, a frozen dataclass with the right way as defaults; an instance with others is a mistake."""

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Likely mistakes in what is this network's own; the comparator's catalogue holds those of the official one."""

    def layers(self, wiring: Any = None) -> dict[str, Layer]:
        """Every layer by the name of its tap, in the order in which they run; `wiring` connects them otherwise."""

    def layer_shapes(self, images: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shape of every layer's output, b h w c or b c, for images of this shape: of each tap what `forward` shows."""

    def check_image_size(self, h: int, w: int) -> None:
        """Raise ValueError for images of h × w pixels that `forward` refuses, and for no others."""

    def usual_image_size(self) -> int:
        """Pixels a side of square images to try the network on, which it takes. Raises ValueError if there are none."""

    def forward(self, images: Any, params: Any, tap: Tap = untapped) -> Any:
        """The logits, or the maps of a backbone without a head; `tap` sees every layer's output, maps as b h w c.

        Raises ValueError or TypeError, before any work is done, for images or parameters that do not fit.
        """


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

    def aliases(self) -> tuple[dict[str, str], ...]:
        """Those of the authors' detection backbone."""
        names = self.parameter_shapes()
        return ({name: re.sub(r"^stages\.", "blocks.", name).replace("lim_func", "lepe_func") for name in names},)

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
    """The network that these settings are of. Raises TypeError for what is no network's settings."""
    raise TypeError(f"config must be a ScalableViTConfig or a dialect's Config, got {brief(config)}")


network_of.register(ScalableViTConfig, Official)
