"""Refuse what is no number, word, function or path where one is asked for: in one line that names the argument.

Arrays and parameters are the business of `checks`. Every function here takes the argument's name and what came, and raises
TypeError for another type and ValueError for another value, with what was expected.
"""

from __future__ import annotations

import math
import numbers
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from scalablevit_ref.errors import brief, printable

LARGEST = 2**63 - 1
"""Largest whole number that is a size: what an axis of an array can have, in elements."""

MOST_STAGES = 64
"""Most stages of a network; each has twice the stride of the one before."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that the specification computes in."""


def is_whole(value: object) -> bool:
    """Whether it is a whole number: Python's or NumPy's, but no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any, least: int = 1, most: int = LARGEST) -> None:
    """A whole number of at least `least`."""
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number, got {brief(value)}")
    if not least <= int(value) <= most:
        bound = f"at least {least}" if int(value) < least else f"at most {most}"
        raise ValueError(f"{name} must be {bound}, got {brief(int(value))}")


def check_seed(name: str, value: Any) -> None:
    """A whole number of at least zero, however large."""
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number, got {brief(value)}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {brief(int(value))}")


def check_positive(name: str, value: Any) -> None:
    """A number above zero, and finite."""
    if not 0 < _real(name, value) <= sys.float_info.max:
        raise ValueError(f"{name} must be positive and finite, got {_said(value)}")


def check_not_negative(name: str, value: Any) -> None:
    """A number of at least zero."""
    if not _real(name, value) >= 0:
        raise ValueError(f"{name} must be at least 0, got {_said(value)}")


def check_rate(name: str, value: Any) -> None:
    """A number of at least zero and below one."""
    if not 0 <= _real(name, value) < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {_said(value)}")


def _real(name: str, value: Any) -> int | float:
    """Python's own number: a limit of float64 is not to be compared with a float32."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {brief(value)}")
    try:
        return plain_number(value)
    except OverflowError:  # a fraction of huge numbers
        return math.inf


def _said(value: Any) -> str:
    return brief(value) if isinstance(value, int) else str(value)


def per_stage(name: str, value: Any, *, whole: bool = True) -> tuple[Any, ...]:
    """One positive number a stage, whole or real, as Python's own; of any sequence, and of a generator that may have no end."""
    try:
        stages = None if isinstance(value, str | bytes) else tuple(islice(value, MOST_STAGES + 1))
    except TypeError:
        stages = None
    if stages is None:
        raise TypeError(f"{name} must be a sequence with one entry a stage, got {brief(value)}")
    if len(stages) > MOST_STAGES:
        raise ValueError(f"{name} must have one entry a stage, at most {MOST_STAGES}")
    for entry in stages:
        if whole and not is_whole(entry):
            raise TypeError(f"{name} must hold whole numbers, got {brief(entry)}")
        (check_count if whole else check_positive)(name, entry)
    return tuple(map(plain_number, stages))


def plain_number(value: Any) -> int | float:
    """Python's own number: JSON takes it, and it widens no array."""
    return int(value) if is_whole(value) else float(value)


def check_flag(name: str, value: object) -> None:
    """True or False, Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):  # no union of types: torch.compile of torch 2.8 and 2.9 cannot read it
        raise TypeError(f"{name} must be True or False, got {brief(value)}")


def check_choice(name: str, value: object, words: Sequence[str]) -> None:
    """One of these words."""
    if not (isinstance(value, str) and value in words):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} must be one of {', '.join(map(repr, words))}, got {brief(value)}")


def check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {brief(value)}")


def check_path(name: str, value: object) -> None:
    """The name of a file: a string, or what `os.fspath` makes one of."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a file's name, a string or a path, got {brief(value)}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a name that a file can have, got {printable(text)!r}") from None
    if "\0" in text:
        raise ValueError(f"{name} must be a name that a file can have, without a null character, got {printable(text)}")


def check_function(name: str, value: object) -> None:
    """Something that can be called; only a parameter whose default is None takes None."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {brief(value)}")


def check_instance(name: str, value: object, kind: type, what: str) -> None:
    """An object of this class, which the message calls `what`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {brief(value)}")


def check_mapping(name: str, value: object, of: str = "names to values") -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of {of}, got {type(value).__name__}")


def check_named(name: str, value: object, of: str = "names to arrays") -> None:
    """A mapping whose names are strings."""
    check_mapping(name, value, of)
    for key in value:  # type: ignore[attr-defined]
        if not isinstance(key, str):
            raise TypeError(f"{name} must have strings as names, got {brief(key)}")


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """The NumPy dtype of that name, in the machine's byte order; one that the specification computes in."""
    dtype: np.dtype[Any] | None = None
    if isinstance(value, str) and value == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    elif isinstance(value, str | type | np.dtype):
        with suppress(TypeError, ValueError):
            dtype = np.dtype(value)
    if dtype is None or dtype.name not in FLOATS:
        kind = TypeError if dtype is None and not isinstance(value, str) else ValueError
        raise kind(f"{name} must be one of {', '.join(FLOATS)}, got {brief(value) if dtype is None else dtype.name}")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native
