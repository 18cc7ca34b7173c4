"""Checkpoint files opened for reading, told by their first bytes; and what a file is that is no checkpoint."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.hdf5 import SIGNATURE
from scalablevit_ref.formats.keras import WEIGHTS, read_keras, read_keras_zip
from scalablevit_ref.formats.msgpack import NOTES, read_msgpack, starts_msgpack
from scalablevit_ref.formats.npz import read_npz
from scalablevit_ref.formats.onnx import read_onnx, starts_onnx
from scalablevit_ref.formats.pth import LEGACY_MAGIC, is_pickle_record, read_legacy, read_zip
from scalablevit_ref.formats.safetensors import read_safetensors, starts_safetensors
from scalablevit_ref.formats.zip_archive import zip_records

_NOT_CHECKPOINTS = {
    b"version https://git-lfs": "a git-LFS pointer, not the file it points to: fetch that with `git lfs pull`",
    b"<!doctype html": "an HTML page (a download page, as Google Drive shows for large files): download the file itself",
    b"<html": "an HTML page (a download page, as Google Drive shows for large files): download the file itself",
    b"<?xml": "an XML document (a storage server's error message, perhaps): download the file itself",
    b"\x1f\x8b": "gzip-compressed: unpack it first",
}

_KINDS = {stat.S_ISDIR: "a directory", stat.S_ISFIFO: "a FIFO", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}


@contextmanager
def open_file(path: Path) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """The object a checkpoint file holds, what is noted beside a bare state dict, and the format.

    Tensors may be StoredTensors or LazyTensors, readable until the file is closed.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # opening a FIFO would wait for ever
        raise CheckpointError(
            next((kind for is_kind, kind in _KINDS.items() if is_kind(mode)), "no file"), expected="a checkpoint file"
        )
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(512)
        if head.startswith(b"PK"):
            records = zip_records(file)
            pickles = [name for name in records if is_pickle_record(name)]
            if len(pickles) == 1:
                yield read_zip(file, records, size), {}, "torch zip"
            elif WEIGHTS in records:
                yield *read_keras_zip(file, records[WEIGHTS], size), "keras"
            elif records and all(name.endswith(".npy") for name in records):
                state, notes = read_npz(file, records, size)
                yield state, notes, "npz"
            else:
                names = ", ".join(list(records)[:4]) or "an empty archive"
                raise CheckpointError("a zip archive, but neither torch.save's nor NumPy's", found=names)
        elif head[:1] == b"\x80" and LEGACY_MAGIC in head:
            yield read_legacy(file, size), {}, "torch legacy"
        elif starts_safetensors(head):
            state, notes = read_safetensors(file, size)
            yield state, notes, "safetensors"
        elif starts_msgpack(head):
            state, notes = read_msgpack(file, size)
            beside = notes.pop("beside")
            yield state, beside | ({NOTES: notes} if notes else {}), "msgpack"
        elif head.startswith(SIGNATURE):
            yield *read_keras(file, 0, size), "hdf5"
        elif starts_onnx(head):
            with ExitStack() as files:
                yield *read_onnx(path, files), "onnx"
        else:
            raise _not_a_checkpoint(head)


def _not_a_checkpoint(head: bytes) -> CheckpointError:
    if not head:
        return CheckpointError("the file is empty", expected="a checkpoint")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, meaning in _NOT_CHECKPOINTS.items():
        if text.startswith(magic):
            return CheckpointError(f"the file is {meaning}")
    if head[257:262] == b"ustar":
        return CheckpointError("the file is a tar archive (torch's before 0.1.10, perhaps): load it with torch and save it again")
    if head[:1] == b"\x80":
        return CheckpointError("the file is a pickle, but not torch.save's: pickles are programs, and this one is not run")
    return CheckpointError(
        "not a checkpoint",
        expected="torch.save's zip or legacy format, safetensors, npz, Flax's msgpack, HDF5 or ONNX",
        found=repr(head[:16]),
    )
