"""Stub until merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stored:
    config: str | None = None
    config_from: str | None = None
    layout: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_notes(notes: Mapping[str, Any]) -> Stored:
    ours = notes.get("scalablevit_ref")
    if isinstance(ours, Mapping):
        return Stored(config=ours.get("config"))
    if "config" in notes and "metadata" in notes:
        return Stored(config=notes["config"], metadata=json.loads(notes["metadata"]))
    return Stored()
