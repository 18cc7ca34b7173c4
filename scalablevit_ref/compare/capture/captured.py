"""What all ways of capturing give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalablevit_ref.errors import OptionError


class CaptureError(OptionError, ValueError):
    """A candidate that cannot be compared; the message is one line that says what to do."""


@dataclass(frozen=True)
class Captured:
    """One forward pass of a candidate.

    taps: its outputs by canonical name, laid out as it pleases; a mapping that may read each from a file when it is asked for.
    modules: what the candidate itself calls them. images: what it was fed, b c h w. params: its weights under the official names,
    where it tells them. kind: "torch module" and so on.
    """

    kind: str
    taps: Mapping[str, Any]
    modules: Mapping[str, str]
    images: np.ndarray
    dtype: str
    params: Mapping[str, np.ndarray] | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())
