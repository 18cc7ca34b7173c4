"""Parameters of several blocks in one array, as `lax.scan` takes them: each block's part is a parameter of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.jax_forward import Calls, Forward
from scalablevit_ref.compare.capture.jax_program import Program, Step, together

FEWEST_INDEXED = 8
"""Fewest parameters that are stacked where no scan runs over them, but a loop of Python takes one part after the other."""


@dataclass(frozen=True)
class Stacked:
    """Parameters that a candidate runs over together, and how many parts each has."""

    names: tuple[str, ...]
    parts: int

    def part(self, name: str, i: int) -> str:
        """The name of a part: `blocks.mlp.w` of blocks that are stacked has `blocks.0.mlp.w`."""
        steps = [each.split(".") for each in self.names]
        same = sum(1 for _ in takewhile(lambda some: len(set(some)) == 1, zip(*steps, strict=False)))
        same = min(same, *(len(path) - 1 for path in steps))
        path = name.split(".")
        return ".".join([*path[:same], str(i), *path[same:]])


def stacked(program: Program) -> Iterator[Stacked]:
    """The parameters of which nothing but single parts along their first axis are used."""
    takers: dict[int, list[Step]] = {value: [] for value in program.parameters}
    for step in program.steps:
        for value in step.operation.inputs:
            if value in takers:
                takers[value].append(step)
    scans: dict[int, dict[str, int]] = {}
    indexed: dict[str, int] = {}
    for value, steps in takers.items():
        parts = program.shapes[value][:1]
        if not steps or not parts or parts[0] < 2:
            continue
        name = program.parameters[value]
        if all(step.operation.name == "scan_slice" for step in steps):
            scans.setdefault(steps[0].params["scan"], {})[name] = parts[0]
        elif all(_takes_a_part(step, program.shapes[value]) for step in steps):
            indexed[name] = parts[0]
    for scanned in scans.values():
        yield Stacked(tuple(scanned), next(iter(scanned.values())))
    yield from _indexed(indexed, program.parameters.values())


def _takes_a_part(step: Step, shape: Sequence[int]) -> bool:
    if step.operation.name != "slice":
        return False
    start, limit = step.params["start_indices"], step.params["limit_indices"]
    return limit[0] - start[0] == 1 and not any(start[1:]) and tuple(limit[1:]) == tuple(shape[1:])


def _indexed(indexed: Mapping[str, int], every: Iterable[str]) -> Iterator[Stacked]:
    """Those that are all that lies in one place, and have equally many parts."""
    names, taken = [*every], set[str]()
    places = {".".join(name.split(".")[:i]) for name in indexed for i in range(name.count(".") + 1)}
    for place in sorted(places, key=lambda place: (place.count("."), place)):
        inside = [name for name in names if not place or name.startswith(f"{place}.")]
        parts = {indexed.get(name, 0) for name in inside}
        if len(inside) >= FEWEST_INDEXED and len(parts) == 1 and 0 not in parts and not taken.intersection(inside):
            taken.update(inside)
            yield Stacked(tuple(inside), parts.pop())


def apart(forward: Forward, stacks: Sequence[Stacked]) -> Forward:
    """The same candidate, whose parameters are the parts of its stacked ones."""
    kept = [replace(stack, names=tuple(filter(forward.own.__contains__, stack.names))) for stack in stacks]
    group = {name: stack for stack in kept for name in stack.names}
    own: dict[str, Any] = {}
    paths = dict(forward.paths)
    for name, x in forward.own.items():
        stack = group.get(name)
        if stack is None:
            own[name] = x
        elif stack.part(name, 0) not in own:
            theirs = Stacked(tuple(forward.paths.get(each, each) for each in stack.names), stack.parts)
            for i in range(stack.parts):
                for each in stack.names:
                    own[stack.part(each, i)] = np.asarray(forward.own[each])[i]
                    paths[stack.part(each, i)] = theirs.part(forward.paths.get(each, each), i)
    if set(own) & set(group) or len(own) < sum(group[name].parts if name in group else 1 for name in forward.own):
        return forward  # names of parts are taken already

    def run(state: Mapping[str, Any], x: Any, calls: Calls) -> Any:
        whole = {
            name: together([state[group[name].part(name, i)] for i in range(group[name].parts)]) if name in group else state[name]
            for name in forward.own
        }
        return forward.run(whole, x, calls)

    return replace(forward, own=own, run=run, paths=paths)
