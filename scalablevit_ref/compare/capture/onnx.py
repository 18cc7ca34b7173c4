"""An ONNX model, in ONNX Runtime without optimisations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture import names as naming
from scalablevit_ref.compare.capture.captured import Captured, CaptureError
from scalablevit_ref.layers import POOL
from scalablevit_ref.networks import Network

try:
    import onnx
    import onnxruntime
    from onnx.external_data_helper import load_external_data_for_model

    from scalablevit_ref.compare.capture.onnx_graph import FLOATS, constants, outputs, parameters
except ModuleNotFoundError as error:
    message = f"an ONNX model needs {error.name}: pip install 'scalablevit-ref[onnx]'"
    raise ModuleNotFoundError(message, name=error.name) from error


VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that lay the same values out in another way."""

Run = Callable[[Iterable[str]], dict[str, np.ndarray]]


def capture_onnx(path: Path, network: Network, images: np.ndarray, *, names: Mapping[str, str] | None) -> Captured:
    """One run of the model. Its values are told from their names, else from the modules that torch's exporters note, else by sizes.

    Raises CaptureError for a file that cannot be read or run, or that takes other images; OSError.
    """
    with path.open("rb") as file, _one_line(path, "cannot be read"):
        model = onnx.load(file, load_external_data=False)
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
        found, params = _aligned(graph, network, images.shape, names, modules, run)
    source = {name: modules.get(place, place) for name, place in found.items()}
    start = time.perf_counter()
    values = run([*source.values(), result])
    seconds = time.perf_counter() - start
    expected = network.layer_shapes(images.shape)
    misfits = [name for name in found if found[name] in modules and values[source[name]].size != prod(expected[name])]
    notes += [f"{found[name]} gives no value of the size of {name}, which is left out" for name in misfits]
    taps = {name: values[value] for name, value in source.items() if name not in misfits} | {"logits": values[result]}
    dtypes = sorted({tap.dtype.name for tap in taps.values()})
    if len(dtypes) > 1:
        raise CaptureError(f"{path.name} holds layers in several dtypes: {', '.join(dtypes)}")
    told = found | {"logits": "output"}
    return Captured("ONNX model", taps, told, images, dtypes[0], params, seconds, tuple(notes))


@contextmanager
def _one_line(path: Path, what: str) -> Iterator[None]:
    """Whatever onnx or ONNX Runtime raise within becomes a CaptureError of one line."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(f"{path.name} {what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


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
    graph: Any,
    network: Network,
    images: Sequence[int],
    names: Mapping[str, str] | None,
    modules: Mapping[str, str],
    run: Run,
) -> tuple[dict[str, str], dict[str, np.ndarray] | None]:
    """Layers to modules or values, and the official parameters where the graph tells all of them."""
    shapes, held, own = network.parameter_shapes(), constants(graph), parameters(graph)
    values = [value for node in graph.node for value in node.output if value]
    mapped = naming.by_mapping(names or {}, {*values, *modules}, network)

    @cache
    def ran() -> list[naming.Module]:
        sizes = _sizes(graph, [*dict.fromkeys(modules.values())], run)
        return [
            naming.Module(
                path, {key[len(path) + 1 :]: own[key].shape for key in own if key.startswith(f"{path}.")}, sizes[modules[path]]
            )
            for path in modules
        ]

    inner = None if names is None else {name: target for name, target in mapped.items() if target in modules}
    pairs: dict[str, str] = {}
    try:
        found, pairs = naming.aligned(modules, own, ran, network, images, inner)
    except CaptureError:  # some parameters are told of no module; layers may be all the same
        found = naming.by_name(modules, network)
        if not found and names is None:
            found = naming.by_parameters(ran(), network, images)
    named = naming.by_name(values, network)
    found |= (named if next(iter(network.layers())) in named else {}) | mapped
    found = found or _by_sizes(graph, network, images, run)
    if pairs:
        return found, {name: own[theirs].value().reshape(shapes[name]) for name, theirs in pairs.items()}
    if all(name in held and tuple(held[name].dims) == shape for name, shape in shapes.items()):
        return found, {name: onnx.numpy_helper.to_array(held[name]) for name in shapes}
    return found, None


def _by_sizes(graph: Any, network: Network, images: Sequence[int], run: Run) -> dict[str, str]:
    """Layers to values in their order, for each size that as many values have as layers; other sizes tell nothing."""
    live = {value.name for value in graph.input}
    values = []
    for node in graph.node:
        if live & set(node.input):
            live |= set(node.output)
            values += [] if node.op_type in VIEWS else [value for value in node.output if value]
    sizes = _sizes(graph, values, run)
    expected = network.layer_shapes(images)
    table = network.layers()
    wanted = [name for name in table if name not in (POOL, "logits") and not (name == "head" and "head.0" in table)]
    found: dict[str, str] = {}
    for size in {prod(expected[name]) for name in wanted}:
        named = [name for name in wanted if prod(expected[name]) == size]
        sized = [value for value in values if sizes[value] == size]
        found |= dict(zip(named, sized, strict=True)) if len(named) == len(sized) else {}
    return {name: found[name] for name in wanted if name in found}
