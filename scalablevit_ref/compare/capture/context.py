"""What stands around each use: the uses directly before and after it, and what it is to an attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scalablevit_ref.compare.capture.flow import Flow
from scalablevit_ref.compare.capture.graph import Operation
from scalablevit_ref.compare.capture.uses import Use

MOST_SUMS = 1
"""Most residual sums that lie between a use and one that is directly before it."""

STEPS = ("linear", "convolution", "norm")
"""The kinds of uses that are steps of a network; what else a parameter does to data is looked through."""


@dataclass(frozen=True)
class Context:
    """Of one use: the places, in the list of uses, of those before and after it; and which of q, k and v it makes."""

    before: frozenset[int]
    after: frozenset[int]
    attends: frozenset[str]


def contexts(flow: Flow, uses: Sequence[Use]) -> list[Context]:
    """The surroundings of each use."""
    made: dict[int, frozenset[int]] = {}
    for i, use in enumerate(uses):
        if use.kind in STEPS:
            for value in {use.made, *flow.graph.operations[use.operation].outputs}:
                made[value] = made.get(value, frozenset()) | {i}
    before = [_reached(flow, use.given, made) if use.kind in STEPS else frozenset() for use in uses]
    after: list[set[int]] = [set() for _ in uses]
    for i, some in enumerate(before):
        for j in some:
            after[j].add(i)
    attends = _attends(flow, made)
    return [Context(before[i], frozenset(after[i]), frozenset(attends.get(i, ()))) for i in range(len(uses))]


def _reached(flow: Flow, value: int, made: Mapping[int, frozenset[int]], sums: int = MOST_SUMS) -> frozenset[int]:
    """The uses that a value is made of without another between, across so many sums of two values."""
    found: set[int] = set()
    left: dict[int, int] = {}
    queue = [(value, sums)]
    while queue:
        at, budget = queue.pop()
        if at not in flow.fed or left.get(at, -1) >= budget:
            continue
        left[at] = budget
        if at in made:
            found |= made[at]
            continue
        operation = flow.made_by(at)
        if operation is None:
            continue
        fed, _ = flow.split(operation)
        budget -= operation.kind == "add" and not operation.settings.get("inverse") and len(set(fed)) > 1
        if budget >= 0:
            queue += [(x, budget) for x in fed]
    return frozenset(found)


def _attends(flow: Flow, made: Mapping[int, frozenset[int]]) -> dict[int, set[str]]:
    """Which uses make queries, keys and values: those of two products of data with data of which one enters the other."""
    found: dict[int, set[str]] = {}

    def mark(letter: str, value: int) -> None:
        for use in _reached(flow, value, made, 0):
            found.setdefault(use, set()).add(letter)

    products: dict[int, int] = {}  # a value: the product of data with data that it comes from, with nothing but its numbers
    for place, operation in enumerate(flow.graph.operations):
        fed, weights = flow.split(operation)
        if "dot_product" in operation.name or "flash_attention" in operation.name or "multi_head" in operation.name.lower():
            if len(fed) >= 3:
                for letter, value in zip("qkv", fed[:3], strict=True):
                    mark(letter, value)
            continue
        if operation.kind == "product" and len(fed) >= 2 and not weights:
            inside = [value for value in fed[:2] if value in products]
            if len(inside) == 1:
                first = flow.graph.operations[products[inside[0]]]
                left, right = first.inputs[:2]
                if _meets_left(flow, first, operation, inside[0]):
                    left, right = right, left
                mark("q", left)
                mark("k", right)
                mark("v", next(value for value in fed[:2] if value != inside[0]))
            else:
                products.update(dict.fromkeys(operation.outputs, place))
            continue
        if operation.kind in ("product", "convolution", "norm"):
            continue
        known = {products[value] for value in fed if value in products}
        if len(known) == 1:
            products.update(dict.fromkeys(operation.outputs, known.pop()))
    return found


def _meets_left(flow: Flow, first: Operation, second: Operation, value: int) -> bool:
    """Whether the second product sums over the free axis of the first one's left input, which then holds the keys."""
    contracted: tuple[int, ...] = second.settings["contracted"][0 if second.inputs[0] == value else 1]
    axes = len(flow.graph.shapes[value])
    queries, keys = (flow.graph.shapes[x] for x in first.inputs[:2])
    if len(contracted) != 1:
        return False
    size = flow.graph.shapes[value][contracted[0]]
    if (size in keys) != (size in queries):
        return size not in keys
    left = _axes_of_left(flow, first, value)
    return contracted[0] == axes - 2 if left is None else contracted[0] in left


def _axes_of_left(flow: Flow, first: Operation, value: int) -> tuple[int, ...] | None:
    """Where the free axes of a product's left input lie in what is made of it; None where that is not clear."""
    turns, at, out = list[tuple[int, ...]](), value, first.outputs[0]
    while at != out:
        operation = flow.made_by(at)
        if operation is None:
            return None
        fed = [x for x in flow.split(operation)[0] if len(flow.graph.shapes[x]) == len(flow.graph.shapes[at])]
        if not fed:
            return None
        if operation.kind == "move":
            turn = operation.settings.get("permutation")
            if turn is None and flow.graph.shapes[fed[0]] != flow.graph.shapes[at]:
                return None
            turns += [] if turn is None else [tuple(turn)]
        at = fed[0]
    batch, contracted = first.settings["batch"][0], first.settings["contracted"][0]
    free = len(flow.graph.shapes[first.inputs[0]]) - len(batch) - len(contracted)
    axes = tuple(range(len(batch), len(batch) + free))
    for turn in reversed(turns):
        axes = tuple(turn.index(axis) for axis in axes)
    return axes
