"""Checkpoints read: state dicts in memory, files on disk; and parameters as a layout's state dict."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import backend, to_numpy
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.checkpoints.infer import exact_variant, resolve_config
from scalablevit_ref.checkpoints.layouts import check_layout, from_canonical, to_canonical
from scalablevit_ref.checkpoints.recognise import EMA_FROM, EMA_WRAPPERS, Found, find_state, tell_layout
from scalablevit_ref.checks import FLOATS, parameter_problems
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, naming
from scalablevit_ref.formats.lazy import Tensor, check_finite, is_lazy, values
from scalablevit_ref.parameters import parameter_shapes


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what they are.

    params: NumPy arrays under the official names, in the official order, dtype as in the file (bfloat16 as ml_dtypes').
    config: the configuration they fit.
    metadata: plain values. `layout`; `variant` (None unless `config` is exactly one); `config_from`, who told the configuration
        ("config", "metadata", "variant", "args.model" or "shapes"); `wrapper` ("model", "model_ema", …, None for a bare state
        dict) and `ema`, whether it is an EMA's (`ema_from`: the wrapper it had in the file it was converted from); `prefixes` cut
        off the names, outermost first; `ignored`, what was beside the network and left out; `dtype`; for a file its `format`; and
        plain entries beside the weights, such as `epoch`.
    """

    params: dict[str, np.ndarray]
    config: ScalableViTConfig
    metadata: dict[str, Any]


def from_state_dict(
    state: Mapping[str, Any], *, layout: str | None = None, variant: str | None = None, config: ScalableViTConfig | None = None
) -> Checkpoint:
    """A state dict of any array library, bare or wrapped (a whole training checkpoint), as official parameters, copied to NumPy.

    layout: "official", "mmdet", "split" or "channels_last"; None tells it from the names.
    variant, config: what the weights are of; with neither it is told from `args.model` or from the shapes.

    Raises CheckpointError with all problems in one report.

    >>> from scalablevit_ref import init_params, variant
    >>> from_state_dict(init_params(variant("digits"))).metadata["variant"]
    'digits'
    """
    return _read(opened_from(find_state(state), layout=layout, variant=variant, config=config))


def to_state_dict(params: Mapping[str, Any], config: ScalableViTConfig, *, layout: str = "official") -> dict[str, np.ndarray]:
    """Official parameters of any array library as a layout's state dict of NumPy arrays, in that layout's own order.

    Arrays already on the host are shared, not copied, as torch's `state_dict` does.

    Raises CheckpointError for parameters that do not fit the config, or a layout in which its network does not exist.
    """
    problems = parameter_problems(params, parameter_shapes(config))
    if problems:
        raise CheckpointError("parameters do not fit: " + "; ".join(problems))
    _dtype(params)
    return from_canonical({name: x if is_lazy(x) else backend(x).to_numpy(x) for name, x in params.items()}, config, layout)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    layout: str | None = None,
    config: ScalableViTConfig | None = None,
    use_ema: bool = True,
    allow_nonfinite: bool = False,
) -> Checkpoint:
    """Read a `.pth` (without torch, executing nothing), `.safetensors`, `.npz` or Flax `.msgpack` file; told by its content.

    variant, layout, config: as in `from_state_dict`; None tells them from the file.
    use_ema: prefer an EMA's weights where the file holds both; False takes the others.
    allow_nonfinite: let NaN and infinite weights pass.

    Raises CheckpointError, naming the file, for anything but a checkpoint whose weights fit; FileNotFoundError.
    """
    with open_checkpoint(path, variant=variant, layout=layout, config=config, use_ema=use_ema) as opened:
        checkpoint = _read(opened)
        if not allow_nonfinite:
            check_finite(checkpoint.params)
    return checkpoint


@dataclass(frozen=True, eq=False)
class Opened:
    """A checkpoint whose tensors still lie in its file: as `Checkpoint`, the parameters with `shape`, `dtype` and `read()`."""

    params: dict[str, Tensor]
    config: ScalableViTConfig
    metadata: dict[str, Any]


@contextmanager
def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    layout: str | None = None,
    config: ScalableViTConfig | None = None,
    use_ema: bool = True,
) -> Iterator[Opened]:
    """`load_checkpoint` that reads no weights yet: each is read when it is asked for, while the file is open."""
    from scalablevit_ref.formats.detect import open_file

    with naming(path), open_file(Path(path)) as (tree, notes, kind):
        found = find_state(tree, use_ema=use_ema, notes=notes)
        yield opened_from(found, layout=layout, variant=variant, config=config, format=kind)


def opened_from(
    found: Found, *, layout: str | None, variant: str | None, config: ScalableViTConfig | None, format: str | None = None
) -> Opened:
    """What a state dict is of, its tensors as they come."""
    if layout is None:
        layout = tell_layout(list(found.state))
    check_layout(layout)
    resolved = resolve_config(found, layout, config=config, variant_name=variant)
    told = {
        "layout": layout,
        "variant": exact_variant(resolved.config),
        "config_from": resolved.told_by,
    }
    tensors = {name: x if is_lazy(x) else to_numpy(x) for name, x in found.state.items()}
    params = to_canonical(tensors, resolved.config, layout)
    return Opened(params, resolved.config, found.beside | told | told_of(found) | ({"format": format} if format else {}))


def told_of(found: Found) -> dict[str, Any]:
    """Metadata that any state dict tells: where it lay in its file, and its dtype."""
    ema = found.wrapper in EMA_WRAPPERS or found.beside.get(EMA_FROM) in EMA_WRAPPERS
    around = {"wrapper": found.wrapper, "ema": ema, "prefixes": found.prefixes, "ignored": found.ignored}
    return around | {"dtype": _dtype(found.state)}


def _read(opened: Opened) -> Checkpoint:
    return Checkpoint({name: values(x) for name, x in opened.params.items()}, opened.config, opened.metadata)


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
