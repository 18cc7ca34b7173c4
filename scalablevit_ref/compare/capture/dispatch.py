"""What sort of thing a candidate is, and how it is run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.compare.capture.captured import Captured, CaptureError
from scalablevit_ref.compare.capture.files import of_arrays, open_trace
from scalablevit_ref.compare.capture.names import expanded
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.traces import SUFFIXES


def is_torch_module(candidate: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(candidate, torch.nn.Module)


def is_flax_module(candidate: Any) -> bool:
    """A Flax nnx module, or a linen module that is bound to its variables."""
    nnx, linen = sys.modules.get("flax.nnx"), sys.modules.get("flax.linen")
    return (nnx is not None and isinstance(candidate, nnx.Module)) or (linen is not None and isinstance(candidate, linen.Module))


def told_config(candidate: Any) -> ScalableViTConfig | None:
    """The network's settings, where the candidate's own weights show them."""
    if is_torch_module(candidate):
        from scalablevit_ref.compare.capture.torch import config_of

        return config_of(candidate)
    return None


@contextmanager
def capture(
    candidate: Any,
    network: Network,
    images: np.ndarray | None,
    *,
    dtype: str | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[Captured]:
    """The candidate's layers, as long as its file is open. Raises CaptureError for what cannot be run or brings no layer."""
    if isinstance(candidate, str | Path) and Path(candidate).suffix in SUFFIXES:
        with open_trace(Path(candidate), network.layers(), names, images) as captured:
            yield captured
        return
    if isinstance(candidate, Mapping):
        yield _of_mapping(candidate, network, images, names)
        return
    if images is None:
        raise CaptureError("images must be given for this candidate")
    if isinstance(candidate, str | Path) and Path(candidate).suffix == ".onnx":
        from scalablevit_ref.compare.capture.onnx import capture_onnx

        yield capture_onnx(Path(candidate), network, images, names=names)
    elif is_torch_module(candidate):
        from scalablevit_ref.compare.capture.torch import capture_torch

        yield capture_torch(candidate, network, images, dtype=dtype, weights=weights, names=names)
    elif is_flax_module(candidate):
        from scalablevit_ref.compare.capture.flax import capture_flax

        yield capture_flax(candidate, network, images, dtype=dtype, weights=weights, names=names)
    elif callable(candidate):
        yield _of_function(candidate, network, images)
    else:
        raise CaptureError(
            f"the candidate is a {type(candidate).__name__}: expected a torch or Flax module, a function of the images, "
            f"a mapping of names to arrays, or a file ({', '.join((*SUFFIXES, '.onnx'))})"
        )


def _of_mapping(
    trace: Mapping[str, Any], network: Network, images: np.ndarray | None, names: Mapping[str, str] | None = None
) -> Captured:
    known = network.layers()
    wanted = {IMAGES, *known, *expanded(names or {}, known).values()}
    arrays = {name: to_numpy(x) if name in wanted else x for name, x in trace.items()}
    return of_arrays(arrays, "the trace", known, names, images)


def _of_function(function: Callable[[np.ndarray], Any], network: Network, images: np.ndarray) -> Captured:
    """It gets b c h w images as a NumPy array and gives logits, or a mapping of layers' names to arrays."""
    start = time.perf_counter()
    found = function(images)
    seconds = time.perf_counter() - start
    taps = found if isinstance(found, Mapping) else {"logits": found}
    captured = _of_mapping(taps, network, images)
    return Captured("function", captured.taps, captured.modules, images, captured.dtype, seconds=seconds)
