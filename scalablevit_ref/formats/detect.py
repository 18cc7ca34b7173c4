"""Checkpoint files opened for reading, told by their first bytes; and what a file is that is no checkpoint."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.msgpack import read_msgpack, starts_msgpack
from scalablevit_ref.formats.npz import read_npz
from scalablevit_ref.formats.pth import LEGACY_MAGIC, PICKLES, is_pickle_record, program_archive, read_legacy, read_pickle, read_zip
from scalablevit_ref.formats.safetensors import read_safetensors, starts_safetensors
from scalablevit_ref.formats.zip_archive import zip_records

_NOT_CHECKPOINTS = {
    b"version https://git-lfs": "a git-LFS pointer, not the file it points to: fetch that with `git lfs pull`",
    b"<!doctype html": "an HTML page (a download page, as Google Drive shows for large files): download the file itself",
    b"<html": "an HTML page (a download page, as Google Drive shows for large files): download the file itself",
    b"<?xml": "an XML document (a storage server's error message, perhaps): download the file itself",
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"\x89hdf\r\n": "HDF5, which no layout of this network uses",
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
            if (refusal := program_archive(records)) is not None:
                raise refusal
            pickles = [name for name in records if is_pickle_record(name)]
            if len(pickles) == 1:
                yield read_zip(file, records, size), {}, "torch zip"
            elif records and all(name.endswith(".npy") for name in records):
                state, notes = read_npz(file, records, size)
                yield state, _noted(notes), "npz"
            else:
                names = ", ".join(list(records)[:4]) or "an empty archive"
                raise CheckpointError("a zip archive, but neither torch.save's nor NumPy's", found=names)
        elif head[:1] == b"\x80" and LEGACY_MAGIC in head[:32]:
            yield read_legacy(file, size), {}, "torch legacy"
        elif head.startswith(PICKLES):
            yield read_pickle(file, size), {}, "pickle"
        elif starts_safetensors(head):
            state, notes = read_safetensors(file, size)
            yield state, _noted(notes), "safetensors"
        elif starts_msgpack(head):
            state, notes = read_msgpack(file, size)
            beside = notes.pop("beside")
            yield state, beside | _noted(notes), "msgpack"
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
    if head[4:6] == b"ET":
        return CheckpointError("an ExecuTorch program (.pte), no state dict: take the weights of the model that it was made of")
    return CheckpointError(
        "not a checkpoint",
        expected="torch.save's zip or legacy format, a pickle, safetensors, npz or Flax's msgpack",
        found=repr(head[:16]),
    )


def _noted(notes: dict[str, Any]) -> dict[str, Any]:
    """The configuration and metadata that this package wrote beside the weights, laid out as its `.pth` is."""
    beside: Any = {}
    if "metadata" in notes:
        try:
            beside = json.loads(notes["metadata"])
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"damaged metadata ({error})", key="metadata") from error
    stored = {"config": notes["config"]} if "config" in notes else {}
    return (beside if isinstance(beside, dict) else {}) | {"scalablevit_ref": stored}
