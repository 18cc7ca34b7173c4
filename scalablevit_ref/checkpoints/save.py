"""Parameters written as a checkpoint file, with their configuration beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalablevit_ref.checkpoints.load import to_state_dict
from scalablevit_ref.checkpoints.recognise import EMA_FROM, EMA_WRAPPERS, is_plain
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, naming
from scalablevit_ref.formats.lazy import blocks, check_finite, is_lazy

if TYPE_CHECKING:
    from scalablevit_ref.dialects.config import Config  # a third of what importing this package would cost

_TOLD = ("layout", "variant", "config_from", "wrapper", "ema", "prefixes", "ignored", "dtype", "format")
"""Metadata that reading tells by itself."""


def save_checkpoint(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    *,
    layout: str = "official",
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
    allow_nonfinite: bool = False,
    config_json: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write parameters with their configuration as `.pth` (needs torch), `.safetensors`, `.npz` or Flax `.msgpack`, by the suffix.

    params: arrays, or the tensors of an `open_checkpoint`, which but for `.pth` are then read and written one at a time.
    metadata: plain values to keep beside the weights; those that reading tells by itself (`layout`, …) are left out, but that an
        EMA's were these weights (`wrapper`) is kept as `ema_from`.
    force: overwrite an existing file, whose permissions are kept. A symbolic link is replaced, and what it points to left alone.
    allow_nonfinite: let NaN and infinite weights pass.
    config_json: write a `config.json` beside it, as timm and the Hugging Face hub have it (`hub_config`).
    progress: told the bytes of each tensor that is written.

    The file appears whole or not at all. Raises FileExistsError, and CheckpointError for parameters that do not fit, an unknown
    suffix, a layout in which the network does not exist, metadata that is not plain, or bfloat16 in an npz.
    """
    with naming(path):
        state = to_state_dict(params, config, layout=layout)
        write_state(
            Path(path),
            state,
            config,
            layout=layout,
            metadata=metadata or {},
            force=force,
            allow_nonfinite=allow_nonfinite,
            config_json=config_json,
            progress=progress,
        )


def write_state(
    path: Path,
    state: Mapping[str, Any],
    config: ScalableViTConfig | Config | None,
    *,
    layout: str,
    metadata: Mapping[str, Any],
    force: bool,
    allow_nonfinite: bool,
    config_json: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """`save_checkpoint` of what is in its layout already; config: of the official network or a port, None if not known."""
    from scalablevit_ref.checkpoints.writing import Contents, write_file

    if not allow_nonfinite:
        check_finite({name: x for name, x in state.items() if not is_lazy(x)})
    beside = {name: value for name, value in metadata.items() if name not in _TOLD}
    if metadata.get("wrapper") in EMA_WRAPPERS:
        beside[EMA_FROM] = metadata["wrapper"]
    for name, value in beside.items():
        if not isinstance(name, str) or not is_plain(value):
            raise CheckpointError("metadata must be plain values under names", key=str(name), found=type(value).__name__)

    def read(name: str) -> Iterator[np.ndarray]:
        for block in blocks(state[name]):
            if is_lazy(state[name]) and not allow_nonfinite:
                check_finite({name: block})
            yield block
            if progress is not None:
                progress(block.nbytes)

    contents = Contents(state, config, layout, json.loads(json.dumps(beside)), read)
    write_file(path, contents, force=force, config_json=config_json)
