"""One checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.checkpoints.checkpoint import Opened, open_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.contents import Progress, manifest, nothing, size_of
from scalablevit_ref.checkpoints.errors import CheckpointError
from scalablevit_ref.checkpoints.stored import LazyTensor, is_finite, numpy_dtype, values
from scalablevit_ref.checkpoints.writing import WRITERS, write_atomically
from scalablevit_ref.checks import FLOATS
from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.parameters import parameter_shapes

FLAX_SUFFIX = ".msgpack"


@dataclass(frozen=True)
class Converted:
    """What was converted: the source's metadata (`Checkpoint`), the configuration, layout and dtype written."""

    metadata: dict[str, Any]
    config: ScalableViTConfig
    layout: str
    dtype: str
    parameters: int
    dropped: list[str]


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    layout: str | None = None,
    dtype: str | None = None,
    variant: str | None = None,
    strip_head: bool = False,
    num_classes: int | None = None,
    use_ema: bool = True,
    force: bool = False,
    allow_nonfinite: bool = False,
    config_json: bool = False,
    sha256: str | os.PathLike[str] | None = None,
    progress: Callable[[int], Progress] | None = None,
) -> Converted:
    """Convert a checkpoint into the format that the target's suffix says, without holding more than a tensor in memory.

    layout: of the target; None is "channels_last" for `.msgpack`, "official" for all others.
    dtype: "float16", "bfloat16", "float32" or "float64"; None keeps the file's. variant: what the weights are of, where the file
        does not tell. strip_head: leave the classifier out. num_classes: refuse a checkpoint of another number.
    sha256: write a manifest of the target's tensors (`sha256sum`'s format, official names) to this file.
    progress: told the bytes to be written, gives what is told those that are done.

    A `.pth` is the exception: torch writes it from memory. Raises CheckpointError, FileExistsError and FileNotFoundError before
    anything is written; non-finite weights and damage are found on the way, and leave nothing behind either.
    """
    target = Path(target)
    if target.suffix not in WRITERS:
        raise CheckpointError("unknown suffix", file=target, expected=", ".join(WRITERS), found=repr(target.suffix))
    if dtype is not None and dtype not in FLOATS:
        raise CheckpointError(f"unknown dtype {dtype!r}{near_matches(dtype, FLOATS)}; there are {', '.join(FLOATS)}")
    if sha256 is not None and os.path.lexists(sha256) and not force:
        raise FileExistsError(f"{sha256} exists; force overwrites it")
    layout = layout or ("channels_last" if target.suffix == FLAX_SUFFIX else "official")
    with open_checkpoint(source, variant=variant, use_ema=use_ema) as opened:
        if num_classes is not None and opened.config.num_classes != num_classes:
            raise CheckpointError("number of classes", key="num_classes", expected=num_classes, found=opened.config.num_classes)
        kept = without_head(opened) if strip_head else opened
        params = {name: cast_to(name, x, dtype, allow_nonfinite) for name, x in kept.params.items()}
        save_checkpoint(
            target,
            params,
            kept.config,
            layout=layout,
            metadata=opened.metadata,
            force=force,
            allow_nonfinite=allow_nonfinite,
            config_json=config_json,
            progress=progress(size_of(params)) if progress else nothing,
        )
        dropped = [name for name in opened.params if name not in kept.params]
    if sha256 is not None:
        write_manifest(target, Path(sha256), force=force)
    sizes = parameter_shapes(kept.config).values()
    written = dtype or opened.metadata["dtype"]
    return Converted(opened.metadata, kept.config, layout, written, sum(int(np.prod(s)) for s in sizes), dropped)


def write_manifest(path: Path, target: Path, *, force: bool) -> None:
    """The manifest of what a checkpoint file holds, as `sha256sum` lays it out."""
    with open_checkpoint(path) as opened:
        lines = "".join(f"{digest}  {name}\n" for name, digest in manifest(opened.params).items())
    write_atomically({target: lambda file: file.write(lines.encode())}, force=force)


def without_head(opened: Opened) -> Opened:
    """The same network with its pooled features for a result."""
    config = replace(opened.config, head="none", num_classes=0)
    return replace(opened, config=config, params={name: opened.params[name] for name in parameter_shapes(config)})


def cast_to(name: str, x: Any, dtype: str | None, allow_nonfinite: bool = False) -> Any:
    """A tensor that becomes another dtype when it is read. Raises CheckpointError then for a finite value that overflows."""
    if dtype is None or x.dtype.name == dtype:
        return x

    def read() -> np.ndarray:
        given = values(x)
        with np.errstate(over="ignore", invalid="ignore"):
            made = given.astype(numpy_dtype(dtype))
        if not allow_nonfinite and not is_finite(made) and is_finite(given):
            largest = float(np.abs(given.astype(np.float64)).max())
            raise CheckpointError(f"values too large for {dtype}", key=name, found=f"up to {largest:.4g}")
        return made

    return LazyTensor(tuple(x.shape), numpy_dtype(dtype), read)
