"""What a file's tree is: the weights of one network, and what was said beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scalablevit_ref.checkpoints.in_memory import check_names, is_array, tensor_of
from scalablevit_ref.checkpoints.notes import MOST_PLAIN, plain_within, read_notes
from scalablevit_ref.checkpoints.search import (
    Found,
    choose,
    find_networks,
    is_training_state,
    key_option,
    key_text,
    sort_extras,
    unread_averages,
    with_head,
)
from scalablevit_ref.checkpoints.tree import WRAPPERS, Leaf, Path, leaves
from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import StoredTensor, byte_count, is_lazy
from scalablevit_ref.formats.opaque import Opaque, described
from scalablevit_ref.weights import StateDict, Stored

_MOST_SHARED = 32 << 20
"""Bytes that all tensors may be together beyond the file's size, since they can share storages."""

NOT_KEPT = ("optimizer", "lr_scheduler", "scaler", "args", "meta", "scalablevit_ref")
"""Entries beside the weights that are not metadata of theirs."""


def find_state(
    tree: Any,
    *,
    use_ema: bool = True,
    key: str | None = None,
    notes: Mapping[str, Any] | None = None,
    most_arrays: int | None = None,
) -> StateDict:
    """The weights inside what a file (or `torch.load`) gave, wherever they lie in it.

    Parameters
    ----------
    tree
        Mappings and sequences of arrays and plain values.
    use_ema
        Prefer an average of the weights over training where there are both.
    key
        Where the weights lie, or what that begins with; None finds them.
    notes
        What the file says beside its arrays.
    most_arrays
        More are refused; None takes any number, as of a mapping that is in memory already.

    Raises
    ------
    CheckpointError
        Where there are no weights, or those of several networks.
    """
    if is_array(tree) or not isinstance(tree, Mapping | list | tuple | Opaque):
        raise CheckpointError("no state dict", expected="a dict of names to arrays", found=described(tree))
    found, networks = find_networks(list(leaves(tree, most_arrays)))
    if not networks:
        raise _nothing(tree, found)
    network = choose(networks, key=key, use_ema=use_ema)
    others = [other for other in networks if other.key != network.key]
    network = with_head(network, found, others)
    unexpected, beside, ignored = sort_extras(network, found, others)
    check_names(unexpected)
    state = {name: _tensor(name, leaf) for name, leaf in (network.members | unexpected | beside).items()}
    _check_together(state.values())
    top = tree if isinstance(tree, Mapping) else {}
    args = top.get("args")
    settings = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    named = settings.get("model")
    stored = read_notes({name: value for name, value in top.items() if name == "scalablevit_ref"} | dict(notes or {}))
    if not _noted(network, others):
        stored = Stored()
    return StateDict(
        kind=network.kind,
        state=state,
        wrapper=".".join(network.container) or None,
        prefixes=_prefixes(network),
        ignored=ignored,
        separable=(key_option(key_text(network.key)), list(beside)),
        others=[key_text(other.key) for other in others if not is_training_state(other.key)],
        unread=unread_averages(found, networks),
        average=(".".join(network.container) or key_text(network.key)) if network.average else None,
        by_position=network.by_position,
        model_name=named if isinstance(named, str) else None,
        stored=stored,
        beside=_plain_entries(top) | stored.metadata,
    )


def _noted(network: Found, others: list[Found]) -> bool:
    """Whether a file's notes are of this network: not where another one lies in the place of which this package writes them."""
    own: tuple[Path, ...] = ((), ("model",), ("params",))
    return network.average or network.container in own or not any(other.container in own for other in others)


def _tensor(name: str, leaf: Leaf) -> Any:
    if isinstance(leaf.value, Opaque):
        raise CheckpointError("not an array", key=name, found=described(leaf.value))
    return tensor_of(name, leaf.value)


def _prefixes(network: Found) -> list[str]:
    """What was cut off the names, outermost first, and what out of them."""
    before = network.key[len(network.container) :]
    inside = {part for name, leaf in network.members.items() for part in leaf.path[len(network.key) :] if part in WRAPPERS}
    return [f"{part}." for part in (*before, *sorted(inside))]


def _nothing(tree: Any, found: list[Leaf]) -> CheckpointError:
    """What the file holds instead of weights."""
    holders = [leaf for leaf in found if isinstance(leaf.value, Opaque) and leaf.value.remedy]
    if holders:
        holders.sort(key=lambda leaf: not unread_averages([leaf], []))
        return CheckpointError("no state dict, but " + "; or ".join(map(_way_out, holders[:2])))
    if paths := [leaf.path for leaf in found if leaf.is_array]:
        some = ", ".join(map(key_text, paths[:4])) + (", …" if len(paths) > 4 else "")
        if what := next((what for is_it, what in _NO_WEIGHTS if is_it(paths)), None):
            return CheckpointError(f"names of no known layout: {what}", found=some)
        expected = "stages.0.0.attn.qkv.weight (official) or blocks.0.0.attn.qkv.weight (mmdet)"
        return CheckpointError("names of no known layout", expected=expected, found=some)
    if isinstance(tree, Mapping):
        keys = ", ".join(brief(key) for key in list(tree)[:8])
        return CheckpointError(
            "no state dict", expected="a dict of names to arrays", found=f"keys {keys}" if keys else "an empty dict"
        )
    return CheckpointError("no state dict", expected="a dict of names to arrays", found=described(tree))


def _way_out(leaf: Leaf) -> str:
    """What an object that holds weights is, where it lies, and how they are got out of it."""
    where = f" under {key_text(leaf.path)}" if leaf.path else ""
    average = ", an average over training" if unread_averages([leaf], []) else ""
    return f"{leaf.value.name}{where}{average}: {leaf.value.remedy}"


def _any_part(pattern: str) -> Callable[[list[Path]], bool]:
    """Whether one of the paths has a part like this."""
    part_like = re.compile(pattern).fullmatch
    return lambda paths: any(map(part_like, set().union(*paths)))


def _is_optimizer(paths: list[Path]) -> bool:
    """Whether all are what `torch.optim` keeps: state, a parameter's number or name, exp_avg."""
    return all("state" in path[:-2] or is_training_state(path) for path in paths)


_NO_WEIGHTS: tuple[tuple[Callable[[list[Path]], bool], str], ...] = (
    (
        _is_optimizer,
        "an optimizer's state (keys state and param_groups): save the model's state dict, or give the file that holds the model",
    ),
    (
        lambda paths: all(path[-1:] and path[-1].isdecimal() for path in paths),
        "arrays without names: save a dict of names to arrays, such as a state dict",
    ),
    (
        _any_part(r"base_layer"),
        "a LoRA adapter beside the weights that it changes: save the state dict of what peft's merge_and_unload() gives",
    ),
    (
        _any_part(r"lora_(embedding_)?[AB]|hada_w[12]_[ab]|lokr_w[12](_[ab])?|ia3_l"),
        "an adapter (LoRA) alone, without the weights that it changes: save the state dict of what peft's merge_and_unload() gives",
    ),
    (
        _any_part(r"gamma|beta|kernel|moving_mean"),
        "other layers'; in lists Keras keeps no attribute's name, so name each layer as its weights: name='stages.0.0.norm1'",
    ),
)
"""What arrays are whose names are of no layout, by their paths, the first that fits."""


def _plain_entries(top: Mapping[Any, Any]) -> dict[str, Any]:
    """What lies beside the weights and is metadata of theirs; mmdet keeps the epoch elsewhere."""
    beside: dict[str, Any] = {}
    left = MOST_PLAIN
    for name, value in top.items():
        if isinstance(name, str) and name not in NOT_KEPT:
            plain, left = plain_within(value, left - len(name))
            beside |= {name: value} if plain else {}
    meta = top.get("meta")
    if isinstance(meta, Mapping) and isinstance(meta.get("epoch"), int):
        beside.setdefault("epoch", meta["epoch"])
    return beside


def _check_together(state: Iterable[Any]) -> None:
    """Raise CheckpointError for tensors that share storages so often that reading them would take far more than the file's size."""
    stored = [x for x in state if is_lazy(x)]
    limit = max((x.limit for x in stored if isinstance(x, StoredTensor)), default=None)
    size = byte_count(stored)
    if limit is not None and size > limit + _MOST_SHARED:
        raise CheckpointError("tensors that are together larger than the file", expected=f"at most {limit} bytes", found=size)
