"""What the command line calls Python's parameters, and the settings of a port in its words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scalablevit_ref.checkpoints.recognise import EMA_FROM, EMA_WRAPPERS

HEADS_HELP = "Heads of a port's weights, one number or one a stage (2,4,8,16), which no shape shows."
WINDOWS_HELP = "Windows of a port's IWSA, likewise (64,32,16,none); none, the default, is the whole map."


_PARAMETER = re.compile(
    r" or config=|\b(?:(force|allow_nonfinite|one_way)=True|(use_ema)=False|(variant|heads|window_size)=(?!\S))"
)
"""As the package's messages write them: a parameter with `=`, and with its value where that is True or False."""


def in_flags(message: str) -> str:
    """A message of the package that names the options of the command line, not the parameters of the functions.

    >>> in_flags("x.npz exists; force=True overwrites it")
    'x.npz exists; --force overwrites it'
    """

    def flag(found: re.Match[str]) -> str:
        on, off, other = found.groups()
        name = on or (off and f"no-{off}") or other
        return f"--{name.replace('_', '-')}" if name else ""

    return _PARAMETER.sub(flag, message)


@contextmanager
def errors_in_flags() -> Iterator[None]:
    """Bad input that is raised from within is said `in_flags`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(in_flags(str(error))) from error


def ema_said(metadata: dict[str, Any]) -> str:
    """Behind the words that weights are an EMA's: what becomes of the others."""
    if metadata["wrapper"] in EMA_WRAPPERS:
        return "; --no-use-ema takes the others"
    return f", {metadata[EMA_FROM]} of the file that they were converted from"


def port_settings(heads: str | None, window_size: str | None) -> dict[str, Any]:
    """`heads` and `window_size` as the ports take them. Raises ValueError."""
    return {
        "heads": _numbers("--heads", heads, none=False),
        "window_size": _numbers("--window-size", window_size, none=True),
    }


def _numbers(option: str, text: str | None, *, none: bool) -> Any:
    if text is None:
        return None
    try:
        found = [None if none and word.strip() == "none" else int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be a number, or one a stage between commas, got {text!r}") from None
    return found if len(found) > 1 else found[0]
