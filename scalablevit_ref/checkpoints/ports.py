"""Weights of the two community ports converted into each other, by one exactly invertible table.

Neither converts from or to the official network (`scalablevit_ref.dialects.port` lists what differs), but for single operations:
`scalablevit_ref.checkpoints.port_operations`. All functions take arrays of any library and return NumPy arrays that share no memory
with them. What would change the function is refused with the reason, unless asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints.errors import CheckpointError
from scalablevit_ref.checkpoints.layouts import Move, Operation, check_bijection
from scalablevit_ref.checkpoints.recognise import find_state, tell_port
from scalablevit_ref.checkpoints.stored import values
from scalablevit_ref.checks import parameter_problems
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import Config, PerStage, is_norm_bias, shapes
from scalablevit_ref.parameters import Shapes

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class PortCheckpoint:
    """A port's weights. port: "vit_pytorch" or "flax_port", the module of `scalablevit_ref.dialects` that runs them.

    params: NumPy arrays under that port's names, as that module takes them. config: what they fit.
    """

    port: str
    params: Arrays
    config: Config


def load_port(
    path: str | os.PathLike[str], *, heads: PerStage, window_size: int | Sequence[int | None] | None, use_ema: bool = True
) -> PortCheckpoint:
    """Read a port's weights from any file that `load_checkpoint` reads, wrappers and prefixes included, executing nothing.

    heads, window_size: the port's settings, which show in no shape. use_ema: as in `load_checkpoint`.

    Raises CheckpointError, naming the file, for anything but weights of a port that fit; FileNotFoundError.
    """
    from scalablevit_ref.checkpoints.files import open_file

    try:
        with open_file(Path(path)) as (tree, _, _):
            state = find_state(tree, use_ema=use_ema).state
            port = tell_port(state)
            if port is None:
                raise CheckpointError("these names are of neither port", found=", ".join(list(state)[:4]))
            params = {name: values(x) for name, x in (state if port == "vit_pytorch" else flax_port.flatten(state)).items()}
        dialect = vit_pytorch if port == "vit_pytorch" else flax_port
        try:
            config = dialect.config_from_shapes(params, heads=heads, window_size=window_size)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    except CheckpointError as error:
        raise error.in_file(path) from error.__cause__
    return PortCheckpoint("vit_pytorch" if port == "vit_pytorch" else "flax_port", params, config)


def port_table(config: Config, *, patched: bool = True) -> tuple[Move, ...]:
    """Every move from the Flax port's tree to vit_pytorch's state dict: all parameters but vit_pytorch's norm biases.

    patched: the port without the norm after its last stage; else that norm's gain has the name it would have in vit_pytorch.

    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), heads=2, reduction_factor=(2, 1))
    >>> port_table(config)[0]
    Move(sources=('params.Conv_0.kernel',), targets=('to_patches.weight',), operation=...
    """
    table = tuple(
        Move((row.flax,), (row.vit_pytorch,), Operation(row.inverse, _rearranged(row.inverse), _rearranged(row.pattern)))
        for row in flax_port.table(config.depth, patched=patched)
    )
    check_bijection(table, tuple(shapes(config, norm_biases=False, last_norm=not patched)))
    return table


def _rearranged(pattern: str) -> Callable[[list[Any]], list[Any]]:
    return lambda arrays: [rearrange(arrays[0], pattern)]


def vit_pytorch_to_flax(params: Mapping[str, Any], config: Config, *, patched: bool = True, allow_lossy: bool = False) -> Arrays:
    """vit_pytorch's state dict as the Flax port's tree, flat (`dialects.flax_port.nested` makes it a tree), undone by the inverse.

    The patched port (`dialects.flax_port`) computes the same function, if all norm biases are zero: it has none.
    patched=False gives the published port's tree, which has a norm more (its gain is set to one) and computes something else.
    allow_lossy: do that, and leave out norm biases that are not zero.

    Raises CheckpointError for parameters that do not fit, or where the function would change unasked.
    """
    arrays = fitting(params, shapes(config))
    biases = [name for name in arrays if is_norm_bias(name) and any(arrays[name].tobytes())]
    if biases and not allow_lossy:
        raise CheckpointError(
            "the Flax port's norms have no bias, and q, k and v behind them none to fold it into: "
            f"{len(biases)} norm biases are not zero; allow_lossy leaves them out and changes the function",
            key=biases[0],
            expected="+0 throughout",
            found=f"up to {max(abs(float(x)) for x in arrays[biases[0]].flat):.3g}",
        )
    if not patched:
        _refuse_published_port(allow_lossy)
        gain = arrays["mlp_head.1.weight"]
        arrays[_last_norm(config)] = np.ones((1, len(gain), 1, 1), gain.dtype)
    moves = port_table(config, patched=patched)
    moved = chain.from_iterable(
        zip(move.sources, move.operation.inverse([arrays[name] for name in move.targets]), strict=True) for move in moves
    )
    tree = {name: np.array(x, order="C") for name, x in moved}
    return {name: tree[name] for name in flax_port.parameter_shapes(config, patched=patched)}


def flax_to_vit_pytorch(params: Mapping[str, Any], config: Config, *, allow_lossy: bool = False) -> Arrays:
    """The Flax port's tree, nested or flat, as vit_pytorch's state dict; norm biases, which the port lacks, are zero.

    A patched port's tree, one without the norm after the last stage, keeps its function. The published port's does not: its tree
    has that norm, and the port another GELU and other padding. allow_lossy: leave that norm out.

    Raises CheckpointError for parameters that do not fit, or where the function would change unasked.
    """
    params = flax_port.flatten(params)
    last = f"params.Transformer_{len(config.depth) - 1}.LayerNorm_0.scale"
    patched = last not in params
    arrays = fitting(params, flax_port.parameter_shapes(config, patched=patched))
    if not patched:
        _refuse_published_port(allow_lossy, key=last)
        del arrays[last]
    state: dict[str, Any] = {}
    for move in port_table(config):
        state |= zip(move.targets, move.operation.forward([arrays[name] for name in move.sources]), strict=True)
    dtype = arrays["params.Dense_0.kernel"].dtype
    return {
        name: np.zeros(shape, dtype) if is_norm_bias(name) else np.array(state[name], order="C")
        for name, shape in shapes(config).items()
    }


def _last_norm(config: Config) -> str:
    return f"layers.{len(config.depth) - 1}.0.norm.g"


def _refuse_published_port(allow_lossy: bool, key: str | None = None) -> None:
    if not allow_lossy:
        raise CheckpointError(
            "the published Flax port has a norm after its last stage, which vit_pytorch lacks and no weights undo, and the tanh "
            "GELU and SAME padding: only a port patched there computes the same; allow_lossy relabels what both have",
            key=key,
        )


def fitting(params: Mapping[str, Any], expected: Shapes) -> Arrays:
    """The arrays copied to NumPy, in the order of `expected`. Raises CheckpointError with every name that does not fit."""
    if not isinstance(params, Mapping):
        raise CheckpointError("params must be a mapping of names to arrays", found=type(params).__name__)
    problems = parameter_problems(params, expected)
    if problems:
        raise CheckpointError("parameters do not fit: " + "; ".join(problems))
    arrays: Arrays = to_numpy({name: params[name] for name in expected})
    return arrays
