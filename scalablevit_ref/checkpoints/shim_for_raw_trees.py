"""SHIM, to be deleted when `search` and `publish` are merged: raw trees and notes as `recognise.find_state` took them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import LONGEST_NAME
from scalablevit_ref.formats.opaque import Opaque


def as_before(tree: Any, notes: Mapping[str, Any], format_: str) -> tuple[Any, dict[str, Any]]:
    if format_ in ("npz", "safetensors") or format_.startswith("sharded"):
        return {name: x for name, x in tree.items() if not isinstance(x, Opaque)}, noted(notes)
    if format_ != "msgpack":
        return tree, dict(notes)
    weights = tree["params"] if isinstance(tree.get("params"), dict) else tree
    state: dict[str, Any] = {}
    _flatten({name: x for name, x in weights.items() if name != "scalablevit_ref"}, "", state)
    beside = {} if weights is tree else {name: x for name, x in tree.items() if name != "params" and not isinstance(x, dict)}
    return state, beside | noted(notes.get("scalablevit_ref", {}))


def _flatten(tree: dict[Any, Any], prefix: str, state: dict[str, Any]) -> None:
    for name, x in tree.items():
        path = f"{prefix}{name}"
        if len(path) > LONGEST_NAME:
            raise CheckpointError("a longer path than any parameter's", key=path)
        if isinstance(x, dict):
            _flatten(x, f"{path}.", state)
        elif path in state:
            raise CheckpointError("two arrays of one path", key=path)
        else:
            state[path] = x


def noted(notes: Mapping[str, Any]) -> dict[str, Any]:
    notes = {name.strip("_"): value for name, value in notes.items()}
    beside: Any = {}
    if "metadata" in notes:
        try:
            beside = json.loads(notes["metadata"])
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"damaged metadata ({error})", key="metadata") from error
    stored = {"config": notes["config"]} if "config" in notes else {}
    return (beside if isinstance(beside, dict) else {}) | {"scalablevit_ref": stored}
