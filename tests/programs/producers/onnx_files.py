"""ONNX by this package, by torch's two exporters, and after a tool of onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scalablevit_ref.adapters.onnx import export
from scalablevit_ref.adapters.onnx_runtime import onnx_runtime
from tests.programs.producers.made import CONFIG, Made, arrays, file, network, of, producer, weights

ONNX: dict[str, Any] = {"library": "torch.onnx", "distribution": "torch", "needs": ("onnx", "onnxscript")}
IMAGES = torch.zeros(1, 1, 112, 112)


@producer("scalablevit-ref", writes="`adapters.onnx.export`", form=".onnx", needs=("onnx",))
def our_export(folder: Path) -> Made:
    export(arrays(weights()), CONFIG, folder / "x.onnx", image_size=112)
    return file(folder / "x.onnx")


@producer(**ONNX, writes="`export(model, dynamo=True)` of the plain module", form=".onnx")
def dynamo(folder: Path) -> Made:
    torch.onnx.export(network().eval(), (IMAGES,), folder / "x.onnx", dynamo=True, external_data=False, verbose=False)
    return file(folder / "x.onnx")


@producer(**ONNX, writes="the same, weights in `x.onnx.data`", form=".onnx, external")
def dynamo_external(folder: Path) -> Made:
    torch.onnx.export(network().eval(), (IMAGES,), folder / "x.onnx", dynamo=True, external_data=True, verbose=False)
    return file(folder / "x.onnx")


@producer(**ONNX, writes="`export(dynamo=False)`: linear weights renamed and transposed", form=".onnx")
def legacy_export(folder: Path) -> Made:
    model = network().eval()
    torch.onnx.export(model, (IMAGES,), str(folder / "x.onnx"), dynamo=False)
    return file(folder / "x.onnx", of(model))


@producer(**ONNX, writes="`export(dynamo=False, do_constant_folding=False)`", form=".onnx")
def legacy_unfolded(folder: Path) -> Made:
    model = network().eval()
    torch.onnx.export(model, (IMAGES,), str(folder / "x.onnx"), dynamo=False, do_constant_folding=False)
    return file(folder / "x.onnx", of(model))


@producer("onnxruntime", writes="`quantize_dynamic` of an export", form=".onnx", needs=("onnxruntime", "onnxscript"))
def quantised(folder: Path) -> Made:
    onnx_runtime()  # without its telemetry
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(dynamo(folder).path), str(folder / "q.onnx"))
    return file(folder / "q.onnx", tell=("quantised",))
