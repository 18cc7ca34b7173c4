"""The one way of writing: files appear whole or not at all, and under the names that were given only.

A file is written without a name where the system has such files (Linux), else as a temporary file of this package in the target's
folder. It is brought to the disk, and gets its name last: without `force` by `link`, which refuses a name that is taken, so that of
two writers to one name exactly one succeeds; with `force` by `rename`.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from scalablevit_ref.errors import AlreadyExistsError, CheckpointError, option
from scalablevit_ref.files.reading import KINDS

try:
    import fcntl
except ModuleNotFoundError:  # the system is no POSIX
    fcntl = None  # type: ignore[assignment]

Name: TypeAlias = str | os.PathLike[str]

Force: TypeAlias = bool | Collection[Path]
"""Whether files that exist are to be overwritten, or which."""

_LEFTOVER = re.compile(r"\.scalablevit_ref\.([0-9a-f]{8})\.[0-9a-f]{16}\.part")
"""Names of temporary files. They tell the machine, and are equally long whatever the target is called."""

_ABANDONED = 24 * 3600
"""Age of another machine's temporary file from which it is a leftover, in seconds: its lock need not be seen on this machine."""

_pending: set[Path] = set()
"""Names of this process's temporary files that may be there."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that only writing has: the disk, the user's share of it, or the file is full."""


def check_outputs(outputs: Iterable[Name | None], *, inputs: Iterable[Name | None] = (), force: Force) -> None:
    """Raise, before anything is computed or written, for files that could not be written or are not to be.

    Parameters
    ----------
    outputs
        What is to be written by one `write_atomically`. None is left out.
    inputs
        What is read. None of them is written over, with `force` neither.
    force
        Whether files that exist are to be overwritten, or which.

    Raises
    ------
    CheckpointError
        For a name of a folder, a device, a FIFO or a stream (`/dev/stdout`), and for an output that is an input or another output,
        under whatever name: by a symbolic link, a hard link or another path.
    AlreadyExistsError
        For what exists, a symbolic link too, unless `force`.
    FileNotFoundError
        Where there is no folder.
    PermissionError, OSError
        Where no file can be made, or the name is too long. They name the output.
    """
    paths = [Path(path) for path in outputs if path is not None]
    _check(paths, [Path(path) for path in inputs if path is not None], force=force)
    for folder, path in {path.parent: path for path in paths}.items():
        with _about(path), _temporary(folder):
            pass


def write_atomically(writes: Mapping[Path, Callable[[BinaryIO], object]], *, force: Force) -> None:
    """Files that appear whole, and all of them or none. `written` says how, and what is raised."""
    with _written(writes, force=force, keep=len(writes) > 1):
        pass


def write_contents(contents: Mapping[Path, bytes | None], *, force: Force) -> None:
    """Files of these bytes, as `write_atomically` writes them; None is left out."""

    def put(content: bytes) -> Callable[[BinaryIO], object]:
        return lambda file: file.write(content)

    write_atomically({path: put(content) for path, content in contents.items() if content is not None}, force=force)


@contextmanager
def written(writes: Mapping[Path, Callable[[BinaryIO], object]], *, force: Force) -> Iterator[None]:
    """Within, the files are there, whole; an exception there, or before, takes all of them back, and what was there is there again.

    A file that is overwritten keeps its permissions; a new one has those of the umask. A symbolic link is replaced, not
    followed: no file is changed but those named. A process that is killed leaves at most temporary files behind, which the next one
    to write into the folder removes: none where there are unnamed files, but in the moment of a forced renaming. One that is killed
    between the names of two files leaves the first of them; each is whole.

    Where the file system has no hard links (FAT), a name is claimed by an empty file, which is then renamed over. A file that
    appears midway is kept there too; a reader may see the empty one for a moment, and a process that is killed in it leaves it.
    What `force` may have to bring back is copied there in place of linked.

    Parameters
    ----------
    writes
        What writes each file's bytes, by the file's name.
    force
        Overwrite files that exist, or these.

    Raises
    ------
    AlreadyExistsError
        For a file that is there, or appears midway, unless `force`.
    CheckpointError, FileNotFoundError, PermissionError, OSError
        As `check_outputs`, and for a full disk; they name the target.
    """
    with _written(writes, force=force, keep=True):
        yield


@contextmanager
def _written(writes: Mapping[Path, Callable[[BinaryIO], object]], *, force: Force, keep: bool) -> Iterator[None]:
    """See `written`. keep: whether what is overwritten may have to come back."""
    _check(list(writes), [], force=force)
    folders = {path.parent for path in writes}
    for folder in folders:
        _remove_leftovers(folder)
    with ExitStack() as stack:
        temporaries: dict[Path, _Temporary] = {}
        for path, write in writes.items():
            with _about(path):
                temporary = temporaries[path] = stack.enter_context(_temporary(path.parent))
                if (permissions := _permissions(path)) is not None and hasattr(os, "fchmod"):
                    os.fchmod(temporary.file.fileno(), permissions)
            with _about(path, _FULL):
                write(temporary.file)
                temporary.file.flush()
                os.fsync(temporary.file.fileno())
        kept = stack.enter_context(ExitStack())
        undo = stack.enter_context(ExitStack())
        for path, temporary in temporaries.items():
            with _about(path):
                forced = _forced(force, path)
                if not (forced and os.path.lexists(path)):
                    undo.callback(temporary.leave, path)
                elif keep:
                    _keep(path, kept, undo)
                if not forced:
                    temporary.appear(path)
                    continue
                if not temporary.named:
                    temporary.appear(temporary.path)
                temporary.path.replace(path)
        for folder in folders:
            _synchronise(folder)
        yield
        undo.pop_all()


def _check(paths: list[Path], inputs: list[Path], *, force: Force) -> None:
    """What `check_outputs` raises of names alone."""
    for i, path in enumerate(paths):
        _check_kind(path)
        for other in paths[:i]:
            if _is_same(path, other):
                raise CheckpointError(f"the same file as {other}, which is to be written too", file=path, expected="another name")
        for other in inputs:
            if _is_same(path, other):
                raise CheckpointError("this file is read, and is not written over", file=path, expected="another name")
    for path in paths:
        if os.path.lexists(path) and not _forced(force, path):
            raise _already_exists(path)


def _forced(force: Force, path: Path) -> bool:
    return force if isinstance(force, bool) else path in force


def _check_kind(path: Path) -> None:
    """Raise for what is there and is no file, and for a name that no file can have."""
    if path.is_dir():
        raise CheckpointError("a directory", file=path, expected="the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    with suppress(FileNotFoundError):
        os.lstat(path)  # too long a name, a folder that may not be looked into
    kind = KINDS.get(stat.S_IFMT(path.stat().st_mode)) if path.exists() else None
    folder = os.path.realpath(path.parent)
    if kind is None and (folder == "/dev" or f"{folder}/".startswith("/proc/")):
        kind = "a stream"  # which leads to a regular file if the shell has put one there
    if kind is not None:
        raise CheckpointError(f"{kind}, and no file that appears whole", file=path, expected="the name of a file")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file, or would be."""
    with suppress(OSError):
        if one.samefile(other):
            return True
    return all(os.path.normcase(a) == os.path.normcase(b) for a, b in ((one.name, other.name), _folders(one, other)))


def _folders(one: Path, other: Path) -> tuple[str, str]:
    return os.path.realpath(one.parent), os.path.realpath(other.parent)


def _already_exists(path: Path) -> AlreadyExistsError:
    return AlreadyExistsError(f"{path} exists; ", option("force", True), " overwrites it")


@contextmanager
def _about(path: Path, errors: tuple[int, ...] | None = None) -> Iterator[None]:
    """An error of the system's names the target, in place of a temporary file or no file. errors: which; None is all."""
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        hidden = named is None or _LEFTOVER.fullmatch(named.name) or named.parent == Path("/proc/self/fd")
        if error.errno is None or not hidden or (errors is not None and error.errno not in errors):
            raise
        if isinstance(error, FileExistsError):
            raise _already_exists(path) from None
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@dataclass
class _Temporary:
    """A file that is written, and then gets its name."""

    file: BinaryIO
    path: Path
    named: bool
    """Whether it has this name already."""

    def appear(self, path: Path) -> None:
        """Give it a name that is free. Raises AlreadyExistsError for one that is not."""
        try:
            if self.named:
                self._link(path)
            else:  # linkat follows /proc's link to the file only if it is given a directory
                descriptor = self.file.fileno()
                os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
        except FileExistsError:
            raise _already_exists(path) from None

    def _link(self, path: Path) -> None:
        """Give it a second name, or where there are no hard links move it to a name that an empty file has claimed."""
        with suppress(OSError):
            os.link(self.path, path)
            return
        claimed = os.fstat(descriptor := os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.close(descriptor)
        try:
            self.path.replace(path)
        except BaseException:
            if os.path.samestat(path.lstat(), claimed):
                path.unlink()
            raise

    def leave(self, path: Path) -> None:
        """Take the name away again, if it is this file's."""
        with suppress(FileNotFoundError):
            if os.path.samestat(path.lstat(), os.fstat(self.file.fileno())):
                path.unlink()


@contextmanager
def _temporary(folder: Path) -> Iterator[_Temporary]:
    """A new file in that folder, locked as long as it is open. The name that it has here is removed in the end."""
    path = folder / _temporary_name()
    _pending.add(path)
    try:
        descriptor = _unnamed(folder)
        named = descriptor is None
        while descriptor is None:
            path = folder / _temporary_name()
            _pending.add(path)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
            if not (_lock(descriptor) and os.path.lexists(path)):  # another process took it for a leftover before it was locked
                os.close(descriptor)
                descriptor = None
        with io.FileIO(descriptor, "wb") as raw:  # closed without what is buffered: of that a full disk would be told once more
            if not named:
                _lock(descriptor)
            file = io.BufferedWriter(raw)
            yield _Temporary(file, path, named)
    finally:
        path.unlink(missing_ok=True)
        _pending.discard(path)


def remove_pending() -> None:
    """Remove temporary files that are left at the end of a process: a signal may come between two steps of a clean-up."""
    for path in tuple(_pending):
        with suppress(OSError):
            path.unlink()


def _unnamed(folder: Path) -> int | None:
    """A file without a name, gone when it is closed; None where the system or the file system has no such thing."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    return None


def _temporary_name() -> str:
    return f".scalablevit_ref.{_machine()}.{secrets.token_hex(8)}.part"


def _machine() -> str:
    import platform  # only writing needs it

    return f"{zlib.crc32(platform.node().encode()):08x}"


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if another process has. Where there are no locks it stays unlocked, and nobody removes it."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that are no more.

    That is what has such a name, is a regular file of this user's and is not locked; of another machine's, which is old besides.
    """
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        found = [(Path(entry.path), name[1]) for entry in entries if (name := _LEFTOVER.fullmatch(entry.name))]
        for path, machine in found:
            with suppress(OSError):
                _remove_leftover(path, own=machine == _machine())


def _remove_leftover(path: Path, *, own: bool) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return
    if not own and time.time() - status.st_mtime < _ABANDONED:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # NFS locks what is open for writing only
    except PermissionError:  # it was to keep the permissions of a file that is only read
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            path.unlink()
    finally:
        os.close(descriptor)


def _keep(path: Path, kept: ExitStack, undo: ExitStack) -> None:
    """Have `undo` bring back what is there. What that needs is removed by `kept`."""
    if path.is_symlink():
        undo.callback(_link_again, path, path.readlink())
        return
    copy = path.with_name(_temporary_name())
    _pending.add(copy)
    with suppress(OSError):
        _lock(kept.enter_context(path.open("rb")).fileno())
    kept.callback(copy.unlink, missing_ok=True)
    try:
        os.link(path, copy)
    except OSError:  # there are no hard links, or not of a stranger's file
        shutil.copy2(path, copy)
    undo.callback(copy.replace, path)


def _link_again(path: Path, target: Path) -> None:
    link = path.with_name(_temporary_name())
    link.symlink_to(target)
    link.replace(path)


def _permissions(path: Path) -> int | None:
    """Those of the regular file that is there."""
    mode = path.lstat().st_mode if os.path.lexists(path) else 0
    return mode & 0o777 if stat.S_ISREG(mode) else None


def _synchronise(folder: Path) -> None:
    """Bring a folder's names to the disk, where it can be opened and the file system knows such a thing."""
    if os.name != "posix":
        return
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(descriptor)
