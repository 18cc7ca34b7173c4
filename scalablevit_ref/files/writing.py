"""The one way of writing: files appear whole or not at all, and under the names that were given only."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from scalablevit_ref.errors import AlreadyExistsError, CheckpointError, option


def check_overwriting(path: Path, *, force: bool) -> None:
    """Raise FileExistsError for a file that is there, unless `force`."""
    if os.path.lexists(path) and not force:
        raise AlreadyExistsError(f"{path} exists; ", option("force", True), " overwrites it")


def write_atomically(writes: Mapping[Path, Callable[[BinaryIO], object]], *, force: bool) -> None:
    """Files that appear whole, and only when all of them are written.

    Where the system has unnamed files (Linux), a killed process leaves nothing behind either. A file that is overwritten keeps its
    permissions. A symbolic link is replaced, not followed: no file is changed but those named.
    Raises FileExistsError unless `force`.
    """
    for path in writes:
        if path.is_dir():
            raise CheckpointError("a directory", file=path, expected="the name of a file")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
        check_overwriting(path, force=force)
    with ExitStack() as stack:
        written = {path: stack.enter_context(_written(path, write)) for path, write in writes.items()}
        for path, name in written.items():
            name().replace(path)
    if os.name == "posix":
        for folder in {path.parent for path in writes}:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _written(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[Callable[[], Path]]:
    """Write a temporary file. Gives a function that names it, to be renamed at once; what still has that name is removed."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    descriptor = _unnamed(path.parent)
    unnamed = descriptor is not None
    permissions = _permissions(path)
    try:
        with temporary.open("xb") if descriptor is None else os.fdopen(descriptor, "wb") as file:
            if permissions is not None and unnamed:
                os.fchmod(file.fileno(), permissions)
            elif permissions is not None:
                temporary.chmod(permissions)
            write(file)
            file.flush()
            os.fsync(file.fileno())

            def name() -> Path:
                if unnamed:  # linkat follows /proc's link to the file only if it is given a directory
                    os.link(f"/proc/self/fd/{file.fileno()}", temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
                return temporary

            yield name
    finally:
        temporary.unlink(missing_ok=True)


def _permissions(path: Path) -> int | None:
    """Those of the regular file that is there."""
    mode = path.lstat().st_mode if os.path.lexists(path) else 0
    return mode & 0o777 if stat.S_ISREG(mode) else None


def _unnamed(folder: Path) -> int | None:
    """A file without a name, gone when it is closed; None where the system or the file system has no such thing."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    return None
