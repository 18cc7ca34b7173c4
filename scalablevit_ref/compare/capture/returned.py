"""What a candidate returns, as named arrays: its logits, the maps of a backbone, and whatever else there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

LOGITS = ("logits", "cls_logits", "class_logits", "pred", "preds", "prediction", "predictions", "scores")
"""What the entry of the class scores is called by those who return several; the first that is there is taken."""

DEEPEST = 6
"""How many containers may lie in each other."""


def named_outputs(out: Any, is_array: Callable[[Any], bool]) -> dict[str, Any]:
    """The arrays in what a candidate returns, in order; empty where there is none.

    The only array is "logits", and so is the entry of one of the names in `LOGITS`, else the first of two axes. In a sequence,
    arrays of more axes are "maps.0" and so on. All others are named by their places: "hidden_states.2", "outputs.1".

    Parameters
    ----------
    out
        An array, or mappings, sequences, named tuples and dataclasses of arrays. What is None or no array is left out.
    is_array
        Whether something is an array of the candidate's library.
    """
    if is_array(out):
        return {"logits": out}
    found = dict(_leaves(out, "", is_array, DEEPEST))
    logits = _logits(found)
    named, maps = dict[str, Any](), 0
    for path, x in found.items():
        if path == logits:
            named["logits"] = x
        elif path.isdigit() and len(x.shape) > 2:
            named[f"maps.{maps}"] = x
            maps += 1
        else:
            named[f"outputs.{path}" if path[:1].isdigit() else path] = x
    return named


def _logits(found: Mapping[str, Any]) -> str | None:
    """The path of the class scores."""
    for name in LOGITS:
        for path in found:
            if path.rpartition(".")[2].lower() == name:
                return path
    return next((path for path, x in found.items() if len(x.shape) == 2), None)


def _leaves(x: Any, path: str, is_array: Callable[[Any], bool], deepest: int) -> Iterator[tuple[str, Any]]:
    if is_array(x):
        yield path, x
    elif deepest:
        for name, part in _parts(x):
            yield from _leaves(part, f"{path}.{name}" if path else str(name), is_array, deepest - 1)


def _parts(x: Any) -> list[tuple[Any, Any]]:
    if isinstance(x, Mapping):
        return list(x.items())
    if is_dataclass(x) and not isinstance(x, type):
        return [(field.name, getattr(x, field.name, None)) for field in fields(x)]
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return list(zip(x._fields, x, strict=True))
    if isinstance(x, tuple | list):
        return list(enumerate(x))
    if type(x).__module__ in ("builtins", "numpy", "torch") or isinstance(x, type) or callable(x):
        return []
    return list(getattr(x, "__dict__", {}).items())  # an object of the candidate's own
