"""Mistakes of ports, written as edits of the specification: what it computes when a line of its source is another one.

`changed` makes the edits in a function and in what that function calls, and compiles these anew. The modules stay as they are:
each changed function sees the others in a copy of its module's namespace. A changed op runs its definition; a backend's native
version knows nothing of the edit.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import CodeType, FunctionType
from typing import Any

Function = Callable[..., Any]


class StaleEditError(Exception):
    """The text that an edit replaces is not, or not as often as it says, in its function's source."""


@dataclass(frozen=True)
class Edit:
    """In the source of `function`, `old` becomes `new`, in `times` places."""

    function: Function
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True)
class Swap:
    """`make(function)` takes the place of `function`; of two that change the same part of what it does, one is made."""

    function: Function
    make: Callable[[Function], Function]
    part: str


Changes = tuple[Edit | Swap, ...]


@dataclass(frozen=True)
class Mistake:
    """What a port may get wrong.

    Attributes
    ----------
    name
        Unique among the mistakes of a network.
    words
        Complete "it matches if …". A dialect gives none to a mistake of the catalogue whose changes it adds to.
    changes
        What is wrong inside functions of the specification.
    params
        Parameters by their names in the whole network, each with a function that gives what a port takes for it.
    wiring
        How the layers are connected instead, an instance of the network's own dataclass, whose defaults are the right way.
    skipped
        Layers that give what they are given.
    """

    name: str
    words: str = ""
    changes: Changes = ()
    params: tuple[tuple[str, Callable[[Any], Any]], ...] = ()
    wiring: Any = None
    skipped: frozenset[str] = frozenset()

    def __and__(self, other: Mistake) -> Mistake:
        """Both at once. Raises ValueError where they exclude each other."""
        if self.excludes(other):
            raise ValueError(f"{self.words!r} and {other.words!r} exclude each other")
        wiring = self.wiring or other.wiring
        if self.wiring and other.wiring:
            wiring = replace(self.wiring, **_rewired(other.wiring))
        name, words = f"{self.name}, {other.name}", f"{self.words}, and {other.words}"
        return Mistake(name, words, self.changes + other.changes, self.params + other.params, wiring, self.skipped | other.skipped)

    def excludes(self, other: Mistake) -> bool:
        """Whether both change the same text, part of a function, parameter or connection."""
        same_setting = _rewired(self.wiring).keys() & _rewired(other.wiring).keys()
        same_parameter = dict(self.params).keys() & dict(other.params).keys()
        same = same_setting or same_parameter or self.skipped & other.skipped
        return bool(same or any(_collide(a, b) for a in self.changes for b in other.changes))


def reordered(function: Function, before: str, order: tuple[str, ...], names: tuple[str, ...] = ("q", "k", "v")) -> Edit:
    """In front of the text `before`, q, k and v are taken in another order, unless their shapes then do not fit.

    `names` are what the function calls q, k and v.
    """
    taken = [names["qkv".index(name)] for name in order]
    shapes = [f"({', '.join(f'{name}.shape' for name in some)})" for some in (names, taken)]
    own = ", ".join(names)
    return Edit(function, before, f"{own} = ({', '.join(taken)}) if {shapes[0]} == {shapes[1]} else ({own})\n    {before}")


def _rewired(wiring: Any) -> dict[str, Any]:
    """The settings that are not the right ones."""
    if wiring is None:
        return {}
    right = type(wiring)()
    return {name: value for name, value in vars(wiring).items() if value != getattr(right, name)}


def _collide(a: Edit | Swap, b: Edit | Swap) -> bool:
    """Edits of the same text, or swaps of the same part of a function."""
    if a.function is not b.function:
        return False
    if isinstance(a, Edit) and isinstance(b, Edit):
        return any(start < other_end and other < end for start, end in _spans(a) for other, other_end in _spans(b))
    return isinstance(a, Swap) and isinstance(b, Swap) and a.part == b.part


@lru_cache(maxsize=4096)
def changed(function: Function, changes: Changes) -> Function:
    """`function` with these changes in it and in what it calls; itself if they concern neither.

    Raises StaleEditError where an edit does not apply, OSError where there is no source, as in a frozen application.
    """
    if not any(change.function in reach(function) for change in changes):
        return function
    mine = [change for change in changes if change.function is function]
    edits = [change for change in mine if isinstance(change, Edit)]
    called = {name: (callee, changed(callee, changes)) for name, callee in callees(function).items()}
    plain = inspect.unwrap(function)
    namespace = plain.__globals__ | {name: new for name, (_, new) in called.items()}
    found = function
    if edits:
        exec(compile(_edited(plain, edits), f"<{plain.__name__} with a mistake>", "exec"), namespace)
        found = inspect.unwrap(namespace[plain.__name__])
    elif any(new is not old for old, new in called.values()):
        found = _copied(plain, namespace, dict(called.values()))
    for change in mine:
        if isinstance(change, Swap):
            found = change.make(found)
    return found


def _copied(plain: FunctionType, namespace: dict[str, Any], replaced: Mapping[Function, Function]) -> Function:
    copy = FunctionType(plain.__code__, namespace, plain.__name__, plain.__defaults__, plain.__closure__)
    defaults = plain.__kwdefaults__ or {}
    copy.__kwdefaults__ = {name: replaced.get(x, x) if callable(x) else x for name, x in defaults.items()}
    return copy


def _edited(plain: FunctionType, edits: list[Edit]) -> str:
    """The source with all edits made; each is looked for in the text as it was before any of them."""
    source = _source(plain)
    for (start, end), new in sorted(((span, edit.new) for edit in edits for span in _spans(edit)), reverse=True):
        source = source[:start] + new + source[end:]
    return source


@cache
def _spans(edit: Edit) -> tuple[tuple[int, int], ...]:
    """Where the edit's text stands in its function's source."""
    plain = inspect.unwrap(edit.function)
    found = tuple(match.span() for match in re.finditer(re.escape(edit.old), _source(plain)))
    if len(found) != edit.times:
        raise StaleEditError(f"{plain.__module__}.{plain.__name__} has {len(found)} × {edit.old!r}, not {edit.times}")
    return found


_source = cache(inspect.getsource)


def has_source(function: Function) -> bool:
    """Whether the function's source can be read; not so in an application that holds compiled modules only."""
    try:
        _source(inspect.unwrap(function))
    except OSError:
        return False
    return True


@cache
def reach(function: Function) -> frozenset[Function]:
    """The function and those of the package that it calls, directly or not."""
    found, queue = {function}, [function]
    while queue:
        more = set(callees(queue.pop()).values()) - found
        found |= more
        queue += more
    return frozenset(found)


@cache
def callees(function: Function) -> dict[str, Function]:
    """The package's functions that this one calls or has as a default, by their names in its module; no backend's."""
    plain = inspect.unwrap(function)
    used, defaults = _names(plain.__code__), list((plain.__kwdefaults__ or {}).values())
    return {
        name: value
        for name, value in plain.__globals__.items()
        if (name in used or any(value is default for default in defaults)) and _is_ours(value) and value is not function
    }


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def _is_ours(value: Any) -> bool:
    plain = inspect.unwrap(value) if callable(value) else value
    if not isinstance(plain, FunctionType):
        return False
    return plain.__module__.startswith("scalablevit_ref.") and not plain.__module__.startswith("scalablevit_ref.backends")
