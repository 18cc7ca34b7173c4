"""Whether a library that is installed starts: its import, and the search for its devices, fail in ways of its own."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

FAULTS = (Exception, SystemExit)
"""What a library may raise while it starts or runs; not what a signal raises."""

LONGEST = 200
"""Longest description of a fault, in characters."""


def said(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message.

    Examples
    --------
    >>> said(RuntimeError("no GPU\\nand 40 lines more"))
    'RuntimeError: no GPU'
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


@cache
def why_not_started(name: str) -> str | None:
    """Why a backend whose library is installed cannot be imported, or None.

    Asked once in a process: the second import of what failed half-way fails for another reason, or not at all.
    """
    try:
        import_module(f"scalablevit_ref.backends.{name}")
    except FAULTS as error:
        return f"does not start: {said(error)}"
    return None


@contextmanager
def beside_tensorflow() -> Iterator[None]:
    """For `import paddle`, which ends the process where TensorFlow is loaded already.

    TensorFlow shows its symbols, those of its protobuf too, to whatever is loaded after it. Paddle, whose protobuf is older, calls
    them while it is being loaded: a segmentation fault. Within, a library's own symbols come first, by a word of glibc's loader.
    Without that word it is an ImportError. Loaded in the other order the two do not meet.
    """
    if "paddle" in sys.modules or "tensorflow" not in sys.modules:
        flags = None
    elif hasattr(os, "RTLD_DEEPBIND"):
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    else:
        raise ImportError(
            "TensorFlow is loaded, beside which PaddlePaddle can only be loaded first: import paddle before tensorflow"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No ccache found", UserWarning, r"paddle\.")  # for extensions in C++
            yield
    finally:
        if flags is not None:
            sys.setdlopenflags(flags)


def gpus(name: str) -> int:
    """How many GPUs a backend's library sees."""
    if name == "torch":
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        if name == "jax":
            import jax

            return len(jax.devices("cuda"))
        if name == "cupy":
            import cupy

            return int(cupy.cuda.runtime.getDeviceCount())
        if name == "mlx":
            import mlx.core

            return mlx.core.device_count(mlx.core.gpu) if mlx.core.is_available(mlx.core.gpu) else 0
    except RuntimeError:  # as both say that there is none
        return 0
    return 0
