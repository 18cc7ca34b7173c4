"""TensorFlow's programs as `Runner`s: a SavedModel, a `tf.Module`, a `tf.function` or one of its concrete functions.

A program is traced for the images, its variables become constants, and the functions that it calls are written out. Then any of its
values can be asked for, and any can be fed, those constants too.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.ops import math_ops

from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.batches import in_batches
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.graph import NOTHING, Graph
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code, shown_line
from scalablevit_ref.compare.capture.tensorflow_graph import IN_MODULE, moved, numbered, scope
from scalablevit_ref.errors import CaptureError

__all__ = ["IN_MODULE", "TensorFlowModel", "TensorFlowRunner", "is_tensorflow"]

FLOATS = ("float16", "bfloat16", "float32", "float64")

SAVED = ("saved_model.pb", "saved_model.pbtxt")
"""The file that makes a folder a SavedModel."""


def is_tensorflow(value: Any) -> bool:
    """Whether it is a program of TensorFlow's: one that has been traced or can be, or what a SavedModel is loaded as."""
    concrete = hasattr(value, "structured_outputs") and hasattr(value, "graph")
    function = hasattr(value, "get_concrete_function")
    return concrete or function or isinstance(value, tf.Module) or isinstance(getattr(value, "signatures", None), Mapping)


class TensorFlowModel(Candidate):
    """A program of TensorFlow's. What was saved, or traced by its owner, keeps its weights; of a `tf.Module` a copy is run.

    Parameters
    ----------
    value
        A folder with a SavedModel, what it is loaded as, a `tf.Module`, a `tf.function`, a concrete function, or any function of
        a tensor.
    kind
        What it is, in words.
    names
        What variables are called, by the identity of TensorFlow's own; else by TensorFlow's own names.
    last
        Whether it takes images b h w c; None where that is to be found out.
    dtype
        Of its images.
    """

    def __init__(
        self,
        value: Any,
        kind: str = "TensorFlow model",
        names: Mapping[int, str] = MappingProxyType({}),
        last: bool | None = None,
        dtype: str = "float32",
    ) -> None:
        self.value, self.kind, self.names, self.last, self.dtype = value, kind, names, last, dtype

    @property
    def takes_weights(self) -> bool:
        return not (isinstance(self.value, Path) or any(hasattr(self.value, name) for name in ("structured_outputs", "signatures")))

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError for what cannot be read, traced or run, or takes other images."""
        value, names, dtype = self.value, dict(self.names), self.dtype
        if isinstance(value, Path):
            with own_code("loading the SavedModel"):
                value = tf.saved_model.load(str(value))
        if isinstance(value, tf.Module) and not hasattr(value, "signatures"):
            if conditions.dtype is not None:
                value, dtype = _in_dtype(value, conditions.dtype), conditions.dtype
            names |= {id(x): path for path, x in _held(value, tf.Variable)}
        runner = TensorFlowRunner(self.kind, value, conditions.fed.astype(dtype), names, self.last)
        return followed(runner, replace(conditions, load=conditions.load and self.takes_weights))


def _in_dtype(module: tf.Module, dtype: str) -> Any:
    """A copy of a module whose variables of floating point are of this dtype. Raises CaptureError where it cannot be copied."""
    held = {id(x): x for x in (*module.variables, *(x for _, x in _held(module, tf.Variable, tf.Tensor))) if x.dtype.is_floating}
    with own_code("copying the candidate"):
        return copy.deepcopy(module, {key: _cast(x, dtype) for key, x in held.items()})


def _cast(x: Any, dtype: str) -> Any:
    """A variable or a tensor in another dtype."""
    value = tf.cast(x, dtype)
    return tf.Variable(value, x.trainable, name=_named(x)) if isinstance(x, tf.Variable) else value


@contextmanager
def _numbers_of_64_bits() -> Iterator[None]:
    """While open, `tf.cast` of a number of Python is that number: TensorFlow would round it to float32 first, in its GELU too."""
    usual = math_ops.cast

    def cast(x: Any, dtype: Any, name: str | None = None) -> Any:
        return tf.constant(x, dtype, name=name) if isinstance(x, float) else usual(x, dtype, name)

    holders: tuple[Any, ...] = (math_ops, tf, tf.dtypes)
    try:
        for holder in holders:
            holder.cast = cast
        yield
    finally:
        for holder in holders:
            holder.cast = usual


def _named(variable: Any) -> str:
    """TensorFlow's own name of a variable."""
    name: str = variable.name.partition(":")[0]
    return name


def _held(value: Any, *kinds: type, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """What an object holds of these kinds, by the paths of attributes, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, kinds):
        yield path, value
        return
    if isinstance(value, Mapping):
        inner: Any = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    else:
        inner = [(k, v) for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")] if _is_holder(value) else ()
    for name, part in inner:
        yield from _held(part, *kinds, path=f"{path}.{name}".removeprefix("."), seen=seen)


def _is_holder(value: Any) -> bool:
    return isinstance(value, tf.Module) or hasattr(value, "_self_unconditional_checkpoint_dependencies")


def _tracked(value: Any) -> list[Any]:
    """The variables of what a SavedModel is loaded as."""
    if not hasattr(value, "signatures"):
        return []
    return [x for x in tf.train.TrackableView(value).descendants() if isinstance(x, tf.Variable)]


def traced(value: Any, images: np.ndarray, last: bool | None) -> tuple[Any, bool]:
    """The concrete function of such images, and whether it takes them b h w c. Raises CaptureError where it takes neither."""
    shapes = [tf.TensorSpec([images.shape[i] for i in order], images.dtype) for order in ((0, 1, 2, 3), (0, 2, 3, 1))]
    if hasattr(value, "structured_outputs"):
        return _signed(value, images)
    signatures = getattr(value, "signatures", None)
    if not callable(value) and isinstance(signatures, Mapping) and signatures:
        return _signed(signatures.get("serving_default", next(iter(signatures.values()))), images)
    call = value if callable(value) else getattr(value, "serve", None) or getattr(value, "forward", None)
    if call is None:
        raise CaptureError("the TensorFlow object has no __call__ and no signature: give one of its functions")
    likely = True if last is None else last  # as TensorFlow's own layers take them
    inner = call if hasattr(call, "python_function") else getattr(call, "__call__", None)  # noqa: B004 (not whether it is callable)
    plain = getattr(inner, "python_function", None)  # whose operations say where in the code they are asked for
    errors = []
    for function in [*([plain] if plain is not None else []), call]:
        for taken in (likely,) if last is not None else (likely, not likely):
            try:
                with own_code(RUNNING):
                    return _function_of(function).get_concrete_function(shapes[taken]), taken
            except CaptureError as error:
                errors.append(error)
    raise errors[0]


def _function_of(call: Any) -> Any:
    return tf.function(lambda x: call(x), autograph=False)


def _signed(concrete: Any, images: np.ndarray) -> tuple[Any, bool]:
    """A concrete function, called by what it is called with, for the shape of the images."""
    taken = [x for x in concrete.inputs if x.dtype.is_floating]
    if len(taken) != 1:
        raise CaptureError(f"the TensorFlow function takes {len(taken)} arrays: expected images alone")
    shape = tuple(taken[0].shape) if taken[0].shape.rank == 4 else (None,) * 4
    last = shape[1] != images.shape[1] and shape[3] == images.shape[1]
    sizes = [images.shape[i] for i in ((0, 2, 3, 1) if last else (0, 1, 2, 3))]
    spec = tf.TensorSpec([own or size for own, size in zip(shape, sizes, strict=True)], taken[0].dtype)
    keyword = next(iter(concrete.structured_input_signature[1]), None)
    with own_code(RUNNING):
        call = (lambda x: concrete(**{keyword: x})) if keyword else concrete
        return tf.function(call, autograph=False).get_concrete_function(spec), last


class TensorFlowRunner:
    """A program, frozen, as a `Runner`."""

    def __init__(self, kind: str, value: Any, images: np.ndarray, names: Mapping[int, str], last: bool | None) -> None:
        self.kind = kind
        with _numbers_of_64_bits():
            concrete, self._last = traced(value, images, last)
        self._lines = {op.name: line for op in concrete.graph.get_operations() if (line := _line(op))}
        handles = {id(x.handle): x for x in (*concrete.variables, *_tracked(value))}
        placed = {inner.op.name: handles.get(id(outer)) for outer, inner in concrete.graph.captures}
        own = {name: (names.get(id(x), ""), _named(x).replace("/", ".")) for name, x in placed.items() if x is not None}
        with own_code("writing out the candidate's graph"):
            frozen = convert_variables_to_constants_v2(concrete)
        self._wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name=""), [])
        graph = self._wrapped.graph
        self._input = graph.as_graph_element(frozen.inputs[0].name)
        self._results = [graph.as_graph_element(x.name) for x in frozen.outputs]
        constants = [op for op in graph.get_operations() if op.type == "Const" and op.outputs[0].dtype.name in FLOATS]
        held = {op.name: op for op in constants if prod(op.outputs[0].shape) > 1}
        told = any(op.name.startswith(f"{IN_MODULE}/") for op in graph.get_operations())
        called: dict[str, str] = {}
        for name, op in held.items():
            path, variable = own.get(name, ("", name.replace("/", ".")))
            leaf = (path or variable).rpartition(".")[2]
            called[name] = path if told and path else ".".join(filter(None, (scope(_read(op).name), leaf)))
        self.called = _unique(called)
        self.paths = {self.called[name]: own[name][0] or own[name][1] for name in held if name in own}
        self._constants = {self.called[name]: tf.make_ndarray(op.get_attr("value")) for name, op in held.items()}
        self._places = {self.called[name]: op.outputs[0].name for name, op in held.items()}
        self._keys: Mapping[int, Any] = {}
        self._back: Mapping[int, Any] = {}

    @property
    def dtype(self) -> str:
        return str(self._input.dtype.name)

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return self._constants

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        batches, notes = self._fed(images)
        results = self._results
        outputs = {"logits": results[0]} if len(results) == 1 else {f"maps.{i}": x for i, x in enumerate(results)}
        found = numbered(
            self._wrapped.graph.get_operations(),
            images=self._input,
            outputs=outputs,
            parameters=self.called,
            lines=self._lines,
            run=lambda wanted: self._run(wanted, batches[0], self._put(weights)),
        )
        self._keys, self._back = found.keys, found.back
        rest, fixed = len(images) // len(batches[0]), found.graph.parameters.keys() | found.graph.constants.keys()
        shapes = found.graph.shapes
        if rest > 1:
            shapes = {v: s if v in fixed or not s else (s[0] * rest, *s[1:]) for v, s in shapes.items()}
        taken = f"images were given as {'b h w c' if self._last else 'b c h w'}"
        return replace(found.graph, shapes=shapes, notes=(taken, *notes))

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        keys = {value: self._keys[value] for value in wanted}
        batches, _ = self._fed(images)
        stand_in = {self._keys[value][0]: moved(y, self._back.get(value)) for value, y in replaced.items()}
        cuts = {name: np.split(y, len(batches)) for name, y in stand_in.items()}
        start = time.perf_counter()
        parts = [
            self._run((name for name, _ in keys.values()), x, self._put(weights) | {name: some[i] for name, some in cuts.items()})
            for i, x in enumerate(batches)
        ]
        seconds = time.perf_counter() - start
        whole = {name: np.concatenate([p[name] for p in parts]) if parts[1:] else parts[0][name] for name, _ in keys.values()}
        return {value: array_of(moved(whole[name], move), f"{name!r}") for value, (name, move) in keys.items()}, seconds

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        drawn = [op.type for op in self._wrapped.graph.get_operations() if "Random" in op.type]
        return f"it draws random numbers ({drawn[0]})" if drawn else ""

    def _put(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights that are not its own, by TensorFlow's names of the constants that they stand in for."""
        own, places = self._constants, self._places
        return {places[name]: x.reshape(own[name].shape) for name, x in weights.items() if name in own and x is not own[name]}

    def _fed(self, images: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        x = images.transpose(0, 2, 3, 1) if self._last else images
        dims = [size if size is not None else "batch" for size in self._input.shape]
        return in_batches(np.ascontiguousarray(x, self._input.dtype.as_numpy_dtype), dims, self.kind, self._input.name)

    def _run(self, wanted: Iterable[str], x: np.ndarray, replaced: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names, graph = list(dict.fromkeys(wanted)), self._wrapped.graph
        fed = [self._input, *(graph.as_graph_element(name) for name in replaced)]
        with own_code(RUNNING):
            part = self._wrapped.prune(fed, [graph.as_graph_element(name) for name in names])
            arrays = [tf.constant(y, taken.dtype) for y, taken in zip([x, *replaced.values()], fed, strict=True)]
            return {name: np.asarray(y.numpy()) for name, y in zip(names, part(*arrays), strict=True)}


def _line(op: Any) -> str:
    """Where a user's own code asks for an operation: the innermost frame of such a file."""
    for frame in reversed(list(op.traceback or ())):
        if line := shown_line(frame.filename, frame.lineno, frame.name):
            return line
    return ""


def _read(op: Any) -> Any:
    """The last of the operations that only hand a variable on: it lies where the variable is read."""
    while (users := op.outputs[0].consumers()) and len(users) == 1 and users[0].type == "Identity":
        op = users[0]
    return op


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """The same, in which those that several have keep their keys."""
    every: list[str] = list(names.values())
    return {key: name if every.count(name) == 1 else key for key, name in names.items()}
