"""What a checkpoint file is and holds, and what two of them differ in: tensor by tensor, without loading either."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.checkpoints.download import as_given, local
from scalablevit_ref.checkpoints.infer import named_variant
from scalablevit_ref.checkpoints.load import NOTHING, open_state, weights_in
from scalablevit_ref.checkpoints.save import Progress, counter
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.folders import weights_file
from scalablevit_ref.formats.lazy import blocks, byte_count, in_memory
from scalablevit_ref.formats.sharded import byte_size
from scalablevit_ref.weights import Stated, Weights


def manifest(params: Mapping[str, Any], progress: Progress | None = None) -> dict[str, str]:
    """SHA-256 of each tensor's bytes (little-endian, C order): under official names equal for every layout and file format."""
    sums, count = {}, counter(progress, byte_count(params.values()))
    for name, x in params.items():
        digest = hashlib.sha256()
        for block in blocks(x):
            digest.update(block.view(np.uint8).data)
            count(block.nbytes)
        sums[name] = digest.hexdigest()
    return sums


@dataclass(frozen=True)
class StoredAs:
    """One tensor as the file has it.

    Attributes
    ----------
    official
        The parameters of the official network that it holds, or is a part of; none where that is not known.
    is_part
        Whether it is only a part of that parameter.
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    official: tuple[str, ...] = ()
    is_part: bool = False


@dataclass(frozen=True)
class Inspection:
    """What shows in a file without reading its weights.

    Attributes
    ----------
    weights
        None where their configuration cannot be told.
    problem
        Why, or what else is to be said of it.
    bytes
        Of the file, or of all shards.
    layout
        By the names alone where it cannot.
    other_network
        What their network differs in from the official one.
    others
        Keys of other networks in the file, which were not taken.
    unread
        Keys under which an average of the weights seems to lie, but none that can be read.
    tensors, parameters
        As the file has them, by the names that it has without wrapper and prefixes.
    sha256
        Of each, if asked for.
    """

    format: str
    bytes: int
    layout: str | None
    wrapper: str | None
    prefixes: list[str]
    ignored: list[str]
    others: list[str]
    unread: list[str]
    tensors: dict[str, StoredAs]
    parameters: int
    other_network: str | None
    weights: Weights | None
    problem: CheckpointError | None
    sha256: dict[str, str] | None

    @property
    def dtypes(self) -> dict[str, int]:
        """Each dtype, the most frequent first, and how many tensors have it."""
        return dict(Counter(tensor.dtype for tensor in self.tensors.values()).most_common())


def inspect_file(
    path: Path, stated: Stated = NOTHING, *, use_ema: bool = True, sha256: bool = False, progress: Progress | None = None
) -> Inspection:
    """Look into a checkpoint file; sha256: read its weights too.

    Raises CheckpointError for a file that holds no state dict at all, and for an unknown variant.
    """
    if stated.variant is not None:
        named_variant(stated.variant)
    layout, other_network, weights, problem = None, None, None, None
    here = local(path)
    with open_state(here, stated, use_ema=use_ema, name=as_given(path)) as (found, format_):
        other_network = found.kind.other_network
        try:
            layout = found.layout
            weights = weights_in(found, stated, format=format_)
            layout = weights.layout
        except CheckpointError as error:
            problem = error
        return Inspection(
            format=format_,
            bytes=byte_size(weights_file(here)),
            layout=layout,
            wrapper=found.wrapper,
            prefixes=found.prefixes,
            ignored=found.ignored,
            others=found.others,
            unread=found.unread,
            tensors=_stored_as(found.state, weights),
            parameters=sum(math.prod(x.shape) for x in found.state.values()),
            other_network=other_network,
            weights=weights,
            problem=problem,
            sha256=manifest(weights.comparable() if weights else found.state, progress) if sha256 else None,
        )


def _stored_as(state: Mapping[str, Any], weights: Weights | None) -> dict[str, StoredAs]:
    """Each tensor of a state dict, with its official names where the layout is known."""
    official: dict[str, tuple[tuple[str, ...], bool]] = {}
    for move in weights.table() if weights else ():
        official |= {source: (move.targets, len(move.sources) > 1) for source in move.sources}
    return {
        name: StoredAs(tuple(x.shape), dtype_name(x), byte_count([x]), *official.get(name, ((), False)))
        for name, x in state.items()
    }


@dataclass(frozen=True)
class Difference:
    """One tensor that is not the same in two checkpoints.

    Attributes
    ----------
    what
        "values", "bits" (equal numbers, but -0.0 for 0.0, or another NaN), "shape", "only in A" or "only in B".
    largest
        Max |a - b|, in float64.
    relative
        That over max |a|.
    count
        Elements that differ.
    """

    name: str
    what: str
    largest: float = 0.0
    relative: float = 0.0
    count: int = 0
    size: int = 0


def differences(a: Mapping[str, Any], b: Mapping[str, Any], progress: Progress | None = None) -> list[Difference]:
    """Each tensor that differs, by official name. Numbers are compared, whatever their dtypes; bits where those are the same."""
    count = counter(progress, byte_count(a.values()))
    found = [Difference(name, "only in A") for name in a if name not in b]
    found += [Difference(name, "only in B") for name in b if name not in a]
    for name in a:
        if name in b:
            difference = _difference(name, a[name], b[name])
            found += [difference] if difference else []
            count(byte_count([a[name]]))
    return found


def _difference(name: str, a: Any, b: Any) -> Difference | None:
    if tuple(a.shape) != tuple(b.shape):
        return Difference(name, "shape")
    x, y = in_memory(a), in_memory(b)
    if x.dtype == y.dtype:
        differ = (x.reshape(-1, 1).view(np.uint8) != y.reshape(-1, 1).view(np.uint8)).any(axis=1)
        if not differ.any():
            return None
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        wide_x, wide_y = x.astype(np.float64).reshape(-1), y.astype(np.float64).reshape(-1)
    unequal = (wide_x != wide_y) & ~(np.isnan(wide_x) & np.isnan(wide_y))
    if not unequal.any():
        return Difference(name, "bits", count=int(differ.sum()), size=x.size) if x.dtype == y.dtype else None
    with np.errstate(invalid="ignore", over="ignore"):
        largest = float(np.abs(wide_x - wide_y)[unequal].max())
        reference = float(np.abs(wide_x).max())
    return Difference(name, "values", largest, largest / reference if reference else float("inf"), int(unequal.sum()), x.size)
