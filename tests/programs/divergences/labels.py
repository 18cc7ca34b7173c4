"""How a difference and its figure are written."""

from __future__ import annotations

import re

from tests.programs.divergences.changes import Change


def anchor(name: str) -> str:
    """The id of the row that has a difference of this name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def link(name: str) -> str:
    """The name, leading to its row."""
    return f"[{name}](#{anchor(name)})"


def label(change: Change) -> str:
    return f"{link(change.of)}: {change.words}"


def number(error: float | None) -> str:
    """A relative error as it is shown: two digits, with a minus at which no line is broken."""
    if error is None:
        return "–"
    if error == 0:
        return "0"
    mantissa, exponent = f"{error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−") if error < 1e-3 else f"{error:#.2g}"
