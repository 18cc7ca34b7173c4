"""Checkpoint files written whole or not at all."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.backends import to_backend
from scalablevit_ref.checkpoints.hub import hub_config
from scalablevit_ref.checkpoints.infer import OFFICIAL_MODEL, config_to_json, exact_variant
from scalablevit_ref.checkpoints.recognise import EMA_WRAPPERS, TRAINING_STATE, WRAPPERS
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.dialects.config import Config
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.msgpack import write_msgpack
from scalablevit_ref.formats.npz import write_npz
from scalablevit_ref.formats.safetensors import Blocks, write_safetensors

OFFICIAL_VARIANTS = ("small", "small_0", "base", "large")
"""Those that the authors' training script can name."""

CONFIG_JSON = "config.json"


@dataclass(frozen=True)
class Contents:
    """What a file is to hold. `state` says names, shapes and dtypes, in a layout's order; `read` gives its values."""

    state: Mapping[str, Any]
    config: ScalableViTConfig | Config | None
    layout: str
    metadata: dict[str, Any]
    read: Blocks

    def notes(self) -> dict[str, str]:
        """Configuration, where it is known, and metadata as texts."""
        notes = {"layout": self.layout, "metadata": json.dumps(self.metadata)}
        notes |= {"config": config_to_json(self.config)} if self.config else {}
        name = exact_variant(self.config) if isinstance(self.config, ScalableViTConfig) else None
        return notes | ({"variant": name} if name else {})


def write_file(path: Path, contents: Contents, *, force: bool, config_json: bool = False) -> None:
    """Write a layout's state dict in the format that the suffix says. Nothing is left behind where that fails.

    Raises FileExistsError unless `force`; CheckpointError for an unknown suffix and for what the format cannot hold.
    """
    if path.suffix not in WRITERS:
        raise CheckpointError("unknown suffix", expected=", ".join(WRITERS), found=repr(path.suffix))
    reserved = [name for name in contents.metadata if name in (*TRAINING_STATE, *WRAPPERS, *EMA_WRAPPERS)]
    if reserved:
        raise CheckpointError("metadata under a name that a checkpoint uses itself", key=reserved[0])
    writes: dict[Path, Callable[[BinaryIO], object]] = {path: lambda file: WRITERS[path.suffix](file, contents)}
    if config_json:
        if not isinstance(contents.config, ScalableViTConfig):
            raise CheckpointError(f"{CONFIG_JSON} is for the official network's weights", found=contents.layout)
        text = json.dumps(hub_config(contents.config, contents.layout), indent=2) + "\n"
        writes[path.with_name(CONFIG_JSON)] = lambda file: file.write(text.encode())
    write_atomically(writes, force=force)


def write_atomically(writes: Mapping[Path, Callable[[BinaryIO], object]], *, force: bool) -> None:
    """Files that appear whole, and only when all of them are written.

    Where the system has unnamed files (Linux), a killed process leaves nothing behind either. A file that is overwritten keeps its
    permissions. A symbolic link is replaced, not followed: no file is changed but those named.
    Raises FileExistsError unless `force`.
    """
    for path in writes:
        if path.is_dir():
            raise CheckpointError("a directory", file=path, expected="the name of a file")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
        if os.path.lexists(path) and not force:
            raise FileExistsError(f"{path} exists; force=True overwrites it")
    with ExitStack() as stack:
        written = {path: stack.enter_context(_written(path, write)) for path, write in writes.items()}
        for path, name in written.items():
            name().replace(path)
    if os.name == "posix":
        for folder in {path.parent for path in writes}:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _written(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[Callable[[], Path]]:
    """Write a temporary file. Gives a function that names it, to be renamed at once; what still has that name is removed."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    descriptor = _unnamed(path.parent)
    unnamed = descriptor is not None
    permissions = _permissions(path)
    try:
        with temporary.open("xb") if descriptor is None else os.fdopen(descriptor, "wb") as file:
            if permissions is not None and unnamed:
                os.fchmod(file.fileno(), permissions)
            elif permissions is not None:
                temporary.chmod(permissions)
            write(file)
            file.flush()
            os.fsync(file.fileno())

            def name() -> Path:
                if unnamed:  # linkat follows /proc's link to the file only if it is given a directory
                    os.link(f"/proc/self/fd/{file.fileno()}", temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
                return temporary

            yield name
    finally:
        temporary.unlink(missing_ok=True)


def _permissions(path: Path) -> int | None:
    """Those of the regular file that is there."""
    mode = path.lstat().st_mode if os.path.lexists(path) else 0
    return mode & 0o777 if stat.S_ISREG(mode) else None


def _unnamed(folder: Path) -> int | None:
    """A file without a name, gone when it is closed; None where the system or the file system has no such thing."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    return None


def _write_pth(file: BinaryIO, contents: Contents) -> None:
    """As the authors' training script (wrapper `model`) or mmdet (wrapper `state_dict`) writes; a port's as a bare state dict.

    All tensors are in memory at once.

    torch is given a file: given a path, it would name its records after it, and equal weights would make unequal files.
    """
    config, metadata = contents.config, contents.metadata
    tensors = OrderedDict((name, to_backend(_whole(x, contents.read(name)), "torch")) for name, x in contents.state.items())
    if not isinstance(config, ScalableViTConfig):
        _torch_save(tensors, file)
        return
    variant = exact_variant(config)
    args = argparse.Namespace(model=f"{OFFICIAL_MODEL}{variant}") if variant in OFFICIAL_VARIANTS else argparse.Namespace()
    wrapped = {"meta": {}, "state_dict": tensors} if contents.layout == "mmdet" else {"model": tensors, "args": args}
    _torch_save(wrapped | metadata | {"scalablevit_ref": {"config": config_to_json(config)}}, file)


def _whole(like: Any, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """One array of its blocks, of which an empty one may have none."""
    return np.concatenate([np.empty(0, like.dtype), *map(np.copy, blocks)]).reshape(like.shape)


def _torch_save(value: Any, file: BinaryIO) -> None:
    import torch

    try:
        torch.save(value, file)
    except RuntimeError as error:  # torch's word for a disk that is full
        raise OSError(f"torch could not write the file: {str(error).splitlines()[0]}") from error


WRITERS: dict[str, Callable[[BinaryIO, Contents], None]] = {
    ".pth": _write_pth,
    ".pt": _write_pth,
    ".safetensors": lambda file, c: write_safetensors(file, c.state, c.notes() | {"format": "np"}, c.read),
    ".npz": lambda file, c: write_npz(file, c.state, c.notes(), c.read),
    ".msgpack": lambda file, c: write_msgpack(file, c.state, c.notes(), c.read),
}
"""By the suffix of the file."""
