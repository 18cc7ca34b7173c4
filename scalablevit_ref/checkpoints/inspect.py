"""What a checkpoint file is and holds, and what two of them differ in: tensor by tensor, without loading either."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.checkpoints.infer import named_variant
from scalablevit_ref.checkpoints.load import Opened
from scalablevit_ref.checkpoints.port_files import OpenedPort, Windows, opened_any
from scalablevit_ref.checkpoints.recognise import find_state, tell_layout, tell_port
from scalablevit_ref.dialects.config import PerStage
from scalablevit_ref.errors import CheckpointError, naming
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import blocks, values

Progress = Callable[[int], None]


def nothing(size: int) -> None:
    """A progress that nobody watches."""


def size_of(params: Mapping[str, Any]) -> int:
    """Bytes of all tensors, read or not."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in params.values())


def manifest(params: Mapping[str, Any], progress: Progress = nothing) -> dict[str, str]:
    """SHA-256 of each tensor's bytes (little-endian, C order): under official names equal for every layout and file format."""
    sums = {}
    for name, x in params.items():
        digest = hashlib.sha256()
        for block in blocks(x):
            digest.update(block.view(np.uint8).data)
            progress(block.nbytes)
        sums[name] = digest.hexdigest()
    return sums


@dataclass(frozen=True)
class Inspection:
    """What is told of a file without reading its weights.

    opened: the checkpoint, None where its configuration cannot be told; problem: why, or what else is to be said of it.
    of_a_port: whether it is a community port's network.
    names, dtypes, parameters: of the tensors as the file has them. sha256: of each, if asked for.
    """

    format: str
    layout: str | None
    wrapper: str | None
    prefixes: list[str]
    ignored: list[str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: list[str]
    parameters: int
    of_a_port: bool
    opened: Opened | OpenedPort | None
    problem: str | None
    sha256: dict[str, str] | None


def inspect_file(
    path: Path,
    *,
    variant: str | None = None,
    heads: PerStage | None = None,
    window_size: Windows = None,
    use_ema: bool = True,
    sha256: bool = False,
    progress: Callable[[int], Progress] | None = None,
) -> Inspection:
    """Look into a checkpoint file. progress: told the bytes to come, gives what is told those that are done.

    Raises CheckpointError for a file that holds no state dict at all, and for an unknown variant.
    """
    if variant is not None:
        named_variant(variant)
    opened, problem, layout = None, None, None
    with naming(path), open_file(path) as (tree, notes, kind):
        found = find_state(tree, use_ema=use_ema, notes=notes)
        try:
            layout = tell_port(found.state) or tell_layout(list(found.state))
            opened = opened_any(found, kind, variant=variant, heads=heads, window_size=window_size)
            layout = opened.metadata["layout"]
        except CheckpointError as error:
            problem = str(error)
        params: Mapping[str, Any] = canonical(opened) if opened else found.state
        done = progress(size_of(params)) if progress and sha256 else nothing
        return Inspection(
            format=kind,
            layout=layout,
            wrapper=found.wrapper,
            prefixes=found.prefixes,
            ignored=found.ignored,
            shapes={name: tuple(x.shape) for name, x in found.state.items()},
            dtypes=sorted({dtype_name(x) for x in found.state.values()}),
            parameters=sum(math.prod(x.shape) for x in found.state.values()),
            of_a_port=tell_port(found.state) is not None,
            opened=opened,
            problem=problem,
            sha256=manifest(params, done) if sha256 else None,
        )


def canonical(opened: Opened | OpenedPort) -> Mapping[str, Any]:
    """The parameters under official names; a port's, which has none, under vit_pytorch's."""
    return opened.named() if isinstance(opened, OpenedPort) else opened.params


@dataclass(frozen=True)
class Difference:
    """One tensor that is not the same in two checkpoints.

    what: "values", "bits" (equal numbers, but -0.0 for 0.0, or another NaN), "shape", "only in A" or "only in B".
    largest: max |a - b|, in float64; relative: that over max |a|; count: elements that differ.
    """

    name: str
    what: str
    largest: float = 0.0
    relative: float = 0.0
    count: int = 0
    size: int = 0


def differences(a: Mapping[str, Any], b: Mapping[str, Any], progress: Progress = nothing) -> list[Difference]:
    """Each tensor that differs, by official name. Numbers are compared, whatever their dtypes; bits where those are the same."""
    found = [Difference(name, "only in A") for name in a if name not in b]
    found += [Difference(name, "only in B") for name in b if name not in a]
    for name in a:
        if name in b:
            difference = _difference(name, a[name], b[name])
            found += [difference] if difference else []
            progress(math.prod(a[name].shape) * a[name].dtype.itemsize)
    return found


def _difference(name: str, a: Any, b: Any) -> Difference | None:
    if tuple(a.shape) != tuple(b.shape):
        return Difference(name, "shape")
    x, y = values(a), values(b)
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
