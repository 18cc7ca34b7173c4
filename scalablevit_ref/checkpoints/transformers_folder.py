"""The folder that transformers opens: `config.json` and `preprocessor_config.json` beside `model.safetensors`, written without it.

The weights are the official ones. The settings stand in `config.json` once, as attributes of
`adapters.transformers.ScalableViTConfig`, and `settings_of` reads them from there, also from what transformers wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from scalablevit_ref.checkpoints.notes import in_python
from scalablevit_ref.checkpoints.preparation import preparation
from scalablevit_ref.config import ScalableViTConfig, variant

TRANSFORMERS = "transformers"
"""What `--to` calls such a folder: the official layout, and what transformers needs beside it."""

PREPROCESSOR_JSON = "preprocessor_config.json"

MODEL_TYPE = "scalablevit"
"""Entry `model_type` of a `config.json`, by which transformers knows the class of the configuration."""

OFFICIAL, DIGITS = "official", "digits"

SCHEMES = (OFFICIAL, DIGITS)
"""How the image processor prepares images: as the official evaluation, or as the embedded example."""

_BACKBONE = "backbone_config"
"""Entry of a detector's or segmenter's `config.json` that holds its backbone's."""

_SETTINGS = tuple(field.name for field in fields(ScalableViTConfig) if field.name != "num_classes")


def class_names(config: ScalableViTConfig) -> dict[int, str]:
    """What `id2label` says of a network's classes: a digit for the embedded example, else transformers' own words.

    Examples
    --------
    >>> class_names(variant("digits"))[3], class_names(variant("small"))[3]
    ('3', 'LABEL_3')
    """
    word = "" if config == variant("digits") else "LABEL_"
    return {i: f"{word}{i}" for i in range(config.num_classes)}


def model_config(config: ScalableViTConfig, dtype: str) -> dict[str, Any]:
    """The `config.json` of a network whose weights have this dtype.

    Examples
    --------
    >>> found = model_config(variant("mmdet_small"), "float32")
    >>> found["architectures"]
    ['ScalableViTBackbone']
    >>> ScalableViTConfig(**settings_of(found)) == variant("mmdet_small")
    True
    """
    kind = "ForImageClassification" if config.num_classes else "Backbone" if config.stage_norms else "Model"
    settings = in_python(asdict(config))
    names = class_names(config)
    return {
        "model_type": MODEL_TYPE,
        "architectures": [f"ScalableViT{kind}"],
        "dtype": dtype,
        **settings,
        "id2label": {str(i): name for i, name in names.items()},
        "label2id": {name: i for i, name in names.items()},
    }


def preprocessor_config(config: ScalableViTConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` of a network: the official evaluation's, of the size that the network takes."""
    size, mean, deviation = preparation(config)
    of_digits = replace(config, num_classes=10, head="linear") == variant("digits")
    return {
        "image_processor_type": "ScalableViTImageProcessor",
        "scheme": DIGITS if of_digits else OFFICIAL,
        "do_convert_rgb": config.in_chans == 3,
        "do_resize": True,
        "size": {"shortest_edge": int(size * 256 / 224)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": deviation,
    }


def settings_of(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings in a `config.json` of transformers, or in that of a detector or segmenter around it; None of another model's.

    What they are is not checked here.
    """
    if document.get("model_type") != MODEL_TYPE:
        backbone = document.get(_BACKBONE)
        return settings_of(backbone) if isinstance(backbone, dict) and backbone.get("model_type") == MODEL_TYPE else None
    found = {name: document[name] for name in _SETTINGS if name in document}
    names = document.get("id2label")
    if isinstance(names, dict):
        found["num_classes"] = len(names)
    elif "num_classes" in document:
        found["num_classes"] = document["num_classes"]
    return found
