"""A network with changes, run layer by layer beside the unchanged one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from scalablevit_ref.compare.mistakes.catalogue import mistakes_of
from scalablevit_ref.compare.mistakes.layerwise import RIGHT, computed
from scalablevit_ref.edits import Mistake
from scalablevit_ref.layers import IMAGES, Layer
from scalablevit_ref.networks import network_of
from tests.programs.divergences.changes import Change, Params


class Network:
    """A network with changes, in float64: its layers, the mistakes of each, and its parameters."""

    def __init__(self, config: Any, params: Params, size: int, changes: Iterable[Change] = (), wiring: Any = None) -> None:
        """size: of the images, which are square. wiring: instead of the network's own."""
        changes = tuple(changes)
        for change in changes:
            config = replace(config, **change.config)
        network = network_of(config)
        known = {mistake.name: mistake for mistake in mistakes_of(network)}
        wired = combined([Mistake("", wiring=wiring), *(known[change.wiring] for change in changes if change.wiring)])
        self.table = network.layers(wired.wiring)
        for change in changes:
            self.table, params = change.edit(self.table, config, size), change.params(params, config)
        self.mistakes = {
            name: combined(
                known[mistake] for change in changes for mistake, pattern in change.within.items() if fits(layer, pattern)
            )
            for name, layer in self.table.items()
        }
        self.params = {name: {p: x for p, x in params.items() if p.startswith(f"{name}.")} for name in self.table}

    def outputs(self, images: np.ndarray, like: Network | None = None, known: Mapping[str, np.ndarray] | None = None) -> Params:
        """What each layer gives. Layers that are as in `like` and fed the same are taken from `known`, its outputs."""
        found, same = {IMAGES: images}, {IMAGES}

        def compute(name: str) -> None:
            if name in found:
                return
            layer = self.table[name]
            for source in layer.sources:
                compute(source)
            if like and known and self._is_as_in(like, name) and same.issuperset(layer.sources):
                found[name] = known[name]
                same.add(name)
            else:
                x = sum((found[source] for source in layer.sources), np.zeros(()))
                found[name] = computed(layer, x, self.params[name], self.mistakes[name])

        compute("logits")
        return found

    def _is_as_in(self, other: Network, name: str) -> bool:
        mine, theirs = self.params[name], other.params.get(name, {})
        same_layer = (self.table[name], self.mistakes[name]) == (other.table.get(name), other.mistakes.get(name))
        return same_layer and mine.keys() == theirs.keys() and all(mine[p] is theirs[p] for p in mine)


def fits(layer: Layer, pattern: str) -> bool:
    return layer.function.__name__ == pattern or fnmatchcase(layer.name, pattern)


def combined(some: Iterable[Mistake]) -> Mistake:
    """All at once; of two that exclude each other the later one."""
    chosen: list[Mistake] = []
    for mistake in some:
        chosen = [*(other for other in chosen if not other.excludes(mistake)), mistake]
    found = RIGHT
    for mistake in chosen:
        found = found & mistake
    return found


BATCH = 37
"""Images that are run at a time; all layers' outputs are kept for them."""


def all_logits(
    config: Any, params: Params, images: np.ndarray, changes: Mapping[str, Iterable[Change]], wiring: Any = None
) -> Params:
    """Of each changed network, and, under the empty name, of the unchanged one."""
    size = images.shape[-1]
    plain = Network(config, params, size, wiring=wiring)
    networks = {name: Network(config, params, size, some, wiring) for name, some in changes.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("", *networks)}
    for start in range(0, len(images), BATCH):
        x = images[start : start + BATCH]
        known = plain.outputs(x)
        found[""].append(known["logits"])
        for name, network in networks.items():
            found[name].append(network.outputs(x, plain, known)["logits"])
    return {name: np.concatenate(parts) for name, parts in found.items()}
