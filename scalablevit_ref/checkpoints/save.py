"""Parameters written as a checkpoint file, with their configuration beside them. Its suffix is its format.

What only writing needs is imported where it is used: the package's import would wait for it.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from scalablevit_ref.arguments import check_flag, check_function, check_mapping, check_path
from scalablevit_ref.backends import to_backend
from scalablevit_ref.checkpoints.infer import OFFICIAL_MODEL, exact_variant
from scalablevit_ref.checkpoints.layouts import LAYOUTS
from scalablevit_ref.checkpoints.load import to_state_dict
from scalablevit_ref.checkpoints.notes import NOTES, as_texts, is_plain, noted, read_notes
from scalablevit_ref.config import ScalableViTConfig, check_config
from scalablevit_ref.errors import CheckpointError, Spelling, in_file
from scalablevit_ref.formats.lazy import Blocks, blocks, byte_count, check_finite, is_lazy
from scalablevit_ref.weights import EMA_FROM, GUESSED

OFFICIAL_VARIANTS = ("small", "small_0", "base", "large")
"""Those that the authors' training script can name."""

_TOLD_BY_READING = {
    "layout",
    "variant",
    "config_from",
    "wrapper",
    "ema",
    "prefixes",
    "ignored",
    "others",
    "unread",
    "by_position",
    "dtype",
    "format",
}
"""Metadata that is not kept, since it describes the file that was read."""

LONGEST_METADATA = 1_000_000
"""Longest metadata that are written, in characters of JSON. With a configuration they are a text that every format's reader takes:
the npz's takes an array of 4 MB."""

MOST_ARRAYS = 9_000
"""Most arrays that are written: as many as every format's reader takes."""

FRAMEWORKS = {
    "official": "pt",
    "mmdet": "pt",
    "split": "pt",
    "vit_pytorch": "pt",
    "channels_last": "flax",
    "flax_port": "flax",
    "flax_port_patched": "flax",
    "keras": "tf",
    "mlx": "mlx",
    "paddle": "pt",
}
"""What a safetensors header calls the framework whose axes a layout has; accelerate and transformers refuse a file without such a
word, and accelerate one whose kernels are not torch's. Of what is no layout it is "np"."""

Progress: TypeAlias = Callable[[int, int], object]
"""Called with the bytes that are done and those that there are."""


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
    progress: Progress | Callable[[int], object] | None = None,
) -> None:
    """Write parameters with their configuration. The suffix of the path is the format; the file appears whole or not at all.

    There are `.pth` and `.pt` (need torch), `.safetensors`, `.npz`, Flax's `.msgpack`, Keras' `.h5` (needs h5py, takes layout
    "keras" alone) and PaddlePaddle's `.pdparams` (takes layout "paddle" alone). `adapters.onnx.export` writes ONNX.

    Parameters
    ----------
    path
        To be written.
    params
        Arrays, or tensors still in an open checkpoint, which but for `.pth` are then read and written one at a time.
    config
        The configuration that they fit.
    layout
        "official", "mmdet", "split", "channels_last", "keras", "mlx" or "paddle".
    metadata
        Plain values to keep beside the weights; those that reading tells by itself (`layout`, …) are left out, but that an EMA's
        were these weights (`wrapper`) is kept as `ema_from`, and that the configuration is a guess (`config_from`) stays noted.
    force
        Overwrite an existing file, whose permissions are kept. A symbolic link is replaced, and what it points to left alone.
    allow_nonfinite
        Let NaN and infinite weights pass.
    config_json
        Write a `config.json` beside it, as timm and the Hugging Face hub have it (`hub_config`); entries that are in one already
        and have other names are kept.
    progress
        Called with the bytes that are written and those that there are; a function of one argument with those of each tensor.

    Raises
    ------
    FileExistsError
        Unless `force`.
    CheckpointError
        For parameters that do not fit, an unknown suffix, a layout in which the network does not exist, metadata that is not plain
        or longer than can be read again, bfloat16 in an npz, or a `config.json` of this package that says otherwise of this file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from scalablevit_ref import init_params, load_checkpoint, variant
    >>> config = variant("digits")
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "digits.safetensors"
    ...     save_checkpoint(path, init_params(config), config, metadata={"epoch": 3})
    ...     load_checkpoint(path).metadata["epoch"]
    3
    """
    from scalablevit_ref.checkpoints.hub import hub_config

    check_path("path", path)
    for name, value in (("force", force), ("allow_nonfinite", allow_nonfinite), ("config_json", config_json)):
        check_flag(name, value)
    metadata = {} if metadata is None else metadata
    check_mapping("metadata", metadata)
    check_config(config)
    if progress is not None:
        check_function("progress", progress)
    guessed = metadata.get("config_from") == GUESSED and metadata.get("variant") == exact_variant(config)
    with in_file(path):
        state = to_state_dict(params, config, layout=layout)
        write_state(
            Path(path),
            state,
            config,
            layout=layout,
            metadata=metadata,
            guessed=guessed,
            force=force,
            allow_nonfinite=allow_nonfinite,
            config_json=hub_config(config, layout, file=Path(path).name, guessed=guessed) if config_json else None,
            progress=progress and _of_both(progress),
        )


def _of_both(progress: Progress | Callable[[int], object]) -> Progress:
    """A function of one argument is told the bytes of each tensor."""
    try:
        signature(progress).bind(0, 0)
    except ValueError:  # a function of C that does not say
        return progress  # type: ignore[return-value]
    except TypeError:
        told = 0

        def tell(done: int, total: int) -> None:
            nonlocal told
            size, told = done - told, done
            progress(size)  # type: ignore[call-arg]

        return tell
    return progress  # type: ignore[return-value]


def write_state(
    path: Path,
    state: Mapping[str, Any],
    config: Any,
    *,
    layout: str,
    metadata: Mapping[str, Any] | None = None,
    guessed: bool = False,
    force: bool,
    allow_nonfinite: bool,
    config_json: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write what `state_writes` gives. Nothing is left behind where that fails. Raises as `save_checkpoint` does."""
    from scalablevit_ref.files.writing import write_atomically

    writes = state_writes(
        path,
        state,
        config,
        layout=layout,
        metadata=metadata,
        guessed=guessed,
        allow_nonfinite=allow_nonfinite,
        config_json=config_json,
        progress=progress,
    )
    write_atomically(writes, force=force)


def state_writes(
    path: Path,
    state: Mapping[str, Any],
    config: Any,
    *,
    layout: str,
    metadata: Mapping[str, Any] | None = None,
    guessed: bool = False,
    allow_nonfinite: bool,
    config_json: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    source: str | os.PathLike[str] | None = None,
) -> dict[Path, Callable[[BinaryIO], object]]:
    """What writes arrays, or tensors still in a file, that are in their layout already, in the format that the suffix says.

    `config` is that of any network, None if it is unknown, `guessed` by its shapes alone; `config_json` goes into a file of that
    name beside the weights. Raises as `save_checkpoint` does, but for what is there already; what is wrong with a tensor names
    `source`, the file that it lies in, if that is told.
    """
    from scalablevit_ref.checkpoints.hub import CONFIG_JSON, merged, refuse_contradiction

    if not allow_nonfinite:
        check_finite({name: x for name, x in state.items() if not is_lazy(x)})
    kept = all_kept(metadata or {})
    check_target(path, layout)
    if len(state) > MOST_ARRAYS:
        raise CheckpointError("more arrays than can be read again", expected=f"at most {MOST_ARRAYS}", found=len(state))
    variant, settings = exact_variant(config), asdict(config) if config else None
    notes = noted(settings, layout=layout, variant=variant, guessed=guessed, metadata=kept)
    count = counter(progress, byte_count(state.values()))

    def read(name: str) -> Iterator[np.ndarray]:
        with in_file(source) if source is not None else nullcontext():
            for block in blocks(state[name]):
                if is_lazy(state[name]) and not allow_nonfinite:
                    check_finite({name: block})
                yield block
                count(block.nbytes)

    contents = _Contents(state, notes, read)
    _rehearse(path.suffix, contents)
    writes: dict[Path, Callable[[BinaryIO], object]] = {path: lambda file: WRITERS[path.suffix](file, contents)}
    beside = path.with_name(CONFIG_JSON)
    if config_json is not None:
        text = json.dumps(merged(beside, config_json)[0], indent=2) + "\n"
        writes[beside] = lambda file: file.write(text.encode())
    else:
        refuse_contradiction(path, state, layout, config)
    return writes


def all_kept(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that are written beside the weights. Raises CheckpointError where some cannot be."""
    kept, others = keepable(metadata)
    if others:
        expected, found = f"at most {LONGEST_METADATA:,} characters of JSON", type(metadata.get(others[0])).__name__
        raise CheckpointError("metadata must be plain values under names", key=others[0], expected=expected, found=found)
    return kept


def keepable(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The metadata that can be written beside the weights, as JSON has it, and the names of what cannot.

    That is what is no plain value, a number of thousands of digits, and what would make it all longer than can be read again.
    """
    given = {name: value for name, value in metadata.items() if name not in _TOLD_BY_READING}
    if metadata.get("ema") and metadata.get("wrapper"):
        given.setdefault(EMA_FROM, metadata["wrapper"])
    kept: dict[str, Any] = {}
    left = LONGEST_METADATA
    for name, value in given.items():
        if isinstance(name, str) and is_plain(value):
            with suppress(ValueError):
                text = json.dumps({name: value})
                if len(text) <= left:
                    kept |= json.loads(text)
                    left -= len(text)
    return kept, [str(name) for name in given if name not in kept]


_SMALL = 1 << 10
"""Size of an array, in bytes, below which a reader may hold it in memory beside the file's other parts."""


def _rehearse(suffix: str, contents: _Contents) -> None:
    """Write the same file with next to no numbers in it, into memory, and read it.

    What the format's reader refuses for its length, its number of parts or its nesting is so refused before there is a file, by
    the very limits of the reader. Raises CheckpointError.
    """
    from scalablevit_ref.checkpoints.tree import leaves
    from scalablevit_ref.formats.detect import read_bytes

    _check_sizes(suffix, contents)
    few = {
        name: np.zeros(x.shape if math.prod(x.shape) * x.dtype.itemsize < _SMALL else (0,) * len(x.shape), x.dtype)
        for name, x in contents.state.items()
    }
    file = io.BytesIO()
    try:
        WRITERS[suffix](file, _Contents(few, contents.notes, lambda name: [few[name].reshape(-1)]))
    except CheckpointError:
        raise
    except (OSError, ValueError, OverflowError, struct.error) as error:  # no disk takes part
        raise CheckpointError(f"a {suffix} file cannot hold this ({' '.join(str(error).split())})") from error
    tree, notes, _ = read_bytes(file.getvalue())
    if (held := sum(leaf.is_array for leaf in leaves(tree))) != len(few):
        raise CheckpointError("arrays that would not all be found again", expected=f"{len(few)} arrays", found=held)
    if contents.layout in LAYOUTS or suffix not in _WITHOUT_NOTES:
        stored = read_notes({name: value for name, value in tree.items() if name == NOTES} | notes)
        if json.dumps(stored.metadata) != json.dumps(contents.notes["metadata"]):
            raise CheckpointError("metadata that would not be read as they are", key="metadata")


_WITHOUT_NOTES = (".pth", ".pt")
"""Suffixes of the files that hold no notes of a port's weights: they are a bare state dict there."""


def _check_sizes(suffix: str, contents: _Contents) -> None:
    """Raise CheckpointError for what a format cannot hold because of the sizes of its arrays."""
    from scalablevit_ref.formats.msgpack import check_msgpack
    from scalablevit_ref.formats.safetensors import check_safetensors

    if suffix == ".msgpack":
        check_msgpack(contents.state)
    if suffix == ".safetensors":
        check_safetensors(contents.state, _safetensors_notes(contents))


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that is told the bytes of each step, and calls `progress` with those of all steps."""
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return count


@dataclass(frozen=True)
class _Contents:
    """What a file is to hold. `state` says names, shapes and dtypes, in a layout's order; `read` gives its values."""

    state: Mapping[str, Any]
    notes: dict[str, Any]
    read: Blocks

    @property
    def layout(self) -> str:
        return str(self.notes["layout"])


def _write_pth(file: BinaryIO, contents: _Contents) -> None:
    """As the authors' training script (wrapper `model`) or mmdet (wrapper `state_dict`) writes; a port's as a bare state dict.

    Nothing but tensors and plain containers, so that torch loads it with `weights_only`: the script's `args` is a dict here.
    All tensors are in memory at once.

    torch is given a file: given a path, it would name its records after it, and equal weights would make unequal files.
    """
    tensors = OrderedDict((name, to_backend(_whole(x, contents.read(name)), "torch")) for name, x in contents.state.items())
    if contents.layout not in LAYOUTS:
        _torch_save(tensors, file)
        return
    notes = contents.notes
    wrapped: dict[str, Any] = {"meta": {}, "state_dict": tensors} if contents.layout == "mmdet" else {"model": tensors}
    if notes.get("variant") in OFFICIAL_VARIANTS and "config_from" not in notes:
        wrapped |= {"args": {"model": f"{OFFICIAL_MODEL}{notes['variant']}"}}
    if type(epoch := notes["metadata"].get("epoch")) is int and abs(epoch) < 1 << 63:
        wrapped |= {"epoch": epoch}
    _torch_save(wrapped | {NOTES: as_texts(notes)}, file)


def _whole(like: Any, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """One array of its blocks, of which an empty one may have none."""
    return np.concatenate([np.empty(0, like.dtype), *map(np.copy, blocks)]).reshape(like.shape)


def _torch_save(value: Any, file: BinaryIO) -> None:
    import torch

    failures: list[OSError] = []

    class Told:
        """The file; its errors are kept, of which torch makes a RuntimeError that does not say why."""

        def write(self, content: Any) -> int:
            try:
                return file.write(content)
            except OSError as error:
                failures.append(error)
                raise

        flush = file.flush

    try:
        torch.save(value, Told())  # type: ignore[arg-type]
    except RuntimeError:
        if not failures:
            raise
        raise failures[0] from None


def _write_safetensors(file: BinaryIO, contents: _Contents) -> None:
    from scalablevit_ref.formats.safetensors import write_safetensors

    write_safetensors(file, contents.state, _safetensors_notes(contents), contents.read)


def _safetensors_notes(contents: _Contents) -> dict[str, str]:
    return {"format": FRAMEWORKS.get(contents.layout, "np"), NOTES: json.dumps(contents.notes)}


def _write_npz(file: BinaryIO, contents: _Contents) -> None:
    from scalablevit_ref.formats.npz import write_npz

    write_npz(file, contents.state, {NOTES: json.dumps(contents.notes)}, contents.read)


def _write_msgpack(file: BinaryIO, contents: _Contents) -> None:
    from scalablevit_ref.formats.msgpack import write_msgpack

    write_msgpack(file, contents.state, as_texts(contents.notes), contents.read)


def _write_h5(file: BinaryIO, contents: _Contents) -> None:
    from scalablevit_ref.formats.keras import write_h5

    write_h5(file, contents.state, {NOTES: json.dumps(contents.notes)}, contents.read)


def _write_pdparams(file: BinaryIO, contents: _Contents) -> None:
    from scalablevit_ref.formats.paddle import write_pdparams

    write_pdparams(file, contents.state, {NOTES: json.dumps(contents.notes)}, contents.read)


WRITERS: dict[str, Callable[[BinaryIO, _Contents], None]] = {
    ".pth": _write_pth,
    ".pt": _write_pth,
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".msgpack": _write_msgpack,
    ".h5": _write_h5,
    ".pdparams": _write_pdparams,
}
"""By the suffix of the file."""

ONLY_LAYOUTS = {".h5": "keras", ".pdparams": "paddle"}
"""Of the formats that one framework reads, by the suffix of the file: any other layout would be taken for this one."""


def check_target(path: Path, layout: str) -> None:
    """Raise CheckpointError for a suffix that names no format, or one that does not hold this layout."""
    if path.suffix not in WRITERS:
        raise CheckpointError("unknown suffix", expected=", ".join(WRITERS), found=repr(path.suffix))
    if path.name.endswith(".weights.h5"):
        remedy = "give the name without `.weights`, and load it by load_weights(path, by_name=True)"
        raise CheckpointError(f"Keras finds what is in a .weights.h5 by the classes and the order of a model's layers: {remedy}")
    if layout != ONLY_LAYOUTS.get(path.suffix, layout):
        expected = ONLY_LAYOUTS[path.suffix]
        problem = f"a {path.suffix} file is read by layout {expected!r} alone: give "
        raise CheckpointError(problem, Spelling(f"layout={expected!r}", f"--to {expected}"), expected=expected, found=layout)
