"""An ONNX model, in ONNX Runtime without optimisations; and what its graph tells of the modules that torch exported it from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.alignment import Captured, Conditions, Module, aligned, by_name, by_parameters, nameable
from scalablevit_ref.compare.capture.arrays import array_of, one_dtype
from scalablevit_ref.compare.capture.names import by_mapping, merged
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.formats.onnx import MOST_BYTES, SCOPES, module_path
from scalablevit_ref.layers import POOL

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import _get_all_tensors, load_external_data_for_model, uses_external_data
except ModuleNotFoundError as error:
    message = f"an ONNX model needs {error.name}: pip install 'scalablevit-ref[onnx]'"
    raise ModuleNotFoundError(message, name=error.name) from error

MOST_FILES = 100
"""Most files of external data that a model may have."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)

ROLES = {
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "bias",
    ("MatMul", 1): "weight",
    ("LayerNormalization", 1): "weight",
    ("LayerNormalization", 2): "bias",
    ("Mul", 0): "weight",
    ("Mul", 1): "weight",
    ("Add", 0): "bias",
    ("Add", 1): "bias",
}
"""What a constant is that an operation takes as its n-th input."""


VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that lay the same values out in another way."""

Run = Callable[[Iterable[str]], dict[str, np.ndarray]]
"""Runs the model for the values of these names."""


class OnnxModel:
    """A model file. Its values are recognised by their names, else by the modules that torch's exporters note, else by sizes."""

    takes_weights = False
    brings_images = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self) -> ScalableViTConfig | None:
        return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError for a file that cannot be read or run, or that takes other images; OSError."""
        path, network, images = self.path, conditions.network, conditions.fed
        with open_regular(path, "an ONNX model") as file, _one_line(path, "cannot be read"):
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise CaptureError(f"{path.name} has {size:,} bytes, more than the {MOST_BYTES:,} that a model can have")
            model = onnx.load_model_from_string(file.read())
            _check_external_data(model, path)
            load_external_data_for_model(model, str(path.parent))  # refuses what lies outside this folder
        graph = model.graph
        taken, x, notes = _fed(path, graph, images)
        results = [value.name for value in graph.output]
        result = "logits" if "logits" in results else results[0]
        modules = outputs(graph)

        def run(wanted: Iterable[str]) -> dict[str, np.ndarray]:
            with _one_line(path, "cannot be run"):
                return _run(model, list(dict.fromkeys(wanted)), {taken: x})

        with _one_line(path, "cannot be read"):
            found, params = _aligned(graph, conditions, modules, run)
        result = modules.get(found["logits"], found["logits"]) if "logits" in found else result
        source = {name: modules.get(place, place) for name, place in found.items()}
        start = time.perf_counter()
        values = run([*source.values(), result])
        seconds = time.perf_counter() - start
        expected = network.layer_shapes(images.shape)
        misfits = [name for name in found if found[name] in modules and values[source[name]].size != prod(expected[name])]
        notes += [f"{found[name]} gives no value of the size of {name}, which is left out" for name in misfits]
        given = {name: values[value] for name, value in source.items() if name not in misfits} | {"logits": values[result]}
        places = found | {"logits": found.get("logits", "output")}
        taps = {name: array_of(value, f"{path.name}: {places[name]!r}") for name, value in given.items()}
        dtype = one_dtype({name: tap.dtype.name for name, tap in taps.items()}, path.name)
        left_out = dict.fromkeys(misfits, "of another size in the model")
        return Captured(
            "ONNX model", taps, places, images, dtype, params, seconds, tuple(notes), "found in no value of the model", left_out
        )


@contextmanager
def _one_line(path: Path, what: str) -> Iterator[None]:
    """Whatever onnx or ONNX Runtime raise within becomes a CaptureError of one line."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(f"{path.name} {what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _check_external_data(model: Any, path: Path) -> None:
    """Raise CaptureError or OSError for external data in too many files, in no regular file, or more of it than there is.

    A part that is taken twice counts twice.
    """
    folder, sizes, claimed = path.parent.resolve(), dict[str, int](), 0
    for tensor in filter(uses_external_data, _get_all_tensors(model)):
        stated = {entry.key: entry.value for entry in tensor.external_data}
        location = stated.get("location", "")
        if location not in sizes:
            if not (folder / location).resolve().is_relative_to(folder):
                return  # and is refused when it is loaded
            with open_regular(folder / location, "external data") as file:
                sizes[location] = os.fstat(file.fileno()).st_size
        if len(sizes) > MOST_FILES:
            raise CaptureError(f"{path.name} has external data in more than {MOST_FILES} files")
        claimed += int(stated.get("length") or sizes[location])
    if claimed > sum(sizes.values()):
        raise CaptureError(f"{path.name} takes {claimed:,} bytes out of {sum(sizes.values()):,} of external data")


def _fed(path: Path, graph: Any, images: np.ndarray) -> tuple[str, np.ndarray, list[str]]:
    """The name of the model's input, and the images as it takes them."""
    held = {x.name for x in graph.initializer}
    inputs = [value for value in graph.input if value.name not in held]
    if len(inputs) != 1 or not graph.output:
        raise CaptureError(
            f"{path.name} takes {len(inputs)} inputs and gives {len(graph.output)} outputs: expected images alone, and logits"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in FLOATS:
        raise CaptureError(f"{path.name} takes {inputs[0].name!r}, which is no tensor of floating point")
    x, notes = images.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), []
    if kind.HasField("shape"):
        dims = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
        if len(dims) == 4 and dims[3] == x.shape[1] != dims[1]:
            x, notes = x.transpose(0, 2, 3, 1), ["images were given as b h w c"]
        if len(dims) != 4 or any(isinstance(a, int) and a != b for a, b in zip(dims, x.shape, strict=True)):
            raise CaptureError(
                f"{path.name} takes {inputs[0].name!r} of shape ({', '.join(map(str, dims))}), got images of shape {x.shape}; "
                "give it such ones, or export it with dynamic sizes"
            )
    return inputs[0].name, x, notes


def _run(model: Any, wanted: Sequence[str], feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """These values of the graph, which has them as its outputs from now on."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(list(wanted), dict(feed)), strict=True))


def _sizes(graph: Any, values: Sequence[str], run: Run) -> dict[str, int]:
    """How many numbers each of these values has, from one run that keeps their shapes alone."""
    count = len(graph.node)
    graph.node.extend(onnx.helper.make_node("Shape", [value], [f"shape of {value}"]) for value in values)
    shapes = run(f"shape of {value}" for value in values) if values else {}
    del graph.node[count:]
    return {value: prod(map(int, shapes[f"shape of {value}"])) for value in values}


def _aligned(
    graph: Any, conditions: Conditions, modules: Mapping[str, str], run: Run
) -> tuple[dict[str, str], dict[str, np.ndarray] | None]:
    """Layers to modules or values, and the official parameters where the graph tells all of them."""
    network, names = conditions.network, conditions.names
    shapes, held, own = network.parameter_shapes(), constants(graph), parameters(graph)
    values = [value for node in graph.node for value in node.output if value]
    mapped = {} if names is None else by_mapping(names, {*values, *modules}, nameable(network))

    @cache
    def ran() -> list[Module]:
        sizes = _sizes(graph, [*dict.fromkeys(modules.values())], run)
        return [
            Module(path, {key[len(path) + 1 :]: own[key].shape for key in own if key.startswith(f"{path}.")}, sizes[modules[path]])
            for path in modules
        ]

    inner = None if names is None else {name: target for name, target in mapped.items() if target in modules}
    pairs: dict[str, str] = {}
    try:
        found, pairs = aligned(modules, {name: own[name].shape for name in own}, ran, replace(conditions, names=inner))
    except CaptureError:  # the graph tells of no module that holds some parameters; layers it may tell all the same
        found = by_name(modules, network)
        if not found and names is None:
            found = by_parameters(ran(), network, conditions.fed.shape)
    named = by_name(values, network)
    found = merged(found | (named if next(iter(network.layers())) in named else {}), mapped)
    found = found or _by_sizes(graph, conditions, run)
    if pairs:
        return found, {name: own[theirs].value().reshape(shapes[name]) for name, theirs in pairs.items()}
    if all(name in held and tuple(held[name].dims) == shape for name, shape in shapes.items()):
        return found, {name: numpy_helper.to_array(held[name]) for name in shapes}
    return found, None


def _by_sizes(graph: Any, conditions: Conditions, run: Run) -> dict[str, str]:
    """Layers to values in their order, for each size that as many values have as layers; other sizes tell nothing."""
    live = {value.name for value in graph.input}
    values = []
    for node in graph.node:
        if live & set(node.input):
            live |= set(node.output)
            values += [] if node.op_type in VIEWS else [value for value in node.output if value]
    sizes = _sizes(graph, values, run)
    expected = conditions.network.layer_shapes(conditions.fed.shape)
    table = conditions.network.layers()
    wanted = [name for name in table if name not in (POOL, "logits") and not (name == "head" and "head.0" in table)]
    found: dict[str, str] = {}
    for size in {prod(expected[name]) for name in wanted}:
        named = [name for name in wanted if prod(expected[name]) == size]
        sized = [value for value in values if sizes[value] == size]
        found |= dict(zip(named, sized, strict=True)) if len(named) == len(sized) else {}
    return {name: found[name] for name in wanted if name in found}


# The graph of an exported module


@dataclass(frozen=True)
class Parameter:
    """A constant of the graph, and whether it is the parameter turned from (out, in) to (in, out)."""

    tensor: Any
    turned: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.dims)[:: -1 if self.turned else 1]

    def value(self) -> np.ndarray:
        x = np.asarray(numpy_helper.to_array(self.tensor))
        return x.T if self.turned else x


def scope(node: Any) -> str:
    """The path of the module that made a node; empty for the outermost, or if nothing tells."""
    return module_path(node.name, next((note.value for note in node.metadata_props if note.key == SCOPES), None))


def outputs(graph: Any) -> dict[str, str]:
    """The modules in the order in which they end, each with the last value that is made in it and used outside."""
    users: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    for node in graph.node:
        for value in node.input:
            users.setdefault(value, set()).add(scope(node))
    found: dict[str, str] = {}
    for node in graph.node:
        for module in _inwards(scope(node)):
            for value in node.output:
                if any(user != module and not user.startswith(f"{module}.") for user in users.get(value, ())):
                    found.pop(module, None)
                    found[module] = value
    return found


def _inwards(path: str) -> Iterator[str]:
    """A module and those that it is part of, the innermost first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def parameters(graph: Any) -> dict[str, Parameter]:
    """The constants that nodes take, under their modules' paths and what they are: `stages.0.0.mlp.fc1.weight`."""
    held = constants(graph)
    found: dict[str, Parameter] = {}
    for node in graph.node:
        for place, value in enumerate(node.input):
            role = ROLES.get((node.op_type, place))
            if role is None or value not in held or not scope(node):
                continue
            rank = len(held[value].dims)
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            own = Parameter(held[value], rank == 2 and (node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed)))
            keys = (f"{scope(node)}.{name}" for name in chain([role], (f"{n}.{role}" for n in count(1))))
            found[next(key for key in keys if key not in found or found[key].tensor is own.tensor)] = own
    return found


def constants(graph: Any) -> Mapping[str, Any]:
    """Tensors of floating point with more than one value: initialisers, constants, and other names for these."""
    held = {x.name: x for x in graph.initializer if x.data_type in FLOATS and prod(x.dims) > 1}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in held:
            held[node.output[0]] = held[node.input[0]]
        for a in node.attribute if node.op_type == "Constant" else ():
            if a.name == "value" and a.t.data_type in FLOATS and prod(a.t.dims) > 1:
                held[node.output[0]] = a.t
    return held
