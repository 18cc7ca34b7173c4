"""What hostile files are made of, piece by piece, and how a reader must refuse them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint


def refuse(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"hostile\.pth: .*(?:{message})") as caught:
        load_checkpoint(path)
    error = caught.value
    assert "\n" not in str(error)
    assert error.file == str(path)
    assert ("; expected " in str(error), " found " in str(error)) >= (error.expected is not None, error.found is not None)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def op(text: str) -> bytes:
    """GLOBAL opcode: `op("torch Size")`."""
    return b"c" + text.replace(" ", "\n").encode() + b"\n"


def program(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def plain(value: Any) -> bytes:
    """A value's opcodes, without header and stop."""
    return pickle.dumps(value, 2)[2:-1]


def archive(data: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, content in {"archive/data.pkl": data, **(records or {})}.items():
            out.writestr(name, content)
    return file.getvalue()


def storage(kind: str = "FloatStorage", key: str = "0", elements: int = 4) -> bytes:
    return b"(" + plain("storage") + op(f"torch {kind}") + plain(key) + plain("cpu") + plain(elements) + b"tQ"


def tensor(offset: int, shape: Any, strides: Any, of: bytes | None = None, more: bytes = b"") -> bytes:
    arguments = plain(offset) + plain(shape) + plain(strides) + plain(False) + op("collections OrderedDict") + b")R"
    return op("torch._utils _rebuild_tensor_v2") + b"(" + (storage() if of is None else of) + arguments + more + b"tR"


FOUR = {"archive/data/0": np.arange(4, dtype="<f4").tobytes()}


def header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def noted(text: str) -> dict[str, dict[str, str]]:
    """The header's entry with this package's notes."""
    return {"__metadata__": {"scalablevit_ref": text}}


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def npz(**records: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, content in records.items():
            out.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(shape: Any, descr: str = "<f4", data: bytes = bytes(8)) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data
