"""safetensors and npz files made to harm: refused with a CheckpointError before anything is allocated."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from tests.checkpoints.test_hostile import refuse


def header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SAFETENSORS: list[tuple[bytes, str]] = [
    (header({"a": entry()}, bytes(7)), "a: bytes that do not fit"),
    (header({"a": entry(offsets=(0, 4))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(offsets=(-8, 0))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(shape=(-2,), offsets=(8, 0))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(shape=(2.0,))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(shape=(1 << 40,), offsets=(0, 4 << 40))}, bytes(8)), "a: bytes that do not fit"),
    (header({"a": entry(dtype="F8_E4M3")}, bytes(8)), "a: dtype; expected .*found 'F8_E4M3'"),
    (header({"a": entry(dtype=[])}, bytes(8)), "a: "),
    (header({"a": 1}), "a: damaged safetensors entry"),
    (header({"a": entry(offsets=3)}), "a: damaged safetensors entry"),
    (header(b'{"a": 1, "a": 2}'), "a: two entries of one name"),
    (header(b"{" * 100_000), "damaged safetensors header"),
    (header(b'{"a":' * 100_000), "damaged safetensors header"),
    (header({"a": entry(), "__metadata__": {"metadata": "{"}}, bytes(8)), "damaged metadata"),
    (
        header({"norm.weight": entry(), "stages.0": entry(offsets=(8, 16)), "__metadata__": {"config": "{}}"}}, bytes(16)),
        "config: not a configuration",
    ),
    (header({"stages.0": entry(), "__metadata__": {"config": '{"depth": 3}'}}, bytes(8)), "config: not a configuration"),
    (header({}), "no state dict"),
]


@pytest.mark.parametrize(("content", "message"), SAFETENSORS, ids=lambda value: value if isinstance(value, str) else "")
def test_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message)


def npz(**records: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, content in records.items():
            out.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(shape: Any, descr: str = "<f4", data: bytes = bytes(8)) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


NPZ: list[tuple[bytes, str]] = [
    (npz(a=npy((1 << 34,))), r"a\.npy: npy header and record differ; expected 8 bytes"),
    (npz(a=npy((3,))), "npy header and record differ"),
    (npz(a=npy((-2,))), "npy header"),
    (npz(a=npy((1,), "|O")), "Python objects"),
    (npz(a=b"\x93NUMPY\x09\x00"), "damaged npy header"),
    (npz(a=b"hello world"), "damaged npy header"),
    (npz(a=npy("(" * 200)), "damaged npy header"),
]


@pytest.mark.parametrize(("content", "message"), NPZ, ids=lambda value: value if isinstance(value, str) else "")
def test_npz(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message)


def test_records_that_inflate_too_much_together(tmp_path: Path) -> None:
    """No record is larger than weights may be, and the file is not small: only their sum is bounded by its size."""
    stored, deflated = np.random.default_rng(0).bytes(5 << 20), bytes(1_000_000)
    path = tmp_path / "x.npz"
    for records, refused in ((44, True), (38, False)):
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("a.npy", npy((5 << 20,), "|u1", stored))
            for i in range(records):
                data = npy((len(deflated),), "|u1", deflated)
                out.writestr(f"{i}.npy", data, zipfile.ZIP_DEFLATED)
        size = path.stat().st_size
        said = (
            f"npz that inflates more than weights can, from {size} bytes; expected at most {8 * size} bytes, found {44 * len(data)}"
        )
        with pytest.raises(CheckpointError, match=said if refused else "names of no known layout") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit(tmp_path: Path) -> None:
    """In an array's header or its numbers: the checksum tells, when they are read."""
    content = bytearray(npz(a=npy((2,))))
    for at in (content.index(b"<f4") + 2, content.index(b"PK\x01\x02") - 3):
        damaged = bytes(content[:at]) + bytes([content[at] ^ 1]) + bytes(content[at + 1 :])
        (tmp_path / "x.npz").write_bytes(damaged)
        with (
            pytest.raises(CheckpointError, match=r"a\.npy: .*(wrong checksum|npy header)"),
            open_file(tmp_path / "x.npz") as (tree, _, _),
        ):
            in_memory(tree["a"])
