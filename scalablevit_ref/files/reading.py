"""Only regular files are opened, and no more of one is read than its kind may hold."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""What is no regular file, in words, by the type in its mode."""


class IrregularFileError(OSError, ValueError):
    """What a name leads to is no regular file: a folder, a FIFO, a device, a socket. It is not read from."""


class TooLargeError(OSError, ValueError):
    """A file holds more than its kind may hold."""


def open_regular(path: str | os.PathLike[str], expected: str = "a file") -> BinaryIO:
    """A regular file, open for reading; nothing is waited for.

    Parameters
    ----------
    path
        Its name. Symbolic links are followed.
    expected
        What it should be, in words, for the error.

    Raises
    ------
    IrregularFileError
        For what is no regular file, and for a name that no file can have.
    FileNotFoundError, PermissionError, OSError
        As `open` does.
    """
    if "\0" in os.fsdecode(path):
        raise IrregularFileError(f"{os.fsdecode(path)}: a name with a NUL character; expected {expected}")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            raise IrregularFileError(f"{os.fspath(path)}: {KINDS.get(kind, 'no regular file')}; expected {expected}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int, expected: str = "a file") -> bytes:
    """What a regular file holds, `most` bytes at most.

    Raises
    ------
    TooLargeError
        For a file that holds more.
    IrregularFileError, OSError
        As `open_regular` does.
    """
    with open_regular(path, expected) as file:
        held = file.read(most + 1)
    if len(held) > most:
        raise TooLargeError(errno.EFBIG, f"more than {most:,} bytes; expected {expected}", os.fspath(path))
    return held
