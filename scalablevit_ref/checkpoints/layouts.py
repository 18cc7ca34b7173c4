"""Weight layouts as tables: which names of the layout give which official names, and by what operation.

The official names are the canonical ones. A table is finite, generated from a config, exactly invertible, and checked to be a
bijection on the config's names. Names are compared component by component; nothing here is a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import LazyTensor, in_memory, is_lazy
from scalablevit_ref.formats.moves import IDENTITY, Move, apply, check_bijection, concatenated, rearranged, undo
from scalablevit_ref.parameters import Shapes, is_depthwise, parameter_shapes

LAYOUTS = ("official", "mmdet", "split", "channels_last", "keras", "mlx", "paddle")
"""Names that `layout_table` knows."""

_MMDET = {"stages": "blocks", "lim_func": "lepe_func"}

_MOST_ELEMENTS = 1 << 56
"""Most elements of a parameter; of more NumPy cannot even speak."""


_KERNELS = {2: rearranged("i o -> o i"), 4: rearranged("h w i o -> o i h w")}
"""By the number of axes: of a Linear and of a convolution, whose i is in / groups. As Flax and Keras have them."""

_DEPTHWISE = rearranged("h w o i -> o i h w")
"""Keras' depthwise kernel: (h, w, channels, 1)."""

_MLX_KERNEL = rearranged("o h w i -> o i h w")


def layout_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The layout of a state dict of this network, by its names; where those are the official ones, by its shapes."""
    leaves = {name.rpartition(".")[2] for name in shapes}
    if any(name.startswith("blocks.") or "lepe_func" in name.split(".") for name in shapes):
        return "mmdet"
    if "gamma" in leaves:
        return "keras"
    if "kernel" in leaves:
        return "channels_last"
    if "stages.0.0.attn.q.weight" in shapes:  # block 0 is IWSA, whose q, k, v are one there
        return "split"
    if shapes.get("pos_block.0.proj.0.weight", ())[1:] == (3, 3, 1):
        return "mlx"
    rows, columns = (*shapes.get("stages.0.0.attn.qkv.weight", ()), 0, 0)[:2]
    return "paddle" if columns > rows else "official"


@cache
def layout_names() -> frozenset[str]:
    """The names of all layouts: of a network with two blocks a stage, with either head and either version of SSA."""
    two: Any = {"embed_dims": (8, 8), "depths": (2, 2), "sr_ratios": (2, 1)}
    two |= dict.fromkeys(("num_heads", "mlp_ratios", "c_ratios", "window_sizes"), (1, 1))
    small = ScalableViTConfig(**two)
    configs = (
        small,
        replace(small, ssa_values="scaled", head="linear"),
        replace(small, stage_norms=True, head="none", num_classes=0),
    )
    shapes = {name: shape for config in configs for name, shape in parameter_shapes(config).items()}
    return frozenset(source for move in _MOVES.values() for name, shape in shapes.items() for source in move(name, shape).sources)


def layout_table(config: ScalableViTConfig, layout: str) -> tuple[Move, ...]:
    """Every move between a layout and the official names, in the layout's own state-dict order.

    "official": the identity.
    "mmdet": the authors' detection backbone, with `blocks.k.i` for `stages.k.i` and `lepe_func` for `lim_func`.
    "split": `attn.q`, `attn.k` and `attn.v`, each a Linear of its own, for IWSA's `attn.qkv` and SSA's `attn.kv`.
    "channels_last": the kernels of Flax, Keras and JAX users. A Linear's or convolution's `kernel` is (in, out) or
        (h, w, in / groups, out); a LayerNorm's gain is `scale`; `bias` is `bias`.
    "keras": the same with Keras' own names: a LayerNorm's `gamma` and `beta`, and (h, w, channels, 1) of a depthwise kernel, for
        which (h, w, 1, channels) is read too.
    "mlx": the official names; a convolution's `weight` is (out, h, w, in / groups).
    "paddle": the official names; a Linear's `weight` is (in, out).

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


def _keras(name: str, shape: tuple[int, ...]) -> Move:
    module, _, leaf = name.rpartition(".")
    if _is_norm(module):
        return Move((f"{module}.{'beta' if leaf == 'bias' else 'gamma'}",), (name,))
    if is_depthwise(name, shape):
        return Move((f"{module}.kernel",), (name,), _DEPTHWISE)
    return _channels_last(name, shape)


def _is_norm(module: str) -> bool:
    """Whether the parameters of a module of this name are a LayerNorm's."""
    return module == "head.1" or [part for part in module.split(".") if not part.isdecimal()][-1].startswith("norm")


def _mlx(name: str, shape: tuple[int, ...]) -> Move:
    return Move((name,), (name,), _MLX_KERNEL if len(shape) == 4 else IDENTITY)


def _paddle(name: str, shape: tuple[int, ...]) -> Move:
    return Move((name,), (name,), _KERNELS[2] if len(shape) == 2 else IDENTITY)


_MOVES: dict[str, Callable[[str, tuple[int, ...]], Move]] = {
    "official": lambda name, shape: Move((name,), (name,)),
    "mmdet": _mmdet,
    "split": _split,
    "channels_last": _channels_last,
    "keras": _keras,
    "mlx": _mlx,
    "paddle": _paddle,
}


def check_layout(layout: str, known: tuple[str, ...] = LAYOUTS) -> None:
    """Raise CheckpointError unless it is one of those known."""
    if layout not in known:
        raise CheckpointError(f"unknown layout {layout!r}{near_matches(str(layout), known)}; there are {', '.join(known)}")


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


def official_shapes(state: Mapping[str, Any], layout: str) -> Shapes:
    """The official names and shapes of those arrays of a layout that are each one parameter; of all others their own."""
    return dict(_official_shape(name, tuple(x.shape), layout) for name, x in state.items())


def _official_shape(name: str, shape: tuple[int, ...], layout: str) -> tuple[str, tuple[int, ...]]:
    module, _, leaf = name.rpartition(".")
    if layout in ("channels_last", "keras") and leaf != "bias":
        if layout == "keras" and len(shape) == 4 and shape[3] == 1 and shape[2] > 1:
            shape = (shape[2], 1, *shape[:2])
        elif leaf == "kernel" and len(shape) in _KERNELS:
            shape = (shape[-1], shape[-2], *shape[:-2])
        return f"{module}.{'bias' if leaf == 'beta' else 'weight'}", shape
    if layout == "paddle" and len(shape) == 2:
        return name, shape[::-1]
    if layout == "mlx" and len(shape) == 4:
        return name, (shape[0], shape[3], shape[1], shape[2])
    return name, shape


def with_table_shapes(state: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """A layout's arrays in the shapes that its table states, where there are two for the same numbers.

    Keras' `Conv2D(groups=channels)` keeps (h, w, 1, channels), which in memory is `DepthwiseConv2D`'s (h, w, channels, 1).
    """
    return {name: _with_table_shape(name, x) for name, x in state.items()} if layout == "keras" else dict(state)


def _with_table_shape(name: str, x: Any) -> Any:
    shape = tuple(x.shape)
    if not (name.endswith(".kernel") and is_depthwise(name, (*shape[3:], *shape[2:3], *shape[:2])) and shape[3] > 1):
        return x
    shape = (*shape[:2], shape[3], shape[2])
    return LazyTensor(shape, x.dtype, lambda: in_memory(x).reshape(shape)) if is_lazy(x) else np.reshape(x, shape)


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
