"""What flows into what in a graph: who made and who takes a value, through what every path to it leads, what was normalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Operation, fed_by_images, live, makers, sources, users

LONGEST_REGION = 80
"""Most operations that a normalisation written out may consist of."""


@dataclass(frozen=True)
class Piece:
    """A run of an operand's rows that is one parameter's; `name` is empty where it is a constant of the candidate's own."""

    name: str
    start: int
    stop: int


class Flow:
    """A graph with what is asked of it again and again."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker, self.users = makers(graph), users(graph)
        self.fed, self.live, self.sources = fed_by_images(graph), live(graph), sources(graph)
        self.numbers = {name: value for value, name in graph.parameters.items()}

    def split(self, operation: Operation) -> tuple[list[int], list[int]]:
        """The inputs of an operation that depend on images, and those that are computed from parameters alone."""
        inputs = [value for value in operation.inputs if value != ABSENT]
        return [value for value in inputs if value in self.fed], [value for value in inputs if value in self.sources]

    def size(self, value: int) -> int:
        return prod(self.graph.shapes[value])

    def made_by(self, value: int) -> Operation | None:
        place = self.maker.get(value)
        return None if place is None else self.graph.operations[place]

    # Parameters

    def pieces(self, operand: int) -> tuple[Piece, ...]:
        """The parameters that an operand consists of: one, or several put together one after another.

        Of several that are computed into each other, as by weight norm, the largest stands for all.
        """
        operand = self._before_repeats(operand)
        found = self._pieces(operand)
        if len(found) == 1 or sum(size for _, size in found) != self.size(operand):
            names = sorted(self.sources[operand], key=lambda name: (-self.size(self.numbers[name]), self.numbers[name]))
            return (Piece(names[0], 0, self.size(operand)),)
        stops = list(accumulate(size for _, size in found))
        return tuple(Piece(name, stop - size, stop) for (name, size), stop in zip(found, stops, strict=True))

    def _before_repeats(self, operand: int) -> int:
        """The operand before its numbers were put beside each other again and again, as for each image of the batch."""
        at = operand
        while (made := self.made_by(at)) is not None and made.kind == "move" and len(made.inputs) == 1:
            at = made.inputs[0]
            if self.size(at) < self.size(operand):
                return at
            if self.size(at) > self.size(operand):
                break
        return operand

    def _pieces(self, value: int) -> list[tuple[str, int]]:
        if value in self.graph.parameters:
            return [(self.graph.parameters[value], self.size(value))]
        made = self.made_by(value)
        if made is None or value not in self.sources:
            return [("", self.size(value))]
        if made.kind == "move" and (len(made.inputs) > 1 or self.size(made.inputs[0]) == self.size(value)):
            inside = [piece for x in made.inputs if x != ABSENT for piece in self._pieces(x)]
            if sum(size for _, size in inside) == self.size(value):
                return inside
        names = sorted(self.sources[value], key=lambda name: (-self.size(self.numbers[name]), self.numbers[name]))
        return [(names[0], self.size(value))]

    # Ways back

    @cached_property
    def dominators(self) -> dict[int, int]:
        """Of each value that depends on images, the nearest one before it through which every path from the images leads."""
        above: dict[int, int] = {self.graph.images: self.graph.images}
        depth = {self.graph.images: 0}
        for operation in self.graph.operations:
            inputs = [value for value in operation.inputs if value in depth]
            if not inputs:
                continue
            common = inputs[0]
            for value in inputs[1:]:
                a, b = common, value
                while a != b:
                    if depth[a] >= depth[b]:
                        a = above[a]
                    else:
                        b = above[b]
                common = a
            for value in operation.outputs:
                if value not in depth:
                    above[value], depth[value] = common, depth[common] + 1
        return above

    def region(self, value: int, start: int) -> list[int] | None:
        """The operations between two values, the first of which every path to the second leads through; None for a long way."""
        found, queue, seen = list[int](), [value], {start}
        while queue:
            at = queue.pop()
            if at in seen or at not in self.fed:
                continue
            seen.add(at)
            place = self.maker[at]
            if place not in found:
                found.append(place)
            if len(found) > LONGEST_REGION:
                return None
            queue += self.graph.operations[place].inputs
        return found

    def normalised(self, value: int, gain: int | None = None) -> int | None:
        """What was normalised to this value by operations written out; None where it is no normalisation.

        gain
            The operation, by its place, in which a gain meets data within the normalisation, where it does.
        """
        value = self._before_moves(value)
        start = self._divided(value, gain)
        if start is None:
            return None
        made = self.made_by(start)
        if made is not None and made.kind == "add" and made.settings.get("inverse") and len(self.split(made)[0]) == 2:
            centred = self._divided(start, gain)
            return start if centred is None else centred
        return start

    def _divided(self, value: int, gain: int | None) -> int | None:
        """Where the paths to this value part, if one of them leads through a statistic and none through parameters."""
        start = self.dominators.get(value)
        if start is None or start == value:
            return None
        places = self.region(value, start)
        if places is None:
            return None
        operations = self.graph.operations
        for place in places:
            if operations[place].kind in ("product", "convolution", "norm") or (place != gain and self.split(operations[place])[1]):
                return None
        parted = len({x for x in operations[self.maker[value]].inputs if x in self.fed}) > 1
        return start if parted and any(self.reduces(operations[place]) for place in places) else None

    def reduces(self, operation: Operation) -> bool:
        """Whether it gives one number for several, as a mean does."""
        fed, _ = self.split(operation)
        return operation.kind == "other" and bool(fed) and any(self.size(x) < self.size(fed[0]) for x in operation.outputs)

    def _before_moves(self, value: int) -> int:
        while (made := self.made_by(value)) is not None:
            fed, weights = self.split(made)
            if made.kind != "move" or len(fed) != 1 or weights or self.size(fed[0]) != self.size(value):
                return value
            value = fed[0]
        return value

    # Axes

    def unflattened(self, value: int, axis: int) -> tuple[int, int]:
        """The value before it was only reshaped so that tokens lie on one axis, and where its channels are then."""
        while (made := self.made_by(value)) is not None and is_reshape(made) and len(self.split(made)[0]) == 1:
            before = made.inputs[0]
            at = same_axis(self.graph.shapes[value], axis, self.graph.shapes[before])
            if at is None or len(self.graph.shapes[before]) <= len(self.graph.shapes[value]):
                return value, axis
            value, axis = before, at
        return value, axis

    def folded(self, value: int, axis: int) -> tuple[int, int]:
        """The value after its tokens' one axis was only reshaped into several, and where its channels are then."""
        while len(self.users.get(value, ())) == 1:
            operation = self.graph.operations[self.users[value][0]]
            if not is_reshape(operation):
                break
            after = operation.outputs[0]
            at = same_axis(self.graph.shapes[value], axis, self.graph.shapes[after])
            if at is None or len(self.graph.shapes[after]) <= len(self.graph.shapes[value]):
                break
            value, axis = after, at
        return value, axis


RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "expand_dims", "squeeze", "unsqueeze")


def is_reshape(operation: Operation) -> bool:
    """Whether it keeps the numbers in their order."""
    parts = operation.name.lower().split(".")
    return operation.kind == "move" and len(operation.inputs) == 1 and any(part in RESHAPES for part in parts)


def same_axis(shape: tuple[int, ...], axis: int, other: tuple[int, ...]) -> int | None:
    """Where this axis lies after a reshape to another shape; None where it was cut or joined.

    Examples
    --------
    >>> same_axis((98, 64), 1, (2, 7, 7, 64))
    3
    """
    if prod(shape) != prod(other):
        return None
    size, inner = shape[axis], prod(shape[axis + 1 :])
    fits = [i for i in range(len(other)) if other[i] == size and prod(other[i + 1 :]) == inner]
    return fits[0] if fits else None
