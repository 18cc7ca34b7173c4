"""The `config.json` that timm, transformers and the Hugging Face hub keep beside `model.safetensors`: written, merged into one
that is there, and read back for weights whose file has lost its notes.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scalablevit_ref.checkpoints.infer import config_beside, differing, exact_variant
from scalablevit_ref.checkpoints.notes import NOTES, in_python
from scalablevit_ref.checkpoints.preparation import preparation
from scalablevit_ref.checkpoints.transformers_folder import TRANSFORMERS, model_config, settings_of
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, Spelling, option
from scalablevit_ref.weights import GUESSED, StateDict, Stored

CONFIG_JSON = "config.json"

HUB_FILE = "model.safetensors"
"""The name by which the Hugging Face hub and timm know a folder's weights."""

FILE_NOTES = f"{NOTES}_notes"
"""Entry of `config.json`: which file beside it the settings under `scalablevit_ref` are of, and whether they were a guess."""

_TIMM = ("architecture", "num_features", "pretrained_cfg", "model_args", "layout", NOTES, FILE_NOTES)
"""Entries of `hub_config` that describe no weights to transformers, or mislead it."""

_LONGEST = 4 << 20
"""Largest `config.json` that is looked into, in bytes."""


def hub_config(
    config: ScalableViTConfig, layout: str = "official", *, file: str = HUB_FILE, guessed: bool = False
) -> dict[str, Any]:
    """timm's keys (architecture, num_classes, num_features, pretrained_cfg), `layout`, the whole config as `scalablevit_ref`.

    With them timm makes the network of a folder once `adapters.timm` is imported, one that is no variant from its `model_args`.

    The preprocessing is the official evaluation's: resize to 256, crop to 224, ImageNet mean and deviation. For other than three
    channels those are not known, but for the digits'; a mean of 0 and a deviation of 1 then leave pixels as they are.

    Parameters
    ----------
    config
        Settings of the network.
    layout
        Of the weights.
    file
        Name of the file beside it that it describes.
    guessed
        Whether the settings were found by shapes alone.

    Examples
    --------
    >>> from scalablevit_ref import variant
    >>> hub_config(variant("small"))["pretrained_cfg"]["classifier"]
    'head.3'
    >>> [
    ...     hub_config(variant(name))["pretrained_cfg"]["input_size"]
    ...     for name in ("small", "digits")
    ... ]
    [[3, 224, 224], [1, 112, 112]]
    """
    config = ScalableViTConfig(**in_python(asdict(config)))
    size, mean, deviation = preparation(config)
    pretrained = {
        "input_size": [config.in_chans, size, size],
        "interpolation": "bicubic",
        "crop_pct": 224 / 256,
        "mean": mean,
        "std": deviation,
        "num_classes": config.num_classes,
        "first_conv": "patch_embeds.0.proj",
        "classifier": {"mlp": "head.3", "linear": "head", "none": None}[config.head] if config.num_classes else None,
    }
    name, small = exact_variant(config), ScalableViTConfig(num_classes=config.num_classes, in_chans=config.in_chans)
    settings = {} if name else {key: value for key, value in asdict(config).items() if value != getattr(small, key)}
    return {
        "architecture": f"scalablevit_{name or 'custom'}",
        "num_classes": config.num_classes,
        "num_features": config.out_features if not config.num_classes else config.num_features,
        "pretrained_cfg": pretrained,
        "model_args": settings,
        "layout": layout,
        NOTES: asdict(config),
        FILE_NOTES: {"file": file} | ({"config_from": GUESSED} if guessed else {}),
    }


def transformers_config(config: ScalableViTConfig, dtype: str, *, guessed: bool = False) -> dict[str, Any]:
    """The `config.json` that transformers reads, beside weights of this dtype.

    It has no entries of timm's: one that has is timm's to transformers.
    """
    guess = {FILE_NOTES: {"file": HUB_FILE, "config_from": GUESSED}} if guessed else {}
    return model_config(config, dtype) | guess


def merged(path: Path, document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What is to be written to a `config.json`, and which entries of the one that is there it replaces by others.

    Its other entries are kept, since another tool may need them (`id2label`, `model_type`), but not what describes the weights
    otherwise: in a document for transformers timm's entries and ours.

    Raises CheckpointError for a file that is no JSON object, of which nothing could be kept, and for one that transformers reads
    where the document is timm's; an empty one and a link out of the folder are replaced.
    """
    there, ours = _document(path), json.loads(json.dumps(document))
    if there is None and path.is_file() and not path.is_symlink() and path.stat().st_size:
        raise CheckpointError("no JSON object, to which entries could be added: remove it", file=path)
    there = there or {}
    for_transformers = settings_of(ours) is not None
    if not for_transformers and settings_of(there) is not None:
        remedy = Spelling(f"layout={TRANSFORMERS!r}", f"--to {TRANSFORMERS}")
        raise CheckpointError("this folder is transformers': ", remedy, " writes into it, or remove the file", file=path)
    gone = [name for name in _TIMM if name in there and name not in ours] if for_transformers else []
    replaced = [name for name in ours if name in there and there[name] != ours[name]]
    return {name: value for name, value in there.items() if name not in gone} | ours, replaced + gone


def written_unasked(target: Path) -> bool:
    """Whether official weights get a `config.json` where nobody says: beside the hub's file, and where there is one that describes
    the target; never over another tool's.
    """
    beside = target.with_name(CONFIG_JSON)
    if isinstance((_document(beside) or {}).get(NOTES), dict):
        return target.name == HUB_FILE or _noted_of(target) is not None
    return target.name == HUB_FILE and not os.path.lexists(beside)


def says(path: Path, document: dict[str, Any] | None) -> bool:
    """Whether a `config.json` is of the same configuration and layout as that document, whatever else it says."""
    found = _document(path)
    if document is None or found is None:
        return False
    wanted = json.loads(json.dumps(document))
    if (settings := settings_of(found)) is not None and NOTES not in found:
        return bool(wanted["layout"] == "official" and settings == wanted[NOTES])
    return all(found.get(name) == wanted[name] for name in ("layout", NOTES))


def with_config_json(found: StateDict, path: Path) -> StateDict:
    """A file's state dict with what the `config.json` beside it notes of that file."""
    return replace(found, stored=replace(found.stored, config_json=_noted_of(path)))


def refuse_contradiction(path: Path, state: Mapping[str, Any], layout: str, config: Any) -> None:
    """Raise CheckpointError where the `config.json` that is left beside a file to be written states other settings of it."""
    stored = _noted_of(path)
    beside = None if stored is None or stored.guessed else config_beside(stored, state, layout)
    if beside is not None and beside != config:
        remedy = ("the config.json beside it states other settings of this file: ", option("config_json", True), " updates it")
        raise CheckpointError(*remedy, **differing(config, beside))


def _noted_of(path: Path) -> Stored | None:
    """What the `config.json` in a file's folder notes of that file, or in a folder of its weights; None where it notes nothing.

    It describes the file that it names, in one piece or in several with an index, and no other of the folder: that may be what the
    weights were converted from. Earlier versions named none, and meant `model.safetensors`, as transformers does.
    """
    folder = path if path.is_dir() else path.parent
    document = _document(folder / CONFIG_JSON) or {}
    settings, notes = document.get(NOTES), document.get(FILE_NOTES, {"file": HUB_FILE})
    settings = settings_of(document) if settings is None else settings
    if not isinstance(settings, dict) or not isinstance(notes, dict) or not isinstance(notes.get("file"), str):
        return None
    if folder != path and path.name not in (notes["file"], f"{notes['file']}.index.json"):
        return None
    return Stored(json.dumps(settings), GUESSED if notes.get("config_from") == GUESSED else None)


def _document(path: Path) -> dict[str, Any] | None:
    """A `config.json`'s object; None where there is none that may be read.

    A link is followed within its folder, and into the hub's cache, whose files are links to `blobs`.
    """
    try:
        target = path.resolve()
        inside = target.parent in (path.parent.resolve(), path.parent.resolve().parent.parent / "blobs")
        found = target.stat()
        if not inside or not stat.S_ISREG(found.st_mode) or found.st_size > _LONGEST:
            return None
        document = json.loads(target.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
