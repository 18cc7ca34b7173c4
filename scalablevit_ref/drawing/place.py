"""One layer of a network: where it is, its parameters' shapes, and the map it works on, in the words of a picture."""

from __future__ import annotations

from dataclasses import dataclass

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.drawing.counts import figures
from scalablevit_ref.image_sizes import map_sizes
from scalablevit_ref.parameters import Shapes, parameter_shapes

HWC = r"$h \times w \times c$"


@dataclass(frozen=True)
class Place:
    """The layer `name` in stage k, whose block is i and whose map is h x w tokens of c channels.

    shapes: of its own parameters, under local names. before: the shape of the stage's input.
    """

    config: ScalableViTConfig
    name: str
    k: int
    i: int
    shapes: Shapes
    h: int
    w: int
    c: int
    before: tuple[int, ...]

    @classmethod
    def of(cls, config: ScalableViTConfig, name: str, image_size: tuple[int, int]) -> Place:
        """The layer of that name; there must be one."""
        numbers = [int(word) for word in name.split(".") if word.isdigit()]
        prefix = f"{name}."
        shapes = {n.removeprefix(prefix): s for n, s in parameter_shapes(config).items() if n.startswith(prefix)}
        k, i = numbers[0], numbers[-1]
        maps = list(zip(*(map_sizes(config, side) for side in image_size), config.embed_dims, strict=True))
        h, w, c = maps[k]
        return cls(config, name, k, i, shapes, h, w, c, maps[k - 1] if k else (*image_size, config.in_chans))

    @property
    def heads(self) -> int:
        return self.config.num_heads[self.k]

    @property
    def map(self) -> str:
        return figures(self.h, self.w, self.c)

    def linear(self, module: str) -> str:
        wide_out, wide_in = self.shapes[f"{module}.weight"]
        return f"Linear {wide_in} → {wide_out}"

    def heads_of(self, channels: int) -> str:
        """How so many channels split over the heads."""
        return f"{self.heads} head{'s' * (self.heads > 1)} of {channels // self.heads} channels"


def layer_norm(eps: float) -> str:
    return f"LayerNorm, eps {eps:g}".replace("e-0", "e-")
