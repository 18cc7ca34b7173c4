"""Checkpoints read: two doors, one for files and one for state dicts in memory, and the public names over them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.checkpoints.in_memory import check_names, tensors_in
from scalablevit_ref.checkpoints.layouts import check_layout, from_canonical
from scalablevit_ref.checkpoints.official import OfficialWeights
from scalablevit_ref.checkpoints.recognise import EMA_FROM, EMA_WRAPPERS, find_state, told_by_names
from scalablevit_ref.checks import FLOATS, parameter_problems
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, in_file, option
from scalablevit_ref.formats.lazy import check_finite, in_memory
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.weights import Heads, Stated, StateDict, Weights, Windows

if TYPE_CHECKING:
    from scalablevit_ref.dialects.config import Config  # a third of what importing this package would cost

NOTHING = Stated()
"""What the caller states of weights if nothing."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what they are.

    Attributes
    ----------
    params
        NumPy arrays under the official names, in the official order, dtype as in the file (bfloat16 as ml_dtypes').
    config
        The configuration that they fit.
    metadata
        Plain values. `layout`; `variant` (None unless `config` is exactly one); `config_from`, where the configuration comes from
        ("config", "metadata", "variant", "args.model" or "shapes"); `wrapper` ("model", "model_ema", …, None for a bare state
        dict) and `ema`, whether it is an EMA's (`ema_from`: the wrapper it had in the file it was converted from); `prefixes` cut
        off the names, outermost first; `ignored`, what was beside the network and left out; `dtype`; for a file its `format`; and
        plain entries beside the weights, such as `epoch`.
    """

    params: dict[str, np.ndarray]
    config: ScalableViTConfig
    metadata: dict[str, Any]


@dataclass(frozen=True, eq=False)
class PortCheckpoint:
    """A port's weights.

    Attributes
    ----------
    port
        "vit_pytorch" or "flax_port", the module of `scalablevit_ref.dialects` that runs them.
    params
        NumPy arrays under that port's names, as that module takes them.
    config
        The settings that they fit.
    """

    port: str
    params: dict[str, np.ndarray]
    config: Config


@contextmanager
def open_checkpoint(
    path: str | os.PathLike[str], stated: Stated = NOTHING, *, use_ema: bool = True, only: type[Weights] | None = None
) -> Iterator[Weights]:
    """The weights in a file, of whichever network; each tensor is read when it is asked for, while the file is open.

    Parameters
    ----------
    path
        A `.pth`, `.safetensors`, `.npz` or Flax `.msgpack` file; which it is shows in its content.
    stated
        What the caller knows of the weights.
    use_ema
        Whether an EMA's weights are preferred where the file holds both.
    only
        Refuse weights of another network, by their names.

    Raises
    ------
    CheckpointError
        Naming the file, for anything but weights that fit.
    FileNotFoundError
        If there is no such file.
    """
    from scalablevit_ref.formats.detect import open_file

    with in_file(path), open_file(Path(path)) as (tree, notes, format_):
        yield weights_in(find_state(tree, use_ema=use_ema, notes=notes), stated, only=only, format=format_)


def weights_in(
    found: StateDict, stated: Stated = NOTHING, *, only: type[Weights] | None = None, format: str | None = None
) -> Weights:
    """The weights that a state dict in memory holds, of whichever network. format: of the file that it came from.

    Raises CheckpointError unless they fit.
    """
    if stated.layout is not None:
        kind, layout = only or OfficialWeights, stated.layout
        check_layout(layout, kind.layouts)
    else:
        kind, layout = told_by_names(list(found.state))
        if only not in (None, kind):
            raise CheckpointError(
                f"these are {kind.whose(layout)}'s weights, of {kind.other_network}, into which they cannot be converted; "
                "scalablevit_ref.dialects runs them"
            )
    check_names(found.state)
    found = replace(found, state=tensors_in(found.state))
    weights = kind.of(found, layout, stated)
    ema = found.wrapper in EMA_WRAPPERS or found.beside.get(EMA_FROM) in EMA_WRAPPERS
    around = {"wrapper": found.wrapper, "ema": ema, "prefixes": found.prefixes, "ignored": found.ignored}
    around |= {"dtype": _dtype(found.state)} | ({"format": format} if format else {})
    return replace(weights, metadata=found.beside | weights.metadata | around)


def from_state_dict(
    state: Mapping[str, Any], *, layout: str | None = None, variant: str | None = None, config: ScalableViTConfig | None = None
) -> Checkpoint:
    """A state dict of any array library, bare or wrapped (a whole training checkpoint), as official parameters, copied to NumPy.

    Parameters
    ----------
    state
        Names to arrays.
    layout
        "official", "mmdet", "split" or "channels_last"; None tells it from the names.
    variant, config
        What the weights are of; with neither it is told from `args.model` or from the shapes.

    Raises
    ------
    CheckpointError
        With all problems in one report.

    Examples
    --------
    >>> from scalablevit_ref import init_params, variant
    >>> from_state_dict(init_params(variant("digits"))).metadata["variant"]
    'digits'
    """
    stated = Stated(layout=layout, variant=variant, config=config)
    return _read(weights_in(find_state(state), stated, only=OfficialWeights))


def to_state_dict(params: Mapping[str, Any], config: ScalableViTConfig, *, layout: str = "official") -> dict[str, np.ndarray]:
    """Official parameters of any array library as a layout's state dict of NumPy arrays, in that layout's own order.

    Arrays already on the host are shared, not copied, as torch's `state_dict` does.

    Raises
    ------
    CheckpointError
        For parameters that do not fit the config, or a layout in which its network does not exist.
    """
    params = tensors_in(params)
    problems = parameter_problems(params, parameter_shapes(config))
    if problems:
        raise CheckpointError("parameters do not fit: " + "; ".join(problems))
    _dtype(params)
    return from_canonical(params, config, layout)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    layout: str | None = None,
    config: ScalableViTConfig | None = None,
    key: str | None = None,
    use_ema: bool = True,
    allow_nonfinite: bool = False,
) -> Checkpoint:
    """Read a `.pth` (without torch, executing nothing), `.safetensors`, `.npz` or Flax `.msgpack` file; told by its content.

    Parameters
    ----------
    path
        The file.
    variant, layout, config
        As in `from_state_dict`; None tells them from the file.
    key
        Where the weights lie, if there are several networks.
    use_ema
        Prefer an EMA's weights where the file holds both; False takes the others.
    allow_nonfinite
        Let NaN and infinite weights pass.

    Raises
    ------
    CheckpointError
        Naming the file, for anything but a checkpoint whose weights fit.
    FileNotFoundError
        If there is no such file.
    """
    stated = Stated(variant=variant, layout=layout, config=config, key=key)
    with open_checkpoint(path, stated, use_ema=use_ema, only=OfficialWeights) as weights:
        checkpoint = _read(weights)
        if not allow_nonfinite:
            check_finite(checkpoint.params)
    return checkpoint


def load_port(
    path: str | os.PathLike[str], *, heads: Heads = None, window_size: Windows = None, use_ema: bool = True
) -> PortCheckpoint:
    """Read a port's weights from any file that `load_checkpoint` reads, wrappers and prefixes included, executing nothing.

    Parameters
    ----------
    path
        The file.
    heads, window_size
        The port's settings, which show in no shape, as the port takes them (no window is the whole map); without heads both are
        taken from what this package wrote into the file.
    use_ema
        As in `load_checkpoint`.

    Raises
    ------
    CheckpointError
        Naming the file, for anything but weights of a port that fit.
    FileNotFoundError
        If there is no such file.
    """
    with open_checkpoint(path, Stated(heads=heads, window_size=window_size), use_ema=use_ema) as weights:
        if weights.other_network is None:
            raise CheckpointError("these names are of neither port", found=", ".join(list(weights.params)[:4]))
        if weights.unknown:
            told = (option("heads"), " and ", option("window_size"))
            raise CheckpointError(f"{' and '.join(weights.unknown)} show in no shape: give ", *told)
        found = _read(weights)
    return PortCheckpoint("vit_pytorch" if weights.layout == "vit_pytorch" else "flax_port", found.params, weights.config)


def _read(weights: Weights) -> Checkpoint:
    return Checkpoint({name: in_memory(x) for name, x in weights.params.items()}, weights.config, weights.metadata)


def _dtype(state: Mapping[str, Any]) -> str:
    """The one floating dtype of all arrays."""
    first, of_first = "", ""
    for name, x in state.items():
        dtype = dtype_name(x)
        if dtype not in FLOATS:
            raise CheckpointError("not floating point", key=name, expected=", ".join(FLOATS), found=dtype)
        first, of_first = (first, of_first) if first else (name, dtype)
        if dtype != of_first:
            raise CheckpointError("mixed dtypes", key=name, expected=f"{of_first}, as {first} is", found=dtype)
    return of_first
