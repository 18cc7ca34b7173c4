"""Traces as files: written by the reference for a port to follow, or by a port to be held against it (`docs/traces.md`)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.arguments import check_flag, check_named, check_path
from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints.infer import config_from_json
from scalablevit_ref.checkpoints.notes import read_notes
from scalablevit_ref.checkpoints.save import state_writes
from scalablevit_ref.checks import check_map
from scalablevit_ref.config import ScalableViTConfig, check_config
from scalablevit_ref.errors import CheckpointError, brief, in_file
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.files.writing import write_atomically
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from scalablevit_ref.formats.npz import npy_header
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import check_run, machine_memory

SUFFIXES = (".npz", ".safetensors")
"""Endings of a trace's file."""

LONGEST_NPY_HEADER = 1 << 14
"""Longest header of a .npy file, in bytes; NumPy's own reader takes 10,000."""

_NPY_VERSION_3 = (b"\x93NUMPY\x03", b"\x93NUMPY\x02")
"""How a .npy of version 3 begins, whose names of fields alone are in UTF-8, and how one of version 2 does."""


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

    Examples
    --------
    >>> from scalablevit_ref import digits, load_checkpoint
    >>> found, images = load_checkpoint(digits.CHECKPOINT), digits.test_images()[0]
    >>> x = digits.preprocess(images[:1])
    >>> trace = reference_trace(x, found.params, found.config)
    >>> list(trace)[:2], trace["logits"].shape
    (['images', 'patch_embeds.0'], (1, 10))
    """
    network = network_of(config)
    check_map("images", images, "b c h w")
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

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from scalablevit_ref import variant
    >>> trace = {"images": np.ones((1, 1, 112, 112)), "logits": np.ones((1, 10))}
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.npz"
    ...     save_trace(path, trace, variant("digits"))
    ...     trace_images(path).shape, trace_config(path).num_classes
    ((1, 1, 112, 112), 10)
    """
    check_flag("force", force)
    write_atomically(trace_writes(path, trace, config), force=force)


def trace_writes(
    path: str | Path, trace: Mapping[str, Any], config: ScalableViTConfig | None = None
) -> dict[Path, Callable[[BinaryIO], object]]:
    """What writes a trace's file. Raises as `save_trace` does, but for what is there already."""
    check_path("path", path)
    check_named("trace", trace)
    if config is not None:
        check_config(config)
    path = Path(path)
    check_trace_file(path)
    arrays = {name: np.asarray(to_numpy(x), order="C") for name, x in trace.items()}
    with in_file(path):
        return state_writes(path, arrays, config, layout="trace", allow_nonfinite=True)


def check_trace_file(path: Path) -> None:
    """Raise CheckpointError for a name that is no trace's."""
    if path.suffix not in SUFFIXES:
        raise CheckpointError("unknown suffix", file=path, expected=" or ".join(SUFFIXES), found=repr(path.suffix))


def trace_config(path: str | Path) -> ScalableViTConfig | None:
    """The settings that a trace's file notes, or None. Raises CheckpointError for a broken file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from scalablevit_ref import variant
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.npz"
    ...     save_trace(path, {"logits": np.ones((1, 10))}, variant("digits"))
    ...     trace_config(path) == variant("digits")
    True
    """
    check_path("path", path)
    with in_file(path), open_file(Path(path)) as (_, notes, _):
        noted = read_notes(notes).config
        return None if noted is None else config_from_json(noted)


def trace_images(path: str | Path) -> np.ndarray:
    """The images of a trace, or of a .npy file, b c h w.

    Raises
    ------
    CheckpointError
        Where there are none, for a damaged file, and for more than the machine has memory.
    OSError
        For what is no regular file, or cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "images.npy", np.ones((1, 1, 112, 112)))
    ...     trace_images(Path(folder) / "images.npy").shape
    (1, 1, 112, 112)
    """
    check_path("path", path)
    path = Path(path)
    if path.suffix == ".npy":
        with in_file(path), open_regular(path, "images in a .npy file") as file:
            return _read_npy(file)
    with in_file(path), open_file(path) as (tensors, _, _):
        if not isinstance(tensors, Mapping) or IMAGES not in tensors:
            raise CheckpointError("no array of this name", key=IMAGES, expected="images, b c h w")
        x = tensors[IMAGES]
        _check_images(tuple(getattr(x, "shape", ())), getattr(x, "dtype", None))
        return in_memory(x)


def _read_npy(file: BinaryIO) -> np.ndarray:
    """Any version, order of axes and of bytes that NumPy writes. What the header says is held against the file's size first."""
    size = os.fstat(file.fileno()).st_size
    head = io.BytesIO(file.read(LONGEST_NPY_HEADER).replace(*_NPY_VERSION_3, 1))
    shape, fortran, dtype = npy_header(head)
    _check_images(shape, dtype)
    count = prod(shape)
    if count * dtype.itemsize > size - head.tell():
        found = f"{brief(shape)} of {dtype.name}, {brief(count * dtype.itemsize)} bytes"
        raise CheckpointError("the array is larger than the file", expected=f"at most {size - head.tell()} bytes", found=found)
    file.seek(head.tell())
    x = np.fromfile(file, dtype, count).reshape(shape, order="F" if fortran else "C")
    return x.astype(dtype.newbyteorder("="), order="C", copy=False)


def _check_images(shape: tuple[int, ...], dtype: Any) -> None:
    """Raise CheckpointError for what cannot be images, before any of it is read."""
    whole = len(shape) == 4 and all(type(n) is int and n > 0 for n in shape)
    if not whole or getattr(dtype, "kind", "f") not in "biufV" or (dtype.kind == "V" and dtype.name != "bfloat16"):
        found = f"{brief(shape)} of {brief(getattr(dtype, 'str', dtype))}"
        raise CheckpointError("no images", key=IMAGES, expected="numbers, b c h w, no axis empty", found=found)
    needed, machine = prod(shape) * dtype.itemsize, machine_memory()
    if machine is not None and needed > machine:
        raise CheckpointError(f"images of {brief(needed)} bytes", key=IMAGES, expected=f"at most the {machine} of this machine")
