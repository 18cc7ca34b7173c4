"""The `config.json` that timm and the Hugging Face hub keep beside `model.safetensors`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from scalablevit_ref.checkpoints.inference import exact_variant
from scalablevit_ref.checks import nearest_image_size
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.images import IMAGENET_MEAN, IMAGENET_STD


def hub_config(config: ScalableViTConfig) -> dict[str, Any]:
    """timm's keys (architecture, num_classes, num_features, pretrained_cfg), and the whole configuration as `scalablevit_ref`.

    The preprocessing is the official evaluation's: resize to 256, crop to 224, ImageNet mean and deviation (for three channels).

    >>> from scalablevit_ref import variant
    >>> hub_config(variant("small"))["pretrained_cfg"]["classifier"]
    'head.3'
    """
    size = nearest_image_size(config, 224)
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
        "scalablevit_ref": asdict(config),
    }
