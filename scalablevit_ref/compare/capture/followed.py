"""A module, run and followed: its layers are told by which parameters act on which values, whatever its parts are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from typing import Literal

import numpy as np

from scalablevit_ref.blocks import peg
from scalablevit_ref.compare.capture.alignment import Captured, Conditions, by_name, fitting, misfit, nameable
from scalablevit_ref.compare.capture.graph import (
    Graph,
    Runner,
    StaleGraphError,
    along,
    fed_by_images,
    live,
    makers,
    narrowest,
    unmoved,
    users,
)
from scalablevit_ref.compare.capture.names import by_mapping, merged
from scalablevit_ref.compare.capture.pairing import Pairing, paired
from scalablevit_ref.compare.capture.uses import Use
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.layers import POOL, Layer, total
from scalablevit_ref.networks import Network

SEED = 0
"""Of the numbers that some of a candidate's parameters are replaced by while its graph is recorded."""

SEEN = 512
"""Numbers of a parameter that are looked at for whether they differ among themselves."""

FEWEST = 10
"""Smallest number of them of which one may be the same."""


MOST_SUMS = 2
"""Sums behind what a block's last layer makes that are looked at for the block's own."""


@dataclass(frozen=True)
class Place:
    """Where a layer's output may lie in a candidate: a value of its graph, and what the candidate calls it.

    `how` says how it was found: there the layer's parameters have acted; the next layer takes it; a module returns it that is
    the layer by its name or by its parameters; it is added to the residual stream; it lies inside the layer, before its own sum.
    """

    value: int
    called: str
    how: Literal["acting", "taken", "returned", "added", "inner"]
    plus: tuple[str, int] | None = None
    """A parameter, on an axis, that belongs to the layer's output and is added behind it."""

    def of(self, values: Mapping[int, np.ndarray], weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The layer's output."""
        x = values[self.value]
        if self.plus is None:
            return x
        name, axis = self.plus
        shape = [1] * x.ndim
        shape[axis] = -1
        return np.asarray(x + weights[name].reshape(shape).astype(x.dtype))


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

    def only_changed(self, layer: str, value: int, before: int) -> bool:
        """Whether this value is what the layer has made, changed by nothing that has parameters of another layer.

        That is what its own parameters have made; a sum has none, and is what is taken for it, `before`.
        """
        acting = uses_by_layer(self.pairing, self.places)
        mine = {use.made for use in acting.get(layer, ())}
        others = {use.made for uses in acting.values() for use in uses} - mine
        path = along(self.graph, value, mine or {before})
        return bool(path) and not path & others

    def moved_by_others(self, layer: str, value: int, before: int) -> bool:
        """Whether between what a layer gives, `before`, and this value numbers are only put in other places, and not by the layer.

        Whose doing that is, the modules tell in which it runs; where there are none, the functions.
        """
        made = makers(self.graph)
        between = [self.graph.operations[made[x]] for x in along(self.graph, value, {before}) - {before}]
        if not between or any(operation.kind != "move" for operation in between):
            return False
        own = self.graph.operations[made[before]]
        if any(operation.module for operation in self.graph.operations):
            owner = _owners(self.graph, self.pairing).get(layer, own.module)
            return not any(f"{operation.module}.".startswith(f"{owner}.") for operation in between)
        behind = {_function(self.graph.operations[i].line) for i in users(self.graph).get(value, ())}
        return _function(own.line) not in behind and all(_function(one.line) in behind for one in between)

    def output(self, place: Place, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """The output of a layer that lies at this place, of values that were fetched."""
        return place.of(values, self.weights)

    def fetch(self, values: Collection[int]) -> Mapping[int, np.ndarray]:
        """These values, of one more run."""
        return self.runner.values(self.images, self.weights, values)[0]

    def probe(self, replaced: Mapping[int, np.ndarray], values: Collection[int]) -> Mapping[int, np.ndarray]:
        """These values, of one more run in which arrays stand in for others; those for the images are b c h w.

        Raises CaptureError where they cannot.
        """
        inner = {value: x for value, x in replaced.items() if value != self.graph.images}
        images = replaced.get(self.graph.images, self.images)
        return self.runner.values(images, self.weights, values, inner)[0]


def followed(runner: Runner, conditions: Conditions) -> Captured:
    """What a module computes with these weights, on these images.

    Raises CaptureError where its parameters find no partner in the network, and for what it raises itself.
    """
    try:
        return _followed(runner, conditions)
    except StaleGraphError:
        return _followed(runner, conditions)


def _followed(runner: Runner, conditions: Conditions) -> Captured:
    network, images, own = conditions.network, conditions.fed, runner.parameters
    telling = _telling(own)
    graph = runner.record(images, telling)
    called = Called(graph, runner.paths)
    names = None if conditions.names is None else called.canonical(_mapped(conditions.names, called, network))
    pairing = paired(graph, {**own, **telling}, network, images.shape, names=names)
    graph = replace(graph, constants={})  # they are as large as all weights, and have told what they can
    official = pairing.official_weights(own)
    given = conditions.weights
    if given is None and pairing.facts.lacking:
        lacking = pairing.facts.lacking
        if pairing.facts.resized:
            raise CaptureError(f"{next(iter(pairing.facts.resized.values()))}: give weights, of which those that fit are taken")
        raise CaptureError(
            f"the candidate's own weights lack {lacking[0]}{f' and {len(lacking) - 1} more' if lacking[1:] else ''}: give weights"
        )
    weights = dict(own)
    if given is not None and conditions.load:
        others = {name for some in pairing.facts.resized.values() for name in (some.own, some.bias[0]) if name}
        weights |= _drawn({name: own[name] for name in sorted(others)}) | pairing.own_weights(given, own)
    places = places_of_layers(graph, pairing, network, images.shape, names, called)
    first = {name: some[0] for name, some in places.items()}
    values, seconds = runner.values(images, weights, {place.value for place in first.values()})
    held = {**({} if given is None else given), **official}
    if given is not None and conditions.load:
        _check_apart(pairing, own)
        had = {name: x.dtype for name, x in official.items()}
        held = {name: np.asarray(x).astype(had[name], copy=False) if name in had else x for name, x in given.items()}
    headless = "logits" not in graph.outputs and any(name.startswith("norm_list.") for name in places)
    absent = {name: why for name, why in _absent(graph, pairing, network, images.shape).items() if name not in places}
    captured = Captured(
        runner.kind,
        {name: place.of(values, weights) for name, place in first.items()},
        {name: place.called for name, place in first.items()},
        images,
        runner.dtype,
        held,
        seconds,
        (*graph.notes, *pairing.notes),
        lacks="found nowhere in the candidate",
        left_out={"logits": "not returned"} if headless else {},
        absent=absent,
        unsteady=() if conditions.once else tuple(filter(None, (runner.unrepeated(images, weights),))),
        narrowest=narrowest(graph)[0],
    )
    return replace(captured, followed=Followed(runner, graph, pairing, images, weights, places, official, given))


def _mapped(names: Mapping[str, str], called: Called, network: Network) -> dict[str, str]:
    """A user's mapping without placeholders, in which no module is two layers, be it by its official name."""
    found = by_mapping(names, called.paths, nameable(network))
    merged(by_name(called.paths, network), found)
    return found


def _function(line: str) -> tuple[str, str]:
    """The file and the function of "port.py, line 62, in forward"."""
    return line.partition(", line ")[0], line.rpartition(", in ")[2]


def _check_apart(pairing: Pairing, own: Mapping[str, np.ndarray]) -> None:
    """Raise CaptureError where one module of the candidate stands for two of the reference's, which have weights of their own.

    Where it holds parameters of that size that act nowhere, one of the two is used by mistake, and not shared.
    """
    taken = {part.own for parts in pairing.parts.values() for part in parts}
    spare = {x.size for name, x in own.items() if name not in taken}
    lacking = {parameter.rpartition(".")[0] for parameter in pairing.facts.lacking}
    for step, places in pairing.facts.twice.items():
        shared = [place for place in places if place != step and place in lacking]
        if shared and prod(pairing.shapes[f"{shared[0]}.weight"]) not in spare:
            raise CaptureError(
                f"{step} and {shared[0]} are one module in the candidate ({pairing.facts.own.get(step, step)}), "
                "whose weights cannot be those of both: give each its own, or compare with weights=own"
            )


def _telling(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Other numbers in place of weights whose own do not tell how they lie, as those of zeros or of an identity."""
    return _drawn({name: x for name, x in own.items() if x.ndim > 1 and not _tells(x)})


def _drawn(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Other numbers in place of these."""
    draw = np.random.default_rng(SEED)
    return {name: _generic(x.shape, draw).astype(x.dtype, copy=False) for name, x in own.items()}


def _tells(x: np.ndarray) -> bool:
    """Whether no number is there again and again, among some."""
    some = x.reshape(-1)[:: max(1, x.size // SEEN)]
    return bool(some.size) and np.unique(some, return_counts=True)[1].max() * FEWEST <= some.size


def _generic(shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Numbers of 0.5 to 1 and of either sign, by the root of how many are summed."""
    x = draw.random(shape) - 0.5
    x += np.copysign(0.5, x)
    x *= prod(shape[1:]) ** -0.5
    return x


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
    held = _held(pairing, table, called)
    with_parameters = {layer_of(parameter, table) for parameter in pairing.shapes}
    acts = {name: [use for use in uses if use.made in used] for name, uses in uses_by_layer(pairing, table).items()}
    for name in table:
        owner = owners.get(name, "")
        if names is not None and name in names:
            mapped = Place(returned[names[name]], called(names[name]), "returned")
            if not fitting(graph.shapes[mapped.value], shapes[name]):
                raise misfit(mapped.called, name, graph.shapes[mapped.value], shapes[name])
            found[name].append(mapped)
        acting, behind = acts.get(name, []), pairing.facts.late
        late = {
            use.made: (behind[step], use.made_axis)
            for step, uses in pairing.steps.items()
            if step in behind and layer_of(step, table) == name
            for use in uses
        }
        if name in with_parameters and not acting:
            continue
        ends = [
            Place(use.made, called(owner or use.module) or called.giving(use.made) or held[name], "acting", late.get(use.made))
            for use in sorted(acting, key=lambda use: -use.operation)
        ]
        found[name] += [] if table[name].function is peg else ends
        found[name] += [
            Place(value, called(owner) or called.giving(value) or held[name], "taken", _on_axis_of(graph, value, use, late))
            for use in acting
            for value in _with_its_input(graph, use)
        ]
        for consumer, layer in table.items():
            if layer.sources == (name,) and acts.get(consumer):
                first = min(acts[consumer], key=lambda use: use.operation)
                giver = called(owner) or called.giving(first.given) or held.get(name, "")
                found[name].append(Place(first.given, giver or f"what {consumer} takes", "taken"))
        if owner:
            found[name].append(Place(returned[owner], called(owner), "returned"))
        if table[name].function is peg:
            found[name] += [replace(place, how="inner") for place in ends]
    for name, value in _sums(graph, table, found):
        found[name].append(Place(value, called(owners.get(name, "")) or called.giving(value) or held.get(name, ""), "taken"))
    for source, added in _addends(graph, pairing, table, found):
        found[source].append(Place(added, called(owners.get(source, "")) or called.giving(added) or held.get(source, ""), "added"))
    for name, value in _returned(graph, shapes).items():  # what it gives is what counts, whatever it computes besides
        found[name] = [*(found[name][:1] if names is not None and name in names else ()), Place(value, "output", "returned")]
    return {
        name: tuple(dict.fromkeys(fits))
        for name, places in found.items()
        if name != POOL
        and (fits := [place for place in places if place.value in used and fitting(graph.shapes[place.value], shapes[name])])
    }


def _on_axis_of(graph: Graph, value: int, use: Use, late: Mapping[int, tuple[str, int]]) -> tuple[str, int] | None:
    """The bias that is added behind a use, on the axis of the channels of a sum of what it makes; None where that is not clear."""
    if use.made not in late:
        return None
    name, axis = late[use.made]
    shape, made = graph.shapes[value], graph.shapes[use.made]
    fits = [axis] if shape == made else [i for i, size in enumerate(shape) if size == made[axis]]
    return (name, fits[0]) if len(fits) == 1 else None


def _with_its_input(graph: Graph, use: Use) -> Iterator[int]:
    """Sums of what a use makes and what it is given, as PEG's."""
    after, given, queue = users(graph), unmoved(graph, use.given), [use.made]
    while queue:
        for operation in (graph.operations[i] for i in after.get(queue.pop(), ())):
            if operation.kind == "add" and given in {unmoved(graph, x) for x in operation.inputs}:
                yield operation.outputs[0]
            elif operation.kind == "move" and len(operation.outputs) == 1:
                queue.append(operation.outputs[0])


def _sums(graph: Graph, table: Mapping[str, Layer], found: Mapping[str, Sequence[Place]]) -> Iterator[tuple[str, int]]:
    """Sums where what the last of their sources gives is added; what is behind them is another one where a block runs again."""
    after, fed = users(graph), fed_by_images(graph)
    for name, layer in table.items():
        if layer.function is not total or len(layer.sources) < 2:
            continue
        queue = [(place.value, MOST_SUMS) for place in found[layer.sources[-1]] if place.how == "acting"][:1]
        seen = {value for value, _ in queue}
        while queue:
            at, left = queue.pop(0)
            for operation in (graph.operations[i] for i in after.get(at, ())):
                if operation.kind in ("product", "convolution", "norm"):
                    continue
                summed = operation.kind == "add" and len(fed.intersection(operation.inputs)) > 1
                if summed:
                    yield name, operation.outputs[0]
                queue += [(x, left - summed) for x in operation.outputs if x not in seen and left > summed]
                seen.update(operation.outputs)


def _addends(
    graph: Graph, pairing: Pairing, table: Mapping[str, Layer], found: Mapping[str, Sequence[Place]]
) -> Iterator[tuple[str, int]]:
    """What is added to the residual stream, for each layer that is: that is what it gives, whatever is done to it before."""
    made, own = makers(graph), uses_by_layer(pairing, table)
    every = {use.made for name, uses in own.items() if name for use in uses}
    for name, layer in table.items():
        if len(layer.sources) < 2:
            continue
        mine = own.get(name)
        given = [min(mine, key=lambda use: use.operation).given] if mine else [place.value for place in found[name][:1]]
        for value in given:
            summed = unmoved(graph, value)
            if summed in made and graph.operations[made[summed]].kind == "add":
                for source in layer.sources[1:]:
                    acted = {use.made for use in own.get(source, ())}
                    for x in graph.operations[made[summed]].inputs:
                        path = along(graph, x, acted)
                        if path and not path & (every - acted):
                            yield source, x


def _absent(graph: Graph, pairing: Pairing, network: Network, images: tuple[int, ...]) -> dict[str, str]:
    """Layers with parameters that do not run, or whose output is no map of the right shape; and what is the matter with each."""
    shapes, table, used = network.layer_shapes(images), network.layers(), live(graph)
    found, acts = {}, uses_by_layer(pairing, table)
    for name in dict.fromkeys(layer_of(parameter, table) for parameter in pairing.shapes):
        acting = [use for use in acts.get(name, ()) if use.made in used]
        if not acting:
            own = next((part.own for key, parts in pairing.parts.items() if layer_of(key, table) == name for part in parts), "")
            found[name] = f"it does not run: its parameters{f' ({own} …)' if own else ''} act on nothing that is used"
        else:
            last = max(acting, key=lambda use: use.operation)
            axes = "b h w c" if len(shapes[name]) == 4 else "b c"
            shape, wanted = graph.shapes[last.made], shapes[name]
            found[name] = f"it gives shape {shape}, which is no layout of the reference's {axes} = {wanted}"
            times, rest = divmod(prod(shape), prod(wanted))
            if times > 1 and not rest and shape[0] == times * wanted[0]:
                found[name] += f": its batch is {times} times the images', as where flipped or repeated copies of them run too"
    return found


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


def uses_by_layer(pairing: Pairing, layers: Collection[str]) -> dict[str, list[Use]]:
    """The uses of each layer's steps, in the reference's order; under "" those of steps that are part of none."""
    found: dict[str, list[Use]] = {}
    for step, uses in pairing.steps.items():
        found.setdefault(layer_of(step, layers), []).extend(uses)
    return found


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


MOST_HELD = 3
"""Most places of a layer's parameters that its name is made of, where no module has it."""


def _held(pairing: Pairing, layers: Collection[str], called: Called) -> dict[str, str]:
    """Layers to where the candidate keeps their parameters: "blocks.0.mixer", "blocks.0.{up, down}"."""
    kept: dict[str, dict[str, None]] = {}
    sharing: dict[str, set[str]] = {}
    for parameter, parts in pairing.parts.items():
        layer = layer_of(parameter, layers)
        for own in (called(part.own) for part in parts):
            kept.setdefault(layer, {})[own.rpartition(".")[0] or own] = None
            for path in _around(own):
                sharing.setdefault(path, set()).add(layer)
    alone = {path for path, sharers in sharing.items() if len(sharers) == 1}
    return {layer: _together([*some], alone) for layer, some in kept.items()}


def _together(paths: Sequence[str], alone: Collection[str]) -> str:
    """Paths in one word: their beginning, where it is `alone` theirs, or their ends behind it."""
    steps = [path.split(".") for path in paths]
    same = [some[0] for some in takewhile(lambda some: len(set(some)) == 1, zip(*steps, strict=False))]
    rest = [".".join(path[len(same) :]) for path in steps]
    if not all(rest) or ".".join(same) in alone:
        return ".".join(same)
    shown = [*rest[:MOST_HELD], *(["…"] if rest[MOST_HELD:] else [])]
    return ".".join([*same, f"{{{', '.join(shown)}}}"])


def _around(name: str) -> Iterator[str]:
    """The paths of the modules that a parameter lies in, the innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
