"""Settings and parameters that vit_pytorch's network and its Flax port share. The names are vit_pytorch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from scalablevit_ref.arguments import check_count, check_instance, check_rate, per_stage
from scalablevit_ref.config import MOST_BLOCKS
from scalablevit_ref.errors import brief
from scalablevit_ref.parameters import Shapes, scoped

PerStage: TypeAlias = int | Sequence[int]
"""One number for all stages, or one for each."""

_PER_STAGE = ("heads", "ssa_dim_key", "ssa_dim_value", "reduction_factor", "iwsa_dim_key", "iwsa_dim_value", "window_size")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The keyword arguments of vit_pytorch's `ScalableViT`, which the Flax port takes too, with the same defaults.

    Stage k has 2ᵏ · dim channels. Settings of a stage may be one number for all; they are stored as tuples, one entry a stage.

    Attributes
    ----------
    num_classes
        Width of the last Linear.
    dim
        Channels of the first stage.
    depth
        Layers of each stage, one number a stage; a layer holds an SSA, two feed-forwards and an IWSA.
    heads
        Attention heads.
    reduction_factor
        SSA's spatial reduction s, kernel and stride of the convolutions that give k and v.
    window_size
        IWSA's window in tokens; None is the whole map.
    iwsa_dim_key, iwsa_dim_value, ssa_dim_key, ssa_dim_value
        Channels of one head.
    ff_expansion_factor
        Hidden width of a feed-forward over the stage's channels.
    channels
        Of the images.
    dropout
        Of training, and not used here.

    Raises
    ------
    ValueError, TypeError
        Naming the setting, what was expected and what came.

    Examples
    --------
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> config.heads, config.window_size, config.stage(1)["dim"]
    ((2, 2), (None, None), 32)
    """

    num_classes: int
    dim: int
    depth: Sequence[int]
    heads: PerStage
    reduction_factor: PerStage
    window_size: int | Sequence[int | None] | None = None
    iwsa_dim_key: PerStage = 32
    iwsa_dim_value: PerStage = 32
    ssa_dim_key: PerStage = 32
    ssa_dim_value: PerStage = 32
    ff_expansion_factor: int = 4
    channels: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        stored: dict[str, Any] = {}
        for name in ("num_classes", "dim", "ff_expansion_factor", "channels"):
            check_count(name, getattr(self, name))
            stored[name] = int(getattr(self, name))
        check_rate("dropout", self.dropout)
        if isinstance(self.depth, str) or not isinstance(self.depth, Sequence) or not self.depth:
            raise TypeError(f"depth must be a sequence with one entry a stage, got {brief(self.depth)}")
        stored["depth"] = per_stage("depth", self.depth)
        for name in _PER_STAGE:
            stored[name] = _each(name, getattr(self, name), len(self.depth))
        if sum(stored["depth"]) > MOST_BLOCKS:
            raise ValueError(f"depth must be at most {MOST_BLOCKS} layers together, got {brief(sum(stored['depth']))}")
        vars(self).update(stored)

    def stage(self, k: int) -> dict[str, Any]:
        """The settings of stage k by their names, and its channels as `dim`."""
        return {name: getattr(self, name)[k] for name in _PER_STAGE} | {"dim": self.dim * 2**k}


def _each(name: str, value: Any, stages: int) -> tuple[Any, ...]:
    """One entry a stage, of one for all or of as many; only a window may be None."""
    each = tuple(value) if isinstance(value, list | tuple) else (value,) * stages
    if len(each) != stages:
        raise ValueError(f"{name} must have one entry for each of the {stages} stages of depth, got {brief(value)}")
    for entry in each:
        if name != "window_size" or entry is not None:
            check_count(name, entry)
    return tuple(None if entry is None else int(entry) for entry in each)


def check_config(config: object) -> None:
    """Raise TypeError for what is no `Config`."""
    check_instance("config", config, Config, "a Config of scalablevit_ref.dialects")


def shapes(config: Config, *, norm_biases: bool = True, last_norm: bool = False) -> Shapes:
    """Name and shape of every parameter under vit_pytorch's names, in its state-dict order.

    Parameters
    ----------
    config
        The network's settings.
    norm_biases
        Whether norms shift, as in vit_pytorch.
    last_norm
        Whether the last stage ends in one, as in the Flax port.
    """
    check_config(config)
    table: Shapes = _conv("to_patches", config.channels, config.dim, 7)
    last = len(config.depth) - 1
    for k, depth in enumerate(config.depth):
        stage = config.stage(k)
        for j in range(depth):
            table |= scoped(f"layers.{k}.0.layers.{j}", _layer(stage, config.ff_expansion_factor, with_peg=j == 0))
        if k < last or last_norm:
            table |= _norm(f"layers.{k}.0.norm", stage["dim"])
        if k < last:
            table |= _conv(f"layers.{k}.1.conv", stage["dim"], 2 * stage["dim"], 3)
    dim = config.stage(last)["dim"]
    table |= {"mlp_head.1.weight": (dim,), "mlp_head.1.bias": (dim,)}
    table |= {"mlp_head.2.weight": (config.num_classes, dim), "mlp_head.2.bias": (config.num_classes,)}
    return {name: shape for name, shape in table.items() if norm_biases or not is_norm_bias(name)}


def is_norm_bias(name: str) -> bool:
    """Whether a parameter of this name shifts a norm's output."""
    return name.endswith(".b") or name == "mlp_head.1.bias"


def _layer(stage: Mapping[str, Any], expansion: int, *, with_peg: bool) -> Shapes:
    dim, heads, s = stage["dim"], stage["heads"], stage["reduction_factor"]
    key, value = heads * stage["ssa_dim_key"], heads * stage["ssa_dim_value"]
    table = _norm("0.norm", dim)
    table |= {"0.to_q.weight": (key, dim, 1, 1), "0.to_k.weight": (key, dim, s, s), "0.to_v.weight": (value, dim, s, s)}
    table |= _conv("0.to_out.0", value, dim, 1) | _feed_forward("1", dim, expansion)
    if with_peg:
        table |= {"2.proj.weight": (dim, 1, 3, 3), "2.proj.bias": (dim,)}
    key, value = heads * stage["iwsa_dim_key"], heads * stage["iwsa_dim_value"]
    table |= _feed_forward("3", dim, expansion) | _norm("4.norm", dim) | _conv("4.local_interactive_module", value, value, 3)
    table |= {"4.to_q.weight": (key, dim, 1, 1), "4.to_k.weight": (key, dim, 1, 1), "4.to_v.weight": (value, dim, 1, 1)}
    return table | _conv("4.to_out.0", value, dim, 1)


def _feed_forward(name: str, dim: int, expansion: int) -> Shapes:
    hidden = dim * expansion
    return _norm(f"{name}.net.0", dim) | _conv(f"{name}.net.1", dim, hidden, 1) | _conv(f"{name}.net.4", hidden, dim, 1)


def _conv(name: str, wide_in: int, wide_out: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (wide_out, wide_in, kernel, kernel), f"{name}.bias": (wide_out,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.g": (1, dim, 1, 1), f"{name}.b": (1, dim, 1, 1)}


def check_size(config: Config, h: int, w: int, *, drops_tiles: bool) -> None:
    """Raise ValueError for images whose maps, ⌈h / stride⌉ × ⌈w / stride⌉ tokens, do not divide into windows.

    Parameters
    ----------
    config
        The network's settings.
    h, w
        Height and width of the images, in pixels.
    drops_tiles
        SSA drops what fills no tile, so that a map must hold one.
    """
    for k in range(len(config.depth)):
        stage, stride = config.stage(k), 4 * 2**k
        window, s = stage["window_size"], stage["reduction_factor"]
        rows, columns = -(-h // stride), -(-w // stride)
        if window is not None and (rows % window or columns % window):
            raise ValueError(
                f"images of {h} x {w} give {rows} x {columns} tokens in stage {k}, "
                f"which do not divide into windows of window_size[{k}] = {window}"
            )
        if drops_tiles and min(rows, columns) < s:
            raise ValueError(
                f"images of {h} x {w} give {rows} x {columns} tokens in stage {k}, "
                f"less than one tile of reduction_factor[{k}] = {s}"
            )


MOST_STAGES = 16
"""More make channels that no machine has, and a hostile file may claim any number."""

_FEWEST_ARRAYS = 20
"""Of a layer in either port."""


def check_depth(depth: Sequence[int], found: Mapping[str, Any]) -> None:
    """Raise ValueError for more stages or layers than a network of so many arrays can have, before their names are listed."""
    if len(depth) > MOST_STAGES or sum(depth) * _FEWEST_ARRAYS > len(found):
        raise ValueError(f"{len(found)} arrays are too few for {sum(depth)} layers in {len(depth)} stages")


def config_from_shapes(found: Mapping[str, tuple[int, ...]], *, heads: PerStage, window_size: Any) -> Config:
    """The settings that parameters of these names and shapes have; heads and windows, which show in no shape, are given.

    The result may still not fit all of them: hold `shapes` of it against them.

    Raises ValueError where a needed parameter is missing or misshapen, or its channels do not divide by the heads.
    """
    depth: list[int] = []
    while len(depth) <= MOST_STAGES and f"layers.{len(depth)}.0.layers.0.0.to_q.weight" in found:
        j = 0
        while f"layers.{len(depth)}.0.layers.{j}.0.to_q.weight" in found:
            j += 1
        depth.append(j)
    check_depth(depth, found)

    def shape(name: str, axes: int = 4) -> tuple[int, ...]:
        if len(found.get(name, ())) != axes:
            raise ValueError(f"{name} must have {axes} axes, got {found.get(name, 'no such parameter')}")
        return found[name]

    dim, channels = shape("to_patches.weight")[:2]
    if not depth or not dim:
        raise ValueError("to_patches.weight and layers.0.0.layers.0.0.to_q.weight must be there, and not empty")
    split = heads if isinstance(heads, list | tuple) else (heads,) * len(depth)
    if len(split) != len(depth):
        raise ValueError(f"heads must have one entry for each of the {len(depth)} stages, got {brief(heads)}")
    for entry in split:
        check_count("heads", entry)

    def per_head(name: str) -> tuple[int, ...]:
        full = [f"layers.{k}.0.layers.0.{name}.weight" for k in range(len(depth))]
        for at, count in zip(full, split, strict=True):
            if shape(at)[0] % count:
                raise ValueError(f"{at} has {shape(at)[0]} channels, which do not divide by heads = {count}")
        return tuple(shape(at)[0] // count for at, count in zip(full, split, strict=True))

    return Config(
        num_classes=shape("mlp_head.2.weight", axes=2)[0],
        dim=dim,
        depth=depth,
        heads=heads,
        reduction_factor=[shape(f"layers.{k}.0.layers.0.0.to_k.weight")[2] for k in range(len(depth))],
        window_size=window_size,
        iwsa_dim_key=per_head("4.to_q"),
        iwsa_dim_value=per_head("4.to_v"),
        ssa_dim_key=per_head("0.to_q"),
        ssa_dim_value=per_head("0.to_v"),
        ff_expansion_factor=shape("layers.0.0.layers.0.1.net.1.weight")[0] // dim,
        channels=channels,
    )
