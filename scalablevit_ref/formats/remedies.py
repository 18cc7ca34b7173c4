"""Commands that make a checkpoint of a file that is none, to be copied and run as they are. Names in them are hostile texts."""

from __future__ import annotations

import os
import shlex
from itertools import count
from pathlib import Path

BROKEN_OFF = "it broke off while it was downloaded, copied or written; get it again"

FILE, OUT = "\0file", "\0out"
"""In a command: where the names of the file and of the result are put. No name in quotes holds a null character."""

TRUSTED = "(this runs the file's code, so only for a file that you trust)"


def python(code: str, path: str | os.PathLike[str], result: str = "") -> str:
    """A line of Python between backquotes, with the file's name and a new one for the result.

    Examples
    --------
    >>> python(
    ...     f"torch.save(torch.load({FILE}).state_dict(), {OUT})",
    ...     "it's.pth",
    ...     "a_new_name.pth",
    ... )
    '`torch.save(torch.load("it\\'s.pth").state_dict(), \\'a_new_name.pth\\')`'
    """
    return f"`{_filled(code, python_text(os.fspath(path)), python_text(new_name(result, path)))}`"


def shell(command: str, path: str | os.PathLike[str], result: str = "") -> str:
    """A command of the shell between backquotes, likewise.

    Examples
    --------
    >>> shell(f"gunzip -c {FILE} > {OUT}", "-my x.gz", "a_new_name")
    "`gunzip -c './-my x.gz' > a_new_name`"
    """
    return f"`{_filled(command, shell_file(path), shell_text(new_name(result, path)))}`"


def _filled(command: str, file: str, result: str) -> str:
    return command.replace(FILE, file).replace(OUT, result)


def python_text(text: str) -> str:
    r"""Text as Python writes it, in one line of printable characters without backquotes.

    Examples
    --------
    >>> print(python_text("a`b\n"))
    'a\x60b\n'
    """
    return repr(text).replace("`", "\\x60")


def shell_text(text: str) -> str:
    r"""Text as a shell takes it for one word, in one line of printable characters without backquotes.

    Examples
    --------
    >>> print(shell_text("a b"), shell_text("a`b\n"))
    'a b' $'a\x60b\x0a'
    """
    if text.isprintable() and "`" not in text:
        return shlex.quote(text)
    safe = (chr(byte) if 32 <= byte < 127 and chr(byte) not in "`'\\" else f"\\x{byte:02x}" for byte in os.fsencode(text))
    return f"$'{''.join(safe)}'"


def shell_file(path: str | os.PathLike[str]) -> str:
    """A file's name for a shell; one that begins with a dash is no option."""
    name = os.fspath(path)
    return shell_text(f"./{name}" if name.startswith("-") else name)


def new_name(name: str, path: str | os.PathLike[str]) -> str:
    """A name like this one of a file that is not there yet, and is not the one at `path`, which may lie in another folder.

    Examples
    --------
    >>> new_name("a_new_name.pth", "a/a_new_name.pth")
    'a_new_name-1.pth'
    """
    if not name:
        return name
    first = Path(name)
    names = (str(first.with_stem(f"{first.stem}-{n}")) if n else name for n in count())
    return next(new for new in names if new != Path(path).name and not os.path.lexists(new))
