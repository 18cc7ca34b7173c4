"""Checkpoint files written whole or not at all."""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_backend
from scalablevit_ref.checkpoints.errors import CheckpointError
from scalablevit_ref.checkpoints.files import NPZ_CONFIG, NPZ_METADATA
from scalablevit_ref.checkpoints.inference import OFFICIAL_MODEL, config_to_json, exact_variant
from scalablevit_ref.checkpoints.recognise import EMA_WRAPPERS, TRAINING_STATE, WRAPPERS
from scalablevit_ref.config import ScalableViTConfig

OFFICIAL_VARIANTS = ("small", "small_0", "base", "large")
"""Those that the authors' training script can name."""

State = Mapping[str, np.ndarray]


def write_file(path: Path, state: State, config: ScalableViTConfig, *, layout: str, metadata: dict[str, Any], force: bool) -> None:
    """Write a layout's state dict in the format that the suffix says. Nothing is left behind where that fails.

    Raises FileExistsError unless `force`; CheckpointError for an unknown suffix and for what the format cannot hold.
    """
    writers: dict[str, Callable[[Path], None]] = {
        ".pth": lambda target: _write_pth(target, state, config, layout, metadata),
        ".safetensors": lambda target: _write_safetensors(target, state, config, layout, metadata),
        ".npz": lambda target: _write_npz(target, state, config, metadata),
    }
    if path.suffix not in writers:
        raise CheckpointError("unknown suffix", expected=", ".join(writers), found=repr(path.suffix))
    if path.is_dir():
        raise CheckpointError("a directory", expected="the name of a file")
    reserved = [name for name in metadata if name in (*TRAINING_STATE, *WRAPPERS, *EMA_WRAPPERS)]
    if reserved:
        raise CheckpointError("metadata under a name that a checkpoint uses itself", key=reserved[0])
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{path} exists; force overwrites it")
    _atomically(path, writers[path.suffix])


def _atomically(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors replaces the file by one that only its owner may read
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_pth(target: Path, state: State, config: ScalableViTConfig, layout: str, metadata: dict[str, Any]) -> None:
    """As the authors' training script (wrapper `model`) or mmdet (wrapper `state_dict`) writes."""
    tensors = OrderedDict(to_backend(state, "torch"))
    import torch

    name = exact_variant(config)
    args = argparse.Namespace(model=f"{OFFICIAL_MODEL}{name}") if name in OFFICIAL_VARIANTS else argparse.Namespace()
    wrapped = {"meta": {}, "state_dict": tensors} if layout == "mmdet" else {"model": tensors, "args": args}
    with target.open("wb") as file:  # given a path, torch would name its records after it: equal weights would make unequal files
        torch.save(wrapped | metadata | {"scalablevit_ref": {"config": config_to_json(config)}}, file)


def _write_safetensors(target: Path, state: State, config: ScalableViTConfig, layout: str, metadata: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    notes = {"format": "np", "layout": layout, "config": config_to_json(config), "metadata": json.dumps(metadata)}
    if name := exact_variant(config):
        notes["variant"] = name
    arrays = {name: np.asarray(x, order="C") for name, x in state.items()}  # save_file writes other orders' bytes as they lie
    save_file(arrays, target, metadata=notes)


def _write_npz(target: Path, state: State, config: ScalableViTConfig, metadata: dict[str, Any]) -> None:
    """`numpy.savez`'s format; written here since `savez` takes names as keyword arguments."""
    for name, x in state.items():
        if x.dtype.name == "bfloat16":
            raise CheckpointError("npz cannot hold bfloat16: write .safetensors or .pth, or convert to float32", key=name)
    entries = {**state, NPZ_CONFIG: np.array(config_to_json(config)), NPZ_METADATA: np.array(json.dumps(metadata))}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, x in entries.items():
            header = io.BytesIO()
            np.lib.format.write_array(header, np.asarray(x), allow_pickle=False)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                member.write(header.getbuffer())
