"""Traces as files: written by the reference for a port to follow, or by a port to be held against it (`docs/traces.md`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints.infer import config_from_json
from scalablevit_ref.checkpoints.notes import read_notes
from scalablevit_ref.checkpoints.save import write_state
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, in_file
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import check_run

SUFFIXES = (".npz", ".safetensors")
"""Endings of a trace's file."""


def reference_trace(images: np.ndarray, params: Mapping[str, Any], config: Any, *, costly: bool = False) -> dict[str, np.ndarray]:
    """The images, b c h w, and every layer's output, computed by NumPy in the images' dtype. A backbone's ends with its maps.

    Parameters
    ----------
    images
        The batch, b c h w.
    params
        The network's parameters, under its own names.
    config
        A `ScalableViTConfig` or a dialect's `Config`.
    costly
        Whether it is run also where it takes more than the weights and images account for (`run_cost.check_run`).

    Raises
    ------
    CostError
        Unless `costly`.
    ValueError, TypeError
        For images or parameters that do not fit.
    """
    network = network_of(config)
    check_run(network, np.shape(images), dtype=np.asarray(images).dtype, keeping=True, costly=costly)
    found = {IMAGES: images}

    def keep(name: str, x: np.ndarray) -> np.ndarray:
        found[name] = x
        return x

    network.forward(images, params, keep)
    return found


def save_trace(path: str | Path, trace: Mapping[str, Any], config: ScalableViTConfig | None = None, *, force: bool = False) -> None:
    """Write names and arrays, of any library, and the network's settings beside them, as .npz or .safetensors.

    Raises FileExistsError unless `force`, CheckpointError for another suffix or what the format cannot hold.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError("unknown suffix", file=path, expected=" or ".join(SUFFIXES), found=repr(path.suffix))
    arrays = {name: np.asarray(to_numpy(x), order="C") for name, x in trace.items()}
    with in_file(path):
        write_state(path, arrays, config, layout="trace", force=force, allow_nonfinite=True)


def trace_config(path: str | Path) -> ScalableViTConfig | None:
    """The settings that a trace's file notes, or None. Raises CheckpointError for a broken file."""
    with in_file(path), open_file(Path(path)) as (_, notes, _):
        noted = read_notes(notes).config
        return None if noted is None else config_from_json(noted)


def trace_images(path: str | Path) -> np.ndarray:
    """The images of a trace, or of a .npy file. Raises CheckpointError where there are none."""
    path = Path(path)
    if path.suffix == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise CheckpointError(f"not an array ({error})", file=path, expected="images, b c h w") from error
    with in_file(path), open_file(path) as (tensors, _, _):
        if not isinstance(tensors, Mapping) or IMAGES not in tensors:
            raise CheckpointError("no array of this name", key=IMAGES, expected="images, b c h w")
        return in_memory(tensors[IMAGES])
