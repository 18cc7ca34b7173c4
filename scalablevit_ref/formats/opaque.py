"""What a file holds beside arrays and plain values: an object that is known by its name only, and never built."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from scalablevit_ref.errors import brief


class Opaque:
    """An object of a file that is neither an array nor a plain value. It does nothing: it is not called, compared or iterated.

    Parameters
    ----------
    name
        What a user knows it by: "collections.Counter", "a sparse tensor", "torch.nn.modules.linear.Linear".
    entries
        What the file put into it as the items of a dict, so that a state dict inside a `defaultdict` or an `addict.Dict` is found.
        The names are text, whole numbers or tuples.
    remedy
        How weights are got out of it, for an error to say; empty where nothing is known.

    Examples
    --------
    >>> Opaque("collections.Counter")
    <collections.Counter>
    """

    __slots__ = ("entries", "name", "remedy")

    def __init__(self, name: str, entries: dict[Any, Any] | None = None, remedy: str = "") -> None:
        self.name, self.entries, self.remedy = name, {} if entries is None else entries, remedy

    def known_as(self) -> str:
        """What an error calls it."""
        return self.name

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Namespace:
    """Stands in for `argparse.Namespace`: plain attributes, to be read with `vars`."""


def described(value: Any) -> str:
    """What a value of a file is, in words for an error: no name of a class of this package, no content.

    Examples
    --------
    >>> described({"a": 1}), described("x"), described(Opaque("collections.Counter"))
    ('a dict', 'text', 'collections.Counter')
    """
    if isinstance(value, Opaque):
        return value.name
    with suppress(Exception):  # an attribute may raise anything
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return "a tensor"
    return _WORDS.get(type(value)) or f"an object of type {brief(type(value).__name__)}"


_WORDS = {
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    bytes: "bytes",
    dict: "a dict",
    Namespace: "an argparse.Namespace",
    list: "a list",
    tuple: "a tuple",
}
