"""Traces: arrays under layers' names, in memory, in a file that any program wrote (`docs/traces.md`), or given by a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.compare.capture.alignment import Captured, Conditions, expanded
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError, in_file
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.testing.traces import SUFFIXES, trace_config


class Trace:
    """A mapping of names to arrays of any library."""

    takes_weights = False
    brings_images = True

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays

    def config(self) -> ScalableViTConfig | None:
        return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        known = conditions.network.layers()
        wanted = {IMAGES, *known, *expanded(conditions.names or {}, known).values()}
        arrays = {name: to_numpy(x) if name in wanted else x for name, x in self.arrays.items()}
        return of_arrays(arrays, "the trace", conditions)


class TraceFile:
    """A trace in a file, npz or safetensors. Each array is read when it is asked for, and none is kept."""

    takes_weights = False
    brings_images = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self) -> ScalableViTConfig | None:
        return trace_config(self.path)

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError as `of_arrays` does, CheckpointError for a broken file."""
        files.enter_context(in_file(self.path))
        tensors, _, _ = files.enter_context(open_file(self.path))
        if not isinstance(tensors, Mapping) or not all(hasattr(x, "shape") for x in tensors.values()):
            raise CaptureError(f"{self.path.name} holds no flat mapping of names to arrays")
        return of_arrays(tensors, self.path.name, conditions)


class Function:
    """A function of b c h w images, a NumPy array, that gives logits or a mapping of layers' names to arrays."""

    takes_weights = False
    brings_images = False

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function  # the kind for whatever is nothing else: `capture` refuses what cannot be called

    def config(self) -> ScalableViTConfig | None:
        return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        if not callable(self.function):
            raise CaptureError(
                f"the candidate is a {type(self.function).__name__}: expected a torch or Flax module, a function of the images, "
                f"a mapping of names to arrays, or a file ({', '.join((*SUFFIXES, '.onnx'))})"
            )
        images = conditions.fed
        start = time.perf_counter()
        found = self.function(images)
        seconds = time.perf_counter() - start
        trace = Trace(found if isinstance(found, Mapping) else {"logits": found})
        captured = trace.capture(replace(conditions, names=None), files)
        return replace(captured, kind="function", images=images, seconds=seconds)


class StoredTaps(Mapping[str, np.ndarray]):
    """Arrays that lie in an open file, by the names of layers; none is kept."""

    def __init__(self, tensors: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> np.ndarray:
        return in_memory(self._tensors[self._names[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def of_arrays(tensors: Mapping[str, Any], what: str, conditions: Conditions) -> Captured:
    """The trace that arrays make, or tensors that still lie in a file.

    Parameters
    ----------
    tensors
        By the candidate's own names; those that name no layer are left alone.
    what
        Says in errors whose they are.
    conditions
        Whose images, if there are any, must be the trace's own.

    Raises
    ------
    CaptureError
        Without the name of a layer, with arrays of several dtypes, or for other images than the given ones.
    """
    known = conditions.network.layers()
    given = {name: name for name in known if name in tensors}
    mapped = expanded(conditions.names or {}, known)
    given |= {name: own for name, own in mapped.items() if name in known and own in tensors}
    if not given:
        some = ", ".join(list(tensors)[:3])
        raise CaptureError(f"{what} has no layer's name (it has {some or 'none'}); names= maps layers to its names")
    dtypes = sorted({np.dtype(tensors[own].dtype).name for own in given.values()})
    if len(dtypes) > 1:
        raise CaptureError(f"{what} holds layers in several dtypes: {', '.join(dtypes)}; write them as they were computed")
    x = check_images(in_memory(tensors[IMAGES]) if IMAGES in tensors else None, conditions.images, what)
    order = {name: given[name] for name in known if name in given}
    return Captured("trace", StoredTaps(tensors, order), order, x, dtypes[0])


def check_images(own: np.ndarray | None, given: np.ndarray | None, what: str) -> np.ndarray:
    """The images of a trace, which must be those that the reference is to be fed. Raises CaptureError where they differ."""
    if own is None and given is None:
        raise CaptureError(f"{what} holds no 'images' (b c h w, as they were fed): put them in, or give --images")
    if own is None or given is None:
        return np.asarray(given if own is None else own)
    if own.shape != given.shape:
        raise CaptureError(f"input differs: {what} was fed images of shape {own.shape}, the reference gets {given.shape}")
    difference = float(np.abs(own.astype(np.float64) - given.astype(np.float64)).max())
    if difference > 1e-6 * max(1.0, float(np.abs(given).max())):
        raise CaptureError(f"input differs: {what} was fed other images, off by up to {difference:.3g}{guessed(own, given)}")
    return given


def guessed(own: np.ndarray, given: np.ndarray) -> str:
    """The mistake in preprocessing that explains the difference, if one does."""
    own, given = own.astype(np.float64), given.astype(np.float64)
    ways = {"its channels are reversed (BGR for RGB)": given[:, ::-1], "H and W are swapped": given.swapaxes(-1, -2)}
    if given.shape[1] == 3:
        mean, deviation = (np.reshape(x, (1, 3, 1, 1)) for x in (IMAGENET_MEAN, IMAGENET_STD))
        plain = given * deviation + mean
        ways |= {
            "it is not normalised": plain,
            "it is not normalised and not divided by 255": plain * 255,
            "it is normalised with mean and deviation 0.5": (plain - 0.5) / 0.5,
            "it is normalised twice": (given - mean) / deviation,
            "its channels are reversed before they are normalised": (plain[:, ::-1] - mean) / deviation,
        }
    ways["it is 255 times as large"] = given * 255
    for words, x in ways.items():
        if x.shape == own.shape and np.abs(x - own).max() <= 1e-5 * max(1.0, float(np.abs(own).max())):
            return f"; {words}"
    return ""
