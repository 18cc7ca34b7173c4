"""Where in the candidate's own code a wrong value is made, and whether the right one is made elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np

from scalablevit_ref.compare.around import Scene
from scalablevit_ref.compare.capture.graph import ABSENT, fed_by_images, makers
from scalablevit_ref.compare.followed import Held
from scalablevit_ref.testing.arrays import EPS

NEAR = 80
"""Operations before the first and after the last use of a layer's parameters among which the right value is looked for."""

TOLD = 24
"""Most operations before a wrong value of which the lines are told."""

SEARCHED = 64
"""Most values that are looked at for the right one."""

LOOSE = 0.01
"""Deviations by which two means may differ for the numbers to be sorted and compared."""


def lines_between(scene: Scene, value: int, right_steps: Collection[str], *, addend: bool) -> tuple[str, tuple[str, ...]]:
    """The line that makes a wrong value, and all lines between it and the values of steps that are right.

    With `addend`, of a sum of a right value and another the line that makes the other.
    """
    operations, made, fed = scene.graph.operations, makers(scene.graph), fed_by_images(scene.graph)
    uses = [use for step in right_steps for use in scene.own.uses.get(step, ())]
    right = ({x for use in uses for x in (use.given, use.made)} | set(scene.tapped.values())) - {value}

    def base(x: int) -> int:
        """The value that this one was moved from."""
        while x not in right and x in made and operations[made[x]].kind == "move":
            x = next((i for i in operations[made[x]].inputs if i in fed), ABSENT)
        return x

    def taken(x: int) -> list[int]:
        return [base(i) for i in operations[made[x]].inputs if i in fed]

    if value in made and base(value) in right:  # it was moved, and nothing else
        moves, x = list[str](), value
        while x not in right:
            moves.insert(0, operations[made[x]].line)
            x = next(i for i in operations[made[x]].inputs if i in fed)
        moves = [line for line in dict.fromkeys(moves) if line]
        return (moves or [""])[0], tuple(moves)
    between, queue, seen = set[int](), [base(value)], set[int]()
    while queue:
        x = queue.pop()
        if x in made and x in fed and x not in seen | right:
            between.add(made[x])
            queue += taken(x)
        seen.add(x)
    x = base(value)
    while addend and x in made and operations[made[x]].kind == "add":
        others = [i for i in taken(x) if i not in right]
        if len(others) != 1 or len(taken(x)) < 2:
            break
        x = others[0]
    lines = (operations[i].line for i in sorted(between)[-TOLD:])
    return operations[made[x]].line if x in made else "", tuple(dict.fromkeys(line for line in lines if line))


def unreached(scene: Scene, step: str) -> list[str]:
    """Steps that the input of this one is made of in the reference, and in the candidate is not."""
    made, operations = makers(scene.graph), scene.graph.operations
    uses, sources = scene.own.uses, scene.sources[step]
    queue, before = [use.given for use in uses.get(step, ())], set[int]()
    while queue:
        value = queue.pop()
        if value not in before:
            before.add(value)
            queue += operations[made[value]].inputs if value in made else ()
    known = [name for name in sources if uses.get(name)]
    return [name for name in known if before and not any(use.made in before for use in uses[name])]


def elsewhere(scene: Scene, held: Held) -> tuple[str, ...]:
    """Where the candidate computes the right value and does not use it, if it does."""
    graph, made, fed = scene.graph, makers(scene.graph), fed_by_images(scene.graph)
    places = [use.operation for some in scene.own.uses.values() for use in some] + [made[x] for x in (held.value,) if x in made]
    near, size = range(min(places, default=0) - NEAR, max(places, default=0) + NEAR), held.expected.size
    others = [x for x, i in made.items() if i in near and x in fed and x != held.value and prod(graph.shapes[x]) == size]
    asked = sorted((x for x in others if graph.operations[made[x]].kind != "move"), key=lambda x: abs(made[x] - places[-1]))
    wanted, eps = np.sort(held.expected, axis=None), EPS[scene.dtype]
    for value, x in scene.fetch(asked[:SEARCHED]).items():
        numbers = np.asarray(x, np.float64)
        if abs(numbers.mean() - wanted.mean()) > LOOSE * wanted.std() or not np.isfinite(numbers).all():
            continue
        if np.linalg.norm(np.sort(numbers, axis=None) - wanted) <= 64 * eps * np.linalg.norm(wanted):
            line = graph.operations[made[value]].line
            return (f"the right value is computed{f' ({line})' if line else ''}, but is not what is used here",)
    return ()
