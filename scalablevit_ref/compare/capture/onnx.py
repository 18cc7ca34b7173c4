"""An ONNX model, in ONNX Runtime without optimisations; and what its graph tells of the modules that torch exported it from."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import chain, count
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from scalablevit_ref.adapters.onnx_runtime import onnx_runtime
from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions, by_name, nameable
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.batches import in_batches
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.graph import NOTHING, Graph
from scalablevit_ref.compare.capture.names import by_mapping, merged
from scalablevit_ref.compare.capture.one_line import one_line
from scalablevit_ref.compare.capture.quantised import Quantised, Range
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.formats.onnx import MOST_BYTES, SCOPES, module_path
from scalablevit_ref.layers import POOL
from scalablevit_ref.testing.arrays import EPS

try:
    import onnx
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import _get_all_tensors, load_external_data_for_model, uses_external_data

    from scalablevit_ref.compare.capture.onnx_graph import numbered, shapes_of
    from scalablevit_ref.compare.capture.onnx_quantised import Plain, quantised, without_quantisation

    onnxruntime = onnx_runtime()
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


BIASED = ("MatMul", "FusedMatMul", "Gemm", "Conv")
"""Operations whose bias ONNX Runtime's optimiser may add where a norm begins."""

VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that lay the same values out in another way."""


class OnnxModel(Candidate):
    """A model file, followed by its graph; where that does not tell the weights, by the names and the sizes of its values."""

    takes_weights = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError for a file that cannot be read or run, or that takes other images; OSError."""
        model, name = OnnxFile(self.path), self.path.name
        few = model.quantised
        if few is not None and conditions.weights is None:
            raise CaptureError(f"weights must be given for {name}, which is quantised ({few.words})")
        with one_line(self.path.name, "cannot be read"):
            if few is not None:
                return _quantised(OnnxRunner(model, conditions.fed, plain=True), few, conditions)
            try:
                captured = followed(OnnxRunner(model, conditions.fed), replace(conditions, load=False))
            except CaptureError as error:
                return _by_names(model, conditions, str(error))
            why = next(iter(captured.followed.pairing.facts.resized.values()), None)
            if why is not None:  # or made of several, whose product is of the right size
                with suppress(CaptureError):
                    named = _by_names(model, conditions, str(why))
                    return named if len(named.taps) > len(captured.taps) else captured
            return captured


def _by_names(model: OnnxFile, conditions: Conditions, why: str) -> Captured:
    captured = by_names_and_sizes(model, conditions)
    return replace(captured, notes=(*captured.notes, f"layers are told by names and sizes alone: {why}"))


def _quantised(runner: OnnxRunner, few: Plain, conditions: Conditions) -> Captured:
    """A quantised model, followed without its quantisation."""
    try:
        captured = followed(runner, replace(conditions, weights=None))
    except CaptureError as error:
        if not few.left:
            raise
        raise CaptureError(
            f"{runner.model.path.name} is quantised ({few.words}), and {few.left} cannot be taken away ({error}): "
            "quantise it with QuantFormat.QDQ, or write its layers to a trace as numbers of floating point"
        ) from error
    names = {name: value for value, name in runner.named.items()}
    own = {x.name: called for called, x in runner.held.items()}
    found = Quantised(
        few.words,
        {own[name]: grid for name, grid in few.grids.items() if name in own},
        tuple(Range(names[name], grid, name) for name, grid in few.ranges.items() if name in names),
        few.by_channel,
        few.rounded,
        few.fixed,
        lambda wanted: runner.rounded_values(conditions.fed, wanted),
        few.left,
    )
    return replace(captured, notes=(f"{runner.model.path.name} is quantised ({few.words})", *captured.notes), quantised=found)


class OnnxFile:
    """A model that is read, and run for any of its values.

    Attributes
    ----------
    graph
        Its graph, in which constants are initialisers and nothing is quantised.
    quantised
        What it is without its quantisation; None if it is not quantised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular(path, "an ONNX model") as file, one_line(path.name, "cannot be read"):
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise CaptureError(f"{path.name} has {size:,} bytes, more than the {MOST_BYTES:,} that a model can have")
            self.model = onnx.load_model_from_string(file.read())
            _check_external_data(self.model, path)
            load_external_data_for_model(self.model, str(path.parent))  # refuses what lies outside this folder
            plain(self.model.graph)
            self._followed, self.quantised = self.model, None
            if quantised(self.model.graph):
                self.quantised = without_quantisation(self.model)
                self._followed = self.quantised.model
        self.graph = self._followed.graph
        self.input, self._dtype, self._dims = _input(path, self.graph)
        self.results = [value.name for value in self.graph.output]

    def fed(self, images: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        """The images as it takes them, in batches of its size, and what to say of that. Raises CaptureError for others."""
        return in_batches(images.astype(self._dtype), self._dims, self.path.name, self.input)

    def run(self, wanted: Iterable[str], x: np.ndarray, *, quantised: bool = True) -> dict[str, np.ndarray]:
        """These values, on images as it takes them; without quantisation if asked for."""
        wanted = list(dict.fromkeys(wanted))
        with one_line(self.path.name, "cannot be run"):
            return _run(self.model if quantised else self._followed, wanted, {self.input: x}) if wanted else {}

    def whole(
        self,
        wanted: Iterable[str],
        images: np.ndarray,
        *,
        quantised: bool = True,
        replaced: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> dict[str, np.ndarray]:
        """These values on all images, which may take several runs; arrays stand in for `replaced` ones."""
        wanted, batches = list(wanted), self.fed(images)[0]
        if replaced:
            with one_line(self.path.name, "cannot be run"):
                model = _with_inputs(self.model if quantised else self._followed, replaced)
                cuts = {name: np.split(y, len(batches)) for name, y in replaced.items()}
                fed = [{self.input: x, **{name: some[i] for name, some in cuts.items()}} for i, x in enumerate(batches)]
                parts = [_run(model, wanted, feed) for feed in fed]
        else:
            parts = [self.run(wanted, x, quantised=quantised) for x in batches]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class OnnxRunner:
    """A model file as a `Runner`. Its weights stay what they are, but where its graph is recorded.

    `plain` runs it without its quantisation.
    """

    kind = "ONNX model"
    paths: Mapping[str, str] = MappingProxyType({})

    def __init__(self, model: OnnxFile, images: np.ndarray, *, plain: bool = False) -> None:
        self.model, self.graph, self._plain = model, model.graph, plain
        self._notes = model.fed(images)[1]
        own = parameters(self.graph)
        named = {found.tensor.name: name for name, found in own.items()}
        held = {x.name: x for x in self.graph.initializer if x.data_type in FLOATS and prod(x.dims) > 1}
        self.held = {named.get(name, name): x for name, x in held.items()}
        self.named: Mapping[int, str] = {}

    @property
    def dtype(self) -> str:
        """The narrowest of its weights."""
        kinds = [np.dtype(onnx.helper.tensor_dtype_to_np_dtype(x.data_type)).name for x in self.held.values() if prod(x.dims) > 8]
        return max(kinds or ["float32"], key=lambda name: EPS.get(name, 0))

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        with one_line(self.model.path.name, "cannot be read"):
            return {name: np.asarray(numpy_helper.to_array(x)) for name, x in self.held.items()}

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        batches, _ = self.model.fed(images)
        called = {x.name: name for name, x in self.held.items()}
        result = "logits" if "logits" in self.model.results else self.model.results[0]
        results = (
            {"logits": result}
            if len(self.model.results) == 1 or result == "logits"
            else {f"maps.{i}": name for i, name in enumerate(self.model.results)}
        )
        found = numbered(
            self.graph,
            images=self.model.input,
            outputs=results,
            parameters=called,
            scope=scope,
            modules=outputs(self.graph),
            dtype=self.dtype,
            run=lambda wanted: self.model.run(wanted, batches[0], quantised=False),
        )
        self.named = found.names
        rest = len(images) // len(batches[0])
        shapes = {
            value: (shape[0] * rest, *shape[1:]) if shape and rest > 1 else shape for value, shape in found.graph.shapes.items()
        }
        shapes |= {value: found.graph.shapes[value] for value in found.graph.parameters}
        return replace(found.graph, shapes=shapes, notes=tuple(self._notes))

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        names = {value: self.named[value] for value in wanted}
        start = time.perf_counter()
        stand_in = {self.named[value]: y for value, y in replaced.items()}
        held = self.model.whole(names.values(), images, quantised=not self._plain, replaced=stand_in)
        seconds = time.perf_counter() - start
        return {value: array_of(held[name], f"{self.model.path.name}: {name!r}") for value, name in names.items()}, seconds

    def rounded_values(self, images: np.ndarray, wanted: Collection[int]) -> dict[int, np.ndarray]:
        """Those of these values that the quantised model has, as the numbers of floating point that they stand for."""
        few, made = self.model.quantised, {name for node in self.model.model.graph.node for name in node.output}
        names = {value: self.named[value] for value in wanted if self.named[value] in made}
        held = self.model.whole(names.values(), images)
        scales = {} if few is None else few.scales
        return {
            value: array_of(scales[name].numbers(held[name]) if name in scales else held[name], f"{self.model.path.name}: {name!r}")
            for value, name in names.items()
        }

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        drawn = [node.op_type for node in self.graph.node if node.op_type.startswith("Random") or node.op_type == "Bernoulli"]
        return f"it draws random numbers ({drawn[0]})" if drawn else ""


def by_names_and_sizes(model: OnnxFile, conditions: Conditions) -> Captured:
    """The layers of a model whose graph does not tell which weights act on which values."""
    network, images, names, graph = conditions.network, conditions.fed, conditions.names, model.model.graph
    modules = outputs(graph)
    values = [value for node in graph.node for value in node.output if value]
    mapped = {} if names is None else by_mapping(names, {*values, *modules}, nameable(network))
    named = by_name(values, network)
    found = merged(by_name(modules, network) | (named if next(iter(network.layers())) in named else {}), mapped)
    found = found or _by_sizes(model, conditions)
    result = "logits" if "logits" in model.results else model.results[0]
    places = {"logits": result} | found
    source = {name: modules.get(place, place) for name, place in places.items()}
    start = time.perf_counter()
    held = model.whole(source.values(), images)
    seconds = time.perf_counter() - start
    expected = network.layer_shapes(images.shape)
    misfits = [name for name in found if found[name] in modules and held[source[name]].size != prod(expected[name])]
    notes = [f"{found[name]} gives no value of the size of {name}, which is left out" for name in misfits]
    taps = {name: array_of(held[source[name]], f"{model.path.name}: {places[name]!r}") for name in places if name not in misfits}
    dtype = max((tap.dtype.name for tap in taps.values()), key=lambda name: EPS.get(name, np.inf))
    shapes, own = network.parameter_shapes(), constants(graph)
    told = all(name in own and tuple(own[name].dims) == shape for name, shape in shapes.items())
    return Captured(
        OnnxRunner.kind,
        taps,
        places | ({} if "logits" in found else {"logits": "output"}),
        images,
        dtype,
        {name: numpy_helper.to_array(own[name]) for name in shapes} if told else None,
        seconds,
        (*model.fed(images)[1], *notes),
        "found in no value of the model",
        dict.fromkeys(misfits, "of another size in the model"),
    )


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


def plain(graph: Any) -> None:
    """Constants become initialisers, and what ONNX Runtime's optimiser has put together is taken apart where it hides a value."""
    nodes, made = [], {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        tensors = [a.t for a in node.attribute if node.op_type == "Constant" and a.name == "value"]
        if tensors:
            tensors[0].name = node.output[0]
            graph.initializer.append(tensors[0])
        elif node.op_type in ("BiasGelu", "FastGelu") and len(node.input) > 1 and node.input[1]:
            summed = f"{node.output[0]}: the sum"
            nodes.append(onnx.helper.make_node("Add", node.input[:2], [summed], name=summed))
            kind = "Gelu" if node.op_type == "BiasGelu" else "FastGelu"
            nodes.append(onnx.helper.make_node(kind, [summed], node.output, name=node.name, domain="com.microsoft"))
        else:
            if node.op_type.startswith("Skip") and len(node.output) < 4:
                node.output.extend(["", "", "", f"{node.output[0]}: the sum"][len(node.output) :])
            if node.op_type == "SkipLayerNormalization" and len(node.input) > 4 and node.input[4]:
                of = 1 if made.get(node.input[1]) in BIASED and made.get(node.input[0]) not in BIASED else 0
                biased = f"{node.input[of]}: with the bias of {node.output[0]}"
                nodes.append(onnx.helper.make_node("Add", [node.input[of], node.input[4]], [biased], name=biased))
                node.input[of] = biased
                del node.input[4:]
            nodes.append(node)
    kept = [copy.deepcopy(node) for node in in_order(nodes)]
    del graph.node[:]
    graph.node.extend(kept)


def in_order(nodes: Sequence[Any]) -> list[Any]:
    """Each after what it takes is made: tools append nodes at a graph's end. What takes what it makes itself stays last."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waiting = [{makers[name] for name in node.input if name in makers} for node in nodes]
    takers: dict[int, list[int]] = {}
    for i, before in enumerate(waiting):
        for j in before:
            takers.setdefault(j, []).append(i)
    ready = [i for i, before in enumerate(waiting) if not before]
    heapify(ready)
    done: list[int] = []
    while ready:
        i = heappop(ready)
        done.append(i)
        for j in takers.get(i, ()):
            waiting[j].discard(i)
            if not waiting[j]:
                heappush(ready, j)
    return [nodes[i] for i in (*done, *sorted({*range(len(nodes))} - {*done}))]


def _input(path: Path, graph: Any) -> tuple[str, Any, list[Any] | None]:
    """The name, the dtype and the dimensions of what the model takes; None where it states none."""
    held = {x.name for x in graph.initializer}
    inputs = [value for value in graph.input if value.name not in held]
    if len(inputs) != 1 or not graph.output:
        raise CaptureError(
            f"{path.name} takes {len(inputs)} inputs and gives {len(graph.output)} outputs: expected images alone, and logits"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in FLOATS:
        raise CaptureError(f"{path.name} takes {inputs[0].name!r}, which is no tensor of floating point")
    dims = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim] if kind.HasField("shape") else None
    return inputs[0].name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), dims


def _with_inputs(model: Any, fed: Mapping[str, np.ndarray]) -> Any:
    """The model with these values as inputs beside its own, of any batch: what makes them gives others that are not used."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for name, x in fed.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
        other.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None, *x.shape[1:]]))
    for node in other.graph.node:
        for i, name in enumerate(node.output):
            if name in fed:
                node.output[i] = f"{name}: before"
    kept = [value for value in other.graph.value_info if value.name not in fed]
    del other.graph.value_info[:]
    other.graph.value_info.extend(kept)
    return other


def _run(model: Any, wanted: Sequence[str], feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """These values of the graph."""
    results = [copy.deepcopy(value) for value in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    try:
        written = model.SerializeToString()
    finally:
        del model.graph.output[:]
        model.graph.output.extend(results)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(list(wanted), dict(feed)), strict=True))


def _by_sizes(model: OnnxFile, conditions: Conditions) -> dict[str, str]:
    """Layers to values in their order, for each size that as many values have as layers; other sizes tell nothing."""
    graph, images = model.model.graph, conditions.fed
    live = {value.name for value in graph.input}
    values = []
    for node in graph.node:
        if live & set(node.input):
            live |= set(node.output)
            values += [] if node.op_type in VIEWS else [value for value in node.output if value]
    batches = model.fed(images)[0]
    shapes = shapes_of(graph, values, lambda wanted: model.run(wanted, batches[0]))
    sizes = {value: prod(shape) * len(batches) for value, shape in shapes.items()}
    expected = conditions.network.layer_shapes(images.shape)
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
