"""Pictures and reports of this program tell so: they can be made again, and the command line replaces them without being asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scalablevit_ref.files.reading import open_regular
from scalablevit_ref.files.writing import Force

MARK = "scalablevit-ref"
"""What the files name as the program that made them."""

_MARKS = {
    ".svg": (f"<!-- Creator: {MARK} -->".encode(), b"<?xml"),
    ".png": (b"tEXtSoftware\0" + MARK.encode(), b"\x89PNG"),
    ".pdf": (f"/Creator ({MARK})".encode(), b"%PDF"),
    ".html": (f'<meta name="generator" content="{MARK}">'.encode(), b"<!DOCTYPE html>"),
}
"""By ending how a file says it, and how such a file begins."""

_MOST = 1 << 24
"""Bytes of a file in which the mark is looked for; a picture or a report has less than a tenth."""


def remade(outputs: Iterable[Path | None], *, force: bool) -> Force:
    """Which of these files may be overwritten: all with `force`, else the regular files that carry this program's mark."""
    return force or frozenset(path for path in outputs if path is not None and _is_ours(path))


def _is_ours(path: Path) -> bool:
    mark, beginning = _MARKS.get(path.suffix, (b"", b""))
    if not mark or path.is_symlink():
        return False
    try:
        with open_regular(path) as file:
            held = file.read(_MOST)
    except OSError:
        return False
    return held.startswith(beginning) and mark in held
