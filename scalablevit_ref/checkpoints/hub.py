"""The `config.json` that timm and the Hugging Face hub keep beside `model.safetensors`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalablevit_ref.checkpoints.infer import exact_variant
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.image_sizes import nearest_image_size, usual_image_size
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD

CONFIG_JSON = "config.json"

_LONGEST = 1 << 20
"""Largest `config.json` that is looked into, in bytes."""


def hub_config(config: ScalableViTConfig, layout: str = "official") -> dict[str, Any]:
    """timm's keys (architecture, num_classes, num_features, pretrained_cfg), `layout`, the whole config as `scalablevit_ref`.

    The preprocessing is the official evaluation's: resize to 256, crop to 224, ImageNet mean and deviation (for three channels).

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> hub_config(variant("small"))["pretrained_cfg"]["classifier"]
    'head.3'
    >>> [hub_config(variant(name))["pretrained_cfg"]["input_size"] for name in ("small", "digits")]
    [[3, 224, 224], [1, 112, 112]]
    """
    nearest = nearest_image_size(config, 224)
    size = nearest if nearest == 224 else usual_image_size(config)  # the digits': 112
    pretrained = {
        "input_size": [config.in_chans, size, size],
        "interpolation": "bicubic",
        "crop_pct": 224 / 256,
        "mean": list(IMAGENET_MEAN) if config.in_chans == 3 else None,
        "std": list(IMAGENET_STD) if config.in_chans == 3 else None,
        "num_classes": config.num_classes,
        "first_conv": "patch_embeds.0.proj",
        "classifier": {"mlp": "head.3", "linear": "head", "none": None}[config.head] if config.num_classes else None,
    }
    return {
        "architecture": f"scalablevit_{exact_variant(config) or 'custom'}",
        "num_classes": config.num_classes,
        "num_features": config.out_features if not config.num_classes else config.num_features,
        "pretrained_cfg": pretrained,
        "layout": layout,
        "scalablevit_ref": asdict(config),
    }


def says(path: Path, document: dict[str, Any] | None) -> bool:
    """Whether a `config.json` is of the same configuration and layout as that document, whatever else it says."""
    if document is None or not path.is_file() or path.stat().st_size > _LONGEST:
        return False
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    wanted = json.loads(json.dumps(document))
    return isinstance(found, dict) and all(found.get(name) == wanted[name] for name in ("layout", "scalablevit_ref"))
