"""What `--json` prints."""

from __future__ import annotations

import json
import math
from typing import Any

import typer


def print_json(document: dict[str, Any]) -> None:
    """One JSON document; null for the numbers that JSON lacks, NaN and the infinite ones."""
    typer.echo(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
