"""What a file holds, as leaves with their paths: every array in it, whatever mappings, sequences and names it lies under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from scalablevit_ref.checkpoints.in_memory import is_array
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import LONGEST_NAME
from scalablevit_ref.formats.opaque import Opaque

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
"""Most leaves of a file's mappings and sequences, each container counted once, however often it is reached."""


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


def leaves(tree: Any) -> Iterator[Leaf]:
    """Every leaf, in the file's order. A container that is reached twice is looked into once, and so no sharing makes it grow.

    Raises CheckpointError for more leaves than a network's file has.
    """
    seen: dict[int, Any] = {}  # keeps what it has seen: a mapping may make its containers anew at each access
    left = _MOST_LEAVES
    above: list[tuple[Path, tuple[int, ...], int, Iterator[tuple[Any, Any]]]] = [((), (), 0, iter([((), tree)]))]
    while above:
        path, keys, size, entries = above[-1]
        key, value = next(entries, _NO_MORE)
        if key is _END:
            above.pop()
            continue
        left -= 1
        if left < 0:
            raise CheckpointError("more entries than a network's checkpoint has", expected=f"{_MOST_LEAVES} at most")
        parts = parts_of(key)
        longer = size + sum(map(len, parts or ()))
        if parts is None or len(path) + len(parts) > _MOST_PARTS or longer > LONGEST_NAME:
            continue
        here, cut = path + parts, (*keys, len(parts)) if parts else keys
        is_container = isinstance(value, Opaque | Mapping | list | tuple)
        if is_container and (id(value) in seen or len(above) > _MOST_LEVELS):
            continue
        if is_container:
            seen[id(value)] = value
            above.append((here, cut, longer, _entries(value)))
        if not isinstance(value, Mapping):  # any other may stand where an array should
            yield Leaf(here, cut, value)


def _entries(container: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key. Of sequences only those that hold more than plain values."""
    if isinstance(container, list | tuple):
        return iter(enumerate(container) if any(not isinstance(x, str | int | float | None) for x in container) else ())
    mapping = container.entries if isinstance(container, Opaque) else container
    return iter([(key, mapping[key]) for key in mapping])


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
