"""A trace in a file that any program wrote: npz or safetensors (`docs/traces.md`). Each array is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.captured import Captured, CaptureError
from scalablevit_ref.compare.capture.names import expanded
from scalablevit_ref.errors import in_file
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD
from scalablevit_ref.layers import IMAGES


class StoredTaps(Mapping[str, np.ndarray]):
    """Arrays that lie in an open file, by canonical name; none is kept."""

    def __init__(self, tensors: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> np.ndarray:
        return in_memory(self._tensors[self._names[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def open_trace(
    path: Path, known: Mapping[str, Any], names: Mapping[str, str] | None, images: np.ndarray | None
) -> Iterator[Captured]:
    """The trace in a file while that is open. known: the canonical names. names: from those to the file's, where they differ.

    Raises CaptureError as `of_arrays` does, CheckpointError for a broken file.
    """
    with in_file(path), open_file(path) as (tensors, _, _):
        if not isinstance(tensors, Mapping) or not all(hasattr(x, "shape") for x in tensors.values()):
            raise CaptureError(f"{path.name} holds no flat mapping of names to arrays")
        yield of_arrays(tensors, path.name, known, names, images)


def of_arrays(
    tensors: Mapping[str, Any], what: str, known: Mapping[str, Any], names: Mapping[str, str] | None, images: np.ndarray | None
) -> Captured:
    """The trace that arrays make, or tensors that still lie in a file. what: says in errors whose they are.

    Raises CaptureError without a known name, with arrays of several dtypes, or for other images than `images`.
    """
    given = {name: name for name in known if name in tensors}
    given |= {name: own for name, own in expanded(names or {}, known).items() if name in known and own in tensors}
    if not given:
        some = ", ".join(list(tensors)[:3])
        raise CaptureError(f"{what} has no layer's name (it has {some or 'none'}); names= maps layers to its names")
    dtypes = sorted({np.dtype(tensors[own].dtype).name for own in given.values()})
    if len(dtypes) > 1:
        raise CaptureError(f"{what} holds layers in several dtypes: {', '.join(dtypes)}; write them as they were computed")
    x = check_images(in_memory(tensors[IMAGES]) if IMAGES in tensors else None, images, what)
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
