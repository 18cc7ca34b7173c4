"""The definitions as a StableHLO program of images and parameters, which have the official names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import trace
from scalablevit_ref.portable.bare import Bare

FUNCTIONS = {name: getattr(jnp, name) for name in ("exp", "zeros", "reshape", "permute_dims", "mean", "max", "sum", "concat")}
"""JAX's functions under the array API standard's names."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""On which the program may run."""

SOURCE_FILES = "jax_hlo_source_file_canonicalization_regex"
"""JAX's setting for the names of source files."""

FOLDERS = ".*/"
"""What is left out of the names of source files that JAX notes for each step, as a regular expression."""

PARAMETERS = "the second argument, a mapping with the official names"
"""Where the file has the parameters."""


def traced(weights: Mapping[str, np.ndarray], config: ScalableViTConfig, images: Sequence[int], *, free: bool) -> Any:
    """The exported function of images of this shape, or of any number of them, and of parameters."""
    dtype = next(iter(weights.values())).dtype

    def scalable_vit(images: jax.Array, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        wrapped = {name: Bare(x, FUNCTIONS) for name, x in params.items()}
        return {name: x.held for name, x in trace(Bare(images, FUNCTIONS), wrapped, config).items()}

    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"), _no_folders():
        (batch,) = export.symbolic_shape("batch") if free else (images[0],)
        shaped: Any = jax.ShapeDtypeStruct
        shapes = {name: shaped(x.shape, dtype) for name, x in weights.items()}
        return export.export(jax.jit(scalable_vit), platforms=PLATFORMS)(shaped((batch, *images[1:]), dtype), shapes)


@contextmanager
def _no_folders() -> Iterator[None]:
    """JAX notes which file wrote a step; not in which folder of this machine it was."""
    settings: Any = jax.config
    before = getattr(settings, SOURCE_FILES)
    settings.update(SOURCE_FILES, FOLDERS)
    try:
        yield
    finally:
        settings.update(SOURCE_FILES, before)


def saved(program: Any, notes: Mapping[str, str]) -> bytes:
    """The file. It has no place for notes."""
    return bytes(program.serialize())


def run(data: bytes, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, as JAX runs the loaded program."""
    program: Any = export.deserialize(bytearray(data))
    with jax.enable_x64(images.dtype == "float64"):
        found = program.call(images, dict(weights))
        return {name: np.asarray(x) for name, x in found.items()}


def made_with() -> str:
    return f"jax {jax.__version__}"


reader = made_with
