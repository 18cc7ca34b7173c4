"""What a mapping of names to arrays is: its wrapper, prefixes and layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import LONGEST_NAME, StoredTensor
from scalablevit_ref.formats.unpickle import Namespace

EMA_WRAPPERS = ("model_ema", "state_dict_ema")
WRAPPERS = ("model", "state_dict")
EMA_FROM = "ema_from"
"""Metadata: under which of EMA_WRAPPERS the weights were, in the file that they were converted or loaded from."""

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "params.")
"""Put before all names by DistributedDataParallel, torch.compile, modules that hold the network, and Flax."""

_MOST_PREFIXES = 8
_MOST_PLAIN = 1_000_000
_MOST_LEAVES = 100_000
_LONGEST_CONFIG = 2 << 20
_SHARED = 32 << 20
"""Bytes that tensors may be together beyond the file's, which those that share a storage can be."""

OTHER_NETWORK = (
    "another network than the official one (its layers run SSA, MLP, MLP, IWSA; its reduction is dense, without LayerNorm and "
    "GELU; its LIM is dense; its head is another)"
)
"""What a port's is, and why no weights of one network make the other compute the same."""

TRAINING_STATE = ("optimizer", "lr_scheduler", "scaler", "args", "meta", "scalablevit_ref")
"""Entries beside the weights that are not metadata of theirs."""


@dataclass(frozen=True)
class Found:
    """A state dict under its layout's own names, and what surrounded it. `ignored`: entries beside the network's, left out."""

    state: dict[str, Any]
    wrapper: str | None
    prefixes: list[str]
    ignored: list[str]
    model_name: str | None
    stored: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


def find_state(tree: Any, *, use_ema: bool = True, notes: Mapping[str, Any] | None = None) -> Found:
    """The state dict inside what a file (or `torch.load`) gave: itself, or under a wrapper, with its names' prefixes cut off.

    EMA weights are preferred unless `use_ema` is False. notes: what a bare state dict's file says beside it.

    Raises CheckpointError where there is no state dict.
    """
    if not isinstance(tree, Mapping):
        raise CheckpointError("no state dict", expected="a mapping of names to arrays", found=type(tree).__name__)
    if _is_flax_tree(tree):
        _check_tree(tree)
        from scalablevit_ref.dialects import flax_port  # nothing else here needs it

        try:
            tree = flax_port.flatten(tree)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
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
    outside = (notes or {}) if wrapper is None else tree
    args, meta, stored = outside.get("args"), outside.get("meta"), outside.get("scalablevit_ref")
    if isinstance(stored, Mapping) and len(str(stored.get("config"))) > _LONGEST_CONFIG:
        raise CheckpointError("a longer configuration than any", key="config")
    beside: dict[str, Any] = {}
    left = _MOST_PLAIN
    for name, value in outside.items():
        if isinstance(name, str) and name not in (*TRAINING_STATE, *WRAPPERS, *EMA_WRAPPERS):
            plain, left = _plain(value, left - len(name))
            beside |= {name: value} if plain else {}
    if isinstance(meta, Mapping) and isinstance(meta.get("epoch"), int):
        beside.setdefault("epoch", meta["epoch"])
    model_name = (args if isinstance(args, Mapping) else getattr(args, "__dict__", {})).get("model")
    return Found(
        state={short: state[name] for name, short in names.items()},
        wrapper=wrapper,
        prefixes=prefixes,
        ignored=ignored,
        model_name=model_name if isinstance(model_name, str) else None,
        stored=dict(stored) if isinstance(stored, Mapping) else {},
        beside=beside,
    )


def _wrapper(tree: Mapping[Any, Any], use_ema: bool) -> str | None:
    if tree and all(is_array(value) for value in tree.values()):
        return None
    there = [name for name in (*EMA_WRAPPERS, *WRAPPERS) if isinstance(tree.get(name), Mapping) and tree[name]]
    wanted = [name for name in there if use_ema or name in WRAPPERS]
    if wanted:
        return wanted[0]
    if there:
        raise CheckpointError(
            "use_ema=False but there are only EMA weights", expected=" or ".join(WRAPPERS), found=", ".join(there)
        )
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


def tell_layout(names: list[str]) -> str:
    """The layout that a state dict's names are of. Raises CheckpointError for another network's, or nobody's, names."""
    parts = [set(name.split(".")) for name in names]
    if any("lepe_func" in part or name.startswith("blocks.") for name, part in zip(names, parts, strict=True)):
        return "mmdet"
    if any(name.startswith("stages.") for name in names):
        if any(name.endswith(".kernel") for name in names):
            return "channels_last"
        return "split" if "stages.0.0.attn.q.weight" in names else "official"  # block 0 is IWSA, whose q, k, v are one there
    port = tell_port(names)
    if port is not None:
        raise CheckpointError(
            f"these are {port}'s weights, of {OTHER_NETWORK}, into which they cannot be converted; "
            "scalablevit_ref.dialects runs them"
        )
    raise CheckpointError(
        "names of no known layout",
        expected="stages.0.0.attn.qkv.weight (official) or blocks.0.0.attn.qkv.weight (mmdet)",
        found=", ".join(names[:4]) + (", …" if len(names) > 4 else ""),
    )


def tell_port(names: Iterable[str]) -> str | None:
    """The community port whose names these are: "vit_pytorch", "the Flax port" (names joined by dots or slashes) or None."""
    parts = [set(name.replace("/", ".").split(".")) for name in names]
    if any({"layers", "to_q"} <= part for part in parts):
        return "vit_pytorch"
    return "the Flax port" if any("ScalableSelfAttention_0" in part for part in parts) else None


def _check_together(tensors: list[StoredTensor]) -> None:
    """Raise CheckpointError for tensors that share storages so often that reading them would take far more than the file's size."""
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in tensors)
    if tensors and size > tensors[0].limit + _SHARED:
        raise CheckpointError(
            "tensors that are together larger than the file", expected=f"at most {tensors[0].limit} bytes", found=size
        )


def _check_tree(tree: Mapping[Any, Any]) -> None:
    """Raise CheckpointError for a tree with more leaves or longer paths than a network's, each as often as it is reached."""
    left = _MOST_LEAVES
    level = [(0, tree)]
    while level:
        below: list[tuple[int, Mapping[Any, Any]]] = []
        for length, branch in level:
            left -= len(branch)
            if left < 0:
                raise CheckpointError("a tree larger than a network's", expected=f"{_MOST_LEAVES} arrays at most")
            for name, value in branch.items():
                if not isinstance(name, str) or length + len(name) > LONGEST_NAME:
                    raise CheckpointError("a path that is no parameter's", found=brief(name))
                if isinstance(value, Mapping):
                    below.append((length + len(name) + 1, value))
        level = below


def _is_flax_tree(tree: Mapping[Any, Any]) -> bool:
    """Whether it is the Flax port's, as dicts of dicts."""
    modules = tree.get("params", tree)
    return isinstance(modules, Mapping) and any(
        isinstance(module, Mapping) and "ScalableSelfAttention_0" in module for module in modules.values()
    )


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
