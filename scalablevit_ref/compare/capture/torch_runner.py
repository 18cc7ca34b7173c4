"""A torch module as a `Runner`: a copy that is run again and again, with weights and images of the caller's choice."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from scalablevit_ref.arguments import FLOATS, float_dtype
from scalablevit_ref.compare.capture.graph import NOTHING, Graph, Operation, StaleGraphError, narrowed, random_operations
from scalablevit_ref.compare.capture.own_code import RUNNING, OwnCodeError, message_of, own_code
from scalablevit_ref.compare.capture.torch_graph import EnoughError, Recorder, hooked, own_array
from scalablevit_ref.compare.capture.torch_reasons import likely_reason
from scalablevit_ref.compare.capture.torch_refusals import by_trace
from scalablevit_ref.compare.capture.torch_state import untouched
from scalablevit_ref.compare.capture.torch_wrappers import copied, held
from scalablevit_ref.errors import CaptureError

Course = list[tuple[str, tuple[int, ...]]]
"""The operations on data, by their names, and the values that they made."""


@dataclass(frozen=True)
class _Pass:
    """A run that ended: with what, which copy of the module, and what it returned."""

    images: np.ndarray
    weights: Mapping[str, np.ndarray]
    model: nn.Module
    returned: Mapping[str, np.ndarray]


class TorchRunner:
    """A copy of a module, or of what an exported program or a wrapper holds, in evaluation mode and on its own device.

    Every run is of a copy that no run has changed, and draws other random numbers than the one before. It leaves torch's settings
    and the generators of random numbers as they were.

    Parameters
    ----------
    candidate
        A `torch.nn.Module` or a `torch.export.ExportedProgram`.
    dtype
        What its tensors of floating point are converted to, those that are no parameters too; None leaves each as it is.

    Raises
    ------
    CaptureError
        For a candidate that cannot be copied or followed, or holds no parameters.
    """

    kind = "torch module"

    def __init__(self, candidate: Any, dtype: str | None) -> None:
        with own_code("copying the candidate"):
            self._copied = copied(candidate)
            self._base = self._copied.module
            found = held(self._base)
        self._tensors = found.tensors
        self._modules = found.modules
        if dtype is not None:
            for x in self._tensors.values():
                x.data = _converted(x.detach(), getattr(torch, dtype))
        self._views = {name: view for name, view in self._copied.views.items() if {name, view[0]} <= self._tensors.keys()}
        self._own = {name: x for name, x in self._tensors.items() if x.is_floating_point() and name not in self._views}
        first = next((x for x in found.parameters.values() if x.is_floating_point()), next(iter(self._own.values()), None))
        if first is None:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        self._first, self._converted = first, dtype is not None
        self._before = {name: x.detach() for name, x in self._tensors.items() if name not in self._views}  # no run is given these
        self._one_copy = any(isinstance(module, torch.jit.ScriptModule) for module in found.modules.values())
        self._channels_last, self._dry = False, True
        self._course: Course | None = None
        self._random: tuple[Operation, ...] = ()
        self._recorded_on: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None
        self._last: _Pass | None = None
        self._seeds = count(1)

    @property
    def dtype(self) -> str:
        return str(self._first.dtype).removeprefix("torch.")

    @property
    def paths(self) -> Mapping[str, str]:
        """Those of the graph are the candidate's own."""
        return {}

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return {name: _read_only(own_array(self._before[name])) for name in self._own}

    def rounded(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the candidate has of these weights, which are of its own names, when it runs: rounded once, by NumPy."""
        return {name: own_array(_tensor(x, self._before[name])) for name, x in weights.items()}

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        """As `Runner.record`. A module that takes its images as b h w c is fed them so, and the graph notes it."""
        recorder, model = self._recorded(images, weights)
        if not recorder.outputs:
            raise CaptureError(
                "the candidate returns no tensor: its logits, or a mapping or sequence that holds them, are expected"
            )
        graph = recorder.graph()
        if not recorder.follows:
            raise by_trace(
                "what the candidate returns does not come from the images by operations of torch, but from numbers made elsewhere"
            )
        self._course, self._random, self._recorded_on = recorder.course, random_operations(graph), (images, weights)
        self._last = None if recorder.dry else _Pass(images, weights, model, _arrays(recorder))
        return replace(graph, notes=tuple(self._notes(graph, recorder)))

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        start = time.perf_counter()
        recorder, model = self._run(images, weights, frozenset(wanted), replaced=replaced)
        seconds = time.perf_counter() - start
        course = None if self._course is None else self._course[: len(recorder.course)] if replaced else self._course
        if course is not None and recorder.course != course:
            raise self._is_another(course, recorder.course)
        if recorder.replaced:
            raise CaptureError(f"values {', '.join(map(str, recorder.replaced))} are not what an operation of this shape gives")
        if not replaced:
            self._last = _Pass(images, weights, model, _arrays(recorder))
        return {value: own_array(x) for value, x in recorder.kept.items()}, seconds

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        """What makes a second run on the same images give something else, in words; empty where it gives the same.

        The second run is of the copy that the first has changed. Where the last run was on these images with these weights, it is
        the first: one run is enough.
        """
        last = self._last
        if last is None or not (_equal(last.images, images) and _same(last.weights, weights)):
            if self._course is None:
                self.record(images, weights)
            recorder, model = self._run(images, weights, frozenset())
            last = self._last = _Pass(images, weights, model, _arrays(recorder))
        again, _ = self._run(images, weights, frozenset(), last.model)
        returned = _arrays(again)
        if _same(returned, last.returned):
            return ""
        if self._random:
            return _random_words(self._random)
        return "it changes what it holds while it runs, or draws random numbers outside of torch"

    # How it is run

    def _recorded(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> tuple[Recorder, nn.Module]:
        """A recording run: a dry one, where the candidate goes through it."""
        if self._dry:
            with suppress(CaptureError):
                return self._run(images, weights, None, dry=True)
        try:
            return self._run(images, weights, None)
        except CaptureError as error:
            if self._channels_last or self._course is not None:
                raise
            return self._run_channels_last(images, weights, error)

    def _is_another(self, first: Course, second: Course) -> CaptureError:
        """What is said of a run that is another one than the recorded: that this was a dry one may have made the difference."""
        if self._dry and self._recorded_on is not None:
            self._dry = False
            with suppress(CaptureError):
                recorder, _ = self._run(*self._recorded_on, None)
                if recorder.course != first:
                    return StaleGraphError("the candidate looks at its own numbers, and is to be recorded with all of them")
        return by_trace(_other_course(first, second))

    def _run(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        keep: frozenset[int] | None,
        model: nn.Module | None = None,
        *,
        replaced: Mapping[int, np.ndarray] = NOTHING,
        dry: bool = False,
    ) -> tuple[Recorder, nn.Module]:
        """One pass; of `model` as it is, else of a fresh copy with these weights."""
        if model is None:
            self._give(weights)
            model, modules = self._fresh()
        else:
            modules = held(model).modules
        x = _tensor(images, self._first)
        x = x.permute(0, 2, 3, 1).contiguous() if self._channels_last else x
        own = {name: x for name, x in self._tensors.items() if name not in self._views}
        others = {value: torch.from_numpy(np.array(y)) for value, y in replaced.items()}
        recorder = Recorder(own, x, TorchRunner._call.__code__, keep, others, dry=dry)
        with self._with_reason(recorder, modules, tuple(x.shape)), own_code(RUNNING), untouched(next(self._seeds)), torch.no_grad():
            try:
                with hooked(modules, recorder), suppress(EnoughError), recorder:
                    self._call(model, x, recorder)
                recorder.returned = {name: x.detach().clone() for name, x in recorder.returned.items()}
            finally:
                recorder.restore()
        return recorder, model

    @staticmethod
    def _call(model: nn.Module, x: torch.Tensor, recorder: Recorder) -> None:
        """The line of a candidate's own code is looked for inside of this."""
        recorder.ended(model(x))

    def _run_channels_last(
        self, images: np.ndarray, weights: Mapping[str, np.ndarray], error: CaptureError
    ) -> tuple[Recorder, nn.Module]:
        """A run on images as b h w c, after one on b c h w that raised `error`, which is raised again where this does not run."""
        self._channels_last = True
        try:
            return self._run(images, weights, None)
        except CaptureError:
            self._channels_last = False
        raise error

    def _give(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put these weights in, and for all others what was there; what a graph holds of those before stays as it is."""
        for name, before in self._before.items():
            if name in weights and weights[name].shape != tuple(before.shape):
                raise ValueError(f"{name} must be {tuple(before.shape)}, got {weights[name].shape}")
            self._tensors[name].data = before  # what was there is gone before there is more
            self._tensors[name].data = _tensor(weights[name], before) if name in weights else before.clone()
        for name, (parameter, place) in self._views.items():
            self._tensors[name].data = self._tensors[parameter].detach().as_strided(*place)

    def _fresh(self) -> tuple[nn.Module, Mapping[str, nn.Module]]:
        """A copy in the state of the start that has this runner's tensors, and its modules; of scripted ones there is but one."""
        if self._one_copy:
            return self._base, self._modules
        memo = {id(x): x for x in (*self._tensors.values(), *self._copied.shared)}
        model = copy.deepcopy(self._base, memo)
        return model, {path: memo[id(module)] for path, module in self._modules.items() if id(module) in memo}

    @contextmanager
    def _with_reason(self, recorder: Recorder, modules: Mapping[str, nn.Module], fed: tuple[int, ...]) -> Iterator[None]:
        """What the candidate raises inside gets the module's path and the likely reason."""
        try:
            yield
        except CaptureError as error:
            if error.__cause__ is None:
                raise
            why = likely_reason(message_of(error.__cause__), recorder.path, modules.get(recorder.path), recorder.failed, fed)
            raise OwnCodeError(*error.words, *(("; ", *why) if why else ())) from error.__cause__

    def _notes(self, graph: Graph, recorder: Recorder) -> Iterator[str]:
        """What a reader of the comparison must know of this run."""
        if self._channels_last:
            yield "it takes its images as b h w c, and was fed them so"
        if recorder.autocast is not None:
            dtype, line = recorder.autocast
            at = f" ({line})" if line else ""
            if self.dtype == "float64":
                yield f"it computes under autocast in {dtype}{at}, which does nothing in float64: dtype=own compares it as it runs"
            else:
                yield f"it computes under autocast in {dtype}{at}"
        yield from filter(None, [narrowed(graph, self.dtype)])
        for shape, line in recorder.from_outside.items():
            what = f"an array {' '.join(map(str, shape))} comes from outside of torch{f' ({line})' if line else ''}"
            yield f"{what}: what was done there is not followed"


def _converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In `dtype` if it is of floating point, in its complex kind if it is complex; others stay."""
    if x.is_complex():
        return x.to(dtype.to_complex())
    if not x.is_floating_point():
        return x
    return _tensor(own_array(x.contiguous()), torch.empty(0, dtype=dtype, device=x.device))


def _tensor(x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """A new tensor of these numbers, rounded by NumPy to the dtype of another one, on its device."""
    name = str(like.dtype).removeprefix("torch.")
    if name not in FLOATS:
        return torch.from_numpy(np.array(x)).to(like.device, like.dtype)
    rounded = x.astype(float_dtype("dtype", name))
    if name == "bfloat16":
        return torch.from_numpy(rounded.view(np.int16)).view(torch.bfloat16).to(like.device)
    return torch.from_numpy(rounded).to(like.device)


def _read_only(x: np.ndarray) -> np.ndarray:
    view = x.view()
    view.flags.writeable = False
    return view


def _arrays(recorder: Recorder) -> dict[str, np.ndarray]:
    return {name: own_array(x) for name, x in recorder.returned.items()}


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or (a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True)))


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a is b or (a.keys() == b.keys() and all(_equal(x, b[name]) for name, x in a.items()))


def _random_words(operations: tuple[Operation, ...]) -> str:
    """Which operations draw random numbers, each place once."""
    places = dict.fromkeys(
        f"{one.name}{f' in {one.module}' if one.module else ''}{f' ({one.line})' if one.line else ''}" for one in operations
    )
    shown = list(places)[:3]
    return f"it draws random numbers: {', '.join(shown)}" + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def _other_course(first: Course, second: Course) -> str:
    """Where two runs part, in words."""
    i = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    was, then = (run[i][0] if i < len(run) else "nothing" for run in (first, second))
    return f"the candidate does something else each time it runs: after {i} operations {was}, then {then}"
