"""How a command ends: every exception and every signal has an exit code, and what is said of it."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from scalablevit_ref import _start
from scalablevit_ref.cli.streams import OutputError
from scalablevit_ref.cli.terminal import Terminal, complain
from scalablevit_ref.errors import printable
from scalablevit_ref.files.writing import remove_pending

BAD_INPUT, BUG, OUTPUT_FAILED = 2, 70, 74  # 70 and 74 as in sysexits.h: an internal software error, an error of output
CLOSED_PIPE = 128 + 13
"""Exit code where nobody reads standard output any more: that of a program which SIGPIPE ends, as it ends `cat`."""

AGAIN = 0.05
"""Seconds after which a signal is given once more that Python dropped, since it came inside of a destructor."""

LESS_MEMORY = {
    "attend": "a smaller --image-size",
    "bench": "a smaller --image-size or --batch",
    "compare": "fewer or smaller --images, or --dtype float32,",
    "convert": "leaving out --verify",
    "evaluate": "a smaller --batch",
    "trace": "fewer or smaller --images, or --dtype float32,",
    "verify": "fewer --image, or one --backend",
}
"""By command what needs less memory."""

UsageError = typer.BadParameter.__bases__[0]
"""What Click, or the copy of it inside of typer, raises for arguments that it does not understand."""


class Signalled(BaseException):
    """A signal that ends the program. It is no KeyboardInterrupt, which others catch."""


_received: list[int] = []
_dropped: list[int] = []


def exit_code(command: Callable[[], Any]) -> int:
    """Run a command and flush what it wrote; whatever it raises becomes an exit code, and a line on standard error.

    Where a signal ended it, its `finally` blocks have run.
    """
    code, raised = 0, None
    try:
        with _signals():
            code = int(command() or 0)
            sys.stdout.flush()
    except BaseException as error:
        raised = error
    if _received:  # on its way its exception may have become another one, or none
        remove_pending()
        return _interrupted(_received[0])
    if raised is None and code == 128 + signal.SIGINT:  # what typer makes of a KeyboardInterrupt that somebody else raised
        raised = KeyboardInterrupt()
    return code if raised is None else _code_of(raised)


@contextmanager
def _signals() -> Iterator[None]:
    """Within, a signal raises Signalled. If this process is somebody else's, signals are not ours."""
    if not _start.OWNS_SIGNALS:
        yield
        return
    sys.unraisablehook, before = _unraisable, sys.unraisablehook
    try:
        _start.listen(_raise)
        yield
    finally:
        _start.listen(_start.end_at_once)
        sys.unraisablehook = before


def _raise(number: int, frame: Any) -> None:
    """The first signal raises. The next finds `finally` blocks at work and is let pass; the third ends them too."""
    _received.append(number)
    if len(_received) == len(_dropped) + 1:
        raise Signalled
    if len(_received) > len(_dropped) + 2:
        _start.end_at_once(number)


def _unraisable(dropped: Any) -> None:
    """Inside of a destructor Python can only drop what a signal raised: it is raised once more, a little later and elsewhere."""
    if isinstance(dropped.exc_value, Signalled):
        _dropped.append(_received[0])
        again = threading.Timer(AGAIN, _give_to_main_thread, (_received[0],))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(dropped)


def _give_to_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(int(threading.main_thread().ident or 0), number)  # also wakes it from what it waits for
    else:
        _thread.interrupt_main(signal.Signals(number))


def signalled() -> bool:
    """Whether a signal is about to end the program, whatever became of its exception."""
    return bool(_received)


def _code_of(error: BaseException) -> int:
    """What is to be said of an exception that ended a command, and the exit code."""
    if isinstance(error, KeyboardInterrupt):  # not of a signal of ours
        return _interrupted(signal.SIGINT)
    if isinstance(error, OutputError):
        if error.closed:
            return CLOSED_PIPE
        complain(f"standard output cannot be written: {error}")
        return OUTPUT_FAILED
    with suppress(OutputError):
        sys.stdout.flush()  # what was said before
    if isinstance(error, UsageError):
        return _bad_usage(error)
    if isinstance(error, MemoryError):
        complain(f"there is not enough memory{f': {error}' if str(error) else ''}; {_less_memory()} needs less")
        return BAD_INPUT
    if isinstance(error, SystemExit):
        complain(f"code that was imported ended the program, with the exit code {error.code}")
        return BAD_INPUT
    if isinstance(error, typer.Abort) and error.__cause__:
        error = error.__cause__
    for line in "".join(traceback.format_exception(error)).splitlines():
        sys.stderr.write(f"{printable(line)}\n")
    complain("this is a bug of ours and not of your input: please report it, with the lines above and the command")
    return BUG


def _interrupted(number: int) -> int:
    if number == signal.SIGINT:
        complain("interrupted")
    with suppress(Exception):
        Terminal(stderr=True).show_cursor(True)  # a progress bar may have had no time to
    return 128 + number


def _bad_usage(error: Any) -> int:
    """One line; the program's help, which is the answer to no argument at all, is printed already."""
    if type(error).__name__ != "NoArgsIsHelpError":
        path = getattr(error.ctx, "command_path", "scalablevit-ref")
        complain(f"{error.format_message().rstrip('.')}; see {path} --help")
    return int(error.exit_code)


def _less_memory() -> str:
    return next((LESS_MEMORY[word] for word in sys.argv[1:2] if word in LESS_MEMORY), "a smaller file")


def leave(code: int) -> None:
    """End the process with this exit code: after a signal at once, without waiting for threads at work."""
    if _received and _start.OWNS_SIGNALS:
        with suppress(OutputError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
