"""Named arrays under other names and in other axes, by tables of moves that can be undone bit for bit.

What lies in a file stays there: what a move makes of it is made when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import LazyTensor, in_memory, is_lazy


@dataclass(frozen=True)
class Operation:
    """What a move does to its arrays; `inverse` undoes `forward` exactly. Both take and give one array for each name."""

    name: str
    forward: Callable[[list[Any]], list[Any]]
    inverse: Callable[[list[Any]], list[Any]]


IDENTITY = Operation("identity", lambda arrays: arrays, lambda arrays: arrays)


def rearranged(pattern: str) -> Operation:
    """One array, its axes permuted by an einops pattern.

    Examples
    --------
    >>> rearranged("i o -> o i").forward([np.zeros((2, 3))])[0].shape
    (3, 2)
    """
    back = " -> ".join(reversed(pattern.split(" -> ")))
    return Operation(pattern, lambda arrays: [rearrange(arrays[0], pattern)], lambda arrays: [rearrange(arrays[0], back)])


def concatenated(parts: int) -> Operation:
    """Arrays of equal shape, one after the other along the first axis."""
    return Operation(
        f"concatenated({parts})", lambda arrays: [np.concatenate(arrays)], lambda arrays: list(np.split(arrays[0], parts))
    )


@dataclass(frozen=True)
class Move:
    """The arrays named `sources` become those named `targets` by `operation`."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operation: Operation = IDENTITY


def check_bijection(table: Iterable[Move], names: Iterable[str]) -> None:
    """Each source once, each target once, and the targets are exactly `names`. A ValueError is a fault in the table."""
    sources = list(chain.from_iterable(move.sources for move in table))
    targets = list(chain.from_iterable(move.targets for move in table))
    if len(set(sources)) != len(sources) or len(set(targets)) != len(targets) or set(targets) != set(names):
        raise ValueError("layout table is not a bijection on the config's names")


def apply(table: Iterable[Move], arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The targets that a table makes of its sources, in its order. shapes: of the targets, needed where sources lie in a file."""
    made: dict[str, Any] = {}
    for move in table:
        made |= _moved([arrays[name] for name in move.sources], move.targets, move.operation.forward, shapes)
    return made


def undo(table: Iterable[Move], arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The inverse of `apply`. shapes: of the sources."""
    made: dict[str, Any] = {}
    for move in table:
        made |= _moved([arrays[name] for name in move.targets], move.sources, move.operation.inverse, shapes)
    return made


def _moved(
    given: list[Any], names: tuple[str, ...], operate: Callable[[list[Any]], list[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """One move's results by their names. Raises CheckpointError for arrays of several dtypes that would become one."""
    if len(given) > 1 and len({x.dtype for x in given}) > 1:
        raise CheckpointError(
            "parts of one parameter in several dtypes", key=names[0], found=", ".join(str(x.dtype) for x in given)
        )
    if not any(is_lazy(x) for x in given) or operate in (IDENTITY.forward, IDENTITY.inverse):
        return dict(zip(names, operate(given), strict=True))
    made: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        """The other results are kept until they are asked for, so that a file's tensors are read once."""
        if name not in made:
            made.update(zip(names, operate([in_memory(x) for x in given]), strict=True))
        return made.pop(name)

    return {name: LazyTensor(shapes[name], given[0].dtype, lambda name=name: read(name)) for name in names}  # type: ignore[misc]
