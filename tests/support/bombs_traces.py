"""Traces, names files and arrays of images made to take time or memory, or to be compared by accident: what is said of each."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit_ref.parameters import parameter_shapes
from scalablevit_ref.testing.arrays import random_images, random_params
from scalablevit_ref.testing.traces import reference_trace
from tests.support.bombs_torch import deflated
from tests.support.hostile import entry, header, npy
from tests.support.noted_files import NETWORK, NOTES

Made = dict[str, tuple[Callable[[Path], Path], str | None]]
"""What makes a path in an empty folder, and what is said of it; None of what is read."""

SIDE = 16
"""Height and width of the images, in pixels."""


@cache
def params() -> dict[str, np.ndarray]:
    return random_params(parameter_shapes(NETWORK), dtype="float32")


@cache
def sound() -> dict[str, np.ndarray]:
    """Every layer of the network, in float32, and the images."""
    images = random_images((2, 1, SIDE, SIDE), dtype="float32")
    return {name: np.ascontiguousarray(x) for name, x in reference_trace(images, params(), NETWORK).items()}


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def lazily(name: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda folder: written(name, content())(folder)


def fifo(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def folder_called(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return make


def link(name: str, target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def nowhere(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


# Traces


def npz(arrays: Mapping[str, np.ndarray], notes: str | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, x in arrays.items():
            record = io.BytesIO()
            np.save(record, x)
            archive.writestr(f"{name}.npy", record.getvalue())
        archive.comment = b"" if notes is None else f"{NOTES} {notes}".encode()
    return out.getvalue()


def trace(**changed: Any) -> Callable[[Path], Path]:
    """A sound trace, some of its arrays changed; those that are None are left out. "_" stands for "."."""
    named = {name.replace("__", "."): x for name, x in changed.items()}

    def content() -> bytes:
        arrays = {name: x for name, x in (sound() | named).items() if x is not None}
        return npz({name: x(sound()[name]) if callable(x) else x for name, x in arrays.items()})

    return lazily("x.npz", content)


def only(name: str, x: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Path]:
    """A trace of the images and one layer, which is changed."""
    return lazily("x.npz", lambda: npz({"images": sound()["images"], name: x(sound()[name])}))


def telling(config: str, name: str = "x.npz") -> Callable[[Path], Path]:
    notes = json.dumps({"version": 1, "layout": "trace", "config": config})
    return lazily(name, lambda: npz(sound(), notes))


def settings(**changed: Any) -> str:
    return json.dumps(asdict(NETWORK) | changed)


def of_dtype(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    def convert(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            whole = (1000 * x).astype("i8")
        return x.view(dtype) if dtype.startswith("V") else whole.astype(dtype)

    return convert


NO_DTYPE = "float16|float32|floating|no array of numbers"
"""What is expected of a layer's numbers, in whatever words."""

NOT_IMAGES = "images"

TRACE_BOMBS: Made = {
    **{f"logits of {dtype}": (only("logits", of_dtype(dtype)), NO_DTYPE) for dtype in ("i8", "?", "u1", "c8", "M8[s]", "U4", "V4")},
    "objects": (lazily("x.npz", lambda: npz({"images": sound()["images"], "logits": np.array([None, {}])})), "logits|layer's name"),
    "layers of two dtypes": (trace(logits=lambda x: x.astype("f8")), "several dtypes"),
    "a layer of one more axis": (trace(logits=lambda x: x[None]), "which is no layout of b c"),
    "a layer of no numbers": (trace(norm=lambda x: x[..., :0]), "which is no layout of"),
    "a layer of one number": (trace(norm=np.float32(1)), "which is no layout of"),
    "a layer of 60 axes": (trace(norm=np.zeros((1,) * 60, "f4")), "which is no layout of"),
    "no images": (trace(images=None), "holds no 'images'"),
    "images of whole numbers": (trace(images=of_dtype("i8")), NOT_IMAGES),
    "complex images": (trace(images=of_dtype("c8")), NOT_IMAGES),
    "images of text": (trace(images=of_dtype("U4")), NOT_IMAGES),
    "images of bytes": (trace(images=of_dtype("V4")), NOT_IMAGES),
    "images of one axis": (trace(images=lambda x: x.reshape(-1)), NOT_IMAGES),
    "images of six axes": (trace(images=lambda x: x[None, None]), NOT_IMAGES),
    "no image": (trace(images=lambda x: x[:0]), NOT_IMAGES),
    "images of no pixels": (trace(images=lambda x: x[..., :0]), f"{NOT_IMAGES}|pixels"),
    "images of three channels": (trace(images=lambda x: np.concatenate([x] * 3, 1)), "channels"),
    "images of another size": (trace(images=lambda x: x[..., :7, :7]), "which is no layout of|layer|image"),
    "images of 2^40 pixels": (
        lazily("x.safetensors", lambda: header({"images": entry(shape=(1, 1, 1 << 20, 1 << 20))}, bytes(8))),
        "do not fit",
    ),
    "no layer": (lazily("x.npz", lambda: npz({"images": sound()["images"], "\x1b[2J\n": np.ones(2)})), "has no layer's name"),
    "no layer among 50,000": (
        lazily("x.safetensors", lambda: header({f"a{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(50_000)})),
        "has no layer's name",
    ),
    "a layer of a name of a megabyte": (
        lazily("x.safetensors", lambda: header({"\x07" * 600_000: entry(shape=(0,), offsets=(0, 0))})),
        "has no layer's name",
    ),
    "layers that inflate": (
        lazily("x.npz", lambda: deflated({"logits.npy": npy((40 << 20,), "|u1", bytes(40 << 20))})),
        "inflates more",
    ),
    "layers that overlap": (
        lazily("x.safetensors", lambda: header({"logits": entry(), "images": entry(offsets=(4, 12))}, bytes(12))),
        "a gap or an overlap",
    ),
    "cut off": (lazily("x.npz", lambda: npz(sound())[:-30]), "truncated or damaged zip archive"),
    "cut off in its header": (
        lazily("x.safetensors", lambda: header({"logits": entry()}, bytes(8))[:20]),
        "ends inside its header",
    ),
    "empty": (written("x.npz", b""), "empty"),
    "a text": (written("x.npz", b"logits: 1, 2, 3"), "a text"),
    "a pickle": (lazily("x.npz", lambda: pickle.dumps([sound()["logits"]])), "no flat mapping|no layer's name|no array of numbers"),
    "nested": (
        lazily("x.npz", lambda: pickle.dumps({"logits": {"a": sound()["logits"]}})),
        "no flat mapping|no layer's name|no array of numbers",
    ),
    "a FIFO": (fifo("x.npz"), "a FIFO"),
    "a folder": (folder_called("x.npz"), "an empty folder"),
    "a device": (link("x.npz", "/dev/zero"), "a device"),
    "a link to itself": (link("x.npz", "x.npz"), "symbolic links|levels of"),
    "nowhere": (nowhere("x.npz"), "No such file|no such file"),
}
"""Given to `compare` as a candidate, of a network that is known."""

TELLING_BOMBS: Made = {
    "lists in depth": (telling("[" * 20_000), "config: not a configuration"),
    "digits": (telling("9" * 20_000), "config: not a configuration"),
    "no settings": (telling("[]"), "config: not a configuration"),
    "a thousand million blocks": (telling(settings(depths=[10**9, 1])), "block|cost|depths|arrays"),
    "windows of 10^5, padded": (telling(settings(window_sizes=[10**5] * 2, pad_windows=True)), "costly|window"),
    "notes of a later version": (lazily("x.npz", lambda: npz(sound(), '{"version": 9}')), "notes of a later version"),
    "notes in depth": (lazily("x.npz", lambda: npz(sound(), "[" * 20_000)), "damaged scalablevit_ref"),
}  # fmt: skip
"""Given to `compare` as a candidate that tells which network it is of."""

# Names files


def names(mapping: Any) -> Callable[[Path], Path]:
    return lazily("x.json", lambda: json.dumps(mapping).encode())


OBJECT = "expected a JSON object"

NAMES_BOMBS: Made = {
    "a FIFO": (fifo("x.json"), "a FIFO"),
    "a device without end": (link("x.json", "/dev/zero"), "a device"),
    "a folder": (folder_called("x.json"), "a folder|Is a directory"),
    "a link to itself": (link("x.json", "x.json"), "symbolic links|levels of"),
    "nowhere": (nowhere("x.json"), "No such file|no such file"),
    "empty": (written("x.json", b""), OBJECT),
    "bytes": (written("x.json", bytes(range(128, 256))), OBJECT),
    "a list": (names(["logits"]), OBJECT),
    "a number for a name": (names({"logits": 1}), OBJECT),
    "objects for names": (names({"logits": {"a": "b"}}), OBJECT),
    "lists in depth": (written("x.json", b"[" * 200_000), OBJECT),
    "objects in depth": (lazily("x.json", lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000), OBJECT),
    "digits": (written("x.json", b"9" * 200_000), OBJECT),
    "20 MB": (lazily("x.json", lambda: b'{"a": "' + b"x" * (20 << 20) + b'"}'), f"more than|{OBJECT}"),
    "a name twice after 60,000 others": (
        lazily("x.json", lambda: b"{" + b"".join(b'"%d":"",' % i for i in range(60_000)) + b'"x":"","x":""}'),
        "there twice",
    ),
    "UTF-16": (written("x.json", '{"logits": "logits"}'.encode("utf-16")), OBJECT),
    "no end": (written("x.json", b'{"logits": "logits"'), OBJECT),
    "a misspelt layer": (names({"stages.0.0.atn": "logits"}), r"no layer 'stages\.0\.0\.atn'.*did you mean 'stages\.0\.0\.attn'"),
    "a layer that is a control sequence": (names({"\x1b[2J\r\n": "logits"}), r"no layer '\\x1b\[2J|no layer '\\\\x1b"),
    "a layer of a megabyte": (names({"x" * 1_000_000: "logits"}), "no layer 'xxx"),
    "a name that the trace lacks": (names({"logits": "logit"}), "logit.*did you mean 'logits'"),
    "a pattern that fits nothing": (names({"stage.{k}.{i}.attn": "x.{k}.{i}"}), r"stage\.\{k\}\.\{i\}\.attn"),
    "a pattern of names that the trace lacks": (names({"stages.{k}.{i}.attn": "x.{k}.{i}"}), r"x\.0\.0"),
    "a pattern of no letter": (names({"stages.{x}.attn": "logits"}), r"stages\.\{x\}\.attn"),
    "40,000 patterns": (names({f"{{k}}{i}": "x{i}" for i in range(40_000)}), r"\{k\}|names"),
    "30,000 misspelt layers": (names({f"stages.0.0.atn{i}": "logits" for i in range(30_000)}), "no layer"),
    "long patterns": (names({"x" * 2000 + "{k}{i}" * 2000 + str(i): "x" for i in range(20)}), r"\{k\}|names"),
    "images as a layer": (names({"images": "logits"}), "no layer 'images'|must be b c h w"),
}
"""Given to `compare` beside a sound trace in memory."""

# Arrays of images


def long_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text


ARRAY = "not an array|damaged npy|no images|larger than the file"

NPY_BOMBS: Made = {
    "a FIFO": (fifo("x.npy"), "a FIFO"),
    "a device": (link("x.npy", "/dev/zero"), "a device"),
    "a folder": (folder_called("x.npy"), "a folder"),
    "nowhere": (nowhere("x.npy"), "No such file|no such file"),
    "empty": (written("x.npy", b""), ARRAY),
    "a text": (written("x.npy", b"1, 2, 3"), ARRAY),
    "a pickle": (written("x.npy", pickle.dumps([1.0])), ARRAY),
    "an archive": (lazily("x.npy", lambda: npz({"images": np.zeros(2)})), ARRAY),
    "objects": (written("x.npy", npy((1,), "|O", pickle.dumps([1]))), ARRAY),
    "2^40 numbers": (written("x.npy", npy((1 << 40,))), ARRAY),
    "2^62 numbers of an empty axis": (written("x.npy", npy((1 << 62, 4, 0), data=b"")), ARRAY),
    "axes below zero": (written("x.npy", npy((-1, 2))), ARRAY),
    "70 axes": (written("x.npy", npy((1,) * 70, data=bytes(4))), ARRAY),
    "axes of many digits": (written("x.npy", npy((10**4000,))), ARRAY),
    "cut off": (written("x.npy", npy((1, 1, 2, 2), data=bytes(9))), ARRAY),
    "texts": (written("x.npy", npy((1,), "<U2")), ARRAY),
    "texts beyond Unicode": (written("x.npy", npy((1,), "<U2", b"\xff" * 8)), ARRAY),
    "dates": (written("x.npy", npy((1,), "<M8[s]")), ARRAY),
    "elements of 2^30 bytes": (written("x.npy", npy((1,), "|V1073741824")), ARRAY),
    "records": (written("x.npy", npy((1,), [("a", "<f4"), ("b", "<f4")])), ARRAY),  # type: ignore[arg-type]
    "a header of parentheses": (written("x.npy", npy("(" * 300)), ARRAY),
    "a header of an expression": (written("x.npy", npy("__import__('os')")), ARRAY),
    "a header of 3 MB": (lazily("x.npy", lambda: long_header(b"(" * 3_000_000)), ARRAY),
    "a header of 4 GB": (written("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"), ARRAY),
    "a header of many powers": (written("x.npy", long_header(b"9**9" * 2000)), ARRAY),
    "a header of Python 2": (written("x.npy", npy((2,)).replace(b"(2,)", b"(2L)")), ARRAY),
    "a later version": (written("x.npy", b"\x93NUMPY\x09\x00" + bytes(99)), ARRAY),
}  # fmt: skip
"""Given to `trace_images`."""
