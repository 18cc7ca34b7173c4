"""What a port's own code raises, told from what is refused: one line with the place in that code."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import CodeType

import numpy as np

import scalablevit_ref
from scalablevit_ref import backends
from scalablevit_ref.errors import CaptureError

RUNNING = "running the candidate"
"""What is done to a candidate when it is fed images, in the words of `own_code`."""

LONGEST_MESSAGE = 300
"""Longest message of a port's own exception that is repeated, in characters."""

DEEPEST_STACK = 400
"""Most frames of the stack in which a line of a user's is looked for."""

MOST_CODES = 10_000
"""Most functions of which it is remembered whose they are."""

_GENERATED = ("<eval_with_key>", "<torch_package")
"""How the names of files begin that are none: of code that torch writes."""

_OURS = tuple(str(Path(package.__file__).parent) for package in (scalablevit_ref, backends) if package.__file__)
_STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_FRAMEWORKS = frozenset({"torch", "jax", "jaxlib", "flax", "keras", "tensorflow", "mlx", "paddle", "tinygrad", "numpy", "einops"})


class OwnCodeError(CaptureError):
    """What a port's own code raises, in one line."""


@contextmanager
def own_code(doing: str) -> Iterator[None]:
    """Around a call of a port's own code: what it raises becomes a CaptureError, chained to it, that says where it was raised.

    So does a SystemExit, and whatever else a user's file raises: a port ends no comparison. KeyboardInterrupt passes, and so
    do a CaptureError from within and what is no Exception and was raised elsewhere, as by a signal.
    NumPy's handling of floating-point errors is afterwards what it was.

    Parameters
    ----------
    doing
        What is done to the port, "running the candidate".

    Examples
    --------
    >>> with own_code("running the candidate"):
    ...     raise KeyError("stage")
    Traceback (most recent call last):
        ...
    scalablevit_ref...OwnCodeError: running the candidate raised KeyError: 'stage' (<doctest ...>, line 2, in <module>)
    """
    try:
        with np.errstate():
            yield
    except (CaptureError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not (isinstance(error, Exception | SystemExit) or _is_by_a_user(error)):
            raise
        raise OwnCodeError(f"{doing} raised {raised(error)}") from error


def raised(error: BaseException) -> str:
    """An exception's type, message and place, in one line: `ValueError: boom (port.py, line 2, in forward)`."""
    message = message_of(error)
    message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
    place = place_of(error)
    return type(error).__name__ + f": {message}" * bool(message) + f" ({place})" * bool(place)


def message_of(error: BaseException) -> str:
    """What an exception says, in one line."""
    try:
        return " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except (Exception, SystemExit):  # its own __str__ is the port's code too
        return "it cannot be printed"


def own_traceback(error: BaseException) -> list[str]:
    """The lines of the traceback of what a port's own code raised, from its first frame on; empty if `error` is not about such."""
    cause = error.__cause__
    if not isinstance(error, CaptureError) or cause is None:
        return []
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(cause), cause, trace)).splitlines()


def place_of(error: BaseException) -> str:
    """File and line of the innermost frame in the user's own code; else in a package that is no framework; else nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__)))
        if not _is_ours(frame.f_code.co_filename)
    ]
    for wanted in (_is_a_users_file, _is_typed_in, _is_a_package_s):
        for file, line, function in frames:
            if wanted(file):
                return f"{file}, line {line}, in {function}"
    return ""


def is_ours(error: BaseException) -> bool:
    """Whether this package raised it, or what is part of Python itself."""
    return _is_ours(_raised_in(error)) or _raised_in(error).startswith("<frozen")


def _is_by_a_user(error: BaseException) -> bool:
    """Whether it was raised in a user's own file, and not by a signal or a framework."""
    file = _raised_in(error)
    return not _is_ours(file) and (_is_a_users_file(file) or _is_typed_in(file))


def _raised_in(error: BaseException) -> str:
    return [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)][-1]


def _within(file: str, folders: tuple[str, ...]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _is_ours(file: str) -> bool:
    return _within(file, _OURS)


def _is_a_users_file(file: str) -> bool:
    return not file.startswith("<") and not _INSTALLED & set(Path(file).parts) and not _within(file, _STANDARD)


def _is_typed_in(file: str) -> bool:
    """Code without a file, at a prompt or in a notebook."""
    return file.startswith("<") and not file.startswith("<frozen")


def _is_a_package_s(file: str) -> bool:
    parts = Path(file).parts
    return any(part in _INSTALLED and inner not in _FRAMEWORKS for part, inner in pairwise(parts))


def user_line(until: CodeType | None = None) -> str:
    """Where in the user's own code this is asked for: the innermost frame of a user's file, else of a package's; or nothing.

    Parameters
    ----------
    until
        The code that calls the candidate: what lies outside of it is no longer the candidate's own.
    """
    frame, package = sys._getframe(1), ""
    for _ in range(DEEPEST_STACK):
        if frame is None or frame.f_code is until:
            break
        whose, file = _shown.get((frame.f_code, frame.f_code.co_filename)) or _remembered(frame.f_code)
        if whose == "a user's":
            return f"{file}, line {frame.f_lineno}, in {frame.f_code.co_name}"
        if whose and not package:
            package = f"{file}, line {frame.f_lineno}, in {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return package


def _remembered(code: CodeType) -> tuple[str, str]:
    """Whose a function is that may be shown, and the name of its file; nobody's else."""
    file = code.co_filename
    if _is_ours(file) or file.startswith(_GENERATED):
        whose = ""
    elif _is_a_users_file(file) or _is_typed_in(file):
        whose = "a user's"
    else:
        whose = "a package's" if _is_a_package_s(file) else ""
    if len(_shown) >= MOST_CODES:
        _shown.clear()
    _shown[code, file] = (whose, Path(file).name)
    return _shown[code, file]


_shown: dict[tuple[CodeType, str], tuple[str, str]] = {}
"""Functions that were met, as `_remembered` gives them; emptied where there are many. Equal code of two files is equal."""


def shown_line(file: str, line: int, function: str) -> str:
    """A frame as `user_line` gives it; empty where it is not in the user's own code."""
    return f"{Path(file).name}, line {line}, in {function}" if _is_shown(file) else ""


@lru_cache(MOST_CODES)
def _is_shown(file: str) -> bool:
    return not _is_ours(file) and (_is_a_users_file(file) or _is_typed_in(file))
