"""What a mapping of names to arrays is: its wrapper, prefixes, and the network whose weights it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scalablevit_ref.checkpoints.official import OfficialWeights
from scalablevit_ref.errors import CheckpointError, brief, option
from scalablevit_ref.formats.lazy import LONGEST_NAME, StoredTensor, byte_count
from scalablevit_ref.formats.opaque import Namespace
from scalablevit_ref.weights import StateDict, Weights

EMA_WRAPPERS = ("model_ema", "state_dict_ema")
WRAPPERS = ("model", "state_dict")
EMA_FROM = "ema_from"
"""Metadata: under which of EMA_WRAPPERS the weights were, in the file that they were converted or loaded from."""

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "params.")
"""Put before all names by DistributedDataParallel, torch.compile, modules that hold the network, and Flax."""

_MOST_PREFIXES = 8
"""Most prefixes before a name."""

_MOST_PLAIN = 1_000_000
"""Most parts and characters of all plain values beside the weights."""

_MOST_LEAVES = 100_000
"""Most arrays of a tree, each as often as it is reached."""

_LONGEST_CONFIG = 2 << 20
"""Longest configuration stored in a file, in characters."""

_MOST_SHARED = 32 << 20
"""Bytes that all tensors may be together beyond the file's size, since they can share storages."""

TRAINING_STATE = ("optimizer", "lr_scheduler", "scaler", "args", "meta", "scalablevit_ref")
"""Entries beside the weights that are not metadata of theirs."""


def kinds() -> Iterator[type[Weights]]:
    """Every network whose weights are read; the dialects, which few need, are loaded when they are asked for."""
    yield OfficialWeights
    from scalablevit_ref.dialects import weights

    yield from weights.KINDS


def told_by_names(names: list[str]) -> tuple[type[Weights], str]:
    """The network whose names these are, and the layout. Raises CheckpointError for nobody's."""
    for kind in kinds():
        if layout := kind.layout_of(names):
            return kind, layout
    raise CheckpointError(
        "names of no known layout",
        expected="stages.0.0.attn.qkv.weight (official) or blocks.0.0.attn.qkv.weight (mmdet)",
        found=", ".join(names[:4]) + (", …" if len(names) > 4 else ""),
    )


def find_state(tree: Any, *, use_ema: bool = True, notes: Mapping[str, Any] | None = None) -> StateDict:
    """The state dict inside what a file (or `torch.load`) gave: itself, or under a wrapper, with its names' prefixes cut off.

    EMA weights are preferred unless `use_ema` is False. notes: what a bare state dict's file says beside it.

    Raises CheckpointError where there is no state dict.
    """
    if not isinstance(tree, Mapping):
        raise CheckpointError("no state dict", expected="a mapping of names to arrays", found=type(tree).__name__)
    tree = _flat(tree)
    wrapper = _wrapper(tree, use_ema)
    state = tree if wrapper is None else tree[wrapper]
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError("names must be strings", found=brief(name))
        if len(name) > LONGEST_NAME:
            raise CheckpointError("a longer name than any parameter's", key=name)
        if not is_array(value):
            raise CheckpointError("not an array", key=name, found=type(value).__name__)
    _check_together([value for value in state.values() if isinstance(value, StoredTensor)])
    names, prefixes, ignored = _strip(list(state))
    named = {short: state[name] for name, short in names.items()}
    outside = (notes or {}) if wrapper is None else tree
    args, stored = outside.get("args"), outside.get("scalablevit_ref")
    settings = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    model_name = settings.get("model") if isinstance(settings.get("model"), str) else None
    if isinstance(stored, Mapping) and len(str(stored.get("config"))) > _LONGEST_CONFIG:
        raise CheckpointError("a longer configuration than any", key="config")
    stored = dict(stored) if isinstance(stored, Mapping) else {}
    return StateDict(named, wrapper, prefixes, ignored, model_name, stored, _plain_entries(outside))


def _plain_entries(outside: Mapping[Any, Any]) -> dict[str, Any]:
    """What lies beside the weights and is metadata of theirs; mmdet keeps the epoch elsewhere."""
    beside: dict[str, Any] = {}
    left = _MOST_PLAIN
    for name, value in outside.items():
        if isinstance(name, str) and name not in (*TRAINING_STATE, *WRAPPERS, *EMA_WRAPPERS):
            plain, left = _plain(value, left - len(name))
            beside |= {name: value} if plain else {}
    meta = outside.get("meta")
    if isinstance(meta, Mapping) and isinstance(meta.get("epoch"), int):
        beside.setdefault("epoch", meta["epoch"])
    return beside


def _wrapper(tree: Mapping[Any, Any], use_ema: bool) -> str | None:
    if tree and all(is_array(value) for value in tree.values()):
        return None
    there = [name for name in (*EMA_WRAPPERS, *WRAPPERS) if isinstance(tree.get(name), Mapping) and tree[name]]
    wanted = [name for name in there if use_ema or name in WRAPPERS]
    if wanted:
        return wanted[0]
    if there:
        expected, found = " or ".join(WRAPPERS), ", ".join(there)
        raise CheckpointError(option("use_ema", False), " but there are only EMA weights", expected=expected, found=found)
    if any(is_array(value) for value in tree.values()):
        return None
    keys = ", ".join(brief(key) for key in list(tree)[:8])
    raise CheckpointError(
        "no state dict",
        expected=f"arrays, or a mapping of them under {', '.join((*WRAPPERS, *EMA_WRAPPERS))}",
        found=f"keys {keys}" if keys else "an empty mapping",
    )


def _strip(names: list[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Full name to the name without prefixes, the prefixes, and what is not the network's.

    A detector's checkpoint holds `backbone.*` beside `neck.*`, an averaged model's `module.*` beside `n_averaged`.
    """
    short = {name: name for name in names}
    prefixes: list[str] = []
    ignored: list[str] = []
    while len(prefixes) < _MOST_PREFIXES:
        heads = [p for p in PREFIXES if any(name.startswith(p) for name in short.values())]
        prefix = next((p for p in heads if p == "backbone." or _all_but_counter(short, p)), None)
        if prefix is None:
            break
        prefixes.append(prefix)
        ignored += sorted({name.partition(".")[0] for name in short.values() if not name.startswith(prefix)})
        short = {full: name.removeprefix(prefix) for full, name in short.items() if name.startswith(prefix)}
    return short, prefixes, ignored


def _all_but_counter(short: dict[str, str], prefix: str) -> bool:
    return all(name.startswith(prefix) or name == "n_averaged" for name in short.values())


def _check_together(tensors: list[StoredTensor]) -> None:
    """Raise CheckpointError for tensors that share storages so often that reading them would take far more than the file's size."""
    size = byte_count(tensors)
    if tensors and size > tensors[0].limit + _MOST_SHARED:
        raise CheckpointError(
            "tensors that are together larger than the file", expected=f"at most {tensors[0].limit} bytes", found=size
        )


def _flat(tree: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A network's dicts of dicts with their dotted paths for names; anything else as it is.

    Raises CheckpointError for a tree with more arrays or longer paths than a network's, each as often as it is reached.
    """
    wrapped = any(isinstance(tree.get(name), Mapping) for name in (*EMA_WRAPPERS, *WRAPPERS))
    if wrapped or all(is_array(value) for value in tree.values()) or not any(kind.holds_tree(tree) for kind in kinds()):
        return tree
    flat: dict[str, Any] = {}
    left, level = _MOST_LEAVES, [("", tree)]
    while level:
        below: list[tuple[str, Mapping[Any, Any]]] = []
        for path, branch in level:
            left -= len(branch)
            if left < 0:
                raise CheckpointError("a tree larger than a network's", expected=f"{_MOST_LEAVES} arrays at most")
            for name, value in branch.items():
                if not isinstance(name, str) or len(path) + len(name) > LONGEST_NAME:
                    raise CheckpointError("a path that is no parameter's", found=brief(name))
                if isinstance(value, Mapping):
                    below.append((f"{path}{name}.", value))
                elif path + name in flat:
                    raise CheckpointError("two arrays of one path", key=path + name)
                else:
                    flat[path + name] = value
        level = below
    return flat


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, Namespace)


def is_plain(value: Any) -> bool:
    """Whether JSON can hold it (tuples count as lists), in a million parts and characters, each as often as it is reached."""
    return _plain(value, _MOST_PLAIN)[0]


def _plain(value: Any, left: int, depth: int = 6) -> tuple[bool, int]:
    """Whether JSON can hold it in `left` parts and characters; how many of them are left, also where it cannot."""
    level = [value]
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            left -= 1
            if isinstance(item, list | tuple | dict | str):
                if len(item) > left:
                    return False, left
                left -= len(item)
            if isinstance(item, dict):
                if not all(isinstance(key, str) for key in item) or sum(map(len, item)) > left:
                    return False, left
                left -= sum(map(len, item))
                below += item.values()
            elif isinstance(item, list | tuple):
                below += item
            elif not (item is None or isinstance(item, bool | int | float | str)):
                return False, left
        level = below
    return not level, left
