"""The definitions as an ONNX graph, one operator each; the official parameters are its initialisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from scalablevit_ref.adapters.onnx import EXAMPLES
from scalablevit_ref.adapters.onnx_model import onnx_model
from scalablevit_ref.adapters.onnx_runtime import CPU, SILENT, onnx_runtime
from scalablevit_ref.backends.nodes import Graph
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import trace
from scalablevit_ref.portable.recorded import Recorded

OPSET = 18
"""Version of ONNX's operators: the lowest one in which reductions take their axes as an input."""

PARAMETERS = "initialisers under the official names"
"""Where the file has the parameters."""


def traced(weights: Mapping[str, np.ndarray], config: ScalableViTConfig, images: Sequence[int], *, free: bool) -> Any:
    """The `onnx.ModelProto` of images of this shape, or of any number of them."""
    graph = Graph(next(iter(weights.values())).dtype, opset=OPSET)
    batch = graph.unknown("batch", "images", 0, EXAMPLES) if free else images[0]
    graph.shapes |= {"images": (batch, *images[1:])} | {name: x.shape for name, x in weights.items()}
    for name in weights:
        graph.module(name)
    found = trace(Recorded(graph, "images"), {name: Recorded(graph, name) for name in weights}, config)
    for name, x in found.items():
        graph.name(x.name, name)
    return onnx_model(graph, weights, list(found))


def saved(model: Any, notes: Mapping[str, str]) -> bytes:
    """The file, with these texts as its metadata."""
    import onnx

    onnx.helper.set_model_props(model, dict(notes))
    data: bytes = model.SerializeToString()
    return data


def run(data: bytes, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, in ONNX Runtime without its optimisations."""
    onnxruntime = onnx_runtime()
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = SILENT
    model = onnxruntime.InferenceSession(data, settings, providers=CPU)
    return dict(zip([output.name for output in model.get_outputs()], model.run(None, {"images": images}), strict=True))


def made_with() -> str:
    return f"onnx {version('onnx')}, opset {OPSET}"


def reader() -> str:
    return f"ONNX Runtime {onnx_runtime().__version__}"
