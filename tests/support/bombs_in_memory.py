"""Mappings in memory that no state dict is: what makes each, and what is said of it."""

from __future__ import annotations

import json
import math
from collections import UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from tests.support import fuzzed_mappings as objects
from tests.support.bombs_configurations import settings
from tests.support.noted_files import NETWORK, NOTES, arrays

__all__ = ["MEMORY_BOMBS", "NETWORK"]

NAME = "stages.0.0.norm1.weight"
"""The weight that another value takes the place of; two numbers."""


def in_place(value: Callable[[], Any]) -> Callable[[], Any]:
    """The state dict with another value in the place of one weight."""
    return lambda: arrays() | {NAME: value()}


def beside(name: Any, value: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: {"model": arrays(), name: value()}


def noted(value: Callable[[], Any], field: str = "config") -> Callable[[], Any]:
    """The weights and notes of this package, one of whose fields is another value."""
    return beside(NOTES, lambda: {"version": 1, "config": json.dumps(settings()), field: value()})


def shared(kind: Callable[[Any], Any], levels: int = 40) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = kind(value)
    return value


def lists() -> Any:
    return shared(lambda x: [x, x])


def dicts() -> Any:
    return shared(lambda x: {"a": x, "b": x})


def deep(levels: int = 100_000) -> Any:
    return shared(lambda x: [x], levels)


def two() -> torch.Tensor:
    return torch.zeros(2)


NO_ARRAY = f"{NAME}: not an array"

NO_LAYOUT = "names of no known layout|no state dict"

UNREAD = f"{NAME}: an array that cannot be read"

OTHER = f"{NAME}: a .* whose numbers do not have the shape that it claims"

SHAPE = f"weights do not fit config: wrong shape.*{NAME}"

NO_STATE = "no state dict"

NONE = "config: not a configuration"

MEMORY_BOMBS: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, NO_STATE),
    "a number": (lambda: 1, NO_STATE),
    "an array": (lambda: np.zeros(2), NO_STATE),
    "a text": (lambda: "x" * 1_000_000, NO_STATE),
    "a list in itself": (lambda: objects._in_itself([]), NO_STATE),
    "a dict in itself": (lambda: objects._in_itself({}), NO_STATE),
    "lists of lists": (lambda: {"a": lists()}, NO_STATE),
    "dicts of dicts": (lambda: {"a": dicts()}, NO_STATE),
    "lists in depth": (lambda: {"a": deep()}, NO_STATE),
    "dicts in depth": (lambda: shared(lambda x: {"a": x}, 100_000), NO_STATE),
    "two million entries": (lambda: {"a": [None] * 2_000_000}, NO_STATE),
    "a name of a megabyte": (lambda: {"\x1b" * 1_000_000: np.zeros(2)}, NO_LAYOUT),
    "a name of half a million parts": (lambda: {"a." * 500_000: np.zeros(2)}, NO_LAYOUT),
    "a name of a million numbers": (lambda: {"stages." + "0." * 1_000_000 + "x": np.zeros(2)}, NO_LAYOUT),
    "names of control sequences": (lambda: {f"\x1b[{i}J\n": np.zeros(2) for i in range(50_000)}, "names of no known layout"),
    "names that are no texts": (lambda: dict.fromkeys(range(50_000), np.zeros(2)), "arrays without names"),
    "a lone surrogate as a name": (lambda: {"\ud800": np.zeros(2)}, "names of no known layout"),
    "a mapping without its entries": (objects.Liar, "a mapping whose entries cannot be read"),
    "an object of every attribute": (objects.Everything, NO_STATE),
    "an object whose attributes never end": (objects.Endless, NO_STATE),
    "an object whose attributes raise": (objects.Raises, NO_STATE),
    **{
        f"a weight that is {what}": (in_place(make), message)
        for what, make, message in (
            ("nothing", lambda: None, NO_ARRAY),
            ("a list", lambda: [1.0, 1.0], NO_ARRAY),
            ("a list in itself", lambda: objects._in_itself([]), "not an array|missing"),
            ("lists of lists", lists, "not an array|missing"),
            ("lists in depth", deep, "not an array|missing"),
            ("dicts of dicts", dicts, "not an array|missing"),
            ("a text of three megabytes", lambda: "\x07" * 3_000_000, NO_ARRAY),
            ("a number of many digits", lambda: 10**4000, NO_ARRAY),
            ("a function", lambda: print, NO_ARRAY),
            ("a class", lambda: np.ndarray, NO_ARRAY),
            ("a module", lambda: math, NO_ARRAY),
            ("an object whose attributes raise", objects.Raises, f"{NO_ARRAY}|{UNREAD}"),
            ("an object of every attribute", objects.Everything, NAME),
            ("an object whose attributes never end", objects.Endless, f"{NO_ARRAY}|{UNREAD}"),
            ("an array that raises", lambda: objects.Array(objects._raising, (2,)), UNREAD),
            ("an array of shapes without end", lambda: objects.Array(np.zeros(2, "f4"), objects.Endless()), NAME),
            ("an array of 2^62 numbers", lambda: objects.Array(np.zeros(2, "f4"), (1 << 62, 4)), f"{OTHER}|{SHAPE}"),
            ("an array of axes below zero", lambda: objects.Array(np.zeros(2, "f4"), (-2,)), f"{OTHER}|{SHAPE}"),
            ("an array of 4,000 digits", lambda: objects.Array(np.zeros(2, "f4"), (10**4000,)), f"{OTHER}|{SHAPE}|{UNREAD}"),
            ("an array of another shape than claimed", lambda: objects.Array(np.zeros((2, 2), "f4"), (2,)), OTHER),
            ("an array of another dtype", lambda: objects.Array(np.zeros(2, "f8"), (2,)), "dtype that it claims"),
            ("an array of a long dtype", lambda: objects.Array(np.zeros(2), (2,), "\x1b[2J" * 100_000), "floating point"),
            ("a capsule that raises", objects.Capsule, UNREAD),
            ("a tensor without numbers", lambda: two().to("meta"), "a meta tensor"),
            ("a sparse tensor", lambda: two().to_sparse(), "a sparse tensor"),
            ("a complex tensor", lambda: two().to(torch.complex64), "complex"),
            ("a tensor of whole numbers", lambda: two().long(), "not floating point"),
            ("a tensor of 2^40 numbers", lambda: torch.zeros(1).expand(1 << 40), f"{SHAPE}|{NAME}"),
            ("an array of 2^50 numbers", lambda: np.broadcast_to(np.float32(1), (1 << 25, 1 << 25)), f"{SHAPE}|{NAME}"),
            ("an array of 64 axes", lambda: np.zeros((1,) * 64, "f4"), SHAPE),
            ("an array of objects", lambda: np.array([None, 1.0]), "an array of Python objects"),
            ("an array of texts", lambda: np.array(["a", "b"]), "not floating point"),
            ("an array of records", lambda: np.zeros(2, [("a", "f4"), ("b", "O")]), NAME),
            ("an array of dates", lambda: np.zeros(2, "M8[s]"), "not floating point"),
            ("a masked array", lambda: np.ma.masked_array([1.0, 2.0], mask=[True, False]), "a masked array"),
            ("a weight twice in a mapping", lambda: {"value": {"value": {"value": np.zeros(2)}}}, NAME),
        )
    },
    "all weights without numbers": (lambda: {name: two().to("meta") for name in arrays()}, "a meta tensor"),
    "a configuration of lists": (noted(lists), NONE),
    "a configuration of dicts": (noted(dicts), NONE),
    "a configuration in depth": (noted(deep), NONE),
    "a configuration in itself": (noted(lambda: objects._in_itself({})), NONE),
    "a configuration of objects": (noted(objects.Everything), NONE),
    "a setting of lists": (noted(lambda: settings(depths=lists())), NONE),
    "a setting of an array": (noted(lambda: settings(depths=np.ones(1 << 20))), NONE),
    "a setting of a tensor": (noted(lambda: settings(depths=two())), NONE),
    "a setting without end": (noted(lambda: settings(depths=range(10**18))), NONE),
    "notes of lists": (beside(NOTES, lists), "damaged scalablevit_ref"),
    "notes of an object": (beside(NOTES, objects.Everything), "damaged scalablevit_ref"),
    "metadata of lists": (noted(lists, "metadata"), "damaged metadata"),
    "metadata of dicts": (noted(dicts, "metadata"), "damaged metadata"),
    "metadata in depth": (noted(lambda: {"a": deep()}, "metadata"), "damaged metadata"),
    "metadata in itself": (noted(lambda: objects._in_itself({}), "metadata"), "damaged metadata"),
    "two networks": (lambda: {"a": arrays(), "b": UserDict({"c": MappingProxyType(arrays())})}, "key="),
}  # fmt: skip
"""Given to `from_state_dict` with the configuration of the weights."""
