"""One checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.checkpoints.casting import Lost, cast_to
from scalablevit_ref.checkpoints.hub import describes
from scalablevit_ref.checkpoints.inspect import Progress, canonical, manifest, nothing, size_of
from scalablevit_ref.checkpoints.layouts import LAYOUTS, check_layout
from scalablevit_ref.checkpoints.load import Opened, to_state_dict
from scalablevit_ref.checkpoints.port_files import PORT_LAYOUTS, OpenedPort, Windows, open_any, refuse_other_network
from scalablevit_ref.checkpoints.port_operations import fold_ssa_scale
from scalablevit_ref.checkpoints.save import write_state
from scalablevit_ref.checkpoints.writing import CONFIG_JSON, WRITERS, write_atomically
from scalablevit_ref.checks import FLOATS
from scalablevit_ref.config import ScalableViTConfig, near_matches
from scalablevit_ref.dialects.config import Config, PerStage
from scalablevit_ref.errors import CheckpointError, naming
from scalablevit_ref.formats.lazy import LazyTensor, Tensor, values
from scalablevit_ref.parameters import parameter_shapes

FLAX_SUFFIX = ".msgpack"

HUB_FILE = "model.safetensors"
"""The name by which the Hugging Face hub and timm know a folder's weights."""


@dataclass(frozen=True)
class Converted:
    """What was converted: the source's metadata (`Checkpoint`), the configuration, layout and dtype written.

    config: of the official network or a port. folded: whether the scale of SSA was folded.
    underflowed, overflowed: values that were not zero and are, or that were finite and are infinite, in the dtype written.
    config_json: "written"; "stale" where there is one beside the target that does not describe it, and was left alone; or None.
    """

    metadata: dict[str, Any]
    config: ScalableViTConfig | Config
    layout: str
    dtype: str
    parameters: int
    dropped: list[str]
    folded: bool
    underflowed: int
    overflowed: int
    config_json: str | None


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    layout: str | None = None,
    dtype: str | None = None,
    variant: str | None = None,
    heads: PerStage | None = None,
    window_size: Windows = None,
    strip_head: bool = False,
    fold_scale: bool = False,
    one_way: bool = False,
    num_classes: int | None = None,
    use_ema: bool = True,
    force: bool = False,
    allow_nonfinite: bool = False,
    config_json: bool | None = False,
    sha256: str | os.PathLike[str] | None = None,
    progress: Callable[[int], Progress] | None = None,
    check: Callable[[Opened | OpenedPort], None] | None = None,
) -> Converted:
    """Convert a checkpoint into the format that the target's suffix says, without holding more than a tensor in memory.

    layout: of the target; None is "channels_last" for `.msgpack`, "official" for all others. A port's weights go into
        `port_files.PORT_LAYOUTS` only; None is their own, and "flax_port_patched" from vit_pytorch to `.msgpack`.
    dtype: "float16", "bfloat16", "float32" or "float64"; None keeps the file's. variant: what the weights are of, where the file
        does not tell. strip_head: leave the classifier out. num_classes: refuse a checkpoint of another number.
    heads, window_size: settings of a port's weights, to be kept beside them (`port_files.load_port`).
    fold_scale: a network whose SSA scales by d^-½, with r_c^-½ folded into q; rounded, and so one-way.
    one_way: leave out what the other port lacks, and so change the function.
    force: overwrite files, as `save_checkpoint` does. config_json: write a `config.json` beside the target, likewise; None does so
        for the official network's `model.safetensors`. Without it, one that is there is left as it is (`Converted.config_json`).
    sha256: write a manifest of the target's tensors (`sha256sum`'s format, official names) to this file.
    progress: told the bytes to be written, gives what is told those that are done. check: called with the source before anything
        is written, to refuse it.

    A `.pth` is the exception: torch writes it from memory. Raises CheckpointError, FileExistsError and FileNotFoundError before
    anything is written; non-finite weights and damage are found on the way, and leave nothing behind either.
    """
    target = Path(target)
    if target.suffix not in WRITERS:
        raise CheckpointError("unknown suffix", file=target, expected=", ".join(WRITERS), found=repr(target.suffix))
    if dtype is not None and dtype not in FLOATS:
        raise CheckpointError(f"unknown dtype {dtype!r}{near_matches(dtype, FLOATS)}; there are {', '.join(FLOATS)}")
    if layout is not None:
        check_layout(layout, LAYOUTS + PORT_LAYOUTS)
    if sha256 is not None:
        _check_manifest(Path(sha256), (Path(source), target, target.with_name(CONFIG_JSON)), force=force)
    with open_any(source, variant=variant, heads=heads, window_size=window_size, use_ema=use_ema) as opened:
        if check is not None:
            check(opened)
        if num_classes is not None and opened.config.num_classes != num_classes:
            raise CheckpointError("number of classes", key="num_classes", expected=num_classes, found=opened.config.num_classes)
        layout = layout or _own_layout(opened, target)
        refuse_other_network(layout, opened)
        lost: Lost = {}
        cast = partial(cast_to, finite=not allow_nonfinite, lost=lost)
        state, config, dropped = _in_layout(
            opened, layout, strip_head=strip_head, fold_scale=fold_scale, one_way=one_way, dtype=dtype, cast=cast
        )
        if config_json is None:
            config_json = target.name == HUB_FILE and isinstance(opened, Opened)
        with naming(target):
            write_state(
                target,
                state,
                None if isinstance(opened, OpenedPort) and not opened.told else config,
                layout=layout,
                metadata=opened.metadata,
                force=force,
                allow_nonfinite=allow_nonfinite,
                config_json=config_json,
                progress=progress(size_of(state)) if progress else nothing,
            )
    if sha256 is not None:
        write_manifest(target, Path(sha256), force=force)
    count = sum(int(np.prod(x.shape)) for x in state.values())
    beside = target.with_name(CONFIG_JSON)
    stale = not config_json and os.path.lexists(beside) and not describes(beside, config, layout)
    return Converted(
        metadata=opened.metadata,
        config=config,
        layout=layout,
        dtype=dtype or opened.metadata["dtype"],
        parameters=count,
        dropped=dropped,
        folded=fold_scale,
        underflowed=sum(underflowed for underflowed, _ in lost.values()),
        overflowed=sum(overflowed for _, overflowed in lost.values()),
        config_json="written" if config_json else "stale" if stale else None,
    )


def _check_manifest(path: Path, others: tuple[Path, ...], *, force: bool) -> None:
    """Raise where the manifest could not be written, once the weights are."""
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{path} exists; force=True overwrites it")
    if path.resolve() in [other.resolve() for other in others]:
        raise CheckpointError("the manifest needs a file of its own", file=path)
    if not path.parent.is_dir() or path.is_dir():
        raise CheckpointError("the manifest cannot be written there", file=path, expected="the name of a file in a folder")


def _own_layout(opened: Opened | OpenedPort, target: Path) -> str:
    if isinstance(opened, OpenedPort):
        return "flax_port_patched" if (opened.layout, target.suffix) == ("vit_pytorch", FLAX_SUFFIX) else opened.layout
    return "channels_last" if target.suffix == FLAX_SUFFIX else "official"


def _in_layout(
    opened: Opened | OpenedPort,
    layout: str,
    *,
    strip_head: bool,
    fold_scale: bool,
    one_way: bool,
    dtype: str | None,
    cast: Callable[..., Any],
) -> tuple[Mapping[str, Any], ScalableViTConfig | Config, list[str]]:
    """The tensors to be written, their configuration, and the official names that are left out."""
    if isinstance(opened, OpenedPort):
        if strip_head or fold_scale:
            raise CheckpointError("a port's weights have a head and no r_c in their scale: nothing to strip or to fold")
        moved = opened.as_layout(layout, one_way=one_way)
        return {name: cast(name, x, dtype) for name, x in moved.items()}, opened.config, []
    if one_way:
        raise CheckpointError("one_way=True is for a port's weights; every layout of the official network is lossless")
    kept = without_head(opened) if strip_head else opened
    kept = with_folded_scale(kept) if fold_scale else kept
    params = {name: cast(name, x, dtype or opened.metadata["dtype"]) for name, x in kept.params.items()}
    dropped = [name for name in opened.params if name not in params]
    return to_state_dict(params, kept.config, layout=layout), kept.config, dropped


def write_manifest(path: Path, target: Path, *, force: bool) -> None:
    """The manifest of what a checkpoint file holds, as `sha256sum` lays it out."""
    with open_any(path) as opened:
        lines = "".join(f"{digest}  {name}\n" for name, digest in manifest(canonical(opened)).items())
    write_atomically({target: lambda file: file.write(lines.encode())}, force=force)


def without_head(opened: Opened) -> Opened:
    """The same network with its pooled features for a result."""
    config = replace(opened.config, head="none", num_classes=0)
    return replace(opened, config=config, params={name: opened.params[name] for name in parameter_shapes(config)})


def with_folded_scale(opened: Opened) -> Opened:
    """The same function from a network with ssa_scale="head_dim": each SSA's r_c^-½ in its q, then in float64 and not yet rounded.

    What r_c = 1 has stays as it is.
    """
    if opened.config.ssa_scale == "head_dim":
        raise CheckpointError("the scale of SSA is d^-½ already", expected="ssa_scale='scaled'", found="ssa_scale='head_dim'")
    params = dict(opened.params)
    for k, (depth, ratio) in enumerate(zip(opened.config.depths, opened.config.c_ratios, strict=True)):
        if ratio != 1:
            for name in (f"stages.{k}.{i}.attn.q.{leaf}" for i in range(1, depth, 2) for leaf in ("weight", "bias")):
                if name in params:
                    params[name] = _folded(params[name], name.rpartition("attn.")[2], ratio)
    return replace(opened, config=replace(opened.config, ssa_scale="head_dim"), params=params)


def _folded(x: Tensor, name: str, ratio: float) -> LazyTensor:
    wide = np.dtype(np.float64)
    return LazyTensor(tuple(x.shape), wide, lambda: fold_ssa_scale({name: values(x).astype(wide)}, c_ratio=ratio)[name])
