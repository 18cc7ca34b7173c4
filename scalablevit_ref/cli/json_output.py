"""What `--json` prints."""

from __future__ import annotations

import json
import math
from typing import Any

from scalablevit_ref.cli.terminal import put


def print_json(document: dict[str, Any]) -> None:
    """One JSON document in ASCII; null for the numbers that JSON lacks, NaN and the infinite ones."""
    put(json.dumps(finite(document), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """Plain data with None for the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
