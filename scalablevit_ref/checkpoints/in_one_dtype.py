"""Checkpoints read to compute with, by whoever has a `dtype` of another meaning: that of the computation."""

from __future__ import annotations

import os
from pathlib import Path

from scalablevit_ref.checkpoints.load import Checkpoint, load_checkpoint, open_checkpoint, widest_of
from scalablevit_ref.errors import CheckpointError, Spelling, option
from scalablevit_ref.formats.remedies import FILE, OUT, shell, shell_text
from scalablevit_ref.weights import Stated


def load_in_one_dtype(path: str | os.PathLike[str], *, variant: str | None = None, key: str | None = None) -> Checkpoint:
    """`load_checkpoint` of a file of one dtype. Raises CheckpointError for one of several, with the command that makes them one."""
    try:
        return load_checkpoint(path, variant=variant, key=key)
    except CheckpointError as error:
        if not any(isinstance(word, Spelling) and word.flag.startswith(option("dtype").flag) for word in error.words):
            raise
    with open_checkpoint(path, Stated(variant=variant, key=key)) as weights:
        dtypes = weights.metadata["dtype"]
    dtype = widest_of(dtypes.split(", "))
    options = "".join(f" --{name} {shell_text(value)}" for name, value in (("variant", variant), ("key", key)) if value is not None)
    command = f"scalablevit-ref convert {FILE} {OUT} --dtype {dtype}{options}"
    remedy = shell(command, path, f"{Path(path).stem}-{dtype}.safetensors")
    raise CheckpointError(f"mixed dtypes: make them one first, {remedy}", file=path, expected="one dtype", found=dtypes)
