"""The one exception that says what is wrong with a checkpoint."""

from __future__ import annotations

import copy
from os import PathLike
from typing import Any


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
        line = ": ".join(part for part in (self.file, self.key, self.problem) if part)
        if self.expected is not None:
            line += f"; expected {self.expected}"
        if self.found is not None:
            line += f"{',' if self.expected is not None else ';'} found {self.found}"
        return line

    def in_file(self, path: str | PathLike[str]) -> CheckpointError:
        """The same error, naming the file."""
        error = copy.copy(self)
        error.file = str(path)
        error.args = (str(error),)
        return error
