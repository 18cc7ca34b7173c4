"""Regular files alone are opened by name, and no more of them is read than their kind may hold."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from scalablevit_ref.files.reading import IrregularFileError, TooLargeError, open_regular, read_regular

pytestmark = pytest.mark.skipif(os.name != "posix", reason="these kinds of files are POSIX's")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as found:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket has 108 bytes at most
        try:
            found.bind(path.name)
        finally:
            os.chdir(here)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "a folder"),
    "FIFO": (os.mkfifo, "a FIFO"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "socket": (a_socket, "a socket|No such device"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_not_read(kind: str, tmp_path: Path) -> None:
    make, words = KINDS[kind]
    make(tmp_path / "named")
    with pytest.raises(OSError, match=words) as caught:
        open_regular(tmp_path / "named", "a list")
    assert "named" in str(caught.value)
    with pytest.raises(OSError, match=words):
        read_regular(tmp_path / "named", 10)


def test_no_more_is_read_than_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(bytes(10))
    assert read_regular(tmp_path / "ten", 10) == bytes(10)
    with pytest.raises(TooLargeError, match="more than 9 bytes; expected a list"):
        read_regular(tmp_path / "ten", 9, "a list")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLargeError, match="more than 9 bytes"):
        read_regular(tmp_path / "sparse", 9)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a\0b", IrregularFileError, "a name with a NUL character; expected a list"),
        ("x" * 256, OSError, "too long"),
        ("", FileNotFoundError, "No such file"),
        ("file/", NotADirectoryError, "Not a directory"),
        ("/proc/self/mem", OSError, "a list|error"),
        (b"not \xff utf-8", FileNotFoundError, "No such file"),
    ],
)
def test_names_that_no_file_has(
    name: str | bytes, error: type[OSError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(error, match=words):
        read_regular(name, 10, "a list")  # type: ignore[arg-type]
