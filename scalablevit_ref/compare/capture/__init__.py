"""What a candidate computes, layer by layer, under the names of layers: one class for each kind of candidate."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from scalablevit_ref.compare.capture.alignment import Captured, Conditions
from scalablevit_ref.compare.capture.traces import Function, Trace, TraceFile
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing.traces import SUFFIXES

__all__ = ["Capturable", "CaptureError", "Captured", "Conditions", "candidate_of"]


class Capturable(Protocol):
    """A candidate, something to be held against the reference. Another framework is another class, and a line of `candidate_of`."""

    @property
    def takes_weights(self) -> bool:
        """Whether it is a module, whose copy can be given weights and a dtype."""

    @property
    def brings_images(self) -> bool:
        """Whether it is a trace, which may hold the images that it was computed from."""

    def config(self) -> ScalableViTConfig | None:
        """The network's settings, where the candidate tells them."""

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Its layers. A file that they are read from when they are asked for is left to `files` to close.

        Raises CaptureError for what cannot be run or brings no layer.
        """


def candidate_of(value: Any) -> Capturable:
    """What sort of thing the user gave; what is nothing else is taken for a function. No framework is imported to look for it."""
    torch, nnx, linen = (sys.modules.get(name) for name in ("torch", "flax.nnx", "flax.linen"))
    suffix = Path(value).suffix if isinstance(value, str | Path) else None
    if suffix in SUFFIXES:
        return TraceFile(Path(value))
    mlx = sys.modules.get("mlx.nn")
    if mlx is not None and isinstance(value, mlx.Module):  # which is a mapping, too
        from scalablevit_ref.compare.capture.mlx import MlxModule

        return MlxModule(value)
    if isinstance(value, Mapping):
        return Trace(value)
    if suffix == ".onnx":
        from scalablevit_ref.compare.capture.onnx import OnnxModel

        return OnnxModel(Path(value))
    openvino = sys.modules.get("openvino")
    if suffix == ".xml" or (openvino is not None and isinstance(value, openvino.Model | openvino.CompiledModel)):
        from scalablevit_ref.compare.capture.openvino import OpenVinoModel

        return OpenVinoModel(Path(value) if isinstance(value, str) else value)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(value, keras.layers.Layer):
        from scalablevit_ref.compare.capture.keras import KerasModel

        return KerasModel(value)
    if isinstance(value, str | Path) and any((Path(value) / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        from scalablevit_ref.compare.capture.tensorflow import TensorFlowModel

        return TensorFlowModel(Path(value))
    if "tensorflow" in sys.modules:
        from scalablevit_ref.compare.capture.tensorflow import TensorFlowModel, is_tensorflow

        if is_tensorflow(value):
            return TensorFlowModel(value)
    if torch is not None:
        from scalablevit_ref.compare.capture.torch_wrappers import is_torch

        if is_torch(value):
            from scalablevit_ref.compare.capture.torch import TorchModule

            return TorchModule(value)
    if (nnx is not None and isinstance(value, nnx.Module)) or (linen is not None and isinstance(value, linen.Module)):
        from scalablevit_ref.compare.capture.flax import FlaxModule

        return FlaxModule(value)
    paddle = sys.modules.get("paddle")
    saved = suffix == ".json" and Path(value).with_suffix(".pdiparams").exists()
    if saved or (paddle is not None and isinstance(value, paddle.nn.Layer)):
        from scalablevit_ref.compare.capture.paddle import PaddleLayer

        return PaddleLayer(Path(value) if saved else value)
    if "tinygrad" in sys.modules and callable(value):
        from scalablevit_ref.compare.capture.tinygrad import TinygradModel, held

        if held(value):
            return TinygradModel(value)
    if "mlx.core" in sys.modules:
        from scalablevit_ref.compare.capture.mlx import MlxFunction, is_mlx_function

        if is_mlx_function(value):
            return MlxFunction(value)
    if "jax" in sys.modules:
        from scalablevit_ref.compare.capture.jax_functions import JaxFunction, is_jax_function

        if is_jax_function(value):
            return JaxFunction(value)
    return Function(value)
