"""Standard output belongs to the command: what a port prints while it runs goes to standard error."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

STDOUT, STDERR = 1, 2


@contextmanager
def ports_output_apart() -> Iterator[None]:
    """While open, all that is printed goes to standard error: by Python, by libraries in C and by programs that are started.

    So `--json` prints one document whatever a port prints. Filters of warnings, `sys.stdout` and `sys.stderr` are afterwards what
    they were.
    """
    _flush()
    kept = None
    with suppress(OSError):  # closed from the start
        kept = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
    try:
        with redirect_stdout(sys.stderr), redirect_stderr(sys.stderr), warnings.catch_warnings():
            yield
    finally:
        _flush()
        if kept is not None:
            os.dup2(kept, STDOUT)
            os.close(kept)


def _flush() -> None:
    """What Python and C hold back of standard output."""
    with suppress(Exception):  # closed, or full: whoever writes next is told
        sys.stdout.flush()
    with suppress(Exception):  # a system whose C library is not found like this
        ctypes.CDLL(None).fflush(None)
