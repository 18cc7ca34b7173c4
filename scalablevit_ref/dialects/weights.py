"""Weights of the two community ports: read from files, and converted into each other by one exactly invertible table.

Neither converts from or to the official network (`scalablevit_ref.dialects.port` lists what differs), but for single operations:
`scalablevit_ref.dialects.single_operations`. What would change the function is refused with the reason, unless asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from einops import rearrange

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checks import parameter_problems
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import Config, is_norm_bias, shapes
from scalablevit_ref.errors import CheckpointError, option
from scalablevit_ref.formats.lazy import Tensor, in_memory, is_lazy, tensors_of
from scalablevit_ref.formats.moves import Move, apply, check_bijection, rearranged, undo
from scalablevit_ref.parameters import Shapes
from scalablevit_ref.weights import Cast, Stated, StateDict, Weights, Windows

Arrays = dict[str, np.ndarray]

PORT_LAYOUTS = ("vit_pytorch", "flax_port", "flax_port_patched")
"""vit_pytorch's state dict; the Flax port's tree as published; that of a port patched to compute what vit_pytorch does, which has
no norm after its last stage."""


@dataclass(frozen=True, eq=False)
class PortWeights(Weights):
    """Under the names of the port that they are of. Where heads and windows are unknown, config is as if there were one of each."""

    config: Config
    layouts: ClassVar = PORT_LAYOUTS
    rounds: ClassVar = True  # two of them multiply kernels that lie otherwise
    other_network: ClassVar = (
        "another network than the official one (its layers run SSA, MLP, MLP, IWSA; its reduction is dense, without LayerNorm and "
        "GELU; its LIM is dense; its head is another)"
    )

    hallmarks: ClassVar = frozenset({"to_q", "ScalableSelfAttention_#"})
    head: ClassVar = "mlp_head"

    @classmethod
    def names(cls) -> Collection[str]:
        """Of a network that has all kinds of layers. The Flax port's root is a key like any other."""
        config = Config(num_classes=1, dim=1, depth=(2, 1), heads=1, reduction_factor=1)
        flax = flax_port.parameter_shapes(config)
        return {*shapes(config), *(name.removeprefix("params.") for name in flax)}

    @classmethod
    def layout_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> str:
        return "vit_pytorch" if any(".to_q." in name for name in shapes) else "flax_port"

    @classmethod
    def whose(cls, layout: str) -> str:
        return "vit_pytorch" if layout == "vit_pytorch" else "the Flax port"

    @classmethod
    def of(cls, found: StateDict, layout: str, stated: Stated) -> Self:
        if stated.variant is not None:
            raise CheckpointError(
                f"variant {stated.variant!r} is of the official network; these weights are of {cls.other_network}"
            )
        if stated.heads is None and stated.window_size is not None:
            raise CheckpointError("give ", option("heads"), " with ", option("window_size"))
        stored = _stored_settings(found)
        heads, windows = (stated.heads, stated.window_size) if stated.heads is not None or stored is None else stored
        given: dict[str, Any] = {"heads": 1 if heads is None else heads, "window_size": windows}
        try:
            if layout == "vit_pytorch":
                params = found.state
                config = vit_pytorch.config_from_shapes(params, **given)
            else:
                params = flax_port.flatten(found.state)
                config = flax_port.config_from_shapes(params, **given)
                layout = "flax_port" if _last_norm(config) in params else "flax_port_patched"
        except (TypeError, ValueError) as error:
            raise CheckpointError(str(error)) from error
        if stored is not None and stored != (config.heads, config.window_size):
            raise CheckpointError(
                "the file has other settings",
                key="heads, window_size",
                expected=f"{config.heads}, {config.window_size}",
                found=f"{stored[0]}, {stored[1]}",
            )
        return cls(tensors_of(params), config, {"layout": layout}, () if heads is not None else ("heads", "window_size"))

    @property
    def stated(self) -> Stated:
        return Stated() if self.unknown else Stated(heads=self.config.heads, window_size=self.config.window_size)

    def facts(self) -> dict[str, str]:
        config = self.config
        lines = {"stages": f"{' / '.join(map(str, config.depth))} layers from {config.dim} channels"}
        lines |= {"head": f"linear, {config.num_classes} classes"}
        if not self.unknown:
            windows = " / ".join("whole map" if size is None else str(size) for size in config.window_size)  # type: ignore[union-attr]
            lines |= {"heads": " / ".join(map(str, config.heads)), "windows": windows}  # type: ignore[arg-type]
        return lines

    def comparable(self) -> Mapping[str, Tensor]:
        """Under vit_pytorch's names and in its axes, whichever the port."""
        return self.params if self.layout == "vit_pytorch" else _vit_pytorch_named(self.params, self.config)

    def default_layout(self, suffix: str) -> str:
        return "flax_port_patched" if (self.layout, suffix) == ("vit_pytorch", ".msgpack") else self.layout

    def changed(self, *, strip_head: bool = False, fold_scale: bool = False) -> Self:
        if strip_head or fold_scale:
            raise CheckpointError("a port's weights have a head and no r_c in their scale: nothing to strip or to fold")
        return self

    def in_layout(self, layout: str, *, one_way: bool, cast: Cast) -> dict[str, Tensor]:
        state: Mapping[str, Tensor] = self.params
        if layout != self.layout:
            if self.layout != "vit_pytorch":
                state = _to_vit_pytorch(state, self.config, one_way=one_way)
            if layout != "vit_pytorch":
                state = _to_flax(state, self.config, patched=layout == "flax_port_patched", one_way=one_way)
        return {name: cast(name, x) for name, x in state.items()}

    def outputs(self, images: np.ndarray) -> Any:
        params = {name: in_memory(x).astype(np.float64) for name, x in self.params.items()}
        if self.layout == "vit_pytorch":
            return vit_pytorch.scalable_vit(images, params, self.config)
        patched = self.layout == "flax_port_patched"
        return flax_port.scalable_vit(rearrange(images, "b c h w -> b h w c"), params, self.config, patched=patched)


KINDS: tuple[type[Weights], ...] = (PortWeights,)
"""Every dialect's weights, in the order in which they are asked whether names are theirs."""


def _stored_settings(found: StateDict) -> tuple[Any, Windows] | None:
    """Heads and windows that this package wrote beside the weights."""
    if found.stored.config is None:
        return None
    try:
        settings = json.loads(found.stored.config)
        return tuple(settings["heads"]), tuple(settings["window_size"])
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"not a port's settings ({error})", key="config") from error


def port_table(config: Config, *, patched: bool = True) -> tuple[Move, ...]:
    """Every move from the Flax port's tree to vit_pytorch's state dict: all parameters but vit_pytorch's norm biases.

    Parameters
    ----------
    config
        The settings of both networks.
    patched
        The port without the norm after its last stage; else that norm's gain has the name it would have in vit_pytorch.

    Examples
    --------
    >>> config = Config(
    ...     num_classes=10, dim=16, depth=(1, 1), heads=2, reduction_factor=(2, 1)
    ... )
    >>> port_table(config)[0]
    Move(sources=('params.Conv_0.kernel',), targets=('to_patches.weight',), operation=...
    """
    rows = flax_port.table(config.depth, patched=patched)
    table = tuple(Move((row.flax,), (row.vit_pytorch,), rearranged(row.inverse)) for row in rows)
    check_bijection(table, tuple(shapes(config, norm_biases=False, last_norm=not patched)))
    return table


def vit_pytorch_to_flax(params: Mapping[str, Any], config: Config, *, patched: bool = True, one_way: bool = False) -> Arrays:
    """vit_pytorch's state dict as the Flax port's tree, flat (`dialects.flax_port.nested` makes it a tree), undone by the inverse.

    Parameters
    ----------
    params
        Arrays of any library. The result is NumPy's and shares no memory with them.
    config
        The settings that they fit.
    patched
        The tree of a patched port (`dialects.flax_port`), which computes the same function if all norm biases are zero: it has
        none. False gives the published port's, which has a norm more (its gain is set to one) and computes something else.
    one_way
        Change the function all the same: leave out norm biases that are not zero, add that norm.

    Raises
    ------
    CheckpointError
        For parameters that do not fit, or where the function would change unasked.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> params = random_params(vit_pytorch.parameter_shapes(config))
    >>> len(params), len(vit_pytorch_to_flax(params, config, one_way=True))
    (70, 60)
    """
    return _copied(_to_flax(params, config, patched=patched, one_way=one_way))


def flax_to_vit_pytorch(params: Mapping[str, Any], config: Config, *, one_way: bool = False) -> Arrays:
    """The Flax port's tree, nested or flat, as vit_pytorch's state dict; norm biases, which the port lacks, are zero.

    A patched port's tree, one without the norm after the last stage, keeps its function. The published port's does not: its tree
    has that norm, and the port another GELU and other padding.

    Parameters
    ----------
    params
        Arrays of any library. The result is NumPy's and shares no memory with them.
    config
        The settings that they fit.
    one_way
        Change the function all the same: leave out the norm after the last stage.

    Raises
    ------
    CheckpointError
        For parameters that do not fit, or where the function would change unasked.

    Examples
    --------
    >>> from scalablevit_ref.testing import random_params
    >>> settings = {"heads": 2, "reduction_factor": (2, 1), "window_size": None}
    >>> config = Config(num_classes=10, dim=16, depth=(1, 1), **settings)
    >>> tree = random_params(flax_port.parameter_shapes(config, patched=True))
    >>> flax_to_vit_pytorch(tree, config)["mlp_head.2.weight"].shape
    (10, 32)
    """
    return _copied(_to_vit_pytorch(params, config, one_way=one_way))


def _copied(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: np.array(in_memory(x), order="C") for name, x in tensors.items()}


def _to_flax(params: Mapping[str, Any], config: Config, *, patched: bool, one_way: bool) -> dict[str, Tensor]:
    """`vit_pytorch_to_flax` of tensors that may still be in their file, and then stay there."""
    arrays = fitting(params, shapes(config))
    biases = [name for name in arrays if is_norm_bias(name) and any(in_memory(arrays[name]).tobytes())]
    if biases and not one_way:
        raise CheckpointError(
            "the Flax port's norms have no bias, and q, k and v behind them none to fold it into: "
            f"{len(biases)} norm biases are not zero; ",
            option("one_way", True),
            " leaves them out and changes the function",
            key=biases[0],
            expected="+0 throughout",
            found=f"up to {np.abs(in_memory(arrays[biases[0]]).astype(np.float64)).max():.3g}",
        )
    if not patched:
        _refuse_published_port(one_way)
        gain = arrays["mlp_head.1.weight"]
        arrays[f"layers.{len(config.depth) - 1}.0.norm.g"] = np.ones((1, *gain.shape, 1, 1), gain.dtype)
    expected = flax_port.parameter_shapes(config, patched=patched)
    tree = undo(port_table(config, patched=patched), arrays, expected)
    return {name: tree[name] for name in expected}


def _to_vit_pytorch(params: Mapping[str, Any], config: Config, *, one_way: bool) -> dict[str, Tensor]:
    """`flax_to_vit_pytorch` of tensors that may still be in their file, and then stay there."""
    params = flax_port.flatten(params)
    last = _last_norm(config)
    if last in params:
        _refuse_published_port(one_way, key=last)
    named = _vit_pytorch_named(params, config)
    return {name: named[name] for name in shapes(config)}


def _vit_pytorch_named(params: Mapping[str, Any], config: Config) -> dict[str, Tensor]:
    """The Flax port's flat tree under vit_pytorch's names and in its axes: with zeros for the norm biases, in its order; last the
    gain that only the published port has.
    """
    patched = _last_norm(config) not in params
    arrays = fitting(params, flax_port.parameter_shapes(config, patched=patched))
    state = apply(port_table(config, patched=patched), arrays, shapes(config, last_norm=not patched))
    dtype = arrays["params.Dense_0.kernel"].dtype
    named = {name: np.zeros(shape, dtype) if is_norm_bias(name) else state[name] for name, shape in shapes(config).items()}
    return named | {name: x for name, x in state.items() if name not in named}


def _last_norm(config: Config) -> str:
    """The Flax port's name of the parameter that tells the published port from a patched one."""
    return f"params.Transformer_{len(config.depth) - 1}.LayerNorm_0.scale"


def _refuse_published_port(one_way: bool, key: str | None = None) -> None:
    if not one_way:
        raise CheckpointError(
            "the published Flax port has a norm after its last stage, which vit_pytorch lacks and no weights undo, and the tanh "
            "GELU and SAME padding: only a port patched there (layout flax_port_patched) computes the same; ",
            option("one_way", True),
            " relabels what both have",
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
