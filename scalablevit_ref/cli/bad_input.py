"""Bad input is one line on standard error and exit code 2; a traceback is for bugs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from scalablevit_ref.config import near_matches
from scalablevit_ref.errors import OptionError, printable


@contextmanager
def bad_input_is_one_line() -> Iterator[None]:
    """Around the reading of arguments and files, and nothing else: what fails later is no fault of the input.

    An error that names options is said in the words of the command line.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        said = error.in_flags() if isinstance(error, OptionError) else str(error)
        typer.echo(f"scalablevit-ref: {printable(' '.join(said.split()))}", err=True)
        raise typer.Exit(2) from None


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
