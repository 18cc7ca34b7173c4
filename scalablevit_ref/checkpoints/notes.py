"""What this package notes beside weights, under one key of its own; and which notes of a file are its own.

A file's other notes are somebody else's, whatever they are called: not believed, and nothing that could be damaged.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.weights import GUESSED, Stored

NOTES = "scalablevit_ref"
"""The key of this package's notes: an entry of a safetensors header, of a `.pth`, of Flax's tree and of a `config.json`."""

VERSION = 1
"""Of the notes' fields."""

LONGEST_NOTES = 2 << 20
"""Longest notes that are read, in characters of JSON."""

_MOST_SETTINGS = 500_000
"""Most entries of a configuration's lists together, each as often as it is reached."""

MOST_PLAIN = 1_000_000
"""Most parts and characters of all plain values beside the weights."""

_DEEPEST = 6
"""Most mappings and lists in each other that a plain value is made of."""

_LONGEST_NUMBER = 2048
"""Longest whole number of a setting, in bits; no float is above 2^1024."""

_ONNX_CONFIG = f"{NOTES}.config"
"""ONNX's metadata are texts by names, so the configuration has one to itself."""


def read_notes(notes: Mapping[Any, Any]) -> Stored:
    """What this package wrote among a file's notes, or among the entries at the top of a `.pth` or a Flax tree.

    Its own key is believed, as JSON or as a mapping of its fields. The entries `config` and `metadata` of earlier versions
    (`__config__` and `__metadata__` in an npz) are taken for its own only where that configuration has every setting.

    Raises CheckpointError for notes under its own key that are not what it writes.
    """
    if NOTES in notes:
        return _own(notes[NOTES])
    if isinstance(config := notes.get(_ONNX_CONFIG), str):
        return _own({"config": config})
    for config, metadata in (("config", "metadata"), ("__config__", "__metadata__")):
        if _is_whole(notes.get(config)):
            earlier = {"config": notes[config], "metadata": notes.get(metadata, "{}")}
            return _own(earlier | {name: notes[name] for name in ("layout", "variant") if name in notes})
    return Stored()


def noted(config: Any, *, layout: str, variant: str | None, guessed: bool, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the notes, as JSON holds them.

    Parameters
    ----------
    config
        Settings by name, None if they are unknown.
    layout, variant
        Of the weights; variant: None unless the settings are exactly one's.
    guessed
        Whether the settings were found by shapes alone.
    metadata
        Plain values.
    """
    settings = {} if config is None else {"config": in_python(config)}
    told = ({"variant": variant} if variant else {}) | ({"config_from": GUESSED} if guessed else {})
    return {"version": VERSION, "layout": layout, **told, **settings, "metadata": dict(metadata)}


def in_python(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them: lists for tuples, Python's own numbers for those of other libraries."""
    found: dict[str, Any] = json.loads(json.dumps(dict(settings), default=_number))
    return found


def _number(x: Any) -> int | float:
    if isinstance(x, numbers.Integral):
        return int(x)
    if isinstance(x, numbers.Real):
        return float(x)
    raise TypeError(f"a setting that is no number: {type(x).__name__}")


def as_texts(notes: Mapping[str, Any]) -> dict[str, str]:
    """The notes for a format that holds mappings of texts: each field as a text, JSON unless it is one."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in notes.items()}


def _own(notes: Any) -> Stored:
    """Notes under this package's own key, or that are beyond doubt its own."""
    found = _document(notes, NOTES)
    version = _document(found.get("version", VERSION), "version", kind=int)
    if version > VERSION:
        raise CheckpointError(
            "notes of a later version of this package, which reads them", key=NOTES, expected=VERSION, found=version
        )
    metadata = _document(found.get("metadata", {}), "metadata")
    if not plain_within(metadata, MOST_PLAIN, _DEEPEST + 1)[0]:
        raise CheckpointError("damaged metadata", key="metadata", expected="plain values under names", found=brief(metadata))
    layout, variant, config_from = (
        value if isinstance(value := found.get(name), str) else None for name in ("layout", "variant", "config_from")
    )
    return Stored(_settings(found.get("config")), GUESSED if config_from == GUESSED else None, metadata, layout, variant)


def _document(value: Any, key: str, kind: type = dict) -> Any:
    """A field that is a mapping (or a number), or JSON of it."""
    found = value
    if isinstance(value, str):
        if len(value) > LONGEST_NOTES:
            raise CheckpointError(
                "longer notes than any", key=key, expected=f"at most {LONGEST_NOTES} characters", found=len(value)
            )
        try:
            found = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"damaged {key} ({error})", key=key) from error
    if not isinstance(found, kind) or isinstance(found, bool):
        raise CheckpointError(f"damaged {key}", key=key, expected="JSON as this package writes it", found=brief(value))
    return found


def _settings(config: Any) -> str | None:
    """The configuration as JSON. Raises CheckpointError for what is no settings by name, whoever may use them.

    Whether a network of these settings exists is told where they are used (`infer.config_from_json`).
    """
    if config is None:
        return None
    settings = config
    if isinstance(config, str):
        if len(config) > LONGEST_NOTES:
            raise CheckpointError("a longer configuration than any", key="config")
        try:
            settings = json.loads(config)
        except (ValueError, RecursionError) as error:
            raise _no_configuration(str(error), config) from error
    if not _is_flat(settings):
        raise _no_configuration("settings by name are numbers, texts, and lists of them", settings)
    return config if isinstance(config, str) else json.dumps(settings)


def _no_configuration(why: str, config: Any) -> CheckpointError:
    return CheckpointError(
        f"not a configuration ({why})", key="config", expected="settings as this package writes them", found=brief(config)
    )


def _is_flat(config: Any) -> bool:
    """Whether these are settings by name: numbers, texts, and lists of them. A file may share a list as often as it likes."""
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        return False
    lists = [value if isinstance(value, list | tuple) else [value] for value in config.values()]
    return sum(map(len, lists)) <= _MOST_SETTINGS and all(_is_setting(x) for values in lists for x in values)


def _is_setting(x: Any) -> bool:
    """Whether JSON takes it; Python makes no text of a number of thousands of digits."""
    return x is None or isinstance(x, bool | float | str) or (isinstance(x, int) and x.bit_length() <= _LONGEST_NUMBER)


def _is_whole(config: Any) -> bool:
    """Whether a text is a configuration with every setting of the official network, or of a port."""
    if not isinstance(config, str) or len(config) > LONGEST_NOTES:
        return False
    try:
        found = json.loads(config)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict):
        return False
    if set(found) == {setting.name for setting in fields(ScalableViTConfig)}:
        return True
    from scalablevit_ref.dialects.config import Config  # loaded for those who have a port's weights

    return set(found) == {setting.name for setting in fields(Config)}


def is_plain(value: Any) -> bool:
    """Whether JSON can hold it (tuples count as lists), in a million parts and characters, each as often as it is reached."""
    return plain_within(value, MOST_PLAIN)[0]


def plain_within(value: Any, left: int, depth: int = _DEEPEST) -> tuple[bool, int]:
    """Whether JSON can hold it in `left` parts and characters; how many of them are left, also where it cannot."""
    level = [value]
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            left -= 1
            if isinstance(item, list | tuple | dict | str):
                if len(item) > left:
                    return False, left
                left -= len(item)
            if isinstance(item, dict):
                if not all(isinstance(key, str) for key in item) or sum(map(len, item)) > left:
                    return False, left
                left -= sum(map(len, item))
                below += item.values()
            elif isinstance(item, list | tuple):
                below += item
            elif not (item is None or isinstance(item, bool | int | float | str)):
                return False, left
        level = below
    return not level, left
