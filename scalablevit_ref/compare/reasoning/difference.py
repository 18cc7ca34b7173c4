"""The type that all kinds of difference share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One thing that is known about how a candidate's value differs from the reference's.

    Parameters
    ----------
    kind : str
        "places", "affine", "channels", "linear map", "same at every token", "border", "some heads", "elementwise", "mixture",
        "norm", "precision", "setting" and so on.
    words : str
        A clause that stands behind a colon: "the same numbers in other places: heads are merged without the transposition".
    left : float
        ‖actual − explained‖ / ‖actual‖, what the explanation leaves.
    data : mapping
        Plain numbers, strings and short lists, for the JSON and for pictures: a fitted slope, a pattern's name, drawn points.
    exact : bool
        Whether it explains the whole difference, to rounding. What is not exact is a fact about the difference, not its cause.

    Examples
    --------
    >>> Difference("size", "twice the right value", left=0.5, data={"ratio": 2.0}).data
    {'ratio': 2.0}
    """

    kind: str
    words: str
    left: float
    data: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False


OPERATIONS = "operations"
"""The kind of a difference that is no fit: it tells the operations that ran."""
