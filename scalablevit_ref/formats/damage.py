"""Where what a parser raises about a file's content becomes a CheckpointError, while all other errors stay what they are."""

from __future__ import annotations

import errno
import struct
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from scalablevit_ref.errors import CheckpointError

_OF_CONTENT = (
    ValueError,
    ArithmeticError,
    EOFError,
    RecursionError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What parsers raise about bytes: texts, numbers, sizes, nesting."""

_UNFORESEEN = (TypeError, LookupError, AttributeError)
"""What no parser should raise. Odd content is the likely cause, and a bug of the parser may be: both are said, with the place."""

_OF_PLACES = (errno.EINVAL, errno.EOVERFLOW)
"""What the system says of a place in a file where nothing can be. Other errors of the system are none of the content's."""

UNFORESEEN = "its reader did not foresee this"
"""What an error says where one of `_UNFORESEEN` was raised; no sound and no hostile file of the suite may ever be told so."""

_LONGEST_SAID = 200
"""Longest message of a parser that an error repeats, in characters."""


@contextmanager
def damage_is_an_error() -> Iterator[None]:
    """Make CheckpointErrors of what is raised about content from within; what was raised stays their cause.

    Assertions, missing modules, interrupts and the system's own errors (a disk that fails, a permission) pass as they are.

    Examples
    --------
    >>> with damage_is_an_error():
    ...     int("x")
    Traceback (most recent call last):
    scalablevit_ref.errors.CheckpointError: damaged (ValueError: invalid literal for int() with base 10: 'x')
    """
    try:
        yield
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError("reading it takes more memory than there is") from error
    except OSError as error:
        if error.errno not in _OF_PLACES:
            raise
        raise CheckpointError(f"damaged: a place in it where nothing can be ({error.strerror})") from error
    except _OF_CONTENT as error:
        raise CheckpointError(f"damaged ({_said(error)})") from error
    except _UNFORESEEN as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{PurePath(last.filename).name}:{last.lineno}"
        raise CheckpointError(f"damaged, and {UNFORESEEN} ({_said(error)}; {where}): if it is sound, please report that") from error


def _said(error: Exception) -> str:
    said = " ".join(str(error)[:_LONGEST_SAID].split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
