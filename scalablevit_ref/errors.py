"""What is wrong with a file or a candidate, and the options that an error names, spelled for Python and for the command line."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

_LONGEST = 300
"""Longest key, expected or found value that an error repeats, in characters; they come from a file that may be hostile."""

_LONGEST_PROBLEM = 10_000
"""Longest description of a problem, in characters."""


@dataclass(frozen=True)
class Spelling:
    """Words that Python and the command line spell differently.

    Examples
    --------
    >>> print("give", Spelling("heads=", "--heads"))
    give heads=
    """

    python: str
    flag: str

    def __str__(self) -> str:
        return self.python


Words: TypeAlias = str | Spelling


def option(name: str, value: bool | None = None) -> Spelling:
    """An option as errors name it; value: the one that is meant, None where the option takes any.

    Examples
    --------
    >>> option("use_ema", False)
    Spelling(python='use_ema=False', flag='--no-use-ema')
    """
    flag = f"no-{name}" if value is False else name
    return Spelling(f"{name}={'' if value is None else value}", f"--{flag.replace('_', '-')}")


class OptionError(Exception):
    """An error that may name options: `str` spells them as Python does, `in_flags` as the command line does.

    Examples
    --------
    >>> error = OptionError("x.npz exists; ", option("force", True), " overwrites it")
    >>> print(error, error.in_flags(), sep="; ")
    x.npz exists; force=True overwrites it; x.npz exists; --force overwrites it
    """

    def __init__(self, *words: Words) -> None:
        self.words = words
        super().__init__("".join(map(str, words)))

    def in_flags(self) -> str:
        """The message of the command line."""
        return "".join(part.flag if isinstance(part, Spelling) else part for part in self.words)


class AlreadyExistsError(OptionError, FileExistsError):
    """A file that is there, and is not to be overwritten."""


class CheckpointError(OptionError, ValueError):
    """A checkpoint that cannot be read or written as asked. Its one line names the file, the key, what was expected and what came.

    Attributes
    ----------
    problem
        What is wrong, options spelled as in Python.
    file, key, expected, found
        None where they do not apply.

    Examples
    --------
    >>> error = CheckpointError("another shape", key="norm.weight", expected=(64,))
    >>> print(error.in_file("small.pth"))
    small.pth: norm.weight: another shape; expected (64,)
    """

    def __init__(
        self,
        *problem: Words,
        file: str | PathLike[str] | None = None,
        key: str | None = None,
        expected: Any = None,
        found: Any = None,
    ) -> None:
        super().__init__(*problem)
        self.problem, self.key, self.expected, self.found = "".join(map(str, problem)), key, expected, found
        self.file = None if file is None else str(file)
        self.args = (str(self),)

    def __str__(self) -> str:
        return self._line(self.problem)

    def in_flags(self) -> str:
        return self._line(super().in_flags())

    def _line(self, problem: str) -> str:
        file, key = (None if part is None else _short(part) for part in (self.file, self.key))
        line = ": ".join(part for part in (file, key, _short(problem, _LONGEST_PROBLEM)) if part)
        if self.expected is not None:
            line += f"; expected {_short(str(self.expected))}"
        if self.found is not None:
            line += f"{',' if self.expected is not None else ';'} found {_short(str(self.found))}"
        return line

    def in_file(self, path: str | PathLike[str]) -> CheckpointError:
        """The same error, naming the file."""
        error = copy.copy(self)
        error.file = str(path)
        error.args = (str(error),)
        return error


class CaptureError(OptionError, ValueError):
    """A candidate that cannot be held against the reference. Its one line says what to do.

    The line repeats names of files, of layers and what a port's own code said: all of it is printable.
    """

    def __init__(self, *words: Words) -> None:
        super().__init__(*(word if isinstance(word, Spelling) else _short(word, _LONGEST_PROBLEM) for word in words))


@contextmanager
def in_file(path: str | PathLike[str]) -> Iterator[None]:
    """A CheckpointError from within names this file, if it names none yet."""
    try:
        yield
    except CheckpointError as error:
        raise (error.in_file(path) if error.file is None else error) from error.__cause__


def brief(value: Any) -> str:
    """`repr` of bounded length and effort, whatever a file made of the value (nested containers, numbers of many digits)."""
    return _BRIEF.repr(value)


class _Brief(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 128 else f"a number of {x.bit_length()} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        """Also of a subclass of dict, whose own `repr` knows no bounds; what a file holds is called what users call it."""
        if isinstance(x, float | bool | bytes | None):
            return super().repr_instance(x, level)
        known_as = getattr(type(x), "known_as", None)
        return f"<{type(x).__name__ if known_as is None else known_as(x)}>"


_BRIEF = _Brief()
_BRIEF.maxlevel = 2


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'qkv'?)`, or nothing.

    Examples
    --------
    >>> did_you_mean("modle.pth", ["model.pth", "notes.txt"])
    " (did you mean 'model.pth'?)"
    """
    import difflib  # only errors need it

    known = list(known)
    close = [word] if word in known else difflib.get_close_matches(word, known)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def _short(text: str, longest: int = _LONGEST) -> str:
    return printable(text if len(text) <= longest else f"{text[:longest]}…")


def printable(text: str) -> str:
    """Text on one line that shows what it is: line breaks, a terminal's control characters, marks that turn the direction of
    writing, halves of a surrogate pair (a file's name that is not UTF-8) and characters that are none are escaped as in Python.

    Text from files is data: every writer (terminal, page, picture) passes it through here as it enters.

    Examples
    --------
    >>> print(printable("norm\x1b[2J \u202eé"))
    norm\\x1b[2J \\u202eé
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
