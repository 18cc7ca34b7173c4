"""The definitions as a file for other programs: ONNX, PyTorch's `.pt2`, StableHLO.

The specification runs once on arrays that record what is done with them, by its definitions alone: exponentials, products, sums,
slices. A file that `adapters.onnx.export` writes has the operators that runtimes are fast at; a file of this module has what the
definitions say, every intermediate under its name, and float64 if it is asked for. It is held
against the specification on NumPy in float64 before it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from scalablevit_ref._version import __version__
from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_choice, check_count, check_flag, check_path
from scalablevit_ref.backends import to_backend
from scalablevit_ref.blocks import untapped
from scalablevit_ref.checkpoints.in_memory import tensors_in
from scalablevit_ref.checkpoints.infer import exact_variant
from scalablevit_ref.checkpoints.notes import NOTES, noted
from scalablevit_ref.checks import check_shapes
from scalablevit_ref.config import ScalableViTConfig, check_config
from scalablevit_ref.errors import brief
from scalablevit_ref.files.writing import check_outputs, write_contents
from scalablevit_ref.image_sizes import check_image_size, sides, usual_image_size
from scalablevit_ref.layers import layer_shapes
from scalablevit_ref.network import trace
from scalablevit_ref.networks import network_of
from scalablevit_ref.operation_checks import check_network
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.run_cost import check_run
from scalablevit_ref.testing.arrays import EPS, NETWORK_TOLERANCE, random_images, relative_l2

FORMATS = {".onnx": ("onnx", "onnx"), ".pt2": ("pt2", "torch"), ".stablehlo": ("stablehlo", "jax")}
"""The module of each file's ending, and the extra that it needs."""

DTYPES = ("float64", "float32")
"""Types of numbers that a file may have."""

CHECKED = 3
"""Images that a file with a free batch is checked on; it is traced on another number of images."""


def write(
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    path: str | os.PathLike[str],
    *,
    dtype: str = "float64",
    image_size: int | tuple[int, int] | None = None,
    batch: int | str = "dynamic",
    costly: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write the definitions of the network as a file of the format that its ending names, and what it is beside it, as JSON.

    The file takes `images` b c h w and gives every intermediate of `sv.trace` under its name: maps b h w c, `logits` b classes.
    The parameters have their official names: they are initialisers in ONNX, the state dict in a `.pt2`, and in StableHLO the
    function's second argument, a mapping. No file needs this package to be read:

    - `.onnx`: ONNX Runtime, in whatever language; `docs/examples/reference.mjs` is a program in JavaScript
    - `.pt2`: `torch.export.load(path).module()(images)`
    - `.stablehlo`: `jax.export.deserialize(data).call(images, params)`; in float64 with JAX's x64 mode

    Parameters
    ----------
    params
        Under the official names, of any library and dtype.
    config
        What they are of.
    path
        Of the file. The record is written to the same name with `.json` added.
    dtype
        Of parameters, images and all that is computed: "float64" or "float32".
    image_size
        Height and width in pixels, or one number for both; None is the usual one of the network.
    batch
        "dynamic", or a fixed size.
    costly
        Whether it is checked also where that takes more than the parameters and images account for.
    force
        Overwrite existing files.

    Returns
    -------
    dict
        What is written as JSON: the package's version, the configuration, the sizes, what the file was made with, and under
        `checked` the error against NumPy in float64 on random images, in eps of the dtype.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit.
    RuntimeError
        Where the file computes something else than the specification; nothing is written.
    CostError
        As `run_cost.check_run` does, unless `costly`.
    FileExistsError
        Without `force`.
    ModuleNotFoundError
        Names the extra.

    Examples
    --------
    >>> record = write(params, config, "small.onnx", dtype="float32")  # doctest: +SKIP
    >>> record["checked"]["worst"]  # doctest: +SKIP
    {'tap': 'stages.2.7', 'eps': 6.1}
    """
    check_path("path", path)
    path = Path(path)
    record_path = path.with_name(f"{path.name}.json")
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end with one of {', '.join(FORMATS)}, got {brief(path.name)}")
    check_config(config)
    check_choice("dtype", dtype, DTYPES)
    check_flag("costly", costly)
    check_flag("force", force)
    free = isinstance(batch, str) and batch == "dynamic"
    if not free:
        check_count("batch", batch)
    h, w = sides(usual_image_size(config) if image_size is None else image_size)
    check_image_size(config, h, w)
    params = tensors_in(params)
    check_shapes(params, parameter_shapes(config))
    check_outputs((path, record_path), force=force)
    shape = (CHECKED if free else int(batch), config.in_chans, h, w)
    check_run(network_of(config), shape, keeping=True, whole=True, costly=costly)
    images = random_images(shape, dtype=dtype)
    weights = {name: to_backend(params[name], "numpy", dtype) for name in parameter_shapes(config)}

    name, needed = FORMATS[path.suffix]
    with extra(needed, "portable"):
        form = import_module(f"scalablevit_ref.portable.{name}")
        program = form.traced(weights, config, images.shape, free=free)
        checked = _checked(form.run(form.saved(program, {}), images, weights), images, weights, config)
    if checked["worst"]["eps"] > checked["tolerance_eps"]:
        worst = checked["worst"]
        raise RuntimeError(f"{path.name}: {worst['tap']} is {worst['eps']:.3g} eps off the specification's; nothing is written")
    record = {
        "package": "scalablevit-ref",
        "version": __version__,
        "variant": exact_variant(config),
        "config": asdict(config),
        "dtype": dtype,
        "images": ["batch" if free else images.shape[0], *images.shape[1:]],
        "outputs": _outputs(config, images.shape, free=free),
        "parameters": form.PARAMETERS,
        "made_with": form.made_with(),
        "checked": checked | {"with": form.reader()},
    }
    kept = {"definitions": {key: record[key] for key in ("version", "dtype", "made_with", "checked")}}
    notes = noted(asdict(config), layout="official", variant=record["variant"], guessed=False, metadata=kept)
    data = form.saved(program, {NOTES: json.dumps(notes)})
    record["sha256"] = hashlib.sha256(data).hexdigest()
    write_contents({path: data, record_path: f"{json.dumps(record, indent=1)}\n".encode()}, force=force)
    return record


def write_expected(
    params: Mapping[str, Any],
    config: ScalableViTConfig,
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    costly: bool = False,
    force: bool = False,
) -> None:
    """Write images and what the specification computes of them on NumPy in float64: a safetensors file of `images` and every tap.

    A program that has read a file of `write` compares its numbers with these.

    Parameters
    ----------
    params
        Under the official names, of any library and dtype; those of a float32 file as it has them.
    config
        What they are of.
    images : b c h w
        Of NumPy, of any dtype.
    path
        Of the file.
    costly, force
        As in `write`.

    Raises
    ------
    ValueError, TypeError, CostError, FileExistsError
        As `write` does.
    """
    check_path("path", path)
    check_flag("costly", costly)
    check_flag("force", force)
    check_config(config)
    wide = to_backend(tensors_in(params), "numpy", "float64")
    pixels = to_backend(images, "numpy", "float64")
    check_network(pixels, wide, config, tap=untapped)
    check_run(network_of(config), pixels.shape, keeping=True, costly=costly)
    taps = trace(pixels, wide, config)
    data = safetensors_bytes({"images": pixels} | {name: np.ascontiguousarray(x) for name, x in taps.items()})
    write_contents({Path(path): data}, force=force)


def _checked(
    taps: Mapping[str, np.ndarray], images: np.ndarray, weights: Mapping[str, np.ndarray], config: ScalableViTConfig
) -> dict[str, Any]:
    """The errors against the specification on NumPy in float64, of the same images and weights: the worst tap's, and logits'."""
    wide = to_backend(weights, "numpy", "float64")
    oracle = trace(images.astype("float64"), wide, config)
    if set(taps) != set(oracle):
        raise RuntimeError(f"the file gives {brief(sorted(taps))} in place of {brief(sorted(oracle))}")
    dtype = images.dtype.name
    errors = {name: relative_l2(taps[name], x) / EPS[dtype] for name, x in oracle.items()}
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    return {
        "against": "the specification on NumPy in float64",
        "images": f"random_images({images.shape}), seed 0",
        "worst": {"tap": worst, "eps": errors[worst]},
        "logits_eps": errors["logits"],
        "tolerance_eps": NETWORK_TOLERANCE[dtype],
    }


def _outputs(config: ScalableViTConfig, images: tuple[int, ...], *, free: bool) -> dict[str, list[Any]]:
    """The shape of every tap."""
    shapes = layer_shapes(config, images)
    return {name: ["batch" if free else shape[0], *shape[1:]] for name, shape in shapes.items() if name != "pool"}
