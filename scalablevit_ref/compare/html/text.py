"""Words of a report as text of its page: printable, and without markup. All of them go through here, or through a diagram."""

from __future__ import annotations

from html import escape

from scalablevit_ref.errors import printable


def said(text: object) -> str:
    """The words themselves."""
    return escape(printable(str(text)))


def sentence(words: str) -> str:
    """With a capital letter and a full stop."""
    return said(f"{words[:1].upper()}{words[1:]}.")


def code(name: object) -> str:
    """As a name."""
    return f"<code>{said(name)}</code>"


def number(x: float, digits: int = 6) -> str:
    return f"{x:.{digits}g}".replace("nan", "NaN").replace("inf", "∞")
