"""Small networks and weights for the tests of checkpoints: what is saved, and how it is held against what is read."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalablevit_ref import Checkpoint, ScalableViTConfig, parameter_shapes, to_backend, variant
from tests.support.bit_patterns import bit_patterns

SUFFIXES = (".pth", ".safetensors", ".npz", ".msgpack")

DIGITS = variant("digits")
CUSTOM = variant("digits", ssa_scale="head_dim", norm_eps=3e-6, c_ratios=(1.25, 0.5, 0.3, 1.75), window_sizes=(7, 2, 7, 1))
BACKBONE = {
    "head": "none",
    "num_classes": 0,
    "ssa_values": "scaled",
    "pad_windows": True,
    "stage_norms": True,
    "embed_norm_eps": 1e-5,
}
TINY_MMDET = variant("digits", **BACKBONE)
TINY = ScalableViTConfig((2, 2, 2, 2), (2, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), num_classes=2, head="linear", in_chans=1)


def zeros(config: ScalableViTConfig) -> dict[str, np.ndarray]:
    """Weights that cost no memory until they are copied."""
    return {name: np.broadcast_to(np.float16(0), shape) for name, shape in parameter_shapes(config).items()}


def numbered(config: ScalableViTConfig, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Weights whose values are all different, so that no permutation hides."""
    shapes = parameter_shapes(config)
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {
        name: (end - np.arange(np.prod(shape)).reshape(shape)).astype(dtype)
        for (name, shape), end in zip(shapes.items(), ends, strict=True)
    }


def random_bits(config: ScalableViTConfig, dtype: Any) -> dict[str, np.ndarray]:
    """Weights of random bits; NaN payloads, infinities, −0.0 and subnormals are among them. Read-only."""
    return dict(_random_bits(config, np.dtype(dtype)))


@cache
def _random_bits(config: ScalableViTConfig, dtype: Any) -> dict[str, np.ndarray]:
    arrays = bit_patterns(parameter_shapes(config), dtype)
    for x in arrays.values():
        x.flags.writeable = False
    return arrays


def training_checkpoint(params: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the authors' training script saves, with an optimizer that has taken a step and a scaler."""
    weights = OrderedDict((name, torch.nn.Parameter(x)) for name, x in to_backend(params, "torch").items())
    optimizer = torch.optim.AdamW([{"params": list(weights.values()), "weight_decay": 0.05}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    sum((x**2).sum() for x in weights.values()).backward()
    optimizer.step()
    scheduler.step()
    weights._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]  # as Module.state_dict's
    return {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 37,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": argparse.Namespace(model="scalable_vit_unheard_of", lr=5e-4, data_path="/data", aa=None, betas=(0.9, 0.999)),
    }


def assert_same(checkpoint: Checkpoint, params: dict[str, np.ndarray]) -> None:
    """The checkpoint holds these parameters: names, order and values."""
    assert list(checkpoint.params) == list(params)
    assert all(np.array_equal(checkpoint.params[name], x) for name, x in params.items())


def listing(folder: Path) -> list[str]:
    """The names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
