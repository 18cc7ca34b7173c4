"""What is known around a wrong layer: the candidate's own values, by words that a user of the network understands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.graph import Graph, live
from scalablevit_ref.compare.followed import Followed
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.judge import tolerance
from scalablevit_ref.compare.steps import INPUT, Run
from scalablevit_ref.layers import IMAGES, Layer
from scalablevit_ref.testing.arrays import EPS

Fetch = Callable[[Collection[int]], Mapping[int, np.ndarray]]
"""Gives values of the candidate's graph by their numbers."""


Probe = Callable[[Mapping[int, np.ndarray], Collection[int]], Mapping[int, np.ndarray]]
"""Gives values of one more run of the candidate, in which arrays stand in for others."""


@dataclass(frozen=True)
class Scene:
    """A layer, what it was fed, and what was seen of its steps; `found` is for what more runs of the candidate have shown."""

    local: Local
    layer: Layer
    x: np.ndarray
    run: Run
    sources: Mapping[str, tuple[str, ...]]
    own: Followed
    dtype: str
    graph: Graph
    fetch: Fetch
    tapped: Mapping[str, int]
    probe: Probe | None = None
    found: dict[Any, Any] = field(default_factory=dict)
    sized: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The candidate's own parameters, by official names, that have other sizes than the reference's."""
    acting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The steps in which each of the candidate's own parameters acts."""

    def effective(self, step: str) -> np.ndarray:
        """What the steps after this one were given: the candidate's own value where it is known."""
        held = self.own.outputs.get(step)
        return self.run[step].made if held is None else held.actual

    def spoken(self, step: str) -> str:
        """A step's name, in words: "qkv", "LIM", "the attention"."""
        return spoken(self.layer.name, step)


def spoken(layer: str, step: str) -> str:
    """A step's name as a user of the network calls it."""
    short = step.removeprefix(f"{layer}.") if step != layer else step.rpartition(".")[2]
    if step == layer and short.isdigit():
        short = layer
    known = {"lim_func": "LIM", "local_interactive_module": "LIM", "attention": "the attention", "gelu": "GELU"}
    return known.get(short, short)


def fed(local: Local, name: str) -> np.ndarray:
    """What the candidate feeds a layer: the sum of its sources, b h w c or b c; of the first layer the images, b c h w."""
    layer, x = local.table()[name], np.zeros(())
    for source in layer.sources:
        x = x + _tap(local, source)
    return np.asarray(x)


def _tap(local: Local, name: str) -> np.ndarray:
    if name == IMAGES:
        return local.images
    return local.tap(name) if name in local.names else local.output(name)


def listed(names: Iterable[str]) -> str:
    """As a list in words: "q, k and v"."""
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last


def input_words(scene: Scene) -> str:
    """What the layer is fed."""
    sources = scene.layer.sources
    if sources == (IMAGES,):
        return "the images"
    names = [what_gives(scene.local, scene.layer.name, source) for source in sources]
    return names[0] if len(names) == 1 else f"the sum of {listed(dict.fromkeys(names))}"


PARTS = ("norm1", "attn", "norm2", "mlp")
"""The layers of a block, in the order of their names' use."""


def _block(local: Local, layer: str) -> str:
    """The block that a layer is, or is part of; empty for the others."""
    table = local.table()
    for block in (layer, layer.rpartition(".")[0]):
        if all(f"{block}.{part}" in table for part in PARTS):
            return block
    return ""


def what_gives(local: Local, layer: str, source: str) -> str:
    """A value of the network in words, as seen from a layer: "what norm1 gives", "x before the block"."""
    if source == IMAGES:
        return "the images"
    block = _block(local, layer)
    if not block:
        return f"what {source} gives"
    inner = source.removeprefix(f"{block}.")
    if inner not in PARTS:
        return "the block's output" if source == block else "x before the block"
    return {"attn": "the attention's output", "mlp": "the MLP's output"}.get(inner, f"what {inner} gives")


def known_values(local: Local, layer: str, later: Collection[str]) -> dict[str, np.ndarray]:
    """The candidate's own values around a layer, by words: what its block is fed, what its parts give, but for `later` ones."""
    block = _block(local, layer)
    if not block:
        table = local.table()
        sources = [name for name in table[layer].sources if name != IMAGES]
        sources += [name for source in sources for name in table[source].sources if name not in (*sources, IMAGES)]
        return {what_gives(local, layer, name): _tap(local, name) for name in sources}
    found = {"x before the block": fed(local, f"{block}.norm1")}
    for name in (*(f"{block}.{part}" for part in PARTS), block):
        if name not in later and name != layer:
            found[what_gives(local, layer, name)] = _tap(local, name)
    if layer == f"{block}.mlp":
        found["x after the attention"] = fed(local, f"{block}.norm2")
    return found


def _later(scene: Scene, value: int) -> set[str]:
    """Layers whose outputs are made after, or of, this value: the candidate cannot have made it of them."""
    table = list(scene.local.table())
    after = set(table[table.index(scene.layer.name) :])
    if value not in scene.graph.shapes:
        return after
    made_of = {value}
    for operation in scene.graph.operations:
        if made_of.intersection(operation.inputs):
            made_of.update(operation.outputs)
    known = {name for name, tap in scene.tapped.items() if tap not in made_of}
    return (after - known) | {name for name, tap in scene.tapped.items() if tap in made_of}


def own_values(scene: Scene, before: str | None, value: int) -> dict[str, np.ndarray]:
    """The candidate's own values, by words, of which a wrong value may be made: of its block, and of the steps before one.

    `before` is that step, None for all of the layer's; `value` is the wrong value in the graph: what is made of it is left out.
    """
    found = known_values(scene.local, scene.layer.name, _later(scene, value))
    if scene.layer.sources != (IMAGES,) and not any(value is scene.x for value in found.values()):
        found.setdefault(input_words(scene), scene.x)
    for step in scene.run.steps:
        if step.name == before:
            break
        if not step.has_parameters:
            continue
        named, made = scene.spoken(step.name), scene.effective(step.name)
        held = scene.own.inputs.get(step.name)
        if held is not None:
            found.setdefault(f"what enters {named}", held.actual)
        if named == "LIM":
            found["LIM's output"] = made
        else:
            found[f"what {named} gives"] = made
    return found | q_k_v(scene, before)


def q_k_v(scene: Scene, before: str | None = None) -> dict[str, np.ndarray]:
    """The candidate's own q, k and v as maps, where the layer attends; only those that are there before a step."""
    names = [step.name for step in scene.run.steps]
    later = names[names.index(before) :] if before in names else []
    attention = next((step for step in scene.run.steps if step.op == "attention"), None)
    found: dict[str, np.ndarray] = {}
    for step in scene.sources[attention.name] if attention else ():
        held = step.rpartition(".")[2].removeprefix("to_")
        if step != INPUT and step not in later and set(held) <= set("qkv"):
            found |= zip(held, np.split(scene.effective(step), len(held), axis=-1), strict=True)
    return found


def known_vectors(local: Local, layer: str) -> dict[str, np.ndarray]:
    """The parameters of one axis of a layer and of its block, by words: "fc2's bias", "norm2's gain"."""
    block = _block(local, layer)
    names = [f"{block}.{part}" for part in PARTS] if block else [layer]
    found: dict[str, np.ndarray] = {}
    for name, value in local.own_params(*names).items():
        if value.ndim == 1:
            module, _, kind = name.rpartition(".")
            is_norm = local.params.get(f"{module}.weight", np.zeros((1, 1))).ndim == 1
            words = {"weight": "gain", "bias": "shift"}.get(kind, kind) if is_norm else kind
            short = module.removeprefix(f"{block or layer}.").removeprefix("attn.").removeprefix("mlp.")
            found[f"{spoken(block or layer, short)}'s {words}"] = value
    return found


def terms_of(scene: Scene, step: str, expected: np.ndarray) -> dict[str, np.ndarray]:
    """The values whose sum is what a step is given, or the layer gives, by words; empty where it is no sum of several."""
    found: dict[str, np.ndarray] = {}
    for source in scene.sources.get(step, ()) or (INPUT,):
        if source != INPUT:
            found["LIM's output" if scene.spoken(source) == "LIM" else scene.spoken(source)] = scene.effective(source)
        elif scene.layer.sources != (IMAGES,):
            for layer in scene.layer.sources:
                found[what_gives(scene.local, scene.layer.name, layer)] = _tap(scene.local, layer)
    if expected.ndim == 4:
        found = {name: x[:, : expected.shape[1], : expected.shape[2]] for name, x in found.items()}
    other = [name for name, x in found.items() if x.shape != expected.shape]
    if len(found) < 2 or len(other) > 1:
        return {}
    if other == ["the attention"]:  # its heads are apart: what is left of the sum is its output
        found[other[0]] = expected - sum(x for name, x in found.items() if name not in other)
    if any(x.shape != expected.shape for x in found.values()):
        return {}
    total = np.sum(list(found.values()), axis=0)
    return found if np.linalg.norm(total - expected) <= 64 * EPS[scene.dtype] * np.linalg.norm(expected) else {}


def left_out(scene: Scene, step: str, actual: np.ndarray, given: Mapping[str, np.ndarray], eps: float) -> list[Difference]:
    """Where a value is the input of what should have made it: that is left out."""
    sources, what = scene.sources.get(step, ()), "is left out"
    if sources == (INPUT,) and len(scene.layer.sources) == 1 and scene.layer.sources != (IMAGES,):
        source = scene.layer.sources[0]
        if not scene.local.table()[source].sources or scene.local.table()[source].sources == (IMAGES,):
            return []
        named, x = what_is(scene.local, scene.layer.name, source), fed(scene.local, source)
        if scene.tapped.get(source) in live(scene.graph):  # it runs, elsewhere
            what = "does not come before it"
    elif len(sources) == 1 and sources[0] != INPUT:
        held = scene.own.inputs.get(sources[0])
        named, x = scene.spoken(sources[0]), scene.run[sources[0]].given if held is None else held.actual
    else:
        return []
    if x.shape != actual.shape or not np.linalg.norm(actual - x) <= tolerance(eps) * np.linalg.norm(actual):
        return []
    left = float(np.linalg.norm(actual - x)) / (float(np.linalg.norm(actual)) or 1.0)
    alike = (name for name, value in given.items() if value.shape == x.shape and np.array_equal(value, x))
    words = next(alike, f"what {named} should be given")
    return [Difference("mixture", f"{named} {what}: it is {words}", left, {"left out": named}, exact=True)]


def run_again(local: Local, source: str, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What the layers up to one make of its own output `x`, as where some of them run a second time; with that in words."""
    table = local.table()
    order = list(table)
    end = order.index(source)
    starts = [name for name in order[end::-1] if _stage(name) == _stage(source) and len(table[name].sources) == 1]
    for start in starts:
        for layers in (order[order.index(start) : end + 1], [start]):
            known = {table[start].sources[0]: x}
            with suppress(KeyError, ValueError):  # a layer of other sources, or of another shape
                for name in layers:
                    known[name] = local.output_of(name, np.sum([known[other] for other in table[name].sources], axis=0))
                yield f"{_ran(local, layers)} again", known[layers[-1]]


def _ran(local: Local, layers: list[str]) -> str:
    """Layers that run, in words."""
    if len(layers) == 1:
        short = layers[0].removeprefix(f"{_block(local, layers[0])}.")
        return f"{'PEG' if short.startswith('pos_block') else short} is applied"
    blocks = [name for name in layers if _block(local, name) == name]
    return f"{blocks[0]} runs" if len(blocks) == 1 else f"{listed(blocks)} run"


def _stage(name: str) -> str:
    """The number of the stage that a layer is part of; empty for those behind all stages."""
    return next((part for part in name.split(".") if part.isdigit()), "") if "." in name else ""


def what_is(local: Local, layer: str, source: str) -> str:
    """A layer as seen from another one: "norm1", "pos_block.0"."""
    block = _block(local, layer)
    return source.removeprefix(f"{block}.") if block else source


def reference_settings(scene: Scene) -> dict[str, Any]:
    settings = dict(scene.layer.settings)
    if "heads" in settings:
        settings["num_heads"] = settings.pop("heads")
    return settings
