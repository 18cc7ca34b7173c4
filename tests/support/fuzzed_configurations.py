"""Sound weights whose stored configuration is drawn: in each format, under each name, with each fault that a setting can have.

Whatever is drawn, the file is refused in one line, or read with the right weights and a configuration that is valid, that its
shapes are of, and whose every setting is the one that was stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref import ScalableViTConfig
from scalablevit_ref.checkpoints import from_state_dict, load_checkpoint, load_port
from scalablevit_ref.checkpoints.hub import FILE_NOTES, HUB_FILE
from scalablevit_ref.checkpoints.inspect import inspect_file
from tests.support.bombs_pickle import text
from tests.support.fuzzed import Choices, bits, found
from tests.support.hostile import op, plain
from tests.support.noted_files import NETWORK, NOTES, SHAPES, arrays, flax, npz, onnx, pth, safetensors, values

SETTINGS = tuple(setting.name for setting in fields(ScalableViTConfig))

FORMATS: tuple[str, ...] = (
    "pth",
    "pth of texts",
    "pth of earlier versions",
    "safetensors",
    "safetensors of earlier versions",
    "npz",
    "msgpack",
)
FORMATS += ("msgpack of texts", "onnx", "config.json", "args", "memory")
"""Where a configuration is stored."""

SHARING = ("pth", "memory")
"""Formats in which a list may hold another one twice, and that one a third, whose text would be longer than any file."""


class Raw:
    """JSON that no object of Python is dumped to."""

    def __init__(self, content: str) -> None:
        self.content = content


NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 3, 7, -1, 1000, 1 << 31, 1 << 62, -(1 << 63), 10**18, 10**400, 10**4000, 0.5, 1.0, 1.25, 1e-6, 1e300, 5e-324, -0.0,
    math.nan, math.inf, True, False, None, 16, 4,
)  # fmt: skip

TEXTS = (
    "", "mlp", "linear", "none", "scaled", "unscaled", "head_dim", "1", "[2, 2, 2, 2]", "shapes", "official", "mmdet", "digits",
    "small", "\x1b[2J\n", "[bold]x[/]", "\ud800", "é" * 300, "x" * 100_000, "{", "null",
)  # fmt: skip


def any_setting(choices: Choices, shares: bool, depth: int = 0) -> Any:
    """A value in the place of a setting: a number, a text, a list of them, what is nested or shared."""
    kind = choices.number(12)
    if kind < 5 or depth > 3:
        return choices.one_of(NUMBERS)
    if kind < 7:
        return choices.one_of(TEXTS)
    if kind < 9:
        return [any_setting(choices, shares, depth + 1) for _ in range(choices.one_of((2, 2, 2, 0, 1, 3, 4)))]
    if kind == 9:
        number = choices.one_of(NUMBERS)
        count = choices.one_of((2, 2, 100, 100, 1000, 1000, 1000, 60_000))
        return [number] * (2 if isinstance(number, int) and number.bit_length() > 100 else count)
    if kind == 10:
        return {choices.one_of(("a", "depths", "config", "")): any_setting(choices, shares, depth + 1)}
    levels = choices.one_of((5, 40, 200, 100_000))
    if shares:
        shared: Any = 1
        for _ in range(min(levels, 200)):
            shared = [shared, shared]
        return shared
    if levels > 200:
        return Raw("[" * levels + "]" * levels)
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested


def any_configuration(choices: Choices, shares: bool) -> Any:
    """The settings of the weights with some of them changed, left out or added; or something else in their place."""
    if choices.number(8) == 7:
        return any_setting(choices, shares)
    settings: dict[str, Any] = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(NETWORK).items()}
    for _ in range(choices.number(4)):
        name = choices.one_of((*SETTINGS, "depth", "__class__", "", "x" * 300))
        what = choices.number(4)
        if what == 3:
            settings.pop(name, None)
        elif what == 2 and isinstance(settings.get(name), list) and len(settings[name]) == 2:
            settings[name][choices.number(2)] = choices.one_of(NUMBERS)
        else:
            settings[name] = any_setting(choices, shares)
    return settings


def any_notes(choices: Choices, config: Any, shares: bool) -> Any:
    """This package's notes with that configuration, and with other fields changed."""
    notes: Any = {"version": 1, "layout": "official", "config": config, "metadata": {"epoch": 3}}
    for _ in range(choices.number(3)):
        name = choices.one_of(("version", "layout", "metadata", "variant", "config_from", "config", "beside"))
        if choices.number(4) == 3:
            notes.pop(name, None)
        else:
            notes[name] = any_setting(choices, shares)
    return notes


def dumped(value: Any) -> str:
    """JSON, in which a `Raw` is itself."""
    if isinstance(value, Raw):
        return value.content
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(name))}:{dumped(x)}" for name, x in value.items()) + "}"
    if isinstance(value, list) and any(isinstance(x, Raw | dict | list) for x in value):
        return "[" + ",".join(map(dumped, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 14_000:
        return "9" * value.bit_length()  # more digits than Python writes
    return json.dumps(value)


def pickled(value: Any) -> bytes:
    """Opcodes of a value, in which a `Raw` is as deep a list."""
    if isinstance(value, Raw):
        depth = len(value.content) // 2
        return b"]" * depth + b"a" * (depth - 1)
    if isinstance(value, dict):
        return b"}(" + b"".join(text(str(name)) + pickled(x) for name, x in value.items()) + b"u"
    if isinstance(value, list) and any(isinstance(x, Raw | dict) for x in value):
        return b"](" + b"".join(map(pickled, value)) + b"e"
    if isinstance(value, str):
        return plain(value) if value.isascii() or "\ud800" not in value else text("\\ud800")
    return plain(value)


def holdable(value: Any) -> Any:
    """What msgpack holds: a number of more than 64 bits is a text."""
    if isinstance(value, dict):
        return {str(name)[:200]: holdable(x) for name, x in value.items()}
    if isinstance(value, list):
        return list(map(holdable, value))
    if isinstance(value, Raw) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 64):
        return "9"
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def read_configuration(folder: Path, data: bytes) -> Any:
    """Sound weights with a drawn configuration: refused, or read as they are."""
    choices = Choices(data)
    kind = choices.one_of(FORMATS)
    shares = kind in SHARING
    config = any_configuration(choices, shares)
    as_text = choices.number(2) or kind in ("safetensors", "onnx", "msgpack of texts", "pth of texts")
    stored = dumped(config) if as_text and not shares else config
    notes = any_notes(choices, stored, shares)
    believed = notes.get("config") is stored
    for path in folder.iterdir():
        path.unlink()
    path = folder / HUB_FILE
    if kind == "memory":
        tree = {"model": arrays(), NOTES: notes}
        _held(lambda: from_state_dict(tree), config, believed)
        return
    if kind == "pth":
        content = pth(text(NOTES) + pickled(notes))
    elif kind == "pth of texts":
        content = pth(text(NOTES) + text(ascii_only(dumped(notes))))
    elif kind == "pth of earlier versions":
        content = pth(text("config") + text(ascii_only(dumped(config))) + text("metadata") + text("{}"))
        believed = isinstance(config, dict)
    elif kind == "safetensors":
        content = safetensors({"format": "pt", NOTES: dumped(notes)})
    elif kind == "safetensors of earlier versions":
        content = safetensors({"config": dumped(config), "metadata": "{}"})
    elif kind == "npz":
        content = npz(dumped(notes))
    elif kind == "onnx":
        content = onnx({f"{NOTES}.config": stored if isinstance(stored, str) else dumped(stored)})
        believed = True
    elif kind in ("msgpack", "msgpack of texts"):
        content = flax(holdable(notes if kind == "msgpack" else {name: dumped(value) for name, value in notes.items()}))
        believed = believed and kind != "msgpack"
    elif kind == "config.json":
        document = {NOTES: config, FILE_NOTES: {"file": HUB_FILE}, "layout": choices.one_of(TEXTS)}
        (folder / "config.json").write_bytes(dumped(document).encode(errors="replace"))
        content, believed = safetensors({"format": "pt"}), False
    else:
        arguments = {"model": any_setting(choices, shares), **({"config": config} if isinstance(config, dict) else {})}
        content, believed = pth(text("args") + op("argparse Namespace") + b")\x81" + pickled(arguments) + b"b"), False
    path.write_bytes(content)
    _held(lambda: load_checkpoint(path), config, believed, twice=len(data) % 4 == 2)
    if len(data) % 4 == 3:
        found(lambda: inspect_file(path))
        found(lambda: load_port(path))
        found(lambda: load_port(path, heads=1, window_size=7))


def ascii_only(words: str) -> str:
    return words.encode("ascii", errors="replace").decode()


def _held(load: Callable[[], sv.Checkpoint], config: Any, believed: bool, twice: bool = True) -> None:
    """What is read is right (and the same twice); every setting that was stored and believed is the one that is used."""
    first = found(load)
    assert not twice or bits(first) == bits(found(load)), "another the second time"
    if isinstance(first, str):
        return
    used = first.config
    assert np.array_equal(np.concatenate([first.params[name].reshape(-1) for name in SHAPES]), values()), "other weights"
    assert ScalableViTConfig(**asdict(used)) == used, "a configuration that is none"
    assert {name: x.shape for name, x in first.params.items()} == sv.parameter_shapes(used), "shapes of another configuration"
    assert json.loads(json.dumps(first.metadata)), "metadata that are no plain values"
    if believed and first.metadata["config_from"] == "metadata" and isinstance(config, dict):
        for name, value in config.items():
            given = tuple(value) if isinstance(value, list) else value
            assert getattr(used, name) == given, f"{name}: stored {given!r}, used {getattr(used, name)!r}"
