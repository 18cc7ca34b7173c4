"""What a file holds, as leaves with their paths: every array in it, whatever mappings, sequences and names it lies under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from scalablevit_ref.checkpoints.in_memory import is_array
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import LONGEST_NAME
from scalablevit_ref.formats.opaque import Opaque, described

Path: TypeAlias = tuple[str, ...]
"""Where something lies: the keys from the top of the file, cut at dots and slashes."""

WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_forward_module", "_fsdp_wrapped_module")
"""Attributes under which a module that wraps another keeps it: DataParallel, `torch.compile`, checkpointing, Fabric, FSDP."""

_BOXES = ("value", "raw_value")
"""Attributes under which Flax's boxes and variables keep an array."""

_MOST_LEVELS = 32
"""Most containers that lie in each other; what lies deeper is not looked at."""

_MOST_PARTS = 64
"""Most parts of a path; what lies deeper is not looked at."""

_MOST_LEAVES = 1_000_000
"""Most entries of a file's mappings and sequences."""

_MOST_KEYS = 1_000_000
"""Most parts of the keys of all these entries together, each without those of the keys above it."""

MOST_ARRAYS = 30_000
"""Most arrays of a file, where one may have many names of few bytes; `large` with its optimizer and an average has some 3,000."""

_MOST_AGAIN = 20_000
"""Most entries that are looked at again, of containers that are reached more than once: two networks may share a head."""


_END: Any = object()
_NO_MORE: tuple[Any, Any] = (_END, None)


@dataclass(frozen=True, eq=False)
class Leaf:
    """Something that is no container.

    Attributes
    ----------
    path
        Where it lies.
    keys
        How many parts of the path each key gave: a state dict's names are one key of several parts.
    value
        An array, a plain value or an `Opaque`.
    """

    path: Path
    keys: tuple[int, ...]
    value: Any

    @property
    def is_array(self) -> bool:
        return is_array(self.value)


@dataclass(eq=False)
class _Container:
    """A container that is being looked into: its entries still to come, and how many there were, those of its containers too.

    Attributes
    ----------
    characters
        Of its path.
    again
        Whether it or one around it was looked into before.
    """

    value: Any
    path: Path
    keys: tuple[int, ...]
    characters: int
    entries: Iterator[tuple[Any, Any]]
    again: bool = False
    count: int = 0


def leaves(tree: Any, most_arrays: int | None = None) -> Iterator[Leaf]:
    """Every leaf, in the file's order. What is reached again is looked into again while little of it is, so that no sharing grows.

    Raises CheckpointError for more leaves than a network's file has, and for more arrays than are told.
    """
    seen: dict[int, Any] = {}  # keeps what it has seen: a mapping may make its containers anew at each access
    counts: dict[int, int] = {}  # of the entries of those that were looked through, by identity
    left, left_again, left_parts = _MOST_LEAVES, _MOST_AGAIN, _MOST_KEYS
    arrays = 0
    above = [_Container(None, (), (), 0, iter([((), tree)]))]
    while above:
        around = above[-1]
        key, value = next(around.entries, _NO_MORE)
        if key is _END:
            above.pop()
            counts.setdefault(id(around.value), around.count)
            if above:
                above[-1].count += around.count
            continue
        around.count += 1
        left, left_again = left - 1, left_again - around.again
        if left < 0:
            raise CheckpointError("more entries than a network's checkpoint has", expected=f"{_MOST_LEAVES} at most")
        parts = parts_of(key)
        characters = around.characters + sum(map(len, parts or ()))
        if parts is None or len(around.path) + len(parts) > _MOST_PARTS or characters > LONGEST_NAME:
            continue
        left_parts -= len(parts)
        if left_parts < 0:
            raise CheckpointError("more parts of names than a network's checkpoint has", expected=f"{_MOST_KEYS} at most")
        here, cut = around.path + parts, (*around.keys, len(parts)) if parts else around.keys
        if isinstance(value, Mapping | list | tuple) or (isinstance(value, Opaque) and value.entries):
            again = id(value) in seen
            if len(above) > _MOST_LEVELS or (again and not 0 < counts.get(id(value), 0) <= left_again):
                continue
            seen[id(value)] = value
            above.append(_Container(value, here, cut, characters, _entries(value), again or around.again))
        if not isinstance(value, Mapping):  # any other may stand where an array should
            leaf = Leaf(here, cut, value)
            arrays += leaf.is_array
            if most_arrays is not None and arrays > most_arrays:
                raise CheckpointError("more arrays than a network's checkpoint has", expected=f"{most_arrays} at most")
            yield leaf


def _entries(container: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key. Of sequences only those that hold more than plain values."""
    if isinstance(container, list | tuple):
        return iter(enumerate(container) if any(not isinstance(x, str | int | float | None) for x in container) else ())
    mapping = container.entries if isinstance(container, Opaque) else container
    return _of_mapping(mapping)


def _of_mapping(mapping: Any) -> Iterator[tuple[Any, Any]]:
    """One entry at a time. Raises CheckpointError for one that cannot be read."""
    try:
        for key in mapping:
            yield key, mapping[key]
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"a mapping whose entries cannot be read ({said[:LONGEST_NAME]})", found=described(mapping)
        ) from error


def parts_of(key: Any) -> Path | None:
    """A key's parts: names are cut at dots and slashes, whole numbers are texts, a tuple's parts are its own. None for others.

    Examples
    --------
    >>> parts_of("stages.0/norm1"), parts_of(0), parts_of(("stages", 0)), parts_of(None)
    (('stages', '0', 'norm1'), ('0',), ('stages', '0'), None)
    """
    if isinstance(key, str):
        return None if len(key) > LONGEST_NAME else tuple(key.replace("/", ".").split(".", _MOST_PARTS))
    if isinstance(key, int):
        return (str(key),) if 0 <= key < 1 << 31 else None
    if isinstance(key, tuple) and len(key) <= _MOST_PARTS:
        parts = [parts_of(part) if not isinstance(part, tuple) else None for part in key]
        return None if None in parts else tuple(name for part in parts for name in part or ())
    return None


def unwrapped(path: Path) -> Path:
    """Without the parts that wrapping modules and boxes put in.

    Examples
    --------
    >>> unwrapped(("stages", "0", "0", "_orig_mod", "norm1", "scale", "value"))
    ('stages', '0', '0', 'norm1', 'scale')
    """
    kept = tuple(part for part in path if part not in WRAPPERS)
    return kept[:-1] if kept[-1:] and kept[-1] in _BOXES else kept
