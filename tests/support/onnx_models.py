"""The network as torch's two exporters write it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.config import ScalableViTConfig

WITH_GELU = 20
"""The first opset in which GELU is one operation; torch 2.8 writes opset 18 where none is asked for."""


def exported_to(
    path: Path, config: ScalableViTConfig, weights: Mapping[str, np.ndarray], images: np.ndarray, *, dynamo: bool = False
) -> Path:
    """The file, whose weights lie in it; it takes as many images of that size."""
    module = ScalableViT(config).eval()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return exporting(module, path, images, dynamo=dynamo)


def exporting(module: torch.nn.Module, path: Path, images: np.ndarray, *, dynamo: bool = False) -> Path:
    """A module in a file that takes as many images of that size, in their dtype."""
    more: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(LeafSpec|TorchScript-based ONNX export|feature will be removed)")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(module.eval(), (torch.from_numpy(images),), path, dynamo=dynamo, opset_version=WITH_GELU, **more)
    return path
