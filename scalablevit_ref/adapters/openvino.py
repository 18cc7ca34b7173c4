"""An ONNX file run by OpenVINO, and the one door to OpenVINO, which at its import starts a process that calls a host."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from scalablevit_ref.adapters import extra
from scalablevit_ref.arguments import check_choice, check_count, check_path
from scalablevit_ref.backends import to_numpy
from scalablevit_ref.backends.start import said
from scalablevit_ref.backends.threads import cores
from scalablevit_ref.checks import check_map
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.files.reading import open_regular

TELEMETRY = "openvino_telemetry"
"""The package that OpenVINO sends with; without it OpenVINO sends nothing."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""OpenVINO's names for the numbers in which it is asked to compute."""

MOST_THREADS = 4096
"""Most threads that a session takes."""

SHAPES = 4
"""Shapes of images that a session compiles the network for; a network compiled for any shape takes all others, and is slower."""


def openvino_runtime() -> Any:
    """The module `openvino`, loaded as if its package for telemetry were not there.

    Python's table of modules is afterwards as it was. An OpenVINO that something else has loaded before stands as it is.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    if sys.modules.get("openvino") or TELEMETRY in sys.modules:
        return import_module("openvino")
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # so that an import of it fails as if it were not installed
    try:
        return import_module("openvino")
    finally:
        sys.modules.pop(TELEMETRY, None)


def session(path: str | os.PathLike[str], *, threads: int | None = None, dtype: str = "float32") -> Session:
    """An ONNX file in float32, loaded by OpenVINO for its CPU: a function of images b c h w that gives the file's first output.

    The network is compiled for each of the first shapes of images that come, which takes about a second each.

    Parameters
    ----------
    path
        Of the file, such as one of `adapters.onnx.export`.
    threads
        How many a product is shared among; None is as many as cores that the process may use.
    dtype
        In which OpenVINO computes: "float32", "bfloat16" or "float16". Images are taken, and logits given, in float32.

    Raises
    ------
    CheckpointError
        Naming the file, for one that OpenVINO does not load.
    ValueError
        For a dtype that it does not compute in on this processor, and arguments that do not fit.
    OSError
        For what is no regular file, FileNotFoundError if there is none.
    ModuleNotFoundError
        Names the extra.

    Examples
    --------
    >>> network = session("small.onnx", dtype="bfloat16")  # doctest: +SKIP
    >>> network(images).argmax(1)  # doctest: +SKIP
    """
    check_path("path", path)
    check_choice("dtype", dtype, tuple(PRECISIONS))
    if threads is not None:
        check_count("threads", threads, most=MOST_THREADS)
    with extra("openvino"):
        openvino = openvino_runtime()
    open_regular(path, "an ONNX model").close()
    wanted = PRECISIONS[dtype]
    settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads or len(cores()), "INFERENCE_PRECISION_HINT": wanted}
    core = openvino.Core()

    def compiled(model: Any) -> Any:
        return core.compile_model(model, "CPU", settings)

    try:
        found = Session(os.fspath(path), core.read_model(os.fspath(path)), compiled)
    except (RuntimeError, IndexError) as error:
        raise CheckpointError(f"OpenVINO does not load it ({said(error)})", file=os.fspath(path)) from error
    if (taken := found.network.get_property("INFERENCE_PRECISION_HINT").to_string()) != wanted:
        raise ValueError(f"dtype {dtype!r}: on this processor OpenVINO computes in {taken}")
    return found


class Session:
    """A model that OpenVINO has compiled, as `session` describes; called with images, it gives its first output.

    Attributes
    ----------
    names
        Of each output, in their order; OpenVINO adds names of its own to those of the file.
    network
        As it is compiled for the first shape.
    """

    def __init__(self, path: str, model: Any, compiled: Callable[[Any], Any]) -> None:
        self.path, self.names = path, [sorted(output.get_names()) for output in model.outputs]
        self._model, self._compiled, self._declared = model, compiled, model.inputs[0].partial_shape
        first = _one_image(self._declared)
        self.network = compiled(self._for(first))
        self._requests = {first: self.network.create_infer_request()}

    def __call__(self, images: Any) -> np.ndarray:
        """The first output, logits b classes, of images b c h w of any library and floating dtype."""
        found: np.ndarray = self._run(images)[0]
        return found

    def outputs(self, images: Any) -> dict[str, np.ndarray]:
        """All outputs by each of their names: the logits, and the taps that the file was written with."""
        found = self._run(images)
        return {name: found[i] for i, names in enumerate(self.names) for name in names}

    def _run(self, images: Any) -> Any:
        """Raises ValueError for images that do not fit and for what OpenVINO raises."""
        check_map("images", images, "b c h w")
        array = images if isinstance(images, np.ndarray) else to_numpy(images)
        try:
            return self._request(array.shape).infer([array.astype("float32", copy=False)], share_inputs=True)
        except RuntimeError as error:
            raise ValueError(f"{self.path}: OpenVINO: {said(error)}") from error

    def _request(self, shape: tuple[int, ...]) -> Any:
        """That of the network for images of this shape, or of the one for every shape that the file takes."""
        new = len(self._requests) < SHAPES and self._declared.compatible(type(self._declared)(list(shape)))
        key = shape if new or shape in self._requests else None
        if key not in self._requests:
            self._requests[key] = self._compiled(self._for(key)).create_infer_request()
        return self._requests[key]

    def _for(self, shape: tuple[int, ...] | None) -> Any:
        """The model for images of this shape; None leaves it as it is."""
        model = self._model.clone()
        if shape is not None:
            model.reshape(list(shape))
        return model


def _one_image(shape: Any) -> tuple[int, ...] | None:
    """The shape of as few images as the file takes, where it leaves at most their number open; else None."""
    if shape.rank.is_dynamic or any(side.is_dynamic for side in list(shape)[1:]):
        return None
    return tuple(max(1, side.get_min_length()) for side in shape)
