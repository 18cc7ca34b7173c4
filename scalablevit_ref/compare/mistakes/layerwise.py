"""One layer at a time, on what the candidate itself fed it: so a layer's own error is told from the error it inherited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.edits import Mistake, changed
from scalablevit_ref.layers import IMAGES, Layer, total
from scalablevit_ref.networks import Network

RIGHT = Mistake("none")


class Local:
    """The reference's layers in float64, between the candidate's taps.

    Parameters
    ----------
    tap
        Gives a tap of the candidate by its canonical name, b h w c or b c in float64.
    names
        The taps that it has. A layer whose source is not among them gets it from the reference's own layers, from the nearest taps
        that are.
    """

    def __init__(
        self,
        network: Network,
        params: Mapping[str, np.ndarray],
        images: np.ndarray,
        names: Iterator[str] | set[str],
        tap: Callable[[str], np.ndarray],
    ) -> None:
        self.network, self.names, self.tap = network, frozenset(names), tap
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.images = np.asarray(images, np.float64)
        self._tables = cache(network.layers)

    def with_tap(self, name: str, x: np.ndarray) -> Local:
        """The same with this tap of the candidate in place of its own."""
        own = self.tap
        return Local(self.network, self.params, self.images, set(self.names), lambda other: x if other == name else own(other))

    def table(self, wiring: Any = None) -> dict[str, Layer]:
        """The network's layers, connected so or as they should be."""
        return self._tables(wiring or self.network.wiring)

    def output(self, name: str, mistake: Mistake = RIGHT) -> np.ndarray:
        """What the reference's layer, with this mistake, makes of the candidate's own input.

        Raises KeyError if the mistake's wiring has no such layer, ValueError where its sources do not fit each other.
        """
        return self._computed(name, mistake, self.table(mistake.wiring), {IMAGES: self.images})

    def output_of(self, name: str, x: np.ndarray) -> np.ndarray:
        """What the reference's layer makes of `x`."""
        return computed(self.table()[name], x, self.own_params(name))

    def end_to_end(self, tap: Callable[[str, np.ndarray], object]) -> None:
        """The reference's layers one after the other from the images on, without the candidate; `tap` sees what each gives."""
        known = {IMAGES: self.images}
        for name in self.table():
            known[name] = self._computed(name, RIGHT, self.table(), known)
            tap(name, known[name])

    def _computed(self, name: str, mistake: Mistake, table: Mapping[str, Layer], known: dict[str, np.ndarray]) -> np.ndarray:
        """`known` keeps what the layer's sources, and theirs, are computed from."""
        layer = table[name]
        for source in layer.sources:
            if source not in known:
                known[source] = self.tap(source) if source in self.names else self._computed(source, mistake, table, known)
        x = sum((known[source] for source in layer.sources[1:]), known[layer.sources[0]])
        if name in mistake.skipped and layer.sources != (IMAGES,):
            return np.asarray(x if layer.function is not total else known[layer.sources[0]])
        return computed(layer, x, self.own_params(name), mistake)

    def inside(self, name: str) -> dict[str, Layer]:
        """The layer, and those between it and the taps that it is computed from."""
        table = self.table()
        found: dict[str, Layer] = {}
        queue = [name]
        while queue:
            layer = table[queue.pop()]
            found[layer.name] = layer
            queue += [s for s in layer.sources if s != IMAGES and s not in self.names and s not in found]
        return found

    def own_params(self, *names: str) -> dict[str, np.ndarray]:
        """The parameters of these layers, by their names in the whole network."""
        prefixes = tuple(f"{name}." for name in names)
        return {name: value for name, value in self.params.items() if name.startswith(prefixes)}


def computed(layer: Layer, x: np.ndarray, params: Mapping[str, np.ndarray], mistake: Mistake = RIGHT) -> np.ndarray:
    """What the layer makes of `x`: b h w c, after pooling b c; the first layer takes the images, b c h w.

    `params` are the layer's own, by their names in the whole network.
    """
    wrong, prefix = dict(mistake.params), f"{layer.name}."
    own = {name.removeprefix(prefix): wrong[name](value) if name in wrong else value for name, value in params.items()}
    if IMAGES in layer.sources:
        x = rearrange(x, "b c h w -> b h w c")
    return np.asarray(changed(layer.function, mistake.changes)(x, own, **layer.settings))
