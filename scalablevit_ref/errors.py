"""What is raised for a checkpoint that does not fit, and for a candidate that cannot be compared."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

_LONGEST = 300
"""Characters of a key or a found value that an error repeats; they come from a file that may be hostile."""

_LONGEST_PROBLEM = 10_000


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written as asked. Its one line names the file, the key, what was expected and what came.

    The same are attributes, None where they do not apply: `file`, `key`, `problem`, `expected`, `found`.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | PathLike[str] | None = None,
        key: str | None = None,
        expected: Any = None,
        found: Any = None,
    ) -> None:
        self.problem, self.key, self.expected, self.found = problem, key, expected, found
        self.file = None if file is None else str(file)
        super().__init__(str(self))

    def __str__(self) -> str:
        file, key = (None if part is None else _short(part) for part in (self.file, self.key))
        line = ": ".join(part for part in (file, key, _short(self.problem, _LONGEST_PROBLEM)) if part)
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


class CaptureError(ValueError):
    """A candidate that cannot be held against the reference. Its one line says what to do."""


@contextmanager
def naming(path: str | PathLike[str]) -> Iterator[None]:
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
        """Also of a subclass of dict, whose own `repr` knows no bounds."""
        return super().repr_instance(x, level) if isinstance(x, float | bool | bytes | None) else f"<{type(x).__name__}>"


_BRIEF = _Brief()
_BRIEF.maxlevel = 2


def _short(text: str, longest: int = _LONGEST) -> str:
    return printable(text if len(text) <= longest else f"{text[:longest]}…")


def printable(text: str) -> str:
    """Without line breaks and a terminal's control characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
