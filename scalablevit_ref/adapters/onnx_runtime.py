"""The one door to ONNX Runtime, whose telemetry would write to the user's cache and call a host; and a model that it has loaded."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import numpy as np

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.backends.start import said
from scalablevit_ref.backends.threads import cores
from scalablevit_ref.checkpoints.infer import config_from_json
from scalablevit_ref.checkpoints.notes import read_notes
from scalablevit_ref.checks import check_map
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, in_file
from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.image_sizes import check_image_size

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
"""The variable that ONNX Runtime reads once, when it is loaded. Its own `disable_telemetry_events` comes too late for that."""

CPU = ("CPUExecutionProvider",)
"""The providers of operators that are used."""

SILENT = 4
"""Severity from which ONNX Runtime logs: what stops it, which it raises too."""

MOST_THREADS = 4096
"""Most threads that a session takes; ONNX Runtime starts all of them at once."""

TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
"""Numbers of images, by ONNX Runtime's names for them."""


def onnx_runtime() -> Any:
    """The module `onnxruntime`, loaded with its telemetry off.

    The environment is afterwards as it was. A value that the user has given to `ORT_DISABLE_TELEMETRY` stands, and so does an ONNX
    Runtime that something else has loaded before: its telemetry is as that left it.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    if sys.modules.get("onnxruntime") or TELEMETRY_OFF in os.environ:
        return import_module("onnxruntime")
    os.environ[TELEMETRY_OFF] = "1"
    try:
        found = import_module("onnxruntime")
    finally:
        os.environ.pop(TELEMETRY_OFF, None)
    found.disable_telemetry_events()  # that of Windows, which has no variable
    return found


class Session:
    """A model that ONNX Runtime has loaded, as `adapters.onnx.session` describes; called with images, it gives its first output.

    Attributes
    ----------
    runtime
        The `onnxruntime.InferenceSession`.
    names
        Of the outputs, in their order.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, spinning: bool = True, arena: bool = True
    ) -> None:
        onnxruntime, self.path = onnx_runtime(), os.fspath(path)
        open_regular(path, "an ONNX model").close()  # which ONNX Runtime would wait for
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or len(cores())
        settings.inter_op_num_threads = 1
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.enable_cpu_mem_arena = arena
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        settings.log_severity_level = SILENT
        try:
            self.runtime = onnxruntime.InferenceSession(self.path, settings, providers=list(CPU))
        except MemoryError:
            raise
        except Exception as error:  # the types of its errors have no common one
            raise CheckpointError(f"ONNX Runtime does not load it ({said(error)})", file=self.path) from error
        self.names = [output.name for output in self.runtime.get_outputs()]
        images = self.runtime.get_inputs()[0] if len(self.runtime.get_inputs()) == 1 else None
        if images is None or len(images.shape) != 4 or images.type not in TYPES:
            found = ", ".join(f"{x.name} {x.type} {x.shape}" for x in self.runtime.get_inputs())
            raise CheckpointError("inputs of another model", file=self.path, expected="images b c h w", found=found)
        self.images, self.dtype, self.shape = images.name, TYPES[images.type], images.shape
        with in_file(path):
            config = read_notes(self.runtime.get_modelmeta().custom_metadata_map).config
            self.config: ScalableViTConfig | None = config_from_json(config) if config else None

    def __call__(self, images: Any) -> np.ndarray:
        """The first output, logits b classes, of images b c h w of any library and floating dtype."""
        return self._run(images, self.names[:1])[0]

    def outputs(self, images: Any) -> dict[str, np.ndarray]:
        """All outputs by their names: the logits, and the taps that the file was written with."""
        return dict(zip(self.names, self._run(images, self.names), strict=True))

    def _run(self, images: Any, names: list[str]) -> list[np.ndarray]:
        """Raises ValueError or TypeError for images that do not fit, RuntimeError for what ONNX Runtime raises."""
        check_map("images", images, "b c h w")
        fits = [not isinstance(n, int) or n == found for n, found in zip(self.shape, images.shape, strict=True)]
        if not all(fits):
            wanted = ", ".join(str(n) for n in self.shape)
            raise ValueError(f"images must have shape ({wanted}), got {tuple(images.shape)}")
        if self.config is not None:
            check_image_size(self.config, *images.shape[2:])
        array = images if isinstance(images, np.ndarray) else to_numpy(images)
        try:
            found: list[np.ndarray] = self.runtime.run(names, {self.images: array.astype(self.dtype, copy=False)})
        except MemoryError:
            raise
        except Exception as error:
            raise RuntimeError(f"{self.path}: ONNX Runtime: {said(error)}") from error
        return found
