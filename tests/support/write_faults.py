"""Faults of writing: a disk that is full at a byte, a process that is killed, a system without unnamed files or hard links.

`killed` forks: it is for programs without threads, as `tests.support.write_trials` is one.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

LEFTOVER = re.compile(r"\.scalablevit_ref\..+\.part")
"""Names of temporary files, as a user tells them."""


@contextmanager
def without_unnamed_files() -> Iterator[None]:
    """As on a system whose files all have names."""
    flag = os.O_TMPFILE
    del os.O_TMPFILE
    try:
        yield
    finally:
        os.O_TMPFILE = flag  # type: ignore[misc]


@contextmanager
def without_hard_links() -> Iterator[None]:
    """As on FAT, which has no unnamed files either."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    link = os.link
    os.link = refuse  # type: ignore[assignment]
    try:
        with without_unnamed_files():
            yield
    finally:
        os.link = link


SYSTEMS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "unnamed files": nullcontext,
    "named files": without_unnamed_files,
    "no hard links": without_hard_links,
}
"""What file systems offer, by a name for it."""


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may become longer than this, in bytes: what is written beyond fails as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def forked(work: Callable[[], object]) -> int:
    """The id of a process that does this and ends with 0, with 1 after an error, or with what SystemExit says."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def killed(work: Callable[[], object], after: float, number: int = signal.SIGKILL) -> int:
    """Do this in a process that gets a signal so many seconds after it began; how it ended, as `os.waitstatus_to_exitcode` says."""
    begun, begin = os.pipe()

    def begin_work() -> None:
        os.write(begin, b"!")
        work()

    process = forked(begin_work)
    os.read(begun, 1)
    os.close(begun)
    os.close(begin)
    time.sleep(after)
    os.kill(process, number)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def listing(folder: Path) -> dict[str, bytes]:
    """What each file of a folder holds, temporary ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if LEFTOVER.fullmatch(path.name)]
