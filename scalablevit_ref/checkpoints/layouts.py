"""Weight layouts as tables: which names of the layout give which official names, and by what operation.

The official names are the canonical ones. A table is finite, generated from a config, exactly invertible, and checked to be a
bijection on the config's names. Names are compared component by component; nothing here is a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import LazyTensor, is_lazy, values
from scalablevit_ref.parameters import Shapes, parameter_shapes

LAYOUTS = ("official", "mmdet", "split", "channels_last")
"""Names that `layout_table` knows."""

_MMDET = {"stages": "blocks", "lim_func": "lepe_func"}


_MOST_ELEMENTS = 1 << 56
"""Elements of a parameter beyond which NumPy cannot even speak of it."""


@dataclass(frozen=True)
class Operation:
    """What a move does to its arrays; `inverse` undoes `forward` exactly. Both take and give one array a name."""

    name: str
    forward: Callable[[list[Any]], list[Any]]
    inverse: Callable[[list[Any]], list[Any]]


IDENTITY = Operation("identity", lambda arrays: arrays, lambda arrays: arrays)


def transpose(*axes: int) -> Operation:
    """One array, its axes permuted."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Operation(
        f"transpose{axes}", lambda arrays: [np.transpose(arrays[0], axes)], lambda arrays: [np.transpose(arrays[0], back)]
    )


def concatenate(parts: int) -> Operation:
    """Arrays of equal shape, one after the other along the first axis."""
    return Operation(
        f"concatenate({parts})", lambda arrays: [np.concatenate(arrays)], lambda arrays: list(np.split(arrays[0], parts))
    )


_KERNELS = {2: transpose(1, 0), 4: transpose(3, 2, 0, 1)}
"""By the number of axes: (in, out) to (out, in) for a Linear, (h, w, in / groups, out) to (out, in / groups, h, w)."""


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
    "split": `attn.q`, `attn.k` and `attn.v`, each a Linear of its own, for IWSA's `attn.qkv` and SSA's `attn.kv`.
    "channels_last": the kernels of Flax, Keras and JAX users. A Linear's or convolution's `kernel` is (in, out) or
        (h, w, in / groups, out); a LayerNorm's gain is `scale`; `bias` is `bias`.

    Raises CheckpointError for an unknown layout, or one in which the config's network does not exist.

    >>> from scalablevit_ref import variant
    >>> layout_table(variant("mmdet_small"), "mmdet")[32]
    Move(sources=('blocks.0.0.norm1.weight',), targets=('stages.0.0.norm1.weight',), operation=...
    >>> layout_table(variant("small"), "split")[26].sources
    ('stages.0.0.attn.q.weight', 'stages.0.0.attn.k.weight', 'stages.0.0.attn.v.weight')
    """
    check_layout(layout)
    if layout == "mmdet" and (not config.stage_norms or config.head != "none"):
        raise CheckpointError(
            "layout 'mmdet' is the detection backbone's, which ends each stage in norm_list.k and has neither norm nor head",
            expected="a config with stage_norms=True and head='none'",
            found=f"stage_norms={config.stage_norms}, head={config.head!r}",
        )
    shapes = parameter_shapes(config)
    table = tuple(_MOVES[layout](name, shape) for name, shape in shapes.items())
    check_bijection(table, tuple(shapes))
    return table


def _mmdet(name: str, shape: tuple[int, ...]) -> Move:
    return Move((".".join(_MMDET.get(part, part) for part in name.split(".")),), (name,))


def _split(name: str, shape: tuple[int, ...]) -> Move:
    module, _, leaf = name.rpartition(".")
    attention, _, fused = module.rpartition(".")
    if fused not in ("qkv", "kv"):
        return Move((name,), (name,))
    return Move(tuple(f"{attention}.{part}.{leaf}" for part in fused), (name,), concatenate(len(fused)))


def _channels_last(name: str, shape: tuple[int, ...]) -> Move:
    module, _, leaf = name.rpartition(".")
    if leaf == "bias":
        return Move((name,), (name,))
    if len(shape) == 1:
        return Move((f"{module}.scale",), (name,))
    return Move((f"{module}.kernel",), (name,), _KERNELS[len(shape)])


_MOVES: dict[str, Callable[[str, tuple[int, ...]], Move]] = {
    "official": lambda name, shape: Move((name,), (name,)),
    "mmdet": _mmdet,
    "split": _split,
    "channels_last": _channels_last,
}


def check_layout(layout: str, known: tuple[str, ...] = LAYOUTS) -> None:
    """Raise CheckpointError unless it is one of those known."""
    if layout not in known:
        raise CheckpointError(f"unknown layout {layout!r}{near_matches(layout, known)}; there are {', '.join(known)}")


def check_bijection(table: tuple[Move, ...], names: tuple[str, ...]) -> None:
    """Each source once, each target once, and the targets are exactly `names`. A ValueError is a fault in the table."""
    sources = list(chain.from_iterable(move.sources for move in table))
    targets = list(chain.from_iterable(move.targets for move in table))
    if len(set(sources)) != len(sources) or len(set(targets)) != len(targets) or set(targets) != set(names):
        raise ValueError("layout table is not a bijection on the config's names")


def layout_shapes(config: ScalableViTConfig, layout: str) -> Shapes:
    """Name and shape of every parameter in a layout, in its own state-dict order."""
    nothing = np.empty(())
    try:
        shapes = parameter_shapes(config)
    except OverflowError as error:
        raise CheckpointError(f"a parameter larger than any ({error})") from error
    for name, shape in shapes.items():
        if math.prod(shape) > _MOST_ELEMENTS:
            raise CheckpointError("a parameter larger than any", key=name, found=brief(shape))
    found: Shapes = {}
    for move in layout_table(config, layout):
        arrays = move.operation.inverse([np.broadcast_to(nothing, shapes[name]) for name in move.targets])
        found |= {name: tuple(array.shape) for name, array in zip(move.sources, arrays, strict=True)}
    return found


def official_shape(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The official name and shape of one array whose name and shape are channels-last's; others stay as they are."""
    module, _, leaf = name.rpartition(".")
    if leaf == "kernel" and len(shape) in _KERNELS:
        return f"{module}.weight", (shape[-1], shape[-2], *shape[:-2])
    return (f"{module}.weight" if leaf == "scale" else name), shape


def to_canonical(state: Mapping[str, Any], config: ScalableViTConfig, layout: str) -> dict[str, Any]:
    """A layout's arrays under the official names and in the official order. `state` holds all names of the layout.

    Tensors that are still in their file stay there: what is made of them is made when it is read.
    """
    shapes = parameter_shapes(config)
    arrays: dict[str, Any] = {}
    for move in layout_table(config, layout):
        arrays |= moved(state, move.sources, move.targets, move.operation.forward, shapes)
    return {name: arrays[name] for name in shapes}


def from_canonical(params: Mapping[str, Any], config: ScalableViTConfig, layout: str) -> dict[str, Any]:
    """The inverse of `to_canonical`, in the layout's own state-dict order."""
    shapes = layout_shapes(config, layout)
    arrays: dict[str, Any] = {}
    for move in layout_table(config, layout):
        arrays |= moved(params, move.targets, move.sources, move.operation.inverse, shapes)
    return arrays


def moved(
    state: Mapping[str, Any],
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    operate: Callable[[list[Any]], list[Any]],
    shapes: Shapes,
) -> dict[str, Any]:
    """One move's results by their names; tensors that are still in their file are made when they are read."""
    inputs = [state[name] for name in sources]
    if not any(is_lazy(x) for x in inputs) or operate in (IDENTITY.forward, IDENTITY.inverse):
        return dict(zip(targets, operate(inputs), strict=True))
    made: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        """The other results are kept until they are asked for, so that a file's tensors are read once."""
        if name not in made:
            made.update(zip(targets, operate([values(x) for x in inputs]), strict=True))
        return made.pop(name)

    return {name: LazyTensor(shapes[name], inputs[0].dtype, lambda name=name: read(name)) for name in targets}  # type: ignore[misc]
