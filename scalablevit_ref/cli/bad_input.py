"""Bad input is one line on standard error and exit code 2; a traceback is for bugs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import typer

from scalablevit_ref.cli.endings import signalled
from scalablevit_ref.cli.terminal import complain
from scalablevit_ref.compare.capture.own_code import is_ours, own_traceback, raised
from scalablevit_ref.config import near_matches
from scalablevit_ref.errors import OptionError, printable

MOST_NAMES = 1000
"""Most names of a folder among which one like a missing file's is looked for."""


@contextmanager
def bad_input_is_one_line(*, traceback: bool = False) -> Iterator[None]:
    """Around the reading of arguments and files, and nothing else: what fails later is no fault of the input.

    An error that names options is said in the words of the command line.

    Parameters
    ----------
    traceback
        Whether what a user's own code raised is printed below the line, with its traceback.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        ours = isinstance(error, ImportError) and (error.name or "").startswith("scalablevit_ref")
        if ours or signalled():
            raise
        said = error.in_flags() if isinstance(error, OptionError) else _said(error)
        complain(said)
        for line in own_traceback(error) if traceback else ():
            sys.stderr.write(f"{printable(line)}\n")
        raise typer.Exit(2) from None


def _said(error: Exception) -> str:
    """The message of an error; where the system raised it of a file, what is wrong with that file, without the system's number.

    A library that is installed and whose import fails is told by the place where it does.
    """
    if isinstance(error, ImportError) and not is_ours(error):
        return raised(error)
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error)
    path = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else str(error.filename))
    match error:
        case FileNotFoundError() if path.is_symlink():
            return f"{path}: a link to {path.readlink()}, which is not there"
        case FileNotFoundError() if not path.parent.exists():
            return f"{path}: there is no such file, and no folder {path.parent}"
        case FileNotFoundError():
            return f"{path}: there is no such file{near_matches(path.name, _beside(path))}"
        case PermissionError():
            return f"{path}: you have no permission to read or write it"
        case IsADirectoryError():
            return f"{path}: a folder, and not a file"
        case NotADirectoryError():
            return f"{path}: there is no such file: {path.parent} is no folder"
        case FileExistsError():
            return f"{path}: it exists already"
    words = error.strerror or type(error).__name__
    return f"{path}: {words[0].lower()}{words[1:]}"


def _beside(path: Path) -> list[str]:
    """Names in the folder of a file, of a large folder some."""
    try:
        with os.scandir(path.parent) as entries:
            return [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return []


def check_folder(option: str, path: Path | None) -> None:
    """Raise FileNotFoundError, before any work, for a file that is to be written where there is no folder."""
    if path and not path.parent.is_dir():
        raise FileNotFoundError(f"{option}: there is no folder {str(path.parent)!r}")


def check_known(option: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first of the words given to an option that it does not know."""
    known = list(known)
    for word in words:
        if word not in known:
            raise ValueError(f"unknown {option} {word!r}{near_matches(word, known)}; there are {', '.join(known)}")
