"""An OpenVINO model: one that was read or converted is followed by its graph, of a compiled one only the logits are read."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from scalablevit_ref.adapters.openvino import openvino_runtime
from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.batches import in_batches
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.graph import NOTHING, Graph
from scalablevit_ref.compare.capture.one_line import one_line
from scalablevit_ref.compare.capture.quantised import Quantised, Range
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.files.reading import open_regular

try:
    openvino_runtime()
    import openvino

    from scalablevit_ref.compare.capture.openvino_graph import (
        FLOATS,
        Key,
        element,
        key_of,
        numbered,
        open_attention,
        quantised,
        rounded_in_the_run,
        without_quantisation,
    )
except ModuleNotFoundError as error:
    message = f"an OpenVINO model needs {error.name}: pip install 'scalablevit-ref[openvino]'"
    raise ModuleNotFoundError(message, name=error.name) from error

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
"""How a model is compiled: OpenVINO computes in bfloat16 by itself where the processor has that."""


class OpenVinoModel(Candidate):
    """A model, a compiled one, or an .xml file beside which the weights lie."""

    takes_weights = False

    def __init__(self, value: Any) -> None:
        self.value = value
        self.called = value.name if isinstance(value, Path) else "the model"

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError for a model that cannot be read or run, or that takes other images; OSError."""
        if isinstance(self.value, openvino.CompiledModel):
            return _of_compiled(self.value, conditions)
        with one_line(self.called, "cannot be read"):
            model = _read(self.value) if isinstance(self.value, Path) else self.value.clone()
            words, rounding = quantised(model), rounded_in_the_run(model)
        if rounding:
            raise CaptureError(
                f"{self.called} is quantised in the run ({rounding}), which cannot be followed: "
                "compare the ONNX file that it was made from, or quantise it with NNCF"
            )
        if words and conditions.weights is None:
            raise CaptureError(f"weights must be given for {self.called}, which is quantised ({words})")
        with one_line(self.called, "cannot be run"):
            if words:
                return _quantised(self.called, model, conditions)
            try:
                return followed(OpenVinoRunner(self.called, model, conditions.fed), replace(conditions, load=False))
            except CaptureError as error:
                captured = _of_compiled(openvino.Core().compile_model(model, "CPU", SETTINGS), conditions)
                notes = (*captured.notes[:-1], f"only its logits are compared: {error}")
                return replace(captured, kind=OpenVinoRunner.kind, notes=notes)


def _read(path: Path) -> Any:
    open_regular(path, "an OpenVINO model").close()
    weights = path.with_suffix(".bin")
    if weights.exists():
        open_regular(weights, "an OpenVINO model's weights").close()
    return openvino.Core().read_model(path)


def _of_compiled(model: Any, conditions: Conditions) -> Captured:
    """A compiled model gives its results and nothing else."""
    batches, notes = _fed(model, conditions.fed, "the model")
    results = [result for result in model.outputs if len(model.outputs) == 1 or "logits" in result.get_names()]
    if len(results) != 1:
        raise CaptureError(
            f"the model gives {len(model.outputs)} results, none of which is called logits: give the ov.Model, or its .xml"
        )
    start = time.perf_counter()
    with one_line("the model", "cannot be run"):
        found = [np.array(model(x)[results[0]]) for x in batches]
    seconds = time.perf_counter() - start
    logits = array_of(np.concatenate(found), "the model: its logits")
    precision = str(model.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    dtype = {"bf16": "bfloat16", "f16": "float16"}.get(precision, logits.dtype.name)
    if dtype != logits.dtype.name:
        notes = [*notes, f"it is compiled to compute in {dtype} (INFERENCE_PRECISION_HINT)"]
    way = "of a compiled model only the logits can be read: give the ov.Model, or its .xml, to compare the layers"
    return Captured(
        "compiled OpenVINO model",
        {"logits": logits},
        {"logits": "output"},
        conditions.fed,
        dtype,
        None,
        seconds,
        (*notes, way),
        "not shown by it",
    )


def _fed(model: Any, images: np.ndarray, called: str) -> tuple[list[np.ndarray], list[str]]:
    """The images as a model takes them, in batches of its size, and what to say of that. Raises CaptureError for others."""
    if len(model.inputs) != 1 or not model.outputs:
        raise CaptureError(
            f"{called} takes {len(model.inputs)} inputs and gives {len(model.outputs)} outputs: expected images alone, and logits"
        )
    taken = model.input()
    if element(taken) not in FLOATS:
        raise CaptureError(f"{called} takes images of {element(taken)}: expected numbers of floating point")
    shape = taken.get_partial_shape()
    dims = [d.get_length() if d.is_static else str(d) for d in shape] if shape.rank.is_static else None
    return in_batches(images.astype(taken.get_element_type().to_dtype()), dims, called, taken.get_node().get_friendly_name())


def _quantised(called: str, model: Any, conditions: Conditions) -> Captured:
    """A quantised model, followed without its quantisation."""
    plain = without_quantisation(model, _values_in)
    runner = OpenVinoRunner(called, plain.model, conditions.fed)
    captured = followed(runner, replace(conditions, weights=None))
    values = {key: value for value, key in runner.keys.items()}
    rounded = OpenVinoRunner(called, model, conditions.fed)
    found = Quantised(
        plain.words,
        {runner.called[name]: grid for name, grid in plain.grids.items() if name in runner.called},
        tuple(Range(values[key], grid, key[0]) for key, grid in plain.ranges.items() if key in values),
        plain.by_channel,
        plain.rounded,
        plain.fixed,
        lambda wanted: rounded.values_of(conditions.fed, {value: runner.keys[value] for value in wanted}),
    )
    return replace(captured, notes=(f"{called} is quantised ({plain.words})", *captured.notes), quantised=found)


class OpenVinoRunner:
    """A model as a `Runner`. Its weights stay what they are."""

    kind = "OpenVINO model"
    paths: Mapping[str, str] = MappingProxyType({})

    def __init__(self, called: str, model: Any, images: np.ndarray) -> None:
        batches, self._notes = _fed(model, images, called)
        self.name, self.model = called, model.clone()
        self.model.reshape({0: list(batches[0].shape)})
        self._softmaxes = open_attention(self.model)
        nodes = self.model.get_ordered_ops()
        constants = [node for node in nodes if node.get_type_name() == "Constant" and element(node.output(0)) in FLOATS]
        self._constants = {node.get_friendly_name(): node for node in constants if prod(node.output(0).get_shape()) > 1}
        self.called = {name: name.removeprefix("self.") for name in self._constants}
        self.keys: Mapping[int, Key] = {}

    @property
    def dtype(self) -> str:
        """What it computes in."""
        products = [node for node in self.model.get_ordered_ops() if node.get_type_name() in ("Convolution", "MatMul")]
        return str(np.dtype(products[0].output(0).get_element_type().to_dtype())) if products else "float32"

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return {self.called[name]: np.array(node.get_data()) for name, node in self._constants.items()}

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        batches, _ = _fed(self.model, images, self.name)
        results = {
            ("logits" if len(self.model.outputs) == 1 or "logits" in result.get_names() else f"maps.{i}"): (
                result.get_node().input(0).get_source_output()
            )
            for i, result in enumerate(self.model.outputs)
        }
        found = numbered(self.model, outputs=results, parameters=self.called, run=lambda wanted: self._run(wanted, batches[0]))
        self.keys = found.keys
        rest = len(images) // len(batches[0])
        shapes = found.graph.shapes
        if rest > 1:
            fixed = found.graph.parameters.keys() | found.graph.constants.keys()
            shapes = {v: s if v in fixed or not s else (s[0] * rest, *s[1:]) for v, s in shapes.items()}
        return replace(found.graph, shapes=shapes, notes=tuple(self._notes))

    def values(
        self,
        images: np.ndarray,
        weights: Mapping[str, np.ndarray],
        wanted: Collection[int],
        replaced: Mapping[int, np.ndarray] = NOTHING,
    ) -> tuple[Mapping[int, np.ndarray], float]:
        if replaced:
            raise CaptureError(f"{self.name}: an OpenVINO model is not run with values replaced")
        start = time.perf_counter()
        held = self.values_of(images, {value: self.keys[value] for value in wanted})
        return held, time.perf_counter() - start

    def values_of(self, images: np.ndarray, wanted: Mapping[int, Key]) -> dict[int, np.ndarray]:
        """Values by their numbers, of these keys; without those that the model lacks."""
        every = {key_of(output) for node in self.model.get_ordered_ops() for output in node.outputs()}
        found = {value: key for value, key in wanted.items() if key in every}
        batches, _ = _fed(self.model, images, self.name)
        parts = [self._run(found.values(), x) for x in batches]
        whole = {key: np.concatenate([part[key] for part in parts]) if parts[1:] else parts[0][key] for key in found.values()}
        return {value: array_of(whole[key], f"{self.name}: {key[0]!r}") for value, key in found.items()}

    def _run(self, wanted: Iterable[Key], x: np.ndarray) -> dict[Key, np.ndarray]:
        keys = list(dict.fromkeys(wanted))
        outputs = {key_of(output): output for node in self.model.get_ordered_ops() for output in node.outputs()}
        if not keys:
            return {}
        every = [*keys, *(key for key in self._softmaxes if key not in keys)]
        with one_line(self.name, "cannot be run"):
            return dict(zip(every, _values_in(self.model, [outputs[key] for key in every], x), strict=True))

    def unrepeated(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
        kinds = [node.get_type_name() for node in self.model.get_ordered_ops()]
        drawn = [kind for kind in kinds if kind in ("RandomUniform", "Multinomial")]
        return f"it draws random numbers ({drawn[0]})" if drawn else ""


def _values_in(model: Any, outputs: list[Any], x: np.ndarray | None = None) -> list[np.ndarray]:
    """What these outputs of a model's operations give; of constants alone without images."""
    if x is None and all(_is_plain(output) for output in outputs):
        return [_numbers(output) for output in outputs]
    given = [] if x is None else model.get_parameters()
    results = [openvino.opset13.result(output) for output in outputs]
    part = openvino.Model(results, given, "part").clone()
    for result, output in zip(results, outputs, strict=True):
        output.remove_target_input(result.input(0))
    found = openvino.Core().compile_model(part, "CPU", SETTINGS)([] if x is None else [x])
    return [np.array(found[i]) for i in range(len(outputs))]


def _is_plain(output: Any) -> bool:
    """Whether it is a constant whose numbers can be read, or one in another dtype."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        output = node.input(0).get_source_output()
    return output.get_node().get_type_name() == "Constant" and element(output) in (*FLOATS, "i8", "u8", "i32")


def _numbers(output: Any) -> np.ndarray:
    node = output.get_node()
    given = node.input(0).get_source_output().get_node() if node.get_type_name() == "Convert" else node
    return np.asarray(np.array(given.get_data()).astype(output.get_element_type().to_dtype()))
