"""Weight layouts as tables: which names of the layout give which official names, and by what operation.

The official names are the canonical ones. A table is finite, generated from a config, exactly invertible, and checked to be a
bijection on the config's names. Names are compared component by component; nothing here is a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.moves import Move, apply, check_bijection, concatenated, rearranged, undo
from scalablevit_ref.parameters import Shapes, parameter_shapes

LAYOUTS = ("official", "mmdet", "split", "channels_last")
"""Names that `layout_table` knows."""

_MMDET = {"stages": "blocks", "lim_func": "lepe_func"}

_MOST_ELEMENTS = 1 << 56
"""Most elements of a parameter; of more NumPy cannot even speak."""


_KERNELS = {2: rearranged("i o -> o i"), 4: rearranged("h w i o -> o i h w")}
"""By the number of axes: of a Linear and of a convolution, whose i is in / groups."""


def layout_of(names: Collection[str]) -> str | None:
    """The layout that a state dict's names are of, None for another network's names."""
    if any(name.startswith("blocks.") or "lepe_func" in name.split(".") for name in names):
        return "mmdet"
    if not any(name.startswith("stages.") for name in names):
        return None
    if any(name.endswith(".kernel") for name in names):
        return "channels_last"
    return "split" if "stages.0.0.attn.q.weight" in names else "official"  # block 0 is IWSA, whose q, k, v are one there


def layout_table(config: ScalableViTConfig, layout: str) -> tuple[Move, ...]:
    """Every move between a layout and the official names, in the layout's own state-dict order.

    "official": the identity.
    "mmdet": the authors' detection backbone, with `blocks.k.i` for `stages.k.i` and `lepe_func` for `lim_func`.
    "split": `attn.q`, `attn.k` and `attn.v`, each a Linear of its own, for IWSA's `attn.qkv` and SSA's `attn.kv`.
    "channels_last": the kernels of Flax, Keras and JAX users. A Linear's or convolution's `kernel` is (in, out) or
        (h, w, in / groups, out); a LayerNorm's gain is `scale`; `bias` is `bias`.

    Raises
    ------
    CheckpointError
        For an unknown layout, or one in which the config's network does not exist.

    Examples
    --------
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
    return Move(tuple(f"{attention}.{part}.{leaf}" for part in fused), (name,), concatenated(len(fused)))


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
    arrays = undo(layout_table(config, layout), {name: np.broadcast_to(nothing, shape) for name, shape in shapes.items()}, {})
    return {name: tuple(array.shape) for name, array in arrays.items()}


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
    arrays = apply(layout_table(config, layout), state, shapes)
    return {name: arrays[name] for name in shapes}


def from_canonical(params: Mapping[str, Any], config: ScalableViTConfig, layout: str) -> dict[str, Any]:
    """The inverse of `to_canonical`, in the layout's own state-dict order."""
    return undo(layout_table(config, layout), params, layout_shapes(config, layout))
