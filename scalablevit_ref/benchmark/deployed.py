"""Ways to deploy a network: files that are built ahead, and the runtimes that load them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.backends.threads import threads_at_hand
from scalablevit_ref.config import ScalableViTConfig

LOGGERS = ("torch.onnx", "torch.export", "torch._inductor", "onnxscript", "onnx_ir")
"""Who says much while files are built."""

DTYPES = ("float32", "bfloat16", "float16")
"""What an ONNX file is run in."""


def write_export(
    path: Path, params: Mapping[str, np.ndarray], config: ScalableViTConfig, *, batch: int, size: int, dtype: str
) -> None:
    """The ONNX file that this package writes, for one batch and size."""
    from scalablevit_ref.adapters.onnx import export

    export(params, config, path, image_size=size, batch=batch, dtype=dtype, force=True)


def write_torch_export(path: Path, network: Any, images: Any) -> None:
    """The ONNX file that `torch.onnx.export` makes of a module, for these images' sizes."""
    import torch

    with quiet(), torch.no_grad():
        torch.onnx.export(network, (images,), str(path), dynamo=True, verbose=False, external_data=False)


def write_package(path: Path, network: Any, images: Any) -> None:
    """The package that `adapters.torch.ScalableViT.compiled` makes of a module, for these images' sizes."""
    from scalablevit_ref.adapters import torch_compiled

    with quiet():
        torch_compiled.write_package(network, images, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log and the warnings of what builds files: they are about PyTorch's own inside."""
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def packaged(path: Path, images: Any) -> Callable[[], Any]:
    """A package of AOTInductor, loaded."""
    from torch._inductor import aoti_load_package

    network = aoti_load_package(str(path))
    return lambda: network(images)


def on_onnx_runtime(path: Path, images: np.ndarray) -> Callable[[], Any]:
    """A file in ONNX Runtime, with the threads at hand."""
    from scalablevit_ref.adapters.onnx import session

    network = session(path, threads=threads_at_hand())
    return lambda: network(images)


def on_openvino(path: Path, images: np.ndarray, dtype: str) -> Callable[[], Any]:
    """A file in OpenVINO, with the threads at hand."""
    from scalablevit_ref.adapters.openvino import session

    network = session(path, threads=threads_at_hand(), dtype=dtype)
    return lambda: network(images)


@cache
def why_not_in_onnx_runtime(dtype: str) -> str | None:
    """Why ONNX Runtime does not compute in that dtype on a CPU, or None: it is given one product to load."""
    from onnx import TensorProto, helper

    from scalablevit_ref.adapters.onnx_runtime import CPU, SILENT, onnx_runtime

    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    values = [helper.make_tensor_value_info(name, kind, [1, 1]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    opsets = [helper.make_opsetid("", 22)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnxruntime = onnx_runtime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = SILENT
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=list(CPU))
    except Exception:
        return f"ONNX Runtime {onnxruntime.__version__} has no products in {dtype} on a CPU"
    return None
