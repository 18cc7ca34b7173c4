"""A Keras 3 model, followed on whichever library Keras runs on: JAX's jaxpr, PyTorch's exported program, TensorFlow's graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import reduce
from importlib import import_module
from typing import Any

import keras
import numpy as np

from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code
from scalablevit_ref.errors import CaptureError


class KerasModel(Candidate):
    """A model or layer of Keras, in inference mode."""

    def __init__(self, model: keras.layers.Layer) -> None:
        self.model, self.library = model, keras.backend.backend()

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError for a model that cannot be run, or on a library that is not followed."""
        if self.library == "jax":
            return _on_jax(self.model, conditions)
        if self.library == "torch":
            return _on_torch(self.model, conditions, files)
        if self.library == "tensorflow":
            return _on_tensorflow(self.model, conditions, files)
        raise CaptureError(f"Keras runs on {self.library}, where its models are not followed: expected jax, torch or tensorflow")


# What a model holds


def _layers(layer: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The layers in a layer by their paths, each once: names of attributes, places in lists, else the layers' own names."""
    seen = {id(layer)} if seen is None else seen
    inner = [*getattr(layer, "layers", ())]
    own = {id(x) for x in inner}
    held = {**vars(layer), **vars(layer).get("_modules", {})}
    named = [(name, value) for name, value in held.items() if not name.startswith("_") and name != "layers"]
    for name, value in [*named, *((x.name, x) for x in inner), *((x.name, x) for x in getattr(layer, "_layers", ()))]:
        parts = _parts(value)
        for step, part in parts:
            if id(part) not in seen:
                seen.add(id(part))
                called = part.name if id(part) in own and not step and name not in vars(layer) else f"{name}{step}"
                yield from _with_its_own(part, f"{path}.{called}".removeprefix("."), seen)


def _with_its_own(layer: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    yield path, layer
    yield from _layers(layer, path, seen)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """The layers that an attribute is or holds, and the steps to them."""
    if isinstance(value, keras.layers.Layer):
        return [("", value)]
    items: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [(f".{key}{step}", part) for key, inner in items for step, part in _parts(inner)]


def _variables(model: Any) -> dict[str, Any]:
    """Its variables of floating point by paths: those of layers first, as their attributes or their names call them."""
    found: dict[str, Any] = {}
    for path, layer in (("", model), *_layers(model)):
        for x in [*layer._trainable_variables, *layer._non_trainable_variables]:
            if keras.backend.is_float_dtype(x.dtype) and not any(x is other for other in found.values()):
                name = f"{path}.{x.name}".removeprefix(".")
                while name in found:
                    name += "_"
                found[name] = x
    return found


def _channels_last(model: Any, images: np.ndarray) -> bool | None:
    """Whether it takes images b h w c, where its inputs' shape says so; None where it does not."""
    with_shape = getattr(model, "input_shape", None) if getattr(model, "inputs", None) else None
    shape = tuple(with_shape or ())
    fits = [taken for taken in (False, True) if len(shape) == 4 and shape[-1 if taken else 1] == images.shape[1]]
    return fits[0] if len(fits) == 1 else None


def as_taken(images: np.ndarray, run: Callable[[np.ndarray], Any], last: bool | None) -> bool:
    """Whether a candidate takes images b h w c: as its inputs say, or because it runs. Raises CaptureError where it never does."""
    if last is not None:
        return last
    with own_code(RUNNING):
        try:
            run(images)
        except Exception as error:
            try:
                run(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
            except Exception:
                raise error from None
            return True
    return False


@contextmanager
def _computing(model: Any, dtype: str | None, values: Mapping[int, Any], variables: Collection[Any]) -> Iterator[None]:
    """While open, its variables have these values, by their identities, and its layers compute in this dtype; None leaves that."""
    layers = [model, *(layer for _, layer in _layers(model))]
    inputs = [x for layer in layers for x in keras.tree.flatten(getattr(layer, "inputs", None) or ())]
    typed = {id(x): x for x in (*variables, *inputs) if keras.backend.is_float_dtype(x._dtype)}.values()
    narrowing: dict[str, str] = getattr(import_module("keras.src.backend.common.dtypes"), "BIT64_TO_BIT32_DTYPE", {})
    policies, own = [layer._dtype_policy for layer in layers], [x._dtype for x in typed]
    floats, sums = keras.config.floatx(), dict(narrowing)
    try:
        if dtype is not None:
            for layer in layers:
                layer._dtype_policy = keras.DTypePolicy(dtype)
            for x in typed:
                x._dtype = dtype
            keras.config.set_floatx(dtype)
            narrowing["float64"] = "float64"  # what float64 and another dtype give: float32 on JAX and PyTorch
        with keras.StatelessScope(state_mapping=[(x, values[id(x)]) for x in variables]):
            yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer._dtype_policy = policy
        for x, before in zip(typed, own, strict=True):
            x._dtype = before
        keras.config.set_floatx(floats)
        narrowing.update(sums)


# On JAX


def _on_jax(model: Any, conditions: Conditions) -> Captured:
    from scalablevit_ref.compare.capture.jax_forward import Forward
    from scalablevit_ref.compare.capture.jax_graph import JaxRunner, canonical

    last: bool | None
    if not model.built:
        last = as_taken(conditions.fed, lambda x: model(x.astype("float32"), training=False), None)
    else:
        last = _channels_last(model, conditions.fed)
    variables, layers = _variables(model), dict(_layers(model))
    names = {path: canonical(path.split(".")) for path in variables}
    paths = {name: path for path, name in names.items()} | {canonical(path.split(".")): path for path in layers}
    own = {names[path]: x.value for path, x in variables.items()}
    called = {id(layer): canonical(path.split(".")) for path, layer in layers.items()}

    def run(state: Mapping[str, Any], x: Any, calls: Any) -> Any:
        values = {id(variables[path]): state[name] for path, name in names.items()}
        with _computing(model, conditions.dtype, values, variables.values()), _calls_reported(called, calls.call):
            return model(x, training=False)

    both = ("b c h w", "b h w c")
    layouts = both if last is None else both[::-1] if last else both
    return followed(JaxRunner(Forward("Keras model", own, run, layouts, paths), conditions.dtype), conditions)


@contextmanager
def _calls_reported(called: Mapping[int, str], report: Callable[..., Any]) -> Iterator[None]:
    """While open, each call of a layer that has a path goes through `report`, with the path, the call and its arguments."""
    call = keras.layers.Layer.__call__

    def reported(self: Any, *args: Any, **kwargs: Any) -> Any:
        if id(self) not in called:
            return call(self, *args, **kwargs)
        return report(called[id(self)], lambda *given, **settings: call(self, *given, **settings), args, kwargs)

    keras.layers.Layer.__call__ = reported
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = call


# On PyTorch


def _on_torch(model: Any, conditions: Conditions, files: ExitStack) -> Captured:
    """Exported by PyTorch, whose program says what the model computes."""
    import torch

    from scalablevit_ref.compare.capture.torch import TorchModule

    model, images = model.eval(), torch.from_numpy(conditions.fed.astype(conditions.dtype or "float32"))
    last = as_taken(conditions.fed, lambda x: model(x.astype("float32"), training=False), _channels_last(model, conditions.fed))
    variables = _variables(model)

    class AsTaken(torch.nn.Module):
        """The model, of images b c h w. Its variables are registered by their own paths."""

        def forward(self, images: torch.Tensor) -> Any:
            values = {id(x): reduce(_held_by, path.split("."), self) for path, x in variables.items()}
            with _computing(model, conditions.dtype, values, variables.values()):
                return model(images.permute(0, 2, 3, 1) if last else images, training=False)

    taken = AsTaken().eval()
    for path, variable in variables.items():
        holder: Any = taken
        *steps, leaf = path.split(".")
        for step in steps:
            if step not in holder._modules:
                holder.add_module(step, torch.nn.Module())
            holder = holder._modules[step]
        value = variable.value.detach()
        value = value.to(images.dtype) if conditions.dtype is not None else value
        holder.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))

    with own_code(RUNNING), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's
        program = torch.export.export(taken, (images,), strict=False)
    captured = TorchModule(program).capture(replace(conditions, dtype=None), files)
    return replace(
        captured, kind="Keras model", notes=(f"images were given as {'b h w c' if last else 'b c h w'}", *captured.notes)
    )


def _held_by(module: Any, name: str) -> Any:
    """A module's own module or parameter of this name, whatever else is called so."""
    return module._modules[name] if name in module._modules else module._parameters[name]


# On TensorFlow


def _on_tensorflow(model: Any, conditions: Conditions, files: ExitStack) -> Captured:
    """Traced to a graph, in which each layer's operations lie in a scope of its path."""
    import tensorflow as tf

    from scalablevit_ref.compare.capture.tensorflow import IN_MODULE, TensorFlowModel

    def report(path: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with tf.name_scope(f"{IN_MODULE}/{path.replace('.', '/')}/"):
            return tf.nest.map_structure(lambda x: tf.identity(x, "returned"), call(*args, **kwargs))

    variables, dtype = _variables(model), conditions.dtype
    held = {path: tf.Variable(tf.cast(x.value, dtype or x.dtype), trainable=False, name=x.name) for path, x in variables.items()}

    def run(x: Any) -> Any:
        values = {id(variable): held[path].read_value() for path, variable in variables.items()}
        told = {id(layer): path for path, layer in _layers(model)}
        with _computing(model, dtype, values, variables.values()), _calls_reported(told, report):
            return model(x, training=False)

    names, last = {id(x): path for path, x in held.items()}, _channels_last(model, conditions.fed)
    return TensorFlowModel(run, "Keras model", names, last, dtype or "float32").capture(conditions, files)
