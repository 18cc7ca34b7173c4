"""A tinygrad model, an object that is called and holds tensors, followed by the methods of the tensors that it calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from tinygrad import Tensor
from tinygrad.dtype import dtypes
from tinygrad.helpers import Context
from tinygrad.nn.state import get_state_dict

from scalablevit_ref.backends.tinygrad import from_numpy, to_numpy
from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.graph import NOTHING, Graph, fed_by_images
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code
from scalablevit_ref.compare.capture.returned import named_outputs
from scalablevit_ref.compare.capture.tinygrad_graph import Recorder, watched
from scalablevit_ref.errors import CaptureError


def held(value: Any) -> dict[str, Tensor]:
    """The tensors of floating point of a model: those in its attributes, or in a function's arguments and closure."""
    found = dict[str, Tensor]()
    parts: dict[str, Any] = {"": value}
    if isinstance(value, functools.partial):
        parts = {"": [*value.args], "keywords": dict(value.keywords)} | {f"f.{k}": v for k, v in _closed_over(value.func).items()}
    elif hasattr(value, "__code__"):
        parts = _closed_over(value)
    for name, part in parts.items():
        for path, x in get_state_dict(part, prefix=f"{name}." if name else "").items():
            if dtypes.is_float(x.dtype) and not any(x is y for y in found.values()):
                found[path.strip(".")] = x
    return found


def _closed_over(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True) if hasattr(function, "__code__") else ()
    return {name: cell.cell_contents for name, cell in cells}


class TinygradModel(Candidate):
    """An object that is called with images; it is run as it is, and its weights are put back after each run."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        return followed(TinygradRunner(self.model, conditions.dtype), conditions)


class TinygradRunner:
    """A model as a `Runner`. Its values are computed together, when they are asked for."""

    kind = "tinygrad model"
    paths: Mapping[str, str] = MappingProxyType({})

    def __init__(self, model: Any, dtype: str | None) -> None:
        self.model, self._tensors = model, held(model)
        self._own = {name: to_numpy(x) for name, x in self._tensors.items()}
        if dtype is not None:
            self._own = {name: x.astype(dtype) for name, x in self._own.items()}

    @property
    def dtype(self) -> str:
        return next(iter(self._own.values())).dtype.name

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return self._own

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        with self._run(images, weights) as (recorder, returned):
            graph = recorder.graph(returned)
        if not fed_by_images(graph).intersection(graph.outputs.values()):
            raise CaptureError("what the candidate returns does not come from the images by methods of tinygrad.Tensor")
        return graph

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        if replaced:
            raise CaptureError("a tinygrad model is not run with values replaced")
        start = time.perf_counter()
        with self._run(images, weights) as (recorder, _):
            if max(wanted, default=0) >= len(recorder.tensors):
                raise CaptureError("the candidate does something else each time that it is run")
            found = recorder.values(wanted)
        return found, time.perf_counter() - start

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        return ""

    @contextmanager
    def _run(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Iterator[tuple[Recorder, dict[str, Tensor]]]:
        """One pass, recorded; while it is open its tensors have these weights."""
        before = {name: x.uop for name, x in self._tensors.items()}
        try:
            for name, x in self._tensors.items():
                own = self._own[name]
                x.uop = from_numpy(np.asarray(weights.get(name, own), own.dtype), None, None).uop
            fed = from_numpy(images.astype(self.dtype), None, None)
            recorder = Recorder(self._tensors, fed, TinygradRunner._run.__wrapped__.__code__)  # type: ignore[attr-defined]
            with own_code(RUNNING), watched(recorder), Context(TRAINING=0):
                out = self.model(fed)
            returned = named_outputs(out, lambda x: isinstance(x, Tensor))
            if not returned:
                raise CaptureError(
                    "the candidate returns no tensor: its logits, or a mapping or sequence that holds them, are expected"
                )
            with Context(PARALLEL=0, NOOPT=1):  # in this process, and without looking for the fastest form of what runs once
                yield recorder, returned
        finally:
            for name, x in self._tensors.items():
                x.uop = before[name]
