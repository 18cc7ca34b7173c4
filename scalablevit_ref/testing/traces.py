"""Traces as files: written by the reference for a port to follow, or by a port to be held against it (`docs/traces.md`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.blocks import Tap
from scalablevit_ref.checkpoints.errors import CheckpointError, naming
from scalablevit_ref.checkpoints.files import open_file
from scalablevit_ref.checkpoints.inference import config_from_json
from scalablevit_ref.checkpoints.stored import values
from scalablevit_ref.checkpoints.writing import Contents, write_file
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.testing.layers import IMAGES

SUFFIXES = (".npz", ".safetensors")


def reference_trace(images: np.ndarray, params: Mapping[str, Any], config: ScalableViTConfig) -> dict[str, np.ndarray]:
    """The images and every layer's output, computed by NumPy in the images' dtype; a headless backbone's ends with its maps."""
    found = {IMAGES: images}

    def keep(name: str, x: np.ndarray) -> np.ndarray:
        found[name] = x
        return x

    run_reference(images, params, config, keep)
    return found


def run_reference(images: np.ndarray, params: Mapping[str, Any], config: ScalableViTConfig, tap: Tap) -> None:
    """The network, for its taps; of a headless backbone the maps, which are all that it gives."""
    run = stage_features if config.stage_norms and config.head == "none" else scalable_vit
    run(images, params, config, tap=tap)


def save_trace(path: str | Path, trace: Mapping[str, Any], config: ScalableViTConfig | None = None, *, force: bool = False) -> None:
    """Write names and arrays, of any library, and the settings beside them, as .npz or .safetensors.

    Raises FileExistsError unless `force`, CheckpointError for another suffix or what the format cannot hold.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError("unknown suffix", file=path, expected=" or ".join(SUFFIXES), found=repr(path.suffix))
    arrays = {name: np.asarray(to_numpy(x), order="C") for name, x in trace.items()}
    contents = Contents(arrays, config, "trace", {}, lambda name: [arrays[name].reshape(-1)])
    with naming(path):
        write_file(path, contents, force=force)


def trace_config(path: str | Path) -> ScalableViTConfig | None:
    """The settings that a trace's file notes, or None. Raises CheckpointError for a broken file."""
    with naming(path), open_file(Path(path)) as (_, notes, _):
        noted = notes.get("scalablevit_ref", {}).get("config")
        return None if noted is None else config_from_json(noted)


def trace_images(path: str | Path) -> np.ndarray:
    """The images of a trace, or of a .npy file. Raises CheckpointError where there are none."""
    path = Path(path)
    if path.suffix == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise CheckpointError(f"not an array ({error})", file=path, expected="images, b c h w") from error
    with naming(path), open_file(path) as (tensors, _, _):
        if not isinstance(tensors, Mapping) or IMAGES not in tensors:
            raise CheckpointError("no array of this name", key=IMAGES, expected="images, b c h w")
        return values(tensors[IMAGES])
