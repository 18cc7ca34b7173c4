"""What a function uses that it is not given: its closure, the variables of its module, the object whose method it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import CellType
from typing import Any

LIBRARIES = frozenset({"jax", "flax", "haiku", "equinox", "mlx", "numpy", "einops", "torch", "builtins"})
"""Packages whose functions hold no weights of a candidate's."""


@dataclass(frozen=True, eq=False)
class Holder:
    """Something that a function uses.

    Attributes
    ----------
    name, value
        As they are there.
    put
        The way to put another value in its place, where there is one.
    owner
        The object whose attribute it is.
    """

    name: str
    value: Any
    put: Callable[[Any], None] | None = None
    owner: Any = None


def holders(function: Any) -> Iterator[Holder]:
    """What a function uses: itself, where it is a partial or a pytree; its closure, its module's variables, a method's object.

    The functions among them use more, which comes behind; those of libraries are not followed.
    """
    yield Holder("", function)
    queue, seen = [function], {id(function)}
    while queue:
        one = queue.pop(0)
        for holder in _around(one):
            value = holder.value
            yield holder
            library = str(getattr(value, "__module__", "")).partition(".")[0] in LIBRARIES
            wrapped = hasattr(value, "__wrapped__") or isinstance(value, functools.partial)
            if callable(value) and not isinstance(value, type) and (wrapped or not library) and id(value) not in seen:
                seen.add(id(value))
                queue.append(value)


def _around(function: Any) -> Iterator[Holder]:
    if isinstance(function, functools.partial):
        yield Holder("func", function.func)
        yield from (Holder(str(name), value) for name, value in (*enumerate(function.args), *function.keywords.items()))
        return
    inner = getattr(function, "__func__", function)
    if isinstance(getattr(inner, "__closure__", None), tuple):
        for name, cell in zip(inner.__code__.co_freevars, inner.__closure__, strict=True):
            with suppress(ValueError):  # not filled yet
                yield Holder(name, cell.cell_contents, functools.partial(_fill, cell))
    if hasattr(function, "__wrapped__"):
        yield Holder("__wrapped__", function.__wrapped__)
        return
    variables = getattr(inner, "__globals__", {})
    for name in _names_used(inner):
        if name in variables:
            yield Holder(name, variables[name], functools.partial(variables.__setitem__, name))
    owner = getattr(function, "__self__", None if inspect.isfunction(function) else function)
    if owner is not None and not inspect.ismodule(owner):
        yield Holder("self", owner)
        attributes = getattr(owner, "__dict__", {})
        for name in [*attributes]:
            yield Holder(name, attributes[name], functools.partial(attributes.__setitem__, name), owner)
        called = inspect.getattr_static(type(owner), "__call__", None)
        if owner is function and inspect.isfunction(called):
            yield Holder("__call__", called)


def _names_used(function: Any) -> set[str]:
    """The names of variables of its module that a function, or one inside of it, may use."""
    codes, names = [getattr(function, "__code__", None)], set[str]()
    while codes:
        code = codes.pop()
        if code is not None:
            names.update(code.co_names)
            codes += [constant for constant in code.co_consts if inspect.iscode(constant)]
    return names


def _fill(cell: CellType, value: Any) -> None:
    cell.cell_contents = value
