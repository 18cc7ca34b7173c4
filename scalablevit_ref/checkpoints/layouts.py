"""Weight layouts as tables: which names of the layout give which official names, and by what operation.

The official names are the canonical ones. A table is finite, generated from a config, exactly invertible, and checked to be a
bijection on the config's names. Names are compared component by component; nothing here is a pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from scalablevit_ref.checkpoints.errors import CheckpointError
from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.parameters import Shapes, parameter_shapes

LAYOUTS = ("official", "mmdet")
"""Names that `layout_table` knows."""

_MMDET = {"stages": "blocks", "lim_func": "lepe_func"}


@dataclass(frozen=True)
class Operation:
    """What a move does to its arrays; `inverse` undoes `forward` exactly. Both take and give one array a name."""

    name: str
    forward: Callable[[list[Any]], list[Any]]
    inverse: Callable[[list[Any]], list[Any]]


IDENTITY = Operation("identity", lambda arrays: arrays, lambda arrays: arrays)


@dataclass(frozen=True)
class Move:
    """The layout's names `sources` become the official names `targets` by `operation`."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operation: Operation = IDENTITY


def layout_table(config: ScalableViTConfig, layout: str) -> tuple[Move, ...]:
    """Every move between a layout and the official names, in the layout's own state-dict order.

    "official": the identity.
    "mmdet": the authors' detection backbone, with `blocks.k.i` for `stages.k.i` and `lepe_func` for `lim_func`.

    Raises CheckpointError for an unknown layout, or one in which the config's network does not exist.

    >>> from scalablevit_ref import variant
    >>> layout_table(variant("mmdet_small"), "mmdet")[32]
    Move(sources=('blocks.0.0.norm1.weight',), targets=('stages.0.0.norm1.weight',), operation=...
    """
    check_layout(layout)
    names = tuple(parameter_shapes(config))
    if layout == "official":
        table = tuple(Move((name,), (name,)) for name in names)
    else:
        if not config.stage_norms or config.head != "none":
            raise CheckpointError(
                "layout 'mmdet' is the detection backbone's, which ends each stage in norm_list.k and has neither norm nor head",
                expected="a config with stage_norms=True and head='none'",
                found=f"stage_norms={config.stage_norms}, head={config.head!r}",
            )
        table = tuple(Move((_mmdet_name(name),), (name,)) for name in names)
    check_bijection(table, names)
    return table


def _mmdet_name(name: str) -> str:
    return ".".join(_MMDET.get(part, part) for part in name.split("."))


def check_layout(layout: str) -> None:
    """Raise CheckpointError unless it is one of LAYOUTS."""
    if layout not in LAYOUTS:
        raise CheckpointError(f"unknown layout {layout!r}{near_matches(layout, LAYOUTS)}; there are {', '.join(LAYOUTS)}")


def check_bijection(table: tuple[Move, ...], names: tuple[str, ...]) -> None:
    """Each source once, each target once, and the targets are exactly `names`. A ValueError is a fault in the table."""
    sources = list(chain.from_iterable(move.sources for move in table))
    targets = list(chain.from_iterable(move.targets for move in table))
    if len(set(sources)) != len(sources) or len(set(targets)) != len(targets) or set(targets) != set(names):
        raise ValueError("layout table is not a bijection on the config's names")


def layout_shapes(config: ScalableViTConfig, layout: str) -> Shapes:
    """Name and shape of every parameter in a layout, in its own state-dict order."""
    nothing = np.empty(())
    arrays = {name: np.broadcast_to(nothing, shape) for name, shape in parameter_shapes(config).items()}
    return {name: tuple(array.shape) for name, array in from_canonical(arrays, config, layout).items()}


def to_canonical(state: Mapping[str, Any], config: ScalableViTConfig, layout: str) -> dict[str, Any]:
    """A layout's arrays under the official names and in the official order. `state` holds all names of the layout."""
    arrays: dict[str, Any] = {}
    for move in layout_table(config, layout):
        arrays |= zip(move.targets, move.operation.forward([state[name] for name in move.sources]), strict=True)
    return {name: arrays[name] for name in parameter_shapes(config)}


def from_canonical(params: Mapping[str, Any], config: ScalableViTConfig, layout: str) -> dict[str, Any]:
    """The inverse of `to_canonical`, in the layout's own state-dict order."""
    arrays: dict[str, Any] = {}
    for move in layout_table(config, layout):
        arrays |= zip(move.sources, move.operation.inverse([params[name] for name in move.targets]), strict=True)
    return arrays
