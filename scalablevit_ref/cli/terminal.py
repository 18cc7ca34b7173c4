"""The one door to the terminal: every string is data, shown as it is written, and only `styled` words have colours.

Names come from files and file names from whoever made them: markup of rich, emoji names, control characters, escape sequences and
characters that reorder a line reach no terminal.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

from rich.console import Console
from rich.text import Text

from scalablevit_ref.errors import printable

Words: TypeAlias = str | tuple[str, str]
"""Words, or words and their style."""


class Terminal(Console):
    """A console that takes strings, in tables too, for data."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """As `Console` does, of the escaped text."""
        return super().render_str(printable(text), **options)


def styled(*words: Words) -> Text:
    """One text of words, of which some have a style.

    Examples
    --------
    >>> str(styled("[red]a.pth: ", ("agrees", "green bold")))
    '[red]a.pth: agrees'
    """
    return Text.assemble(*((printable(word), "") if isinstance(word, str) else (printable(word[0]), word[1]) for word in words))


def stacked(*lines: str | Text) -> Text:
    """Several lines as one cell of a table."""
    return Text("\n").join(styled(line) if isinstance(line, str) else line for line in lines)


def say(*words: Words) -> None:
    """One line on standard output, however long."""
    Terminal().print(styled(*words), soft_wrap=True)


def put(text: str) -> None:
    """A text that is made already, with its line breaks, on standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """One line on standard error, with the program's name."""
    sys.stderr.write(f"scalablevit-ref: {printable(' '.join(line.split()))}\n")
    sys.stderr.flush()
