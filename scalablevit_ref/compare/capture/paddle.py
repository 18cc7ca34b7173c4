"""A `paddle.nn.Layer`, traced into a program and followed by it; a program that `paddle.jit.save` has written too."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle

from scalablevit_ref.backends.paddle import to_numpy
from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.graph import NOTHING, Graph, random_operations
from scalablevit_ref.compare.capture.one_line import one_line
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code
from scalablevit_ref.compare.capture.paddle_graph import Scopes, floats, numbered
from scalablevit_ref.compare.capture.returned import named_outputs
from scalablevit_ref.errors import CaptureError


class PaddleLayer(Candidate):
    """A layer, a copy of which is run in evaluation mode, or the path of one that `paddle.jit.save` has written."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        layer = self.layer
        if isinstance(layer, Path):
            with one_line(layer.name, "cannot be read"):
                layer = paddle.jit.load(str(layer.with_suffix("")))
        return followed(PaddleRunner(layer, conditions.dtype), conditions)


class PaddleRunner:
    """A copy of a layer as a `Runner`. `paddle.jit.to_static` traces it once for each shape; the program gives the values.

    Parameters
    ----------
    layer
        A `paddle.nn.Layer`; of a saved one (`paddle.jit.TranslatedLayer`) the program as it is.
    dtype
        What its tensors of floating point are converted to; None leaves them as they are, and so does a saved program.

    Raises
    ------
    CaptureError
        For a layer that cannot be copied, or holds no parameters.
    """

    kind = "PaddlePaddle layer"
    paths: Mapping[str, str] = MappingProxyType({})

    def __init__(self, layer: Any, dtype: str | None) -> None:
        self.layer = layer
        self._saved = type(layer).__name__ in ("TranslatedLayer", "PirTranslatedLayer")
        if not self._saved:
            with own_code("copying the candidate"):
                self.layer = copy.deepcopy(layer)
                self.layer.eval()
                if dtype is not None:
                    self.layer.to(dtype=dtype)
        state = floats(self.layer.state_dict())
        self._own = {x.name: x for x in state.values()} if self._saved else state
        if not self._own:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        self._parameters = {name: to_numpy(x) for name, x in self._own.items()}
        self._scope = paddle.static.global_scope().new_scope()
        self._traced: dict[tuple[tuple[int, ...], str], _Program] = {}
        self._values: Mapping[int, Any] = {}
        self._random = ""

    @property
    def dtype(self) -> str:
        return next(iter(self._parameters.values())).dtype.name

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return self._parameters

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        traced = self._trace(images)
        found = numbered(
            traced.program,
            outputs=traced.outputs,
            parameters={x.name: name for name, x in self._own.items()},
            scopes=traced.scopes,
            run=lambda wanted: self._run(images, weights, list(wanted)),
        )
        self._values = found.values
        self._random = ", ".join(sorted({one.name for one in random_operations(found.graph)}))
        return found.graph

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        if replaced:
            raise CaptureError("a PaddlePaddle layer is not run with values replaced")
        order = sorted(wanted)
        start = time.perf_counter()
        held = self._run(images, weights, [self._values[n] for n in order])
        seconds = time.perf_counter() - start
        return {n: array_of(x, "a value") for n, x in zip(order, held, strict=True)}, seconds

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        return f"it draws random numbers ({self._random})" if self._random else ""

    def _trace(self, images: np.ndarray) -> _Program:
        key = (images.shape, self.dtype)
        if key not in self._traced:
            with own_code(RUNNING):
                self._traced[key] = (
                    _saved(self.layer, *key)
                    if self._saved
                    else _traced(copy.deepcopy(self.layer), *key, names=[x.name for x in self._own.values()])
                )
        return self._traced[key]

    def _run(self, images: np.ndarray, weights: Mapping[str, np.ndarray], wanted: Sequence[Any]) -> list[np.ndarray]:
        """These values of the program, computed with these of the weights replaced."""
        if not wanted:
            return []
        traced = self._trace(images)
        for name, x in self._own.items():
            given = weights.get(name, self._parameters[name]).astype(self._parameters[name].dtype)
            self._scope.var(x.name).get_tensor().set(np.ascontiguousarray(given), paddle.CPUPlace())
        with own_code(RUNNING), _static(), paddle.static.scope_guard(self._scope):
            fed = {traced.input: np.ascontiguousarray(images.astype(self.dtype))}
            return list(paddle.static.Executor(paddle.CPUPlace()).run(traced.program, feed=fed, fetch_list=list(wanted)))


IMAGES = "images"
"""What a program that is traced here calls its input."""


@dataclass(frozen=True)
class _Program:
    """A program, what it calls its input, what it gives, by the names that `Graph.outputs` has, and the layers that ran in it."""

    program: Any
    input: str
    outputs: Mapping[str, Any]
    scopes: Scopes = field(default_factory=Scopes)


def _traced(layer: Any, shape: tuple[int, ...], dtype: str, names: Sequence[str]) -> _Program:
    """The program of a layer for images of one shape. names: those of its parameters, since a copy's get new ones."""
    scopes, opaque = Scopes(), _Opaque(layer)  # which Paddle refers to weakly
    for x, name in zip(floats(layer.state_dict()).values(), names, strict=True):
        x.name = name
    exactly = _numbers_of_64_bits() if dtype == "float64" else nullcontext()
    with _watched(layer, scopes), exactly, warnings.catch_warnings():
        spec = paddle.static.InputSpec(shape, dtype, IMAGES)
        warnings.filterwarnings("ignore", "Tensor do not have '", UserWarning)  # of a place, or a layout, as a program has none
        try:
            concrete = paddle.jit.to_static(opaque, full_graph=True, input_spec=[spec]).forward.concrete_program
        except Exception as error:
            raise (opaque.raised or [error])[0] from None
    return _Program(concrete.main_program, IMAGES, _outputs(list(concrete.outputs)), scopes)


def _saved(layer: Any, shape: tuple[int, ...], dtype: str) -> _Program:
    """The program of a saved layer. Raises CaptureError for one that takes other images."""
    program = layer.program()
    ops = program.global_block().ops
    given = [op.attrs() for op in ops if op.name() == "pd_op.data"]
    taken = [tuple(told["shape"]) for told in given]
    if len(given) != 1 or len(taken[0]) != 4 or any(size not in (-1, n) for size, n in zip(taken[0], shape, strict=True)):
        shapes = " and ".join(" x ".join(map(str, one)) for one in taken) or "nothing"
        raise CaptureError(
            f"the saved program takes {shapes}, not images of {' x '.join(map(str, shape))}: give images of that shape"
        )
    results = [operand.source() for op in ops if op.name() == "builtin.shadow_output" for operand in op.operands()]
    return _Program(program, given[0]["name"], _outputs(results))


def _outputs(values: Sequence[Any]) -> Mapping[str, Any]:
    if not values:
        raise CaptureError("the layer returns no tensor: its logits, or a mapping or sequence that holds them, are expected")
    return named_outputs(values[0] if len(values) == 1 else values, lambda x: isinstance(x, paddle.pir.Value))


class _Opaque(paddle.nn.Layer):  # type: ignore[misc]
    """A layer whose code is run as it is, where Paddle would write it anew: which it cannot do with every loop."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.raised: list[BaseException] = []

        def run(images: Any) -> Any:
            try:
                return layer(images)
            except Exception as error:
                self.raised.append(error)  # of which Paddle makes another one, with the source that it wrote
                raise

        self.run = paddle.jit.not_to_static(run)

    def forward(self, images: Any) -> Any:
        return self.run(images)


@contextmanager
def _static() -> Iterator[None]:
    """While open, Paddle runs programs."""
    dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        yield
    finally:
        if dynamic:
            paddle.disable_static()


@contextmanager
def _numbers_of_64_bits() -> Iterator[None]:
    """While open, a traced program holds Python's numbers in float64: Paddle writes them, and every epsilon, in float32."""
    names: Any = paddle._C_ops
    scale, layer_norm = names.scale, names.layer_norm

    def number(value: float, like: Any) -> Any:
        return paddle.full([], value, like.dtype)

    def scaled(x: Any, factor: Any, bias: float = 0.0, bias_after_scale: bool = True, *rest: Any, **named: Any) -> Any:
        if x.dtype != paddle.float64 or not isinstance(factor, int | float) or rest or named:
            return scale(x, factor, bias, bias_after_scale, *rest, **named)
        x = x if bias_after_scale or bias == 0 else x + number(bias, x)
        x = x if factor == 1 and bias else names.multiply(x, number(factor, x))
        return names.add(x, number(bias, x)) if bias_after_scale and bias else x

    def normed(x: Any, weight: Any, bias: Any, eps: float, first: int) -> Any:
        if x.dtype != paddle.float64:
            return layer_norm(x, weight, bias, eps, first)
        axes = list(range(first, len(x.shape)))
        x = x - x.mean(axes, keepdim=True)
        x = x / paddle.sqrt(names.add((x * x).mean(axes, keepdim=True), number(eps, x)))
        x = x if weight is None else x * weight
        return x if bias is None else x + bias

    names.scale, names.layer_norm = scaled, normed
    try:
        yield
    finally:
        names.scale, names.layer_norm = scale, layer_norm


@contextmanager
def _watched(layer: Any, scopes: Scopes) -> Iterator[None]:
    """While open, what runs in each of the layers is noted."""
    begun: list[tuple[str, int, list[Any]]] = []
    handles = []

    def before(path: str, given: Any) -> None:
        begun.append((path, _length(), _values_in(given)))

    def after(path: str, returned: Any) -> None:
        while begun:
            inner, start, given = begun.pop()
            if inner == path:
                scopes.spans.append((path, start, _length(), given, _values_in(returned)))
                return

    for path, one in layer.named_sublayers():
        handles.append(one.register_forward_pre_hook(paddle.jit.not_to_static(lambda one, given, path=path: before(path, given))))
        handles.append(
            one.register_forward_post_hook(paddle.jit.not_to_static(lambda one, given, out, path=path: after(path, out)))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _length() -> int:
    """Operations of the program so far."""
    return len(paddle.static.default_main_program().global_block().ops)


def _values_in(x: Any) -> list[Any]:
    if isinstance(x, paddle.pir.Value):
        return [x]
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple | list) else ()
    return [value for part in parts for value in _values_in(part)]
