"""A module, run and followed: its layers are told by which parameters act on which values, whatever its parts are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from scalablevit_ref.compare.capture.alignment import Captured, Conditions, fitting, nameable
from scalablevit_ref.compare.capture.graph import Graph, Runner, live, narrowest
from scalablevit_ref.compare.capture.names import by_mapping
from scalablevit_ref.compare.capture.pairing import Pairing, paired
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.layers import POOL
from scalablevit_ref.networks import Network

SEED = 0
"""Of the numbers that a candidate's parameters are replaced by while its graph is recorded."""


@dataclass(frozen=True)
class Place:
    """Where a layer's output may lie in a candidate: a value of its graph, and what the candidate calls it.

    `returned` says whether a module gives it back that is the layer by its name or by its parameters.
    """

    value: int
    called: str
    returned: bool = False


@dataclass(frozen=True)
class Followed:
    """A candidate's graph, and the means to ask for more of its values.

    Attributes
    ----------
    places
        For each layer where its output may lie, the likeliest first.
    own
        The weights that the candidate came with, by official names.
    given
        Those that it was to get, by official names; None for its own.
    """

    runner: Runner
    graph: Graph
    pairing: Pairing
    images: np.ndarray
    weights: Mapping[str, np.ndarray]
    places: Mapping[str, tuple[Place, ...]]
    own: Mapping[str, np.ndarray]
    given: Mapping[str, np.ndarray] | None

    def fetch(self, values: Collection[int]) -> Mapping[int, np.ndarray]:
        """These values, of one more run."""
        return self.runner.values(self.images, self.weights, values)[0]


def followed(runner: Runner, conditions: Conditions) -> Captured:
    """What a module computes with these weights, on these images.

    Raises CaptureError where its parameters find no partner in the network, and for what it raises itself.
    """
    network, images, own = conditions.network, conditions.fed, runner.parameters
    graph = runner.record(images, _drawn(own))
    called = Called(graph, runner.paths)
    names = None if conditions.names is None else called.canonical(by_mapping(conditions.names, called.paths, nameable(network)))
    pairing = paired(graph, own, network, images.shape, names=names)
    official = pairing.official_weights(own)
    given = conditions.weights
    if given is None and pairing.facts.lacking:
        lacking = pairing.facts.lacking
        raise CaptureError(
            f"the candidate's own weights lack {lacking[0]}{f' and {len(lacking) - 1} more' if lacking[1:] else ''}: give weights"
        )
    weights = dict(own) if given is None or not conditions.load else {**own, **pairing.own_weights(given, own)}
    places = places_of_layers(graph, pairing, network, images.shape, names, called)
    first = {name: some[0] for name, some in places.items()}
    values, seconds = runner.values(images, weights, {place.value for place in first.values()})
    held = {**({} if given is None else given), **pairing.official_weights(weights)}
    headless = "logits" not in graph.outputs and any(name.startswith("norm_list.") for name in places)
    idle = [name for name in network.layers() if name not in places and name not in (POOL, "logits" if headless else "")]
    captured = Captured(
        runner.kind,
        {name: values[place.value] for name, place in first.items()},
        {name: place.called for name, place in first.items()},
        images,
        runner.dtype,
        held,
        seconds,
        (*graph.notes, *pairing.notes),
        lacks="found nowhere in the candidate",
        left_out=dict.fromkeys(idle, "not run: their parameters act on nothing that is used") if idle else {},
        unsteady=tuple(filter(None, (runner.unrepeated(images, weights),))),
        narrowest=narrowest(graph)[0],
    )
    return replace(captured, followed=Followed(runner, graph, pairing, images, weights, places, official, given))


def _drawn(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Other numbers in place of the parameters, all different, so that values tell which parameter they come from."""
    draw = np.random.default_rng(SEED)
    found = {}
    for name, x in own.items():
        scale = 1.0 if x.ndim < 2 else prod(x.shape[1:]) ** -0.5
        found[name] = (draw.uniform(0.5, 1.5, x.shape) * scale * draw.choice([-1, 1], x.shape if x.ndim > 1 else ())).astype(
            x.dtype
        )
    return found


class Called:
    """The candidate's own names of its modules, by those that its graph has."""

    def __init__(self, graph: Graph, paths: Mapping[str, str]) -> None:
        self.paths = {paths.get(run.path, run.path): run.path for run in graph.modules if run.returned}
        self._own = paths
        self._giving: dict[int, str] = {}
        for run in graph.modules:
            for value in run.returned:
                self._giving.setdefault(value, run.path)

    def __call__(self, path: str) -> str:
        return self._own.get(path, path)

    def giving(self, value: int) -> str:
        """The innermost module that returns this value; empty if none does."""
        return self(self._giving.get(value, ""))

    def canonical(self, names: Mapping[str, str]) -> dict[str, str]:
        """A mapping to the candidate's own names as one to the graph's."""
        return {layer: self.paths[own] for layer, own in names.items()}


# Where a layer's output may lie


def places_of_layers(
    graph: Graph, pairing: Pairing, network: Network, images: tuple[int, ...], names: Mapping[str, str] | None, called: Called
) -> dict[str, tuple[Place, ...]]:
    """By the user's names; where the last of a layer's parameters has acted; what the next layer takes; what a module returns."""
    shapes, table = network.layer_shapes(images), network.layers()
    used = live(graph)
    found: dict[str, list[Place]] = {name: [] for name in table}
    returned = {run.path: run.returned[0] for run in graph.modules if run.returned}
    owners = _owners(graph, pairing)
    with_parameters = {layer_of(parameter, table) for parameter in pairing.shapes}
    for name in table:
        owner = owners.get(name, "")
        if names is not None and name in names:
            found[name].append(Place(returned[names[name]], called(names[name]), returned=True))
        own = [uses for step, uses in pairing.steps.items() if layer_of(step, table) == name]
        acting = [use for uses in own for use in uses if use.made in used]
        if name in with_parameters and not acting:
            continue
        for use in sorted(acting, key=lambda use: -use.operation):
            found[name].append(Place(use.made, called(owner or use.module) or called.giving(use.made)))
        for consumer, layer in table.items():
            if layer.sources == (name,):
                taking = [
                    use
                    for step, uses in pairing.steps.items()
                    if layer_of(step, table) == consumer
                    for use in uses
                    if use.made in used
                ]
                if taking:
                    value = min(taking, key=lambda use: use.operation).given
                    found[name].append(Place(value, called(owner) or called.giving(value) or f"what {consumer} takes"))
        if owner:
            found[name].append(Place(returned[owner], called(owner), returned=True))
    for name, value in _returned(graph, shapes).items():  # what it gives is what counts, whatever it computes besides
        found[name] = [Place(value, "output")]
    return {
        name: tuple(dict.fromkeys(fits))
        for name, places in found.items()
        if name != POOL
        and (fits := [place for place in places if place.value in used and fitting(graph.shapes[place.value], shapes[name])])
    }


def _returned(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The layers that a candidate returns: the logits, or a backbone's maps, each by its place or else by its shape."""
    if "logits" in graph.outputs:
        return dict.fromkeys([name for name in ("head", "logits") if name in shapes], graph.outputs["logits"])
    maps = list(graph.outputs.values())
    normed = [name for name in shapes if name.startswith("norm_list.")]
    if len(maps) == len(normed):
        return dict(zip(normed, maps, strict=True))
    fits = {name: [value for value in maps if fitting(graph.shapes[value], shapes[name])] for name in normed}
    return {name: some[0] for name, some in fits.items() if len(some) == 1}


def layer_of(step: str, layers: Collection[str]) -> str:
    """The innermost layer that a step, named by its parameters, is part of; empty for none."""
    while step and step not in layers:
        step = step.rpartition(".")[0]
    return step


def _owners(graph: Graph, pairing: Pairing) -> dict[str, str]:
    """Layers to modules that hold exactly their parameters, the outermost of several."""
    by_path: dict[str, set[str]] = {}
    for own in graph.parameters.values():
        for path in _around(own):
            by_path.setdefault(path, set()).add(own)
    ran = {run.path for run in graph.modules if run.returned}
    held = {frozenset(owned): path for path, owned in sorted(by_path.items(), key=lambda item: -item[0].count(".")) if path in ran}
    layers: dict[str, set[str]] = {}
    for official, parts in pairing.parts.items():
        for path in _around(official):
            layers.setdefault(path, set()).update(part.own for part in parts)
    return {layer: held[frozenset(owned)] for layer, owned in layers.items() if frozenset(owned) in held}


def _around(name: str) -> Iterator[str]:
    """The paths of the modules that a parameter lies in, the innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
