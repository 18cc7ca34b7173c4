"""What a candidate's graph shows, as mistakes, which are tried like those that are known.

Parameters that act in another's place, and layers that do not run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.graph import Graph, live
from scalablevit_ref.compare.capture.pairing import Pairing
from scalablevit_ref.compare.capture.resized import Resized
from scalablevit_ref.edits import Changes, Function, Mistake, Swap, reach
from scalablevit_ref.layers import Layer
from scalablevit_ref.ops import conv2d


def misplaced(pairing: Pairing, params: Mapping[str, np.ndarray]) -> list[Mistake]:
    """One mistake for each pair of steps, such as norm1's parameters in the place of norm2's, of all blocks together.

    `params` are the official ones, as both sides have them.
    """
    owners: dict[str, str] = {}
    for name, parts in pairing.parts.items():
        for part in parts:
            if part.own_rows is None:
                owners.setdefault(part.own, name)
    found: dict[tuple[str, str], list[tuple[str, Callable[[np.ndarray], np.ndarray]]]] = {}
    for step, uses in pairing.steps.items():
        for use in uses:
            for kind, own in (("weight", use.weight), ("bias", use.bias)):
                name, other = f"{step}.{kind}", owners.get(own)
                if other is None or other == name or name not in params or params[name].shape != params[other].shape:
                    continue
                pair = _local(step, other.rpartition(".")[0])
                found.setdefault(pair, []).append((name, partial(_instead, params[other])))
    return [
        Mistake(
            f"{other} in the place of {own}",
            f"the parameters of {_spoken(other)} act in the place of those of {_spoken(own)}",
            params=tuple(some),
        )
        for (own, other), some in found.items()
    ]


def acting(graph: Graph, pairing: Pairing) -> frozenset[str]:
    """The official parameters whose own ones act on something that is used, be it in a place of their own."""
    used = live(graph)
    own = {
        graph.parameters[value]
        for operation in graph.operations
        if used.intersection(operation.outputs)
        for value in operation.inputs
        if value in graph.parameters
    }
    return frozenset(name for name, parts in pairing.parts.items() if any(part.own in own for part in parts))


def other_sizes(pairing: Pairing, weights: Mapping[str, np.ndarray], layers: Mapping[str, Layer]) -> list[Mistake]:
    """Parameters of other sizes than the reference's, as they are: one mistake for all layers in which the same ones have.

    `weights` are the candidate's by its own names, `layers` those of the network.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[str, list[Resized]]]] = {}
    for name in layers:
        mine = [some for step, some in pairing.facts.resized.items() if not some.partial and _layer_of(step, layers) == name]
        if mine:
            local = tuple(some.step.removeprefix(name) for some in mine)
            groups.setdefault((_kind(name), local), []).append((name, mine))
    found = []
    for some in groups.values():
        first, changes = some[0][1], dict[Function, Changes]()
        for name, _ in some:
            changes.setdefault(layers[name].function, unchecked(layers[name].function))
        params: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = []
        for one in (one for _, mine in some for one in mine):
            value = one.within(weights[one.own])
            params.append((one.official, partial(_instead, value.reshape(*value.shape, *[1] * (len(one.usual) - value.ndim)))))
            if one.bias[0]:
                params.append((one.bias[1], partial(_instead, weights[one.bias[0]].reshape(-1))))
        more = len(first) - 1
        others = _width_said(first) or f", and {more} more of its parameters have other sizes too" * bool(more)
        made = tuple(dict.fromkeys(change for one in changes.values() for change in one))
        found.append(Mistake(f"another size of {first[0].official}", f"{first[0].clause(some[0][0])}{others}", made, tuple(params)))
    return found


def _width_said(some: Sequence[Resized]) -> str:
    """What the two matrices of a layer that have other sizes have in common: another width between them; empty for others."""
    if len(some) != 2 or any(len(one.usual) == 1 for one in some):
        return ""
    first, second = some
    own, usual = (first.sizes[0], second.sizes[1]), (first.usual[0], second.usual[1])
    if own[0] != own[1] or usual[0] != usual[1] or own == usual:
        return ""
    return f": {own[0]} channels lie between {_short(first)} and {_short(second)}, not {usual[0]}, as with another ratio"


def _short(one: Resized) -> str:
    return one.step.rpartition(".")[2]


def unchecked(function: Function) -> Changes:
    """A layer's function without its checks of shapes, whose convolutions have as many groups as their weights say."""
    checks = [Swap(other, _without_checks, "checks") for other in reach(function) if other.__name__.startswith("check_")]
    return (*checks, Swap(conv2d, _grouped_by_its_weight, "groups"))


def _without_checks(function: Function) -> Function:
    return lambda *args, **kwargs: None


def _grouped_by_its_weight(function: Function) -> Function:
    @wraps(inspect.unwrap(function))
    def called(x: Any, weight: Any, bias: Any = None, **settings: Any) -> Any:
        return function(x, weight, bias, **(settings | {"groups": x.shape[-1] // weight.shape[1]}))

    return called


def _layer_of(step: str, layers: Collection[str]) -> str:
    while step and step not in layers:
        step = step.rpartition(".")[0]
    return step


def left_out(absent: Collection[str], layers: Collection[str]) -> list[Mistake]:
    """Each block and each kind of layer that does not run, left out. layers: all layers of the network."""
    blocks: dict[str, list[str]] = {}
    for layer in absent:
        blocks.setdefault(layer.rpartition(".")[0], []).append(layer)
    whole = {block: parts for block, parts in blocks.items() if block in layers and len(parts) == len(_within(block, layers))}
    found = [
        Mistake(f"without {block}", f"the block {block} is missing: it never runs", skipped=frozenset((block, *parts)))
        for block, parts in whole.items()
    ]
    kinds: dict[str, list[str]] = {}
    for layer in absent:
        kinds.setdefault(_kind(layer), []).append(layer)
    for kind, some in kinds.items():
        everywhere = len(some) > 1 and len(some) == sum(_kind(layer) == kind for layer in layers)
        peg = some[0].startswith("pos_block")
        what = "PEG" if peg and everywhere else f"PEG ({some[0]})" if peg else some[0]
        more = f" and {len(some) - 1} more like it are" if some[1:] and what == some[0] else " is"
        found.append(Mistake(f"without {some[0]}", f"{what}{more} missing", skipped=frozenset(some)))
    return found


def _within(block: str, layers: Collection[str]) -> list[str]:
    return [layer for layer in layers if layer.startswith(f"{block}.")]


def _kind(layer: str) -> str:
    return re.sub(r"\d+", "#", layer)


def _instead(other: np.ndarray, value: np.ndarray) -> np.ndarray:
    return other


def _spoken(local: str) -> str:
    """A step by its name in its block: "norm1", or with the block's number "norm1 of block 0"."""
    number, _, rest = local.partition(".")
    return f"{rest} of block {number}" if number.isdigit() and rest else local


def _local(step: str, other: str) -> tuple[str, str]:
    """Both names without what they share: norm2 and norm1 of one block."""
    a, b = step.split("."), other.split(".")
    while a[1:] and b[1:] and a[0] == b[0]:
        a, b = a[1:], b[1:]
    return ".".join(a), ".".join(b)
