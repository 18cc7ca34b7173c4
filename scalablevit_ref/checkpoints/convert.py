"""One checkpoint file made into another, tensor by tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from scalablevit_ref.arguments import check_count, check_flag, check_function, check_instance, check_path, check_text
from scalablevit_ref.checkpoints.hub import CONFIG_JSON, HUB_FILE, merged, says, transformers_config, written_unasked
from scalablevit_ref.checkpoints.inspect import manifest
from scalablevit_ref.checkpoints.layouts import check_layout
from scalablevit_ref.checkpoints.load import check_dtype, one_dtype, open_checkpoint
from scalablevit_ref.checkpoints.save import WRITERS, Progress, keepable, state_writes
from scalablevit_ref.checkpoints.search import kinds
from scalablevit_ref.checkpoints.transformers_folder import PREPROCESSOR_JSON, TRANSFORMERS, preprocessor_config
from scalablevit_ref.config import near_matches
from scalablevit_ref.errors import CheckpointError, in_file
from scalablevit_ref.files.reading import read_regular
from scalablevit_ref.files.writing import check_outputs, write_contents, written
from scalablevit_ref.formats.lazy import LazyTensor, Tensor, in_memory, is_finite, numpy_dtype
from scalablevit_ref.formats.sharded import MOST_JSON
from scalablevit_ref.weights import Heads, Stated, Weights, Windows


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion may do, and what is stated of its source.

    Parameters
    ----------
    layout
        Of the target; None is "channels_last" for `.msgpack`, "keras" for `.h5`, "paddle" for `.pdparams`, "official" for others.
        "transformers" is the official one in a folder, the target, with all that transformers needs beside it.
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

    def __post_init__(self) -> None:
        for name in ("layout", "dtype"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        for name in ("strip_head", "fold_scale", "one_way", "use_ema", "force", "allow_nonfinite"):
            check_flag(name, getattr(self, name))
        if self.num_classes is not None:
            check_count("num_classes", self.num_classes, least=0)
        if self.config_json is not None:
            check_flag("config_json", self.config_json)
        if self.sha256 is not None:
            check_path("sha256", self.sha256)
        self.stated  # noqa: B018  (checks the rest)

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


def check_options(options: object) -> ConvertOptions:
    """The options, or those that ask for nothing. Raises TypeError for anything else."""
    made = ConvertOptions() if options is None else options
    check_instance("options", made, ConvertOptions, "ConvertOptions")
    return cast("ConvertOptions", made)


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
    check_path("source", source)
    check_path("target", target)
    known = [field.name for field in fields(ConvertOptions)]
    for name in keywords:
        if name not in known:
            raise TypeError(f"unknown option {name!r}{near_matches(name, known)}; there are {', '.join(known)}")
    if progress is not None:
        check_function("progress", progress)
    options = replace(check_options(options), **keywords)
    target = Path(target)
    if options.layout == TRANSFORMERS:
        with _folder(target):
            return _converted(source, target / HUB_FILE, replace(options, layout="official"), progress, for_transformers=True)
    return _converted(source, target, options, progress)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """A folder to write into; one that was not there is gone again where that fails."""
    if path.suffix in WRITERS or (os.path.lexists(path) and not path.is_dir()):
        raise CheckpointError("transformers opens folders", file=path, expected="the name of a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    is_new = not path.is_dir()
    path.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                path.rmdir()
        raise


def _converted(
    source: str | os.PathLike[str],
    target: Path,
    options: ConvertOptions,
    progress: Progress | None,
    *,
    for_transformers: bool = False,
) -> Converted:
    beside, preprocessor = target.with_name(CONFIG_JSON), target.with_name(PREPROCESSOR_JSON) if for_transformers else None
    _check_doable(options, Path(source), target, beside if options.config_json or for_transformers else None, preprocessor)
    with open_checkpoint(source, options.stated, use_ema=options.use_ema) as weights:
        made = conversion(weights, options, options.layout or weights.default_layout(target.suffix))
        changed, layout = made.changed, made.layout
        config_json = for_transformers or options.config_json
        if config_json is None and weights.other_network is None:
            config_json = written_unasked(target)
        document = changed.hub_config(layout, target.name) if config_json else None
        if for_transformers:
            document = transformers_config(changed.config, made.casts.dtype, guessed=weights.guessed)
        replaced = merged(beside, document)[1] if document else []
        with in_file(target):
            if config_json and document is None:
                raise CheckpointError(f"{CONFIG_JSON} is for the official network's weights", found=layout)
            writes = state_writes(
                target,
                made.state,
                None if changed.unknown else changed.config,
                layout=layout,
                metadata=made.metadata,
                guessed=weights.guessed,
                allow_nonfinite=options.allow_nonfinite,
                config_json=document,
                progress=progress,
                source=source,
            )
            if preprocessor is not None:
                text = json.dumps(preprocessor_config(changed.config), indent=2) + "\n"
                writes[preprocessor] = lambda file: file.write(text.encode())
            with written(writes, force=options.force):
                if options.sha256 is not None:
                    with open_checkpoint(target) as there:
                        sums = manifest_text(there.comparable())
                    write_contents({Path(options.sha256): sums}, force=options.force)
    stale = not config_json and os.path.lexists(beside) and not says(beside, changed.hub_config(layout, target.name))
    said = "written" if config_json else "stale" if stale else None
    return replace(made.done(), config_json=said, config_json_replaced=replaced)


@dataclass(frozen=True)
class Conversion:
    """Weights as they are to be written. `state` is read, and `casts` counts, when they are.

    Attributes
    ----------
    weights, changed
        What was read, and the network that is written.
    state
        The tensors that are written, under the names of the layout.
    metadata, unkept
        What is written beside them, and the names of what cannot be.
    """

    weights: Weights
    changed: Weights
    options: ConvertOptions
    layout: str
    casts: _Casts
    state: Mapping[str, Tensor]
    metadata: dict[str, Any]
    unkept: list[str]

    def done(self) -> Converted:
        """What was converted, once the state has been read."""
        read = self.weights.metadata
        return Converted(
            metadata=read | {"ignored": [*read["ignored"], *self.unkept]},
            config=self.changed.config,
            layout=self.layout,
            dtype=self.casts.dtype,
            parameters=sum(int(np.prod(x.shape)) for x in self.state.values()),
            dropped=[name for name in self.weights.params if name not in self.changed.params],
            folded=self.options.fold_scale,
            underflowed=sum(self.casts.underflowed.values()),
            overflowed=sum(self.casts.overflowed.values()),
            config_json=None,
            config_json_replaced=[],
        )


def conversion(weights: Weights, options: ConvertOptions, layout: str) -> Conversion:
    """Weights of an open file in a layout, changed as the options say. Raises CheckpointError for what is not possible."""
    metadata, unkept = keepable(weights.metadata)
    classes = weights.config.num_classes
    if options.num_classes is not None and classes != options.num_classes:
        raise CheckpointError("number of classes", key="num_classes", expected=options.num_classes, found=classes)
    _refuse_other_network(weights, layout)
    changed = weights.changed(strip_head=options.strip_head, fold_scale=options.fold_scale)
    casts = _Casts(options.dtype or one_dtype(weights.params), finite=not options.allow_nonfinite)
    state = changed.in_layout(layout, one_way=options.one_way, cast=casts)
    return Conversion(weights, changed, options, layout, casts, state, metadata, unkept)


def _check_doable(options: ConvertOptions, source: Path, target: Path, *beside: Path | None) -> None:
    """Raise for what could not be done or written, before the source is opened. beside: what is written with the target."""
    if target.suffix not in WRITERS:
        raise CheckpointError("unknown suffix", file=target, expected=", ".join(WRITERS), found=repr(target.suffix))
    if options.dtype is not None:
        check_dtype(options.dtype)
    if options.layout is not None:
        check_layout(options.layout, (*(layout for kind in kinds() for layout in kind.layouts), TRANSFORMERS))
    check_outputs((target, *beside, options.sha256), inputs=inputs(source, target), force=options.force)


def _refuse_other_network(weights: Weights, layout: str) -> None:
    """Raise CheckpointError where weights would have to become another network's."""
    if layout not in weights.layouts:
        other = weights.other_network or next(kind.other_network for kind in kinds() if layout in kind.layouts)
        raise CheckpointError(
            f"{weights.layout} weights cannot go into layout {layout!r}: a port's is {other}, and no weights make one compute what "
            "the other does"
        )


def inputs(source: Path, target: Path) -> list[Path]:
    """What is read, of which the target could be one: the source, or one that lies in it, or that it names if it is an index."""
    beside = source / target.name if source.is_dir() else source.with_name(target.name)
    named = source.is_dir()
    if source.name.endswith(".index.json"):
        with suppress(OSError):
            named = f'"{target.name}"'.encode(errors="replace") in read_regular(source, MOST_JSON)
    return [source, beside] if named and os.path.lexists(beside) else [source]


def manifest_text(params: Mapping[str, Any]) -> bytes:
    """The SHA-256 of each tensor, as `sha256sum` lays it out."""
    return "".join(f"{digest}  {name}\n" for name, digest in manifest(params).items()).encode()


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
