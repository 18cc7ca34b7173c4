"""One run of a candidate as a graph: which operations it ran, in which order, on which values, and where in its own code.

A graph knows no framework. The same candidate, run again on images of the same shape, numbers its values alike, so that values
found in the graph of one run can be asked for in another. The numbers are names: `operations` tells which is made before which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing.arrays import EPS

Kind = Literal["product", "convolution", "norm", "multiply", "add", "move", "other"]

ABSENT = -1
"""Stands among an operation's inputs for one that it does without, as a convolution without a bias."""

NOTHING: Mapping[int, np.ndarray] = MappingProxyType({})
"""No value of a run is replaced."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes
    ----------
    kind
        What it does, in the few words that pairing needs:

        - "product": inputs (left, right) or (left, right, bias). `settings["contracted"]` and `settings["batch"]` are each a pair
          of tuples of axes, of the left and of the right input; the output has the batch axes, then the left's free axes, then the
          right's. `x @ w.T` of a (n, c) by a (c, o) matrix contracts ((1,), (0,)). `settings["factor"]`, if it is there, is what
          the product is multiplied by before the bias is added.
        - "convolution": inputs (x, weight) or (x, weight, bias). `settings` holds stride, padding (a pair for each axis), dilation,
          groups, transposed, and the axes as words: "x" is "bchw" or "bhwc", "weight" is "oihw", "hwio" or "ohwi" ("iohw" where it
          is transposed, "bcw" and "oiw" in one dimension, "bcdhw" and "oidhw" in three); the output is as x.
        - "norm": a fused normalisation, inputs (x, weight, bias). `settings` holds eps, axes (those that are averaged over) and
          groups (of a group norm). Where `settings["centred"]` is False no mean is subtracted; where `settings["running"]` is True
          nothing is averaged: two more inputs are the mean and the variance.
        - "multiply", "add": of two inputs by their elements; `settings["inverse"]` is True for a quotient and a difference. Of one
          input with a number: `settings["scalars"]` holds it, which comes first where `settings["turned"]` is True.
          `settings["alpha"]`, if it is there, is what the second is multiplied by before it is added.
        - "move": the same numbers, or some of them, in other places, or several arrays put together: views, transpositions,
          slices, concatenations, copies, casts, rolls, padding.
        - "other": everything else.

        `settings["random"]` is True for one, of whatever kind, that draws random numbers.
    name
        The library's own name: "aten.addmm.default", "dot_general", "Gemm".
    inputs, outputs
        Values by their numbers; ABSENT where an input is left out. Arguments that are no arrays are in `settings`.
    module
        Path of the innermost module in which it ran; empty outside of all, or where there are none.
    line
        Where the candidate's own code asks for it: "port.py, line 62, in forward"; empty where that is not known.
    """

    kind: Kind
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""
    line: str = ""


@dataclass(frozen=True)
class ModuleRun:
    """A module that ended: its path, the values that it was given and those that it returned."""

    path: str
    given: tuple[int, ...]
    returned: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A run.

    Attributes
    ----------
    operations
        In the order in which they ran.
    shapes, dtypes
        Of the values, by number.
    images
        The value that was fed.
    parameters
        The candidate's own names of the values that are its parameters, or buffers of floating point.
    constants
        Values that depend on parameters alone and meet data, as the operation that mixes them takes them (a transposed weight, a
        slice of a fused one): their numbers, by value.
    outputs
        What the candidate returns, by name: "logits" for one array; for several, their places in what is returned, as "maps.0".
    modules
        In the order in which they ended; one that ran twice is there twice.
    """

    operations: tuple[Operation, ...]
    shapes: Mapping[int, tuple[int, ...]]
    dtypes: Mapping[int, str]
    images: int
    parameters: Mapping[int, str]
    constants: Mapping[int, np.ndarray]
    outputs: Mapping[str, int]
    modules: tuple[ModuleRun, ...] = ()
    notes: tuple[str, ...] = ()


class StaleGraphError(CaptureError):
    """A run that is another one than the recorded, because of how it was recorded: it is to be recorded anew."""


class Runner(Protocol):
    """A copy of a candidate that can be run again and again, with weights and images of the caller's choice.

    Whatever the candidate raises is a CaptureError that says where (`own_code`). It is given copies of all that it is fed, and what
    it returns is copied.
    """

    @property
    def kind(self) -> str:
        """What it is, in words: "torch module"."""

    @property
    def dtype(self) -> str:
        """What its parameters are, and its images."""

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """Its own weights under its own names: parameters in the order of their declaration, then buffers of floating point."""

    @property
    def paths(self) -> Mapping[str, str]:
        """The candidate's own names of its parameters and modules, by those that the graph has, where these are others."""

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        """Run it on images, b c h w, with these of its parameters replaced: what it did.

        weights
            By the candidate's own names, in its own shapes; parameters that are not among them stay as they are.
        """

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        """Run it once more: these values by number, and the seconds that the pass took.

        replaced
            Arrays that stand in for values of the graph, by number: what is made of such a value is made of the array. They are of
            its shape, and are none of the images.

        Raises CaptureError where this run is another one than the recorded one: the candidate does something else each time, or
        where a value cannot be replaced; a StaleGraphError where it is to be recorded anew.
        """

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        """What makes a second run on the same images give something else, in words; empty where it gives the same."""


Found = TypeVar("Found")


def _once(asked: Callable[[Graph], Found]) -> Callable[[Graph], Found]:
    """What is asked of a graph, computed at the first call and kept beside its fields."""

    @wraps(asked)
    def kept(graph: Graph) -> Found:
        known = vars(graph)
        if asked.__name__ not in known:
            known[asked.__name__] = asked(graph)
        found: Found = known[asked.__name__]
        return found

    return kept


@_once
def makers(graph: Graph) -> Mapping[int, int]:
    """The operation, by its place, that made each value."""
    return {value: i for i, operation in enumerate(graph.operations) for value in operation.outputs}


def unmoved(graph: Graph, value: int) -> int:
    """The value that this one was moved from, by views, copies and the like of one array."""
    made, fed = makers(graph), fed_by_images(graph)
    while value in made and graph.operations[made[value]].kind == "move":
        came = [x for x in graph.operations[made[value]].inputs if x in fed]
        if len(came) != 1:
            break
        value = came[0]
    return value


MOST_ALONG = 200
"""Most values between a layer's own output and what is made of it that are followed."""


def along(graph: Graph, value: int, ends: Collection[int]) -> set[int]:
    """The values from this one back to `ends`, where it depends on the images through these alone; empty where it does not."""
    made, fed, found, queue = makers(graph), fed_by_images(graph), set[int](), [value]
    while queue:
        x = queue.pop()
        if x in found or x not in fed:
            continue
        found.add(x)
        if x in ends:
            continue
        if x not in made or len(found) > MOST_ALONG:
            return set()
        queue += graph.operations[made[x]].inputs
    return found


@_once
def users(graph: Graph) -> Mapping[int, Sequence[int]]:
    """The operations, by their places, that take each value."""
    found: dict[int, list[int]] = {}
    for i, operation in enumerate(graph.operations):
        for value in dict.fromkeys(operation.inputs):
            found.setdefault(value, []).append(i)
    return found


@_once
def live(graph: Graph) -> frozenset[int]:
    """The values that an output depends on."""
    made, found, queue = makers(graph), set[int](), list(graph.outputs.values())
    while queue:
        value = queue.pop()
        if value in found or value == ABSENT:
            continue
        found.add(value)
        if value in made:
            queue += graph.operations[made[value]].inputs
    return frozenset(found)


@_once
def fed_by_images(graph: Graph) -> frozenset[int]:
    """The values that depend on the images."""
    found = {graph.images}
    for operation in graph.operations:
        if found.intersection(operation.inputs):
            found.update(operation.outputs)
    return frozenset(found)


@_once
def sources(graph: Graph) -> Mapping[int, frozenset[str]]:
    """The parameters that each value is computed from alone; values that depend on the images are left out."""
    fed = fed_by_images(graph)
    found = {value: frozenset((name,)) for value, name in graph.parameters.items()}
    for operation in graph.operations:
        known = [found[value] for value in operation.inputs if value in found]
        if known and not fed.intersection(operation.inputs):
            found.update(dict.fromkeys(operation.outputs, frozenset().union(*known)))
    return found


def random_operations(graph: Graph) -> tuple[Operation, ...]:
    """Those that draw random numbers which an output depends on."""
    seen = live(graph)
    return tuple(one for one in graph.operations if one.settings.get("random") and seen.intersection(one.outputs))


def narrowest(graph: Graph) -> tuple[str, Operation | None]:
    """The dtype of the fewest digits that data pass on their way to an output, and the first operation that gives it.

    None stands for the operation where the images themselves are of that dtype.
    """
    passed, best, where = live(graph) & fed_by_images(graph), graph.dtypes[graph.images], None
    for operation in graph.operations:
        for value in operation.outputs:
            dtype = graph.dtypes[value]
            if value in passed and dtype in EPS and EPS[dtype] > EPS.get(best, 0):
                best, where = dtype, operation
    return best, where


def narrowed(graph: Graph, dtype: str) -> str:
    """In words, from where on a candidate of this dtype computes in a narrower one; empty if it does not."""
    narrow, where = narrowest(graph)
    if where is None or narrow not in EPS or EPS[narrow] <= EPS.get(dtype, 0):
        return ""
    place = where.line or where.module
    return f"part of it is computed in {narrow}, from {where.name}{f' ({place})' if place else ''} on"
