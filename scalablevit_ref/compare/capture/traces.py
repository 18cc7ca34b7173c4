"""Traces: arrays under layers' names, in memory, in a file that any program wrote (`docs/traces.md`), or given by a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.alignment import Captured, Conditions, fitting, misfit, nameable
from scalablevit_ref.compare.capture.arrays import array_of, image_batch, one_dtype
from scalablevit_ref.compare.capture.names import by_mapping, lookalikes, merged
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError, in_file
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD
from scalablevit_ref.layers import IMAGES
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.traces import SUFFIXES, trace_config

MOST_STRANGE = 3
"""Names of a trace that look like a layer's and are none: how many of them are told."""


class Trace:
    """A mapping of names to arrays of any library."""

    takes_weights = False
    brings_images = True

    def __init__(self, arrays: Mapping[str, Any], what: str = "the trace") -> None:
        self.arrays, self.what = arrays, what

    def config(self) -> ScalableViTConfig | None:
        return None

    def gathered(self, conditions: Conditions, files: ExitStack) -> Gathered:
        with own_code(f"reading {self.what}"):
            arrays = dict(self.arrays.items())
        return gathered(arrays, self.what, conditions, cache(lambda name: array_of(arrays[name], f"{self.what}: {name!r}")))

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        return self.gathered(conditions, files).captured(conditions)


class TraceFile:
    """A trace in a file, npz or safetensors. Each array is read when it is asked for, and none is kept."""

    takes_weights = False
    brings_images = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self) -> ScalableViTConfig | None:
        return trace_config(self.path)

    def gathered(self, conditions: Conditions, files: ExitStack) -> Gathered:
        """Raises CaptureError as `gathered` does, CheckpointError for a broken file."""
        files.enter_context(in_file(self.path))
        tensors, _, _ = files.enter_context(open_file(self.path))
        if not isinstance(tensors, Mapping):
            raise CaptureError(f"{self.path.name} holds no flat mapping of names to arrays")
        return gathered(tensors, self.path.name, conditions, lambda name: tensors[name])

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        return self.gathered(conditions, files).captured(conditions)


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
                f"a mapping of names to arrays, or a file ({', '.join((*SUFFIXES, '.onnx', '.xml'))})"
            )
        images = conditions.fed
        start = time.perf_counter()
        with own_code(RUNNING):
            found = self.function(images.copy())  # it may work in place
        seconds = time.perf_counter() - start
        trace = Trace(found if isinstance(found, Mapping) else {"logits": found}, "what the function gives")
        captured = replace(trace.gathered(conditions, files), images=None).captured(conditions)
        return replace(captured, kind="function", seconds=seconds, lacks="not given by the function")


class StoredTaps(Mapping[str, np.ndarray]):
    """Arrays that are read when they are asked for, by the names of layers; none is kept."""

    def __init__(self, tensor: Callable[[str], Any], names: Mapping[str, str]) -> None:
        self._tensor, self._names = tensor, names

    def __getitem__(self, name: str) -> np.ndarray:
        return in_memory(self._tensor(self._names[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Gathered:
    """The layers that a trace holds.

    Attributes
    ----------
    what
        Says in errors whose they are.
    taps, names, shapes
        The arrays, what they are called there, and their shapes, by the names of layers.
    images
        What they were computed from, b c h w, where that is told.
    dtype
        Of all arrays.
    notes
        What looks like a layer and is none.
    """

    what: str
    taps: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    images: np.ndarray | None
    dtype: str
    notes: tuple[str, ...]

    def captured(self, conditions: Conditions) -> Captured:
        """Raises CaptureError without images, for other images than the given ones, and for an array that fits no layer."""
        images = check_images(self.images, conditions.images, self.what)
        expected = conditions.network.layer_shapes(images.shape)
        for layer, shape in self.shapes.items():
            if not fitting(shape, expected[layer]):
                raise misfit(self.names[layer], layer, shape, expected[layer])
        return Captured("trace", self.taps, self.names, images, self.dtype, notes=self.notes, lacks="not in the trace")


def gathered(own: Collection[str], what: str, conditions: Conditions, tensor: Callable[[str], Any]) -> Gathered:
    """The layers among arrays, or among tensors that still lie in a file.

    Parameters
    ----------
    own
        The trace's names; those that name no layer are left alone.
    what
        Says in errors whose they are.
    conditions
        Whose `names` may map layers, and the images, to names of the trace.
    tensor
        Gives what has one of the names: an array, or a tensor in a file.

    Raises
    ------
    CaptureError
        Without the name of a layer, and with arrays that are none of floating point or of several dtypes.
    """
    network = conditions.network
    known = network.layers()
    mapped = {}
    if conditions.names is not None:
        mapped = by_mapping(conditions.names, own, {IMAGES: None, **nameable(network)}, whose=what, each=False)
    given = merged({name: name for name in (IMAGES, *known) if name in own}, mapped)
    fed = given.pop(IMAGES, None)
    if not given:
        some = ", ".join(map(str, islice(own, 3)))
        raise CaptureError(f"{what} has no layer's name (it has {some or 'none'}); names= maps layers to its names")
    names = {name: given[name] for name in known if name in given}
    for name in filter(None, (fed, *names.values())):
        if not hasattr(tensor(name), "shape") or not hasattr(tensor(name), "dtype"):
            raise CaptureError(f"{what}: {name!r} is no array of numbers")
    dtype = one_dtype({name: np.dtype(tensor(name).dtype).name for name in names.values()}, what)
    shapes = {layer: tuple(tensor(name).shape) for layer, name in names.items()}
    images = None if fed is None else image_batch(batched(in_memory(tensor(fed)), network), network, f"{what}: {fed!r}")
    taken = {fed, *names.values()}
    strange = lookalikes((name for name in own if name not in taken), known.keys() - names.keys(), known)
    strange += [f"{layer!r} is mapped, and is no layer of this network" for layer in given if layer not in known]
    more = [f"and {len(strange) - MOST_STRANGE} more such names"] if strange[MOST_STRANGE:] else []
    return Gathered(what, StoredTaps(tensor, names), names, shapes, images, dtype, (*strange[:MOST_STRANGE], *more))


def batched(images: np.ndarray, network: Network) -> np.ndarray:
    """Images b c h w; of one that lacks the axis b, with it."""
    return images[None] if images.ndim == 3 and images.shape[0] == network.in_chans else images


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
