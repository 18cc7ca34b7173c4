"""One checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.checkpoints.hub import CONFIG_JSON, merged, says, written_unasked
from scalablevit_ref.checkpoints.inspect import manifest
from scalablevit_ref.checkpoints.layouts import check_layout
from scalablevit_ref.checkpoints.load import check_dtype, one_dtype, open_checkpoint
from scalablevit_ref.checkpoints.save import WRITERS, Progress, keepable, write_state
from scalablevit_ref.checkpoints.search import kinds
from scalablevit_ref.config import near_matches
from scalablevit_ref.errors import CheckpointError, in_file
from scalablevit_ref.files.writing import check_overwriting, write_atomically
from scalablevit_ref.formats.lazy import LazyTensor, Tensor, in_memory, is_finite, numpy_dtype
from scalablevit_ref.weights import Heads, Stated, Weights, Windows


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion may do, and what is stated of its source.

    Parameters
    ----------
    layout
        Of the target; None is "channels_last" for `.msgpack`, "keras" for `.h5`, "paddle" for `.pdparams`, "official" for others.
        A port's weights go into a port's layouts only; None is their own, and "flax_port_patched" from vit_pytorch to `.msgpack`.
    dtype
        "float16", "bfloat16", "float32" or "float64"; None keeps the file's.
    variant
        What the weights are of, where the file does not tell.
    heads, window_size
        Settings of a port's weights, to be kept beside them (`load_port`).
    strip_head
        Leave the classifier out.
    fold_scale
        Write a network whose SSA scales by d^-½, with r_c^-½ folded into q; rounded, and so one-way.
    one_way
        Leave out what the other port lacks, and so change the function.
    num_classes
        Refuse a checkpoint of another number.
    key, use_ema
        Where the weights lie, and whether an average of them is preferred, as in `load_checkpoint`.
    force
        Overwrite files, as `save_checkpoint` does.
    allow_nonfinite
        Let NaN and infinite weights pass.
    config_json
        Write a `config.json` beside the target, likewise, into one that is there: what has other names in it is kept. None does so
        for the official network's `model.safetensors`, unless another tool's is there, and where one of this package is there that
        describes the target. One that is not written is left as it is (`Converted.config_json`).
    sha256
        Write a manifest of the target's tensors (`sha256sum`'s format, official names) to this file.
    """

    layout: str | None = None
    dtype: str | None = None
    variant: str | None = None
    heads: Heads = None
    window_size: Windows = None
    strip_head: bool = False
    fold_scale: bool = False
    one_way: bool = False
    num_classes: int | None = None
    key: str | None = None
    use_ema: bool = True
    force: bool = False
    allow_nonfinite: bool = False
    config_json: bool | None = False
    sha256: str | os.PathLike[str] | None = None

    @property
    def stated(self) -> Stated:
        return Stated(variant=self.variant, heads=self.heads, window_size=self.window_size, key=self.key)


@dataclass(frozen=True)
class Converted:
    """What was converted: the source's metadata (`Checkpoint`), the configuration, layout and dtype written.

    Attributes
    ----------
    config
        Of the official network or a port.
    folded
        Whether the scale of SSA was folded.
    underflowed, overflowed
        Values that were not zero and are, or that were finite and are infinite, in the dtype written.
    config_json
        "written"; "stale" where there is one beside the target that does not describe it, and was left alone; or None.
    config_json_replaced
        Entries of the one that was there which are others now.
    """

    metadata: dict[str, Any]
    config: Any
    layout: str
    dtype: str
    parameters: int
    dropped: list[str]
    folded: bool
    underflowed: int
    overflowed: int
    config_json: str | None
    config_json_replaced: list[str]


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: ConvertOptions | None = None,
    *,
    progress: Progress | None = None,
    **keywords: Any,
) -> Converted:
    """Convert a checkpoint into the format that the target's suffix says, without holding more than a tensor in memory.

    A `.pth` is the exception: torch writes it from memory.

    Parameters
    ----------
    source, target
        The file to read, and the one to write.
    options
        What is to be done.
    progress
        Called with the bytes that are written and those that there are.
    **keywords
        The fields of `ConvertOptions`, by their names.

    Raises
    ------
    CheckpointError, FileExistsError, FileNotFoundError
        Before anything is written; non-finite weights and damage are found on the way, and leave nothing behind either.
    TypeError
        For an option that does not exist.
    """
    known = [field.name for field in fields(ConvertOptions)]
    for name in keywords:
        if name not in known:
            raise TypeError(f"unknown option {name!r}{near_matches(name, known)}; there are {', '.join(known)}")
    options = replace(options or ConvertOptions(), **keywords)
    target = Path(target)
    _check_options(options, Path(source), target)
    with open_checkpoint(source, options.stated, use_ema=options.use_ema) as weights:
        metadata, unkept = keepable(weights.metadata)
        classes = weights.config.num_classes
        if options.num_classes is not None and classes != options.num_classes:
            raise CheckpointError("number of classes", key="num_classes", expected=options.num_classes, found=classes)
        layout = options.layout or weights.default_layout(target.suffix)
        _refuse_other_network(weights, layout)
        changed = weights.changed(strip_head=options.strip_head, fold_scale=options.fold_scale)
        casts = _Casts(options.dtype or one_dtype(weights.params), finite=not options.allow_nonfinite)
        state = changed.in_layout(layout, one_way=options.one_way, cast=casts)
        config_json, beside = options.config_json, target.with_name(CONFIG_JSON)
        if config_json is None and weights.other_network is None:
            config_json = written_unasked(target)
        document = changed.hub_config(layout, target.name) if config_json else None
        replaced = merged(beside, document)[1] if document else []
        with in_file(target):
            if config_json and document is None:
                raise CheckpointError(f"{CONFIG_JSON} is for the official network's weights", found=layout)
            write_state(
                target,
                state,
                None if changed.unknown else changed.config,
                layout=layout,
                metadata=metadata,
                guessed=weights.guessed,
                force=options.force,
                allow_nonfinite=options.allow_nonfinite,
                config_json=document,
                progress=progress,
                source=source,
            )
    if options.sha256 is not None:
        _write_manifest(target, Path(options.sha256), force=options.force)
    stale = not config_json and os.path.lexists(beside) and not says(beside, changed.hub_config(layout, target.name))
    return Converted(
        metadata=weights.metadata | {"ignored": [*weights.metadata["ignored"], *unkept]},
        config=changed.config,
        layout=layout,
        dtype=casts.dtype,
        parameters=sum(int(np.prod(x.shape)) for x in state.values()),
        dropped=[name for name in weights.params if name not in changed.params],
        folded=options.fold_scale,
        underflowed=sum(casts.underflowed.values()),
        overflowed=sum(casts.overflowed.values()),
        config_json="written" if config_json else "stale" if stale else None,
        config_json_replaced=replaced,
    )


def _check_options(options: ConvertOptions, source: Path, target: Path) -> None:
    """Raise for what could not be done or written, before the source is opened."""
    if target.suffix not in WRITERS:
        raise CheckpointError("unknown suffix", file=target, expected=", ".join(WRITERS), found=repr(target.suffix))
    if options.dtype is not None:
        check_dtype(options.dtype)
    if options.layout is not None:
        check_layout(options.layout, tuple(layout for kind in kinds() for layout in kind.layouts))
    if options.sha256 is not None:
        path = Path(options.sha256)
        check_overwriting(path, force=options.force)
        if path.resolve() in [other.resolve() for other in (source, target, target.with_name(CONFIG_JSON))]:
            raise CheckpointError("the manifest needs a file of its own", file=path)
        if not path.parent.is_dir() or path.is_dir():
            raise CheckpointError("the manifest cannot be written there", file=path, expected="the name of a file in a folder")


def _refuse_other_network(weights: Weights, layout: str) -> None:
    """Raise CheckpointError where weights would have to become another network's."""
    if layout not in weights.layouts:
        other = weights.other_network or next(kind.other_network for kind in kinds() if layout in kind.layouts)
        raise CheckpointError(
            f"{weights.layout} weights cannot go into layout {layout!r}: a port's is {other}, and no weights make one compute what "
            "the other does"
        )


def _write_manifest(checkpoint: Path, target: Path, *, force: bool) -> None:
    """The manifest of what a checkpoint file holds, as `sha256sum` lays it out."""
    with open_checkpoint(checkpoint) as weights:
        lines = "".join(f"{digest}  {name}\n" for name, digest in manifest(weights.comparable()).items())
    write_atomically({target: lambda file: file.write(lines.encode())}, force=force)


class _Casts:
    """Makes tensors another dtype when they are read, and counts by name what that loses.

    Parameters
    ----------
    finite
        Raise CheckpointError in place of an infinite value that was finite.
    """

    def __init__(self, dtype: str, *, finite: bool) -> None:
        self.dtype, self._finite = dtype, finite
        self.underflowed: dict[str, int] = {}
        self.overflowed: dict[str, int] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if x.dtype.name == self.dtype:
            return x

        def read() -> np.ndarray:
            given = in_memory(x)
            with np.errstate(over="ignore", invalid="ignore"):
                made = given.astype(numpy_dtype(self.dtype))
            if self._finite and not is_finite(made) and is_finite(given):
                largest = float(np.abs(given.astype(np.float64)).max())
                raise CheckpointError(f"values too large for {self.dtype}", key=name, found=f"up to {largest:.4g}")
            self.underflowed[name] = int(np.count_nonzero(given) - np.count_nonzero(made))
            self.overflowed[name] = int(np.count_nonzero(np.isinf(made)) - np.count_nonzero(np.isinf(given)))
            return made

        return LazyTensor(tuple(x.shape), numpy_dtype(self.dtype), read)
