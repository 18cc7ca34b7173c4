"""The one way of writing: names that are free or forced, all files or none, leftovers, links, permissions, and what is refused."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from scalablevit_ref.errors import AlreadyExistsError, CheckpointError
from scalablevit_ref.files import writing
from scalablevit_ref.files.writing import check_outputs, write_atomically, write_contents, written
from tests.support.write_faults import SYSTEMS, leftovers

NOBODY = 65534
"""A user without rights."""


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> Iterator[str]:
    with SYSTEMS[request.param]():
        yield request.param


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who may not do everything, if this is root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def held(folder: Path) -> dict[str, bytes | str]:
    """What files hold, and where links point."""
    return {path.name: str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in folder.iterdir()}


def meanwhile(content: bytes, happens: Callable[[], object]) -> Callable[[BinaryIO], None]:
    """Writes, while something happens."""

    def write(file: BinaryIO) -> None:
        file.write(content)
        happens()

    return write


@pytest.mark.usefixtures("system")
def test_a_file_that_appears_midway_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write = meanwhile(b"ours", lambda: path.write_bytes(b"theirs"))
    with pytest.raises(AlreadyExistsError, match=re.escape(f"{path} exists; force=True overwrites it")):
        write_atomically({path: write}, force=False)
    assert held(tmp_path) == {"x": b"theirs"}
    write_atomically({path: write}, force=True)
    assert held(tmp_path) == {"x": b"ours"}


@pytest.mark.usefixtures("system")
def test_of_several_files_all_appear_or_none(tmp_path: Path) -> None:
    """The second cannot get its name: the first loses it again, and what was there is there, a link and permissions too."""
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(AlreadyExistsError):
        write_atomically(
            {one: lambda file: file.write(b"1"), two: meanwhile(b"2", lambda: two.write_bytes(b"theirs"))}, force=False
        )
    assert held(tmp_path) == {"two": b"theirs"}
    two.unlink()

    def force_before_a_folder() -> None:
        with pytest.raises(IsADirectoryError) as caught:
            write_atomically({one: lambda file: file.write(b"1"), two: meanwhile(b"2", two.mkdir)}, force=True)
        assert caught.value.filename == str(two)
        two.rmdir()

    force_before_a_folder()
    assert held(tmp_path) == {}
    one.write_bytes(b"precious")
    one.chmod(0o640)
    force_before_a_folder()
    assert (held(tmp_path), stat.S_IMODE(one.stat().st_mode)) == ({"one": b"precious"}, 0o640)
    one.unlink()
    one.symlink_to("elsewhere")
    force_before_a_folder()
    assert held(tmp_path) == {"one": "elsewhere"}
    write_contents({one: b"1", two: b"2"}, force=True)
    assert held(tmp_path) == {"one": b"1", "two": b"2"}


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("there", [None, b"precious"])
def test_an_error_while_the_files_are_there_takes_them_back(there: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if there is not None:
        path.write_bytes(there)

    def fail() -> None:
        assert path.read_bytes() == b"new"
        raise KeyError

    with pytest.raises(KeyError), written({path: lambda file: file.write(b"new")}, force=there is not None):
        fail()
    assert held(tmp_path) == ({} if there is None else {"x": there})


@pytest.mark.usefixtures("system")
def test_one_forced_file_is_not_lost_to_a_later_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its folder, which could not be brought to the disk."""
    (tmp_path / "x").write_bytes(b"old")

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writing, "_synchronise", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_contents({tmp_path / "x": b"new"}, force=True)
    assert held(tmp_path) == {"x": b"new"}


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    def name(machine: str, number: int) -> Path:
        return tmp_path / f".scalablevit_ref.{machine}.{number:016x}.part"

    own, other = writing._machine(), "0" * 8
    long_ago = time.time() - 2 * writing._ABANDONED
    removed = [name(own, 1), name(own, 2), name(other, 3)]
    kept = [name(other, 4), tmp_path / ".scalablevit_ref.part", tmp_path / "x.part", tmp_path / f"{name(own, 9).name}.old"]
    for path in (*removed, *kept):
        path.touch()
    removed[1].chmod(0o444)
    os.utime(removed[2], (long_ago, long_ago))
    (tmp_path / "target").touch()
    name(own, 5).symlink_to("target")
    name(own, 6).mkdir()
    os.mkfifo(name(own, 7))
    kept += [tmp_path / "target", name(own, 5), name(own, 6), name(own, 7)]
    if os.geteuid() == 0:
        name(own, 8).touch()
        os.chown(name(own, 8), NOBODY, NOBODY)
        kept.append(name(own, 8))
    write_contents({tmp_path / "x": b""}, force=False)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "x"])


def test_a_live_writer_s_temporary_file_is_no_leftover(tmp_path: Path) -> None:
    with SYSTEMS["named files"]():

        def write(file: BinaryIO) -> None:
            file.write(b"outer")
            assert len(leftovers(tmp_path)) == 1
            write_contents({tmp_path / "inner": b"inner"}, force=False)
            check_outputs([tmp_path / "other"], force=False)
            assert len(leftovers(tmp_path)) == 1

        write_atomically({tmp_path / "outer": write}, force=False)
    assert held(tmp_path) == {"outer": b"outer", "inner": b"inner"}


@pytest.mark.usefixtures("system")
def test_a_file_that_is_about_to_be_renamed_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appear, times = writing._Temporary.appear, []

    def meanwhile_another_writes(temporary: Any, path: Path) -> None:
        appear(temporary, path)
        times.append(len(leftovers(tmp_path)))
        writing._remove_leftovers(tmp_path)
        assert len(leftovers(tmp_path)) == times[-1]

    monkeypatch.setattr(writing._Temporary, "appear", meanwhile_another_writes)
    write_contents({tmp_path / "x": b"whole"}, force=True)
    assert times in ([1], [])  # a file that has a name keeps it
    assert held(tmp_path) == {"x": b"whole"}


def test_what_may_have_to_come_back_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"precious")

    def write_beside_and_fail() -> None:
        assert len(leftovers(tmp_path)) == 1
        write_contents({tmp_path / "other": b""}, force=False)
        raise KeyError

    with pytest.raises(KeyError), written({path: lambda file: file.write(b"new")}, force=True):
        write_beside_and_fail()
    assert held(tmp_path) == {"x": b"precious", "other": b""}


def test_a_new_file_that_is_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the moment that it is there and the moment that it is locked."""
    lock, stolen = writing._lock, []

    def steal(descriptor: int) -> bool:
        if not stolen:
            stolen.extend(tmp_path.iterdir())
            stolen[0].unlink()
        return lock(descriptor)

    monkeypatch.setattr(writing, "_lock", steal)
    with SYSTEMS["named files"]():
        write_contents({tmp_path / "x": b"whole"}, force=False)
    assert len(stolen) == 1
    assert held(tmp_path) == {"x": b"whole"}


@pytest.mark.usefixtures("system")
def test_names_up_to_the_system_s_limit_and_of_any_bytes(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    for name in ("x" * longest, os.fsdecode(b"\xff\xfe.npz"), "a\nb", " ", "-o"):
        for force in (False, True):
            write_contents({tmp_path / name: b"1"}, force=force)
        assert (tmp_path / name).read_bytes() == b"1"
    assert leftovers(tmp_path) == []
    too_long = tmp_path / ("x" * (longest + 1))
    with pytest.raises(OSError, match="too long") as caught:
        check_outputs([too_long], force=False)
    assert caught.value.filename == str(too_long)


@pytest.mark.usefixtures("system")
def test_permissions_are_the_umask_s_or_those_that_were_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for mask in (0o022, 0o077, 0o007):
        before = os.umask(mask)
        try:
            write_contents({path: b""}, force=False)
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
            for mode in (0o600, 0o664, 0o444):
                path.chmod(mode)
                write_contents({path: b"", tmp_path / "other": b""}, force=True)
                assert stat.S_IMODE(path.stat().st_mode) == mode
        finally:
            os.umask(before)
        path.unlink()
        (tmp_path / "other").unlink()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to fifo").symlink_to("fifo")
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path, "a directory"),
        (tmp_path / "fifo", "a FIFO, and no file"),
        (tmp_path / "to fifo", "a FIFO, and no file"),
        (Path("/dev/null"), "a device, and no file"),
        (Path("/dev/stdout"), ", and no file"),
        (Path("/dev/fd/1"), ", and no file"),
        (Path("/proc/self/fd/1"), ", and no file"),
        (tmp_path / "none" / "x", f"there is no folder {tmp_path / 'none'}"),
        (tmp_path / "file" / "x", f"there is no folder {tmp_path / 'file'}"),
    ):
        before = sorted(tmp_path.iterdir())
        for force in (False, True):
            for writes in (
                lambda path=path, force=force: write_contents({path: b""}, force=force),
                lambda path=path, force=force: check_outputs([path], force=force),
            ):
                with pytest.raises((CheckpointError, FileNotFoundError), match=re.escape(str(path))) as caught:
                    writes()
                assert said in str(caught.value)
        assert sorted(tmp_path.iterdir()) == before
    assert Path("/dev/null").is_char_device()


def test_standard_output_in_a_file_is_no_target(tmp_path: Path) -> None:
    """There `/dev/stdout` leads to a regular file; with `force` the link in /dev would be replaced."""
    import subprocess

    code = "from scalablevit_ref.files.writing import *; write_contents({Path('/dev/stdout'): b'x'}, force=True)"
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert "/dev/stdout: a stream, and no file that appears whole" in done.stderr
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.usefixtures("system")
def test_a_folder_without_permission_is_told_by_the_target_s_name() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "there").write_bytes(b"precious")
        if os.geteuid() != 0:
            folder.chmod(0o555)
        with without_rights():
            for path, force in ((folder / "x", False), (folder / "there", True)):
                for attempt in (
                    lambda path=path, force=force: check_outputs([path], force=force),
                    lambda path=path, force=force: write_contents({path: b"x"}, force=force),
                ):
                    with pytest.raises(PermissionError) as caught:
                        attempt()
                    assert caught.value.filename == str(path)
        folder.chmod(0o755)
        assert held(folder) == {"there": b"precious"}


def test_a_folder_that_may_be_written_and_not_listed() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o333)
        with without_rights():
            write_contents({folder / "x": b"1"}, force=False)
        folder.chmod(0o755)
        assert held(folder) == {"x": b"1"}


def test_a_leftover_that_may_only_be_read_is_removed() -> None:
    """It was to keep the permissions of what it should have overwritten."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        with without_rights():
            left = folder / writing._temporary_name()
            left.touch(0o444)
            write_contents({folder / "x": b"1"}, force=False)
        assert held(folder) == {"x": b"1"}


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"precious")
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to("source")
    (tmp_path / "folder").symlink_to(".")
    for name in ("source", "hard", "soft", "folder/source", "folder/soft"):
        for force in (False, True):
            with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / name}: this file is read, and is not written over")):
                check_outputs([tmp_path / name], inputs=[None, source], force=force)
    check_outputs([tmp_path / "x"], inputs=[source, tmp_path / "absent"], force=False)


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "folder").symlink_to(".")
    for one, two in (("x", "x"), ("x", "folder/x"), ("a", "hard"), ("folder/a", "hard")):
        paths = [tmp_path / one, tmp_path / two]
        with pytest.raises(
            CheckpointError, match=re.escape(f"{paths[1]}: the same file as {paths[0]}, which is to be written too")
        ):
            check_outputs(paths, force=True)


def test_looking_whether_a_file_can_be_written_leaves_nothing(tmp_path: Path, system: str) -> None:
    assert system
    check_outputs([tmp_path / "x", None, tmp_path / "y"], force=False)
    assert held(tmp_path) == {}
