"""Settings of a port as words of the command line."""

from __future__ import annotations

from typing import Any

HEADS_HELP = "Heads of a port's weights, one number or one a stage (2,4,8,16), which no shape shows."
WINDOWS_HELP = "Windows of a port's IWSA, likewise (64,32,16,none); none, the default, is the whole map."


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
