"""Weights of the two community ports converted into each other, by one exactly invertible table.

Neither converts from or to the official network (`scalablevit_ref.dialects.port` lists what differs), but for single operations:
`scalablevit_ref.checkpoints.port_operations`. All functions take arrays of any library and return NumPy arrays that share no memory
with them. What would change the function is refused with the reason, unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints.layouts import Move, Operation, check_bijection, moved
from scalablevit_ref.checks import parameter_problems
from scalablevit_ref.dialects import flax_port
from scalablevit_ref.dialects.config import Config, is_norm_bias, shapes
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import Tensor, is_lazy, values
from scalablevit_ref.parameters import Shapes

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]


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


def vit_pytorch_to_flax(params: Mapping[str, Any], config: Config, *, patched: bool = True, one_way: bool = False) -> Arrays:
    """vit_pytorch's state dict as the Flax port's tree, flat (`dialects.flax_port.nested` makes it a tree), undone by the inverse.

    The patched port (`dialects.flax_port`) computes the same function, if all norm biases are zero: it has none.
    patched=False gives the published port's tree, which has a norm more (its gain is set to one) and computes something else.
    one_way: do that, and leave out norm biases that are not zero.

    Raises CheckpointError for parameters that do not fit, or where the function would change unasked.
    """
    return _copied(to_flax(params, config, patched=patched, one_way=one_way))


def flax_to_vit_pytorch(params: Mapping[str, Any], config: Config, *, one_way: bool = False) -> Arrays:
    """The Flax port's tree, nested or flat, as vit_pytorch's state dict; norm biases, which the port lacks, are zero.

    A patched port's tree, one without the norm after the last stage, keeps its function. The published port's does not: its tree
    has that norm, and the port another GELU and other padding. one_way: leave that norm out.

    Raises CheckpointError for parameters that do not fit, or where the function would change unasked.
    """
    return _copied(to_vit_pytorch(params, config, one_way=one_way))


def _copied(tensors: Tensors) -> Arrays:
    return {name: np.array(values(x), order="C") for name, x in tensors.items()}


def to_flax(params: Mapping[str, Any], config: Config, *, patched: bool, one_way: bool) -> Tensors:
    """`vit_pytorch_to_flax` of tensors that may still be in their file, and then stay there."""
    arrays = fitting(params, shapes(config))
    biases = [name for name in arrays if is_norm_bias(name) and any(values(arrays[name]).tobytes())]
    if biases and not one_way:
        raise CheckpointError(
            "the Flax port's norms have no bias, and q, k and v behind them none to fold it into: "
            f"{len(biases)} norm biases are not zero; one_way=True leaves them out and changes the function",
            key=biases[0],
            expected="+0 throughout",
            found=f"up to {np.abs(values(arrays[biases[0]]).astype(np.float64)).max():.3g}",
        )
    if not patched:
        _refuse_published_port(one_way)
        gain = arrays["mlp_head.1.weight"]
        arrays[f"layers.{len(config.depth) - 1}.0.norm.g"] = np.ones((1, *gain.shape, 1, 1), gain.dtype)
    table = flax_port.parameter_shapes(config, patched=patched)
    tree: Tensors = {}
    for move in port_table(config, patched=patched):
        tree |= moved(arrays, move.targets, move.sources, move.operation.inverse, table)
    return {name: tree[name] for name in table}


def to_vit_pytorch(params: Mapping[str, Any], config: Config, *, one_way: bool) -> Tensors:
    """`flax_to_vit_pytorch` of tensors that may still be in their file, and then stay there."""
    params = flax_port.flatten(params)
    last = last_norm(config)
    if last in params:
        _refuse_published_port(one_way, key=last)
    named = vit_pytorch_named(params, config)
    return {name: named[name] for name in shapes(config)}


def vit_pytorch_named(params: Mapping[str, Any], config: Config) -> Tensors:
    """The Flax port's flat tree under vit_pytorch's names and in its axes: with zeros for the norm biases, in its order; last the
    gain that only the published port has.
    """
    patched = last_norm(config) not in params
    arrays = fitting(params, flax_port.parameter_shapes(config, patched=patched))
    table = shapes(config, last_norm=not patched)
    state: Tensors = {}
    for move in port_table(config, patched=patched):
        state |= moved(arrays, move.sources, move.targets, move.operation.forward, table)
    dtype = arrays["params.Dense_0.kernel"].dtype
    named: Tensors = {name: np.zeros(shape, dtype) if is_norm_bias(name) else state[name] for name, shape in shapes(config).items()}
    return named | {name: x for name, x in state.items() if name not in named}


def last_norm(config: Config) -> str:
    """The Flax port's name of the parameter that tells the published port from a patched one."""
    return f"params.Transformer_{len(config.depth) - 1}.LayerNorm_0.scale"


def _refuse_published_port(one_way: bool, key: str | None = None) -> None:
    if not one_way:
        raise CheckpointError(
            "the published Flax port has a norm after its last stage, which vit_pytorch lacks and no weights undo, and the tanh "
            "GELU and SAME padding: only a port patched there (layout flax_port_patched) computes the same; one_way=True relabels "
            "what both have",
            key=key,
        )


def fitting(params: Mapping[str, Any], expected: Shapes) -> dict[str, Any]:
    """The arrays copied to NumPy, in the order of `expected`. Raises CheckpointError with every name that does not fit."""
    if not isinstance(params, Mapping):
        raise CheckpointError("params must be a mapping of names to arrays", found=type(params).__name__)
    problems = parameter_problems(params, expected)
    if problems:
        raise CheckpointError("parameters do not fit: " + "; ".join(problems))
    return {name: params[name] if is_lazy(params[name]) else to_numpy(params[name]) for name in expected}
