"""Checkpoints in and out: state dicts in memory, files on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import backend, to_numpy
from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.checkpoints.errors import CheckpointError
from scalablevit_ref.checkpoints.inference import exact_variant, resolve_config
from scalablevit_ref.checkpoints.layouts import check_layout, from_canonical, to_canonical
from scalablevit_ref.checkpoints.recognise import Found, find_state, is_plain, tell_layout
from scalablevit_ref.checkpoints.stored import StoredTensor
from scalablevit_ref.checks import FLOATS, parameter_problems
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.parameters import parameter_shapes

_TOLD = ("layout", "variant", "config_from", "wrapper", "ema", "prefixes", "ignored", "dtype", "format")
"""Metadata that reading tells by itself."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what they are.

    params: NumPy arrays under the official names, in the official order, dtype as in the file (bfloat16 as ml_dtypes').
    config: the configuration they fit.
    metadata: plain values. `layout`; `variant` (None unless `config` is exactly one); `config_from`, who told the configuration
        ("config", "metadata", "variant", "args.model" or "shapes"); `wrapper` ("model", "model_ema", …, None for a bare state
        dict) and `ema`, whether it is an EMA's; `prefixes` cut off the names, outermost first; `ignored`, what was beside the
        network and left out; `dtype`; for a file its `format`; and plain entries beside the weights, such as `epoch`.
    """

    params: dict[str, np.ndarray]
    config: ScalableViTConfig
    metadata: dict[str, Any]


def from_state_dict(
    state: Mapping[str, Any], *, layout: str | None = None, variant: str | None = None, config: ScalableViTConfig | None = None
) -> Checkpoint:
    """A state dict of any array library, bare or wrapped (a whole training checkpoint), as official parameters, copied to NumPy.

    layout: "official" or "mmdet"; None tells it from the names.
    variant, config: what the weights are of; with neither it is told from `args.model` or from the shapes.

    Raises CheckpointError with all problems in one report.

    >>> from scalablevit_ref import init_params, variant
    >>> from_state_dict(init_params(variant("digits"))).metadata["variant"]
    'digits'
    """
    return _checkpoint(find_state(state), layout=layout, variant=variant, config=config)


def to_state_dict(params: Mapping[str, Any], config: ScalableViTConfig, *, layout: str = "official") -> dict[str, np.ndarray]:
    """Official parameters of any array library as a layout's state dict of NumPy arrays, in that layout's own order.

    Arrays already on the host are shared, not copied, as torch's `state_dict` does.

    Raises CheckpointError for parameters that do not fit the config, or a layout in which its network does not exist.
    """
    problems = parameter_problems(params, parameter_shapes(config))
    if problems:
        raise CheckpointError("parameters do not fit: " + "; ".join(problems))
    _dtype(params)
    return from_canonical({name: backend(x).to_numpy(x) for name, x in params.items()}, config, layout)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    layout: str | None = None,
    config: ScalableViTConfig | None = None,
    use_ema: bool = True,
    allow_nonfinite: bool = False,
) -> Checkpoint:
    """Read a `.pth` (without torch, executing nothing), `.safetensors` or `.npz` file; told by its content, not by its name.

    variant, layout, config: as in `from_state_dict`; None tells them from the file.
    use_ema: prefer an EMA's weights where the file holds both; False takes the others.
    allow_nonfinite: let NaN and infinite weights pass.

    Raises CheckpointError, naming the file, for anything but a checkpoint whose weights fit; FileNotFoundError.
    """
    from scalablevit_ref.checkpoints.files import open_file

    try:
        with open_file(Path(path)) as (tree, notes, kind):
            found = find_state(tree, use_ema=use_ema, notes=notes)
            checkpoint = _checkpoint(found, layout=layout, variant=variant, config=config, format=kind)
        if not allow_nonfinite:
            _check_finite(checkpoint.params)
    except CheckpointError as error:
        raise error.in_file(path) from error.__cause__
    return checkpoint


def save_checkpoint(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    *,
    layout: str = "official",
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
    allow_nonfinite: bool = False,
) -> None:
    """Write parameters with their configuration as `.pth` (needs torch), `.safetensors` or `.npz`, told from the suffix.

    metadata: plain values to keep beside the weights; those that reading tells by itself (`layout`, …) are left out.
    force: overwrite an existing file. allow_nonfinite: let NaN and infinite weights pass.

    The file appears whole or not at all. Raises FileExistsError, and CheckpointError for parameters that do not fit, an unknown
    suffix, a layout in which the network does not exist, metadata that is not plain, or bfloat16 in an npz.
    """
    from scalablevit_ref.checkpoints.writing import write_file

    path = Path(path)
    try:
        state = to_state_dict(params, config, layout=layout)
        if not allow_nonfinite:
            _check_finite(state)
        beside = {name: value for name, value in (metadata or {}).items() if name not in _TOLD}
        for name, value in beside.items():
            if not isinstance(name, str) or not is_plain(value):
                raise CheckpointError("metadata must be plain values under names", key=str(name), found=type(value).__name__)
        write_file(path, state, config, layout=layout, metadata=json.loads(json.dumps(beside)), force=force)
    except CheckpointError as error:
        raise error.in_file(path) from error.__cause__


def _checkpoint(
    found: Found, *, layout: str | None, variant: str | None, config: ScalableViTConfig | None, format: str | None = None
) -> Checkpoint:
    if layout is None:
        layout = tell_layout(list(found.state))
    check_layout(layout)
    resolved = resolve_config(found, layout, config=config, variant_name=variant)
    told = {
        "layout": layout,
        "variant": exact_variant(resolved.config),
        "config_from": resolved.told_by,
        "wrapper": found.wrapper,
        "ema": found.wrapper is not None and found.wrapper.endswith("_ema"),
        "prefixes": found.prefixes,
        "ignored": found.ignored,
        "dtype": _dtype(found.state),
    }
    arrays = {name: x.read() if isinstance(x, StoredTensor) else to_numpy(x) for name, x in found.state.items()}
    params = {name: np.asarray(x, order="C") for name, x in to_canonical(arrays, resolved.config, layout).items()}
    return Checkpoint(params, resolved.config, found.beside | told | ({"format": format} if format else {}))


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


def _check_finite(state: Mapping[str, np.ndarray]) -> None:
    names = [name for name, x in state.items() if not np.isfinite(x).all()]
    if names:
        some = ", ".join(names[:8]) + (f", … and {len(names) - 8} more" if len(names) > 8 else "")
        raise CheckpointError(f"NaN or infinite weights ({len(names)} parameters): {some}; allow_nonfinite lets them pass")
