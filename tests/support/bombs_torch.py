"""Torch files made to take time or memory: deflated records, and torch files inside of pickles."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict

from scalablevit_ref.formats.pth import LEGACY_MAGIC
from scalablevit_ref.parameters import parameter_shapes
from tests.support.bombs_pickle import text
from tests.support.checkpoints import TINY
from tests.support.hostile import FOUR, archive, op, plain, program, storage, tensor


def deflated(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in records.items():
            out.writestr(name, content)
    return file.getvalue()


def archive_of(size: int) -> dict[str, bytes]:
    """A torch file of one tensor of zeros."""
    return {"archive/data.pkl": program(tensor(0, (4,), (1,), storage(elements=size // 4))), "archive/data/0": bytes(size)}


def deflated_storages(count: int, size: int) -> dict[str, bytes]:
    return archive_of(size) | {f"archive/data/{i}": bytes(size) for i in range(count)}


def again_and_again() -> bytes:
    """Weights that lie by turns in two storages, each of which is inflated for each of them."""
    parts = []
    for i, (name, shape) in enumerate(parameter_shapes(TINY).items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts.append(text(name) + tensor(0, shape, strides, storage(key=str(i % 2), elements=1 << 18)))
    stored = text("scalablevit_ref") + b"}" + text("config") + text(json.dumps(asdict(TINY))) + b"s"
    tree = program(b"}(" + text("model") + b"}(" + b"".join(parts) + b"u" + stored + b"u")
    return deflated({"archive/data.pkl": tree, "archive/data/0": bytes(1 << 20), "archive/data/1": bytes(1 << 20)})


def unlike(size: int) -> bytes:
    """Bytes that do not deflate to nothing."""
    return b"".join(struct.pack("<I", i * 2654435761 % (1 << 32)) for i in range(size // 4))


def legacy(of: bytes) -> bytes:
    """A legacy file of one storage of four numbers."""
    header = b"\x80\x02" + LEGACY_MAGIC + program(plain(1001)) + program(plain({"little_endian": True}))
    return header + program(of) + program(plain(["0"])) + struct.pack("<q", 4) + bytes(16)


def in_a_list(count: int) -> bytes:
    """A plain pickle in which one torch file is read again and again."""
    content = legacy(storage()[:-2] + b"NtQ")
    function = op("torch.storage _load_from_bytes") + b"q\x000"
    return (
        b"\x80\x04" + function + b"B" + struct.pack("<I", len(content)) + content + b"q\x010](" + b"h\x00h\x01\x85R" * count + b"e."
    )


def lines_between_arrays() -> bytes:
    """Lines that are longer than what is read at a time, each followed by bytes that stay in the file."""
    return b"\x80\x04](" + (b"V" + b"x" * 17_000 + b"\nB\x00\x04\x00\x00" + bytes(1024)) * 400 + b"e." + bytes(30 << 20)


def one_span() -> bytes:
    """Many arrays that are made of the same bytes."""
    dtype = op("numpy dtype") + b"(" + text("u1") + b"\x89\x88tRq\x000"
    content = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"q\x010"
    made = op("numpy.core.multiarray _reconstruct") + b"q\x020]("
    return b"\x80\x04" + dtype + content + made + (b"h\x02)R(K\x01J\x00\x00\x10\x00\x85h\x00\x89h\x01tb") * 500 + b"e."


def a_long_dtype() -> bytes:
    """Tensors whose dtype has a name of three million characters, which an error would repeat."""
    view = (
        op("torch._utils _rebuild_tensor_v3") + b"(" + storage() + b"K\x00K\x01\x85K\x01\x85\x89N" + text("x" * (3 << 20)) + b"tR"
    )
    return archive(program(view), FOUR)


def in_a_pickle() -> bytes:
    """A torch file in a torch file in a torch file."""
    inner = storage()[:-2] + b"NtQ"
    for _ in range(20):
        content = legacy(inner)
        inner = op("torch.storage _load_from_bytes") + b"B" + struct.pack("<I", len(content)) + content + b"\x85R"
    return b"\x80\x04" + inner + b"."


TORCH_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated storage": (lambda: deflated(archive_of(30 << 20)), "inflates more than weights can.*31457280"),
    "deflated storages": (lambda: deflated(deflated_storages(40, 1 << 20)), "torch file that inflates more"),
    "storages deflated again and again": (again_and_again, "inflated again and again"),
    "a deflated pickle too large": (lambda: deflated({"archive/data.pkl": unlike(9 << 20)}), "compressed pickle larger"),
    "a torch file in a torch file": (in_a_pickle, "storages listed are not those used"),
    "arrays of the same bytes": (one_span, "together larger than the file"),
    "a dtype's long name": (a_long_dtype, "odd arguments to torch._utils._rebuild_tensor_v3"),
    "lines between arrays": (lines_between_arrays, "no state dict"),
    "one torch file often": (lambda: in_a_list(120_000), "more storages than a checkpoint's"),
}
