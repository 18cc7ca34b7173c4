"""A graph of ONNX's operators as it is written: nodes, and the names and shapes of the values between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from scalablevit_ref.backends.symbolic import Parts, Size, parts_of


@dataclass(frozen=True)
class Node:
    """An operator, and the names of the values that it takes and gives."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """What the ops have written down so far.

    Parameters
    ----------
    dtype
        Of all arrays.
    opset
        Version of ONNX's operators, at least 18.

    Attributes
    ----------
    nodes
        In an order in which they can run.
    shapes
        Of the values that are arrays, by name.
    """

    def __init__(self, dtype: Any, *, opset: int) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.opset = opset
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._modules: dict[str, str] = {}
        self._written: dict[Any, tuple[str, ...]] = {}
        self._axes: dict[str, tuple[str, int]] = {}
        self._divisible: set[tuple[Parts, int]] = set()

    def unknown(self, name: str, value: str, axis: int, example: int) -> Size:
        """The size of an axis of a value, which is known when the graph runs; until then it counts as the example's."""
        self._axes[name] = value, axis
        return Size(example, (1, ((name,),)), self._divisible)

    def module(self, parameter: str) -> None:
        """Call what is computed with a parameter after its module."""
        self._modules[parameter] = parameter.rpartition(".")[0]

    def name(self, value: str, name: str) -> None:
        """Give a value another name, that of an output."""
        self.nodes.append(Node("Identity", (value,), (name,)))
        self.shapes[name] = self.shapes[value]

    def write(self, operator: str, *inputs: str, shape: Sequence[int] = (), **attributes: Any) -> str:
        """The name of what a node gives, an array of this shape; what is written already is not written again."""
        name = self._node(operator, inputs, 1, attributes)[0]
        self.shapes.setdefault(name, tuple(shape))
        return name

    def split(self, value: str, axis: int, pieces: int, shape: Sequence[int]) -> tuple[str, ...]:
        """Equal pieces along an axis, each of this shape."""
        names = self._node("Split", (value,), pieces, {"axis": axis, "num_outputs": pieces})
        self.shapes |= dict.fromkeys(names, tuple(shape))
        return names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Numbers that are known now, of the graph's dtype if no other is given."""
        return self._node("Constant", (), 1, {"value": np.asarray(value, dtype=dtype or self.dtype)})[0]

    def integers(self, sizes: Sequence[int]) -> str:
        """Whole numbers as a vector, computed at the run where they are unknown now."""
        known = [(isinstance(n, Size), n) for n in sizes]
        parts: list[str] = []
        for unknown, run in groupby(known, key=lambda pair: pair[0]):
            numbers = [n for _, n in run]
            parts += [self._computed(parts_of(n)) for n in numbers] if unknown else [self.constant(numbers, np.int64)]
        return parts[0] if len(parts) == 1 else self._node("Concat", parts, 1, {"axis": 0})[0]

    def _computed(self, parts: Parts) -> str:
        """A size as a vector of one number."""
        times, factors = parts
        numbers = [self.constant([times], np.int64)] * (times != 1 or not factors)
        for left, *others in factors:
            if not others:
                value, axis = self._axes[left]
                numbers.append(self._node("Shape", (value,), 1, {"start": axis, "end": axis + 1})[0])
            elif others[0] == "+":
                numbers.append(self._node("Add", (self._computed(left), self._computed(others[1])), 1, {})[0])
            else:
                whole, by = self._computed(left), self.constant([others[1]], np.int64)
                found = self._node("Mod", (whole, by), 1, {})[0]  # not negative, as Python's
                if others[0] == "//":  # Div rounds to zero
                    found = self._node("Div", (self._node("Sub", (whole, found), 1, {})[0], by), 1, {})[0]
                numbers.append(found)
        found, *others = numbers
        for other in others:
            found = self._node("Mul", (found, other), 1, {})[0]
        return found

    def _node(self, operator: str, inputs: Sequence[str], outputs: int, attributes: dict[str, Any]) -> tuple[str, ...]:
        key = operator, tuple(inputs), tuple((name, _comparable(x)) for name, x in attributes.items())
        if key not in self._written:
            modules = [self._modules[value] for value in inputs if value in self._modules]
            name = f"{modules[0]}/{operator}_{len(self.nodes)}" if modules else f"{operator}_{len(self.nodes)}"
            self._written[key] = tuple(f"{name}_{i}" if i else name for i in range(outputs))
            self.nodes.append(Node(operator, tuple(inputs), self._written[key], attributes))
            if inputs and inputs[0] in self._modules and operator in ("Reshape", "Split", "Transpose"):
                self._modules |= dict.fromkeys(self._written[key], modules[0])
        return self._written[key]


def _comparable(value: Any) -> Any:
    return (value.dtype.name, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
