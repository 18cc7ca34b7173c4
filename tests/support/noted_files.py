"""Sound weights of a small network, with any notes of this package beside them, in each format that has a place for them."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref import ScalableViTConfig
from tests.support.bombs_graphs import field
from tests.support.bombs_pickle import text
from tests.support.flax_files import array, msgpack, packed
from tests.support.hostile import archive, header, npy, program, storage, tensor

NOTES = "scalablevit_ref"

NETWORK = ScalableViTConfig((2, 2), (2, 1), (1, 1), (1, 1), (2, 1), (1, 1), (1, 1), num_classes=2, head="linear", in_chans=1)
"""Of few parameters, so that many files are read in a second."""

SHAPES = sv.parameter_shapes(NETWORK)
ELEMENTS = sum(map(math.prod, SHAPES.values()))


@cache
def values() -> np.ndarray:
    return np.arange(ELEMENTS, dtype="<f4")


def arrays() -> dict[str, np.ndarray]:
    ends = np.cumsum([math.prod(shape) for shape in SHAPES.values()])
    return {
        name: values()[end - math.prod(shape) : end].reshape(shape)
        for (name, shape), end in zip(SHAPES.items(), ends.tolist(), strict=True)
    }


@cache
def weights() -> bytes:
    """The opcodes of a state dict under `model`, all its tensors in one storage."""
    start, parts = 0, []
    for name, shape in SHAPES.items():
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts.append(text(name) + tensor(start, shape, strides, storage(elements=ELEMENTS)))
        start += math.prod(shape)
    return text("model") + b"}(" + b"".join(parts) + b"u"


def pth(entries: bytes) -> bytes:
    """With the opcodes of other entries at the top."""
    return archive(program(b"}(" + weights() + entries + b"u"), {"archive/data/0": values().tobytes()})


@cache
def _entries() -> str:
    ends = np.cumsum([4 * math.prod(shape) for shape in SHAPES.values()]).tolist()
    found = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [end - 4 * math.prod(shape), end]}
        for (name, shape), end in zip(SHAPES.items(), ends, strict=True)
    }
    return json.dumps(found)[1:-1]


def safetensors(notes: Mapping[str, str]) -> bytes:
    return header(f'{{"__metadata__":{json.dumps(notes)},{_entries()}}}'.encode(), values().tobytes())


@cache
def _npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays())
    return out.getvalue()


def npz(notes: str) -> bytes:
    """With the notes as the archive's comment, whose length ends its directory; as an entry if they are too long for that."""
    comment = f"{NOTES} {notes}".encode(errors="replace")
    if len(comment) <= 65_535:
        return _npz()[:-2] + struct.pack("<H", len(comment)) + comment
    out = io.BytesIO(_npz())
    with zipfile.ZipFile(out, "a") as file:
        file.writestr(f"{NOTES}.npy", npy((), f"<U{len(notes)}", notes.encode("utf-32-le", errors="replace")))
    return out.getvalue()


@cache
def _msgpack() -> bytes:
    return b"".join(packed(name) + msgpack.packb(x, default=array, strict_types=True) for name, x in arrays().items())


def flax(notes: Any) -> bytes:
    """A flat tree in which the notes are one more entry."""
    return b"\xde" + struct.pack(">H", len(SHAPES) + 1) + _msgpack() + packed(NOTES) + packed(notes)


@cache
def _onnx() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "v")]
    graph = helper.make_graph([], "g", ends[:1], ends[1:], [numpy_helper.from_array(x, name) for name, x in arrays().items()])
    return helper.make_model(graph, producer_name="fuzz").SerializeToString()  # type: ignore[no-any-return]


def onnx(notes: Mapping[str, str]) -> bytes:
    """A model and more of its fields: messages of protobuf are joined by writing one after the other."""
    pairs = (field(1, name.encode()) + field(2, said.encode(errors="replace")) for name, said in notes.items())
    return _onnx() + b"".join(field(14, pair) for pair in pairs)
