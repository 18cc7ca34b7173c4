"""What the networks of two checkpoint files compute on one image, for `convert --verify`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.checkpoints.convert import Converted
from scalablevit_ref.checkpoints.load import Opened
from scalablevit_ref.checkpoints.port_files import OpenedPort, open_any
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import Config, check_size
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import values
from scalablevit_ref.image_sizes import usual_image_size
from scalablevit_ref.network import scalable_vit, stage_features
from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing import random_images
from scalablevit_ref.testing.arrays import EPS, relative_l2


def check_runs(opened: Opened | OpenedPort) -> None:
    """Raise CheckpointError for a checkpoint whose network cannot be run."""
    if isinstance(opened, OpenedPort) and not opened.told:
        raise CheckpointError("--verify runs the network, whose heads and windows show in no shape: give --heads")
    image_size(opened.config)


def compared(done: Converted, source: Path, target: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Both networks on one image in float64: their relative error, the image's size, and whether they agree.

    The official network's must agree exactly, a port's to 64 eps of float64, since two of them multiply kernels that lie otherwise;
    to 64 eps of a dtype that is narrower, or in which a scale was folded.
    """
    size = image_size(done.config)
    config = done.config
    settings = {"heads": config.heads, "window_size": config.window_size} if isinstance(config, Config) else {}
    error = relative_l2(outputs(target, size, config, settings), outputs(source, size, config, options))
    narrower = EPS[done.dtype] > EPS[done.metadata["dtype"]]
    rounded = done.dtype if narrower or done.folded else "float64" if isinstance(done.config, Config) else None
    agrees = error <= 64 * EPS[rounded] if rounded else error == 0
    return {"error": error, "size": size, "narrower": narrower, "agrees": bool(agrees)}


def outputs(path: Path, size: int, converted: ScalableViTConfig | Config, options: dict[str, Any]) -> np.ndarray:
    """Logits, or all maps of a backbone, in one row; features where the head was stripped in the conversion."""
    with open_any(path, **options) as opened:
        config = opened.config
        params = {name: values(x).astype(np.float64) for name, x in opened.params.items()}
    if isinstance(config, ScalableViTConfig) and isinstance(converted, ScalableViTConfig):
        config = replace(config, head=converted.head, num_classes=converted.num_classes)
        image = random_images((1, config.in_chans, size, size))
        run = stage_features if config.stage_norms else scalable_vit
        out = run(image, {name: params[name] for name in parameter_shapes(config)}, config)
        return np.concatenate([np.ravel(x) for x in out]) if isinstance(out, tuple) else np.ravel(out)
    assert isinstance(config, Config)  # no conversion leads from one network to the other
    image = random_images((1, config.channels, size, size))
    if opened.metadata["layout"] == "vit_pytorch":
        return np.ravel(vit_pytorch.scalable_vit(image, params, config))
    patched = opened.metadata["layout"] == "flax_port_patched"
    return np.ravel(flax_port.scalable_vit(rearrange(image, "b c h w -> b h w c"), params, config, patched=patched))


def image_size(config: ScalableViTConfig | Config) -> int:
    """A small size that the network takes; 112 or 224 where it can. Raises ValueError if there is none."""
    if isinstance(config, ScalableViTConfig):
        return usual_image_size(config)
    sizes: list[int] = [112, 224, *range(32, 2049, 32)]
    for size in sizes:
        try:
            check_size(config, size, size, drops_tiles=True)
        except ValueError:
            continue
        return size
    raise ValueError(f"--verify knows no image for window_size {config.window_size}")
