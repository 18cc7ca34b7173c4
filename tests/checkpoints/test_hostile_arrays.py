"""safetensors and npz files made to harm: refused with a CheckpointError before anything is allocated."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint
from scalablevit_ref.formats.detect import open_file
from scalablevit_ref.formats.lazy import in_memory
from tests.support.hostile import npy, npz, refuse
from tests.support.hostile_files import NPZ, SAFETENSORS


@pytest.mark.parametrize(("content", "message"), SAFETENSORS, ids=lambda value: value if isinstance(value, str) else "")
def test_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, content, message)


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
