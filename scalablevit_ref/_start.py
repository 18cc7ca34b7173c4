"""The first moments of the command line: a signal while the libraries load ends it in order, and closed streams are opened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

PACKAGE = __name__.partition(".")[0]

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Names of the signals that end a command; a system may lack some."""


def is_program() -> bool:
    """Whether this process is `python -m scalablevit_ref` or the installed `scalablevit-ref`, and nobody's who imports us."""
    arguments: list[str] = getattr(sys, "argv", [])  # which a program that embeds Python may lack
    first = arguments[0] if arguments else ""
    if first == "-m":  # as long as Python looks for the module
        pairs = zip(sys.orig_argv, [*sys.orig_argv[1:], ""], strict=True)
        return any(a.startswith("-") and (a.endswith(f"m{PACKAGE}") or (a.endswith("m") and b == PACKAGE)) for a, b in pairs)
    return first.replace("\\", "/").rpartition("/")[2].startswith("scalablevit-ref")


def prepare() -> bool:
    """Once, before any import that takes time. Whether this process is the command line, which then owns its signals."""
    if not is_program():
        return False
    listen(end_at_once)
    _open_closed_streams()
    sys.excepthook = _library_fails
    return True


def listen(handler: Callable[[int, Any], None]) -> None:
    """Let these signals call `handler`, but those that whoever started us has switched off (`nohup`, a job in the background)."""
    import signal

    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def end_at_once(number: int, frame: Any = None) -> None:
    """End the process without another word but, for Ctrl-C, one: only where nothing is left to be put in order."""
    import os
    import signal
    from contextlib import suppress

    if number == signal.SIGINT:
        with suppress(OSError):
            os.write(2, b"scalablevit-ref: interrupted\n")
    os._exit(128 + number)


def _library_fails(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """End the process with one line: before a command has begun, only what a library raises instead of loading gets here."""
    import os
    import traceback

    said = " ".join(traceback.format_exception_only(kind, error)[-1].split())
    where = traceback.extract_tb(trace)[-1:]
    place = f" ({where[0].filename}, line {where[0].lineno})" if where else ""
    os.write(2, f"scalablevit-ref: a library that it needs does not load: {said}{place}\n".encode("ascii", "backslashreplace"))
    os._exit(2)


def _open_closed_streams() -> None:
    """Where a standard stream is closed, nothing is read or written; a file that is opened later must not take its number."""
    import os

    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


OWNS_SIGNALS = prepare()
"""Whether this process is the command line."""
