"""A file that says which layer is what in the candidate: one JSON object of names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from scalablevit_ref.errors import CaptureError, brief
from scalablevit_ref.files.reading import read_regular

MOST_BYTES = 1 << 20
"""Largest file of names, in bytes: that of `large` with a line for each layer has some 10,000."""

_EXPECTED = "a JSON object from layers' names to the candidate's"


def read_names(path: str | Path) -> dict[str, str]:
    """The candidate's names by those of layers.

    Raises
    ------
    CaptureError
        For what is no such object, and for a name that is there twice or stands for no text.
    OSError
        For what is no regular file, holds more than `MOST_BYTES` or cannot be read.
    """
    held = read_regular(path, MOST_BYTES, _EXPECTED)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise CaptureError(f"{path}: {brief(twice)} is there twice")
        return found

    try:
        found = json.loads(held.decode("utf-8-sig"), object_pairs_hook=unique)
    except CaptureError:
        raise
    except RecursionError:
        raise CaptureError(f"{path}: too many brackets in each other; expected {_EXPECTED}") from None
    except ValueError as error:
        raise CaptureError(f"{path}: no JSON ({error}); expected {_EXPECTED}") from None
    if not isinstance(found, dict):
        raise CaptureError(f"{path}: expected {_EXPECTED}, found {brief(found)}")
    for name, value in found.items():
        if not isinstance(value, str):
            raise CaptureError(f"{path}: {brief(name)} must stand for a name, got {brief(value)}; expected {_EXPECTED}")
    return found
