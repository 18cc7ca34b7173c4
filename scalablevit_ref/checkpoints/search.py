"""Where in a file the weights of a network lie: behind which wrappers and prefixes, and which of several networks is meant.

Nothing here lists wrappers. A network is where names of its own are, and what stands before them is its key. What the parts of a
key say (an EMA's, an optimizer's) decides only between several.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

from scalablevit_ref.arguments import FLOATS
from scalablevit_ref.checkpoints.in_memory import dtype_of, is_array, shape_of
from scalablevit_ref.checkpoints.official import OfficialWeights
from scalablevit_ref.checkpoints.tree import WRAPPERS, Leaf, Path, parts_of, unwrapped
from scalablevit_ref.errors import CheckpointError, Spelling, option
from scalablevit_ref.formats.lazy import StoredTensor
from scalablevit_ref.formats.opaque import Opaque
from scalablevit_ref.weights import Weights

_AVERAGES = ("ema", "averaged", "average", "avg", "swa", "shadow", "polyak")
"""Words for an average of the weights over training, in the key under which it lies."""

_OPTIMIZERS = ("opt", "optim", "optimizer", "optimizers", "grad", "grads", "momentum", "mu", "nu")
"""Words for what training keeps for each weight, under the weight's own name."""

_MOMENTS = ("exp", "avg")
"""Words for an Adam's moments, which are no averages of weights."""

_LONGEST_WORDS = 100
"""Longest part of a key that is looked at for words, in characters."""

_MOST_NETWORKS = 1000
"""Most networks of a file: the weights, their averages, an optimizer's moments, teachers."""

_WORD = re.compile(r"[^\W_]+")
"""Letters and digits between any other characters."""

_COUNTERS = ("n_averaged", "num_updates", "decay")
"""What an average keeps beside its weights."""


@dataclass(frozen=True, eq=False)
class Found:
    """One network in a file.

    Attributes
    ----------
    kind
        Whose names these are.
    key
        What stands before all of its names, in parts.
    members
        Its parameters' leaves by name.
    extras
        What lies under its key and is no parameter's.
    average
        Whether its weights are an average over training (EMA, SWA).
    copy
        Whether they are what an average keeps of the weights that it averages.
    by_position
        Whether its arrays have no names of their own: they have those of the weights beside it, in their order.
    named
        Whether the caller names this very key: then what lies outside of it is none of its parts.
    """

    kind: type[Weights]
    key: Path
    members: dict[str, Leaf] = field(default_factory=dict)
    extras: list[Leaf] = field(default_factory=list)
    average: bool = False
    copy: bool = False
    by_position: bool = False
    named: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter, by its name."""
        return {name: _shape(leaf) for name, leaf in self.members.items()}

    def widths(self) -> dict[str, int]:
        """Channels of each norm, by its name."""
        return self.kind.widths(self.shapes())

    @property
    def container(self) -> Path:
        """The key of the mapping that holds all of its weights."""
        shortest = min((len(leaf.path) - leaf.keys[-1] for leaf in self.members.values() if leaf.keys), default=0)
        return self.key[:shortest]


def kinds() -> Iterator[type[Weights]]:
    """Every network whose weights are read; the dialects, which few need, are loaded when they are asked for."""
    yield OfficialWeights
    from scalablevit_ref.dialects import weights

    yield from weights.KINDS


def template(name: Iterable[str]) -> Path:
    """A name's parts with `#` for each whole number.

    Examples
    --------
    >>> template(("Transformer_0", "12", "norm1"))
    ('Transformer_#', '#', 'norm1')
    """
    return tuple(_numbered(part) for part in name)


def _numbered(part: str) -> str:
    head, _, tail = part.rpartition("_")
    return f"{head}_#" * bool(head) or "#" if tail.isdecimal() and tail.isascii() else part


@cache
def _examples(kind: type[Weights]) -> frozenset[str]:
    """All names of a network, each whole number by example."""
    return frozenset(kind.names())


@cache
def _names(kind: type[Weights]) -> frozenset[Path]:
    """All names of a network, with `#` for whole numbers."""
    return frozenset(template(name.split(".")) for name in _examples(kind))


def find_networks(leaves: list[Leaf]) -> tuple[list[Leaf], list[Found]]:
    """The leaves, under names as the network spells them, and every network; all of one kind, the official one if it is there.

    Raises CheckpointError for two arrays of one name, and for more networks than files hold.
    """
    for kind in kinds():
        if networks := _networks(kind, leaves):
            return leaves, networks
    words = [_in_words(leaf.path) for leaf in leaves]
    for kind in kinds():
        named = [_respelled(leaf, *said, kind) for leaf, said in zip(leaves, words, strict=True)]
        if networks := _networks(kind, named):
            return named, networks
    return leaves, []


@cache
def _spellings(kind: type[Weights]) -> dict[Path, Path]:
    """Every name of a network, cut into words, and the name in parts; `#` for whole numbers in both."""
    return {tuple(word for part in name for word in part.split("_")): name for name in _names(kind)}


@cache
def _lengths(kind: type[Weights]) -> list[int]:
    """In how many words a network's names are said, the most first."""
    return sorted({len(words) for words in _spellings(kind)}, reverse=True)


def _in_words(path: Path) -> tuple[Path, Path]:
    """A path's words, whatever signs stand between them, and the same with `#` for whole numbers."""
    words = tuple(word for part in path for word in _WORD.findall(part.partition(":")[0]))
    return words, template(words)


def _respelled(leaf: Leaf, words: Path, numbered: Path, kind: type[Weights]) -> Leaf:
    """The leaf of a parameter whose name has other separators than dots and slashes: `stages_0_1_attn_q/kernel:0`.

    Its path ends in the network's name; what stands before that is the words that it begins with.
    """
    names = _spellings(kind)
    for length in _lengths(kind):
        n = len(words) - length
        if n >= 0 and (name := names.get(numbered[n:])):
            numbers = iter([word for word, sign in zip(words[n:], numbered[n:], strict=True) if sign == "#"])
            parts = tuple(part.replace("#", next(numbers)) if "#" in part else part for part in name)
            return replace(leaf, path=(*words[:n], *parts), keys=(n + len(parts),))
    return leaf


def _networks(kind: type[Weights], leaves: list[Leaf]) -> list[Found]:
    hallmarks = {name for name in _names(kind) if kind.hallmarks.intersection(name)}
    lengths = sorted({len(name) for name in hallmarks})
    keys = set()
    for leaf in leaves:
        path = unwrapped(leaf.path)
        name = template(path[-lengths[-1] :])
        keys |= {_before(leaf.path, path[:-length]) for length in lengths if length <= len(path) and name[-length:] in hallmarks}
    if len(keys) > _MOST_NETWORKS:
        raise CheckpointError("more networks than a checkpoint has", expected=f"at most {_MOST_NETWORKS}", found=len(keys))
    found = {key: Found(kind, key) for key in sorted(keys)}
    for leaf in leaves if found else ():
        key = next((leaf.path[:n] for n in range(len(leaf.path), -1, -1) if leaf.path[:n] in found), None)
        if key is None:
            continue
        network, name = found[key], unwrapped(leaf.path[len(key) :])
        if template(name) not in _names(kind) or (name[0] == kind.head and ".".join(name) not in _examples(kind)):
            network.extras.append(leaf)
        elif (dotted := ".".join(name)) in network.members:
            raise CheckpointError("two arrays of one path", key=dotted)
        else:
            network.members[dotted] = leaf
    held = [network for network in found.values() if any(leaf.is_array for leaf in network.members.values())]
    counters = {leaf.path[:-1] for leaf in leaves if _counts_an_average(leaf)}
    networks = [
        replace(network, average=_is_average(network.key, counters)) for network in held or found.values() if network.members
    ]
    twice = {key[: n + 1] for key, n in map(_average_in, networks) if _says_average(key[n + 1 :])}
    copies = (key[: n + 1] in twice and not _says_average(key[n + 1 :]) for key, n in map(_average_in, networks))
    networks = [replace(network, copy=network.average and copy) for network, copy in zip(networks, copies, strict=True)]
    return networks + _without_names(networks, leaves)


def _before(path: Path, unwrapped_key: Path) -> Path:
    """The part of a path before a name, given without the parts of wrappers; those that end it belong to it."""
    n = 0
    for part in unwrapped_key:
        n = path.index(part, n) + 1
    while n < len(path) and path[n] in WRAPPERS:
        n += 1
    return path[:n]


def _counts_an_average(leaf: Leaf) -> bool:
    """Whether it is what an average keeps beside its weights; a decay near 0 is an optimizer's."""
    if leaf.path[-1:] and leaf.path[-1] in _COUNTERS and not _is_weight(leaf.value):
        return leaf.path[-1] != "decay" or not isinstance(leaf.value, float) or leaf.value > 0.5
    return False


def _is_average(key: Path, counters: set[Path]) -> bool:
    """Whether the words of a key say so, or what counts the average lies beside the weights or the module around them."""
    around = key[:-1] if key and key[-1] in WRAPPERS else key
    return _says_average(key) or key in counters or around in counters


def _average_in(network: Found) -> tuple[Path, int]:
    """A network's key, and which part of it is the first that says it is an average; where none does, how many there are.

    Of two networks in one average, `ema.ema_model` and `ema.online_model`, only that which says so twice is it.
    """
    return network.key, next((n for n, part in enumerate(network.key) if _says_average((part,))), len(network.key))


def _says_average(key: Path) -> bool:
    return any(map(_is_averages, key))


@lru_cache(maxsize=4096)
def _is_averages(part: str) -> bool:
    return not _says_moments(part) and any(word in _AVERAGES for word in _words(part))


def _says_moments(part: str) -> bool:
    return all(word in _words(part) for word in _MOMENTS)


@lru_cache(maxsize=4096)
def _words(part: str) -> tuple[str, ...]:
    """The words of a key's part in small letters, without numbers at their ends.

    Examples
    --------
    >>> _words("state_dict_ema2"), _words("EMACallback"), _words("emaModel")
    (('state', 'dict', 'ema'), ('ema', 'callback'), ('ema', 'model'))
    """
    if part.isdecimal() or len(part) > _LONGEST_WORDS:
        return ()
    spaced = ""
    for i, c in enumerate(part):
        begins = c.isupper() and i and (part[i - 1].islower() or part[i + 1 : i + 2].islower())
        spaced += (" " if begins or not c.isalnum() else "") + (c.lower() if c.isalnum() else "")
    return tuple(word.rstrip("0123456789") for word in spaced.split())


def is_training_state(key: Path) -> bool:
    """Whether it is what an optimizer keeps."""
    return any(map(_is_optimizers, key))


@lru_cache(maxsize=4096)
def _is_optimizers(part: str) -> bool:
    return _says_moments(part) or any(word in _OPTIMIZERS for word in _words(part))


def _without_names(networks: list[Found], leaves: Sequence[Leaf]) -> list[Found]:
    """Averages that are kept without the weights' names and in their order (`shadow_params`), or under names without dots.

    The names come from the file's one network that is no average. Their order is taken for the weights' only where it is the
    network's own: a file whose names were sorted says nothing of an order.
    """
    named = [network for network in networks if not network.average and not is_training_state(network.key)]
    if len(named) != 1:
        return []
    [network] = named
    taken = {network.key for network in networks}
    groups: dict[Path, list[Leaf]] = {}
    for leaf in leaves:
        if leaf.is_array and leaf.path and leaf.path[:-1] not in taken and _says_average(leaf.path[:-1]):
            groups.setdefault(leaf.path[:-1], []).append(leaf)
    found = []
    squeezed = {name.replace(".", ""): name for name in network.members}
    sizes = [_shape(leaf) for leaf in network.members.values()]
    for key, group in groups.items():
        by_name = {squeezed[leaf.path[-1]]: leaf for leaf in group if leaf.path[-1] in squeezed}
        in_order = [str(i) for i in range(len(group))] == [leaf.path[-1] for leaf in group]
        if len(by_name) == len(squeezed) == len(network.members):
            found.append(Found(network.kind, key, {name: by_name[name] for name in network.members}, average=True))
        elif in_order and [_shape(leaf) for leaf in group] == sizes and network.kind.in_own_order(network.shapes()):
            members = dict(zip(network.members, group, strict=True))
            found.append(Found(network.kind, key, members, average=True, by_position=True))
    return found


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return shape_of(leaf.value) if leaf.is_array else ()


def choose(networks: list[Found], *, key: str | None, use_ema: bool) -> Found:
    """The network that is meant. Raises CheckpointError, listing them, where that is not one."""
    if key is not None:
        return _named(networks, key)
    sound = [network for network in networks if not is_training_state(network.key)]
    if not sound:
        raise CheckpointError("only what an optimizer keeps for each weight, not the weights", found=listed(networks))
    plain = [network for network in sound if not network.average]
    averages = [network for network in sound if network.average and not network.copy and not _is_part(network, plain)]
    if not use_ema and averages and not plain:
        raise CheckpointError(option("use_ema", False), " but there are only EMA weights", found=listed(averages))
    return _one_of((averages if use_ema else plain) or plain, sound)


def _is_part(average: Found, plain: list[Found]) -> bool:
    """Whether it averages some of the weights only: the trained ones, or a classifier."""
    return any(average.members.keys() < network.members.keys() for network in plain)


def _named(networks: list[Found], key: str) -> Found:
    """The network whose key is this one; else the one whose key begins or ends with it, or has it in the middle."""
    wanted = () if key in ("", ".") else parts_of(key) or ()
    exactly = [network for network in networks if network.key == wanted]
    exactly = exactly or [network for network in networks if unwrapped(network.key) == unwrapped(wanted)]
    begun = exactly or [network for network in networks if network.key[: len(wanted)] == wanted]
    found = begun or [network for network in networks if _holds(network.key, wanted)]
    if not found:
        raise CheckpointError(key_option(key), ": no network lies there", expected=listed(networks))
    return replace(_one_of(found, found), named=bool(exactly))


def _holds(key: Path, wanted: Path) -> bool:
    """Whether a key has these parts somewhere, one after the other."""
    return any(key[n : n + len(wanted)] == wanted for n in range(len(key)))


def _one_of(networks: list[Found], listing: list[Found]) -> Found:
    """Raises CheckpointError, with those to be listed, unless all are the same tensors, under several keys."""
    different: dict[Any, Found] = {}
    for network in networks:
        different.setdefault(frozenset((name, _identity(leaf.value)) for name, leaf in network.members.items()), network)
    first, *more = different.values()
    if more:
        keyed = key_option(key_text(first.key))
        raise CheckpointError(f"{len(listing)} networks in one file, {listed(listing)}: give ", keyed, " or another of them")
    return first


def _identity(value: Any) -> StoredTensor | int:
    """What is equal for the same bytes of a file, and for one array in memory."""
    return value if isinstance(value, StoredTensor) else id(value)


def listed(networks: Iterable[Found]) -> str:
    """Their keys, as the option takes them."""
    return ", ".join(key_text(network.key) for network in networks)


def key_text(key: Path) -> str:
    """A key as the option takes it; a dot is the top of the file."""
    return ".".join(key) or "."


def key_option(key: str) -> Spelling:
    """The option that says where the weights lie, with its value."""
    return Spelling(f"key={key!r}", f"--key {shlex.quote(key)}")


def with_head(network: Found, leaves: Sequence[Leaf], others: Sequence[Found]) -> Found:
    """A backbone with the head that lies beside it in the file, under the names that it has in the network.

    Raises CheckpointError for a head of another kind, which would otherwise be lost without a word.
    """
    head, features = network.kind.head, network.widths().get(network.kind.last_norm)
    if network.named or not features or any(name.split(".")[0] == head for name in network.members):
        return network
    theirs = {id(leaf) for other in others for leaf in other.members.values()}
    extras = {id(leaf) for leaf in network.extras}
    around = [
        leaf
        for leaf in leaves
        if leaf.is_array
        and id(leaf) not in theirs
        and not is_training_state(leaf.path)
        and (id(leaf) in extras or leaf.path[: len(network.key)] != network.key)
    ]
    for n in range(len(network.key), -1, -1):
        level = [leaf for leaf in around if leaf.path[:n] == network.key[:n]]
        heads = [(".".join(unwrapped(leaf.path[n:])), leaf) for leaf in level if leaf.path[n : n + 1] == (head,)]
        own = dict(heads)
        if own.keys() <= _examples(network.kind) and any(features in _shape(leaf) for leaf in own.values()):
            if len(own) < len(heads):
                raise CheckpointError("two arrays of one path", key=Counter(name for name, _ in heads).most_common(1)[0][0])
            if _shares(network, others, n):
                raise CheckpointError(
                    f"a {head} beside several networks, and it may be another one's: give ",
                    key_option(key_text(network.key)),
                    " to leave it out",
                    key=".".join((*network.key[:n], head)),
                )
            return replace(network, members=network.members | own)
        if other := _classifier(level, features):
            raise CheckpointError(
                f"a classifier beside the network, under other names: rename its arrays to {head}.weight and {head}.bias, or give ",
                key_option(key_text(network.key)),
                " to leave it out",
                key=".".join(other.path),
                found=f"{_shape(other)} behind {features} features",
            )
    return network


def _shares(network: Found, others: Sequence[Found], n: int) -> bool:
    """Whether a head under the first n parts of its key may be another network's: one without a head that lies as near to it."""
    distance = len(unwrapped(network.key[n:]))
    return any(
        other.key[:n] == network.key[:n]
        and len(unwrapped(other.key[n:])) <= distance
        and not is_training_state(other.key)
        and not any(name.split(".")[0] == network.kind.head for name in other.members)
        for other in others
    )


def _classifier(leaves: list[Leaf], features: int) -> Leaf | None:
    """A Linear that takes the features: a matrix with that many columns (or rows), and a bias beside it for the other axis."""
    shapes = {leaf.path: _shape(leaf) for leaf in leaves}
    for leaf in leaves:
        shape = shapes[leaf.path]
        if len(shape) == 2 and features in shape:
            out = shape[0] if shape[1] == features else shape[1]
            if shapes.get((*leaf.path[:-1], "bias")) == (out,):
                return leaf
    return None


def sort_extras(network: Found, leaves: Sequence[Leaf], others: list[Found]) -> tuple[dict[str, Leaf], dict[str, Leaf], list[str]]:
    """What is beside a network's weights in their mapping: weights in its modules that it does not have, weights beside its modules
    that its features can meet, and, in words, what is left out.

    Left out are numbers, counters and arrays of whole numbers, whatever lies outside of its key, and beside its modules what no
    feature can meet: no axis is as long as any of its norms. Of a network whose key the caller names, all that is beside its
    modules.
    """
    modules, widths = {name[0] for name in _names(network.kind)}, network.widths().values()
    kept = {id(leaf) for leaf in network.members.values()}
    unexpected: dict[str, Leaf] = {}
    beside: dict[str, Leaf] = {}
    left_out: Counter[str] = Counter()
    for leaf in network.extras:
        name = unwrapped(leaf.path[len(network.key) :])
        if id(leaf) in kept or not name:
            continue
        within = name[0] in modules and not (network.named and name[0] == network.kind.head)
        meets = not widths or any(size in widths for size in _shape(leaf))
        if _is_weight(leaf.value) and within:
            unexpected[".".join(name)] = leaf
        elif _is_weight(leaf.value) and meets and not network.named:
            beside[".".join(name)] = leaf
        elif leaf.is_array:
            left_out[name[-1] if within else name[0]] += 1
    container = network.container
    known = kept | {id(leaf) for other in others for leaf in (*other.members.values(), *other.extras)}
    for leaf in leaves:
        outside = leaf.path[: len(container)] == container and leaf.path[: len(network.key)] != network.key
        if outside and leaf.is_array and id(leaf) not in known:
            left_out[key_text(leaf.path[len(container) : len(container) + 1])] += 1
    words = [f"{name} ({count} arrays)" if count > 1 else name for name, count in sorted(left_out.items())]
    return unexpected, beside, words


def _is_weight(value: Any) -> bool:
    """Whether it can be a parameter: floating point, and more than one number."""
    return is_array(value) and math.prod(shape_of(value)) > 1 and dtype_of(value) in (*FLOATS, "")


def unread_averages(leaves: Iterable[Leaf], networks: Sequence[Found]) -> list[str]:
    """Keys whose words say that an average lies there, without a whole network."""
    plain = [network for network in networks if not network.average]
    read = [network.key for network in networks if network.average and not _is_part(network, plain)]
    begun = {key[:n] for key in read for n in range(len(key) + 1)}
    keys: dict[Path, None] = {}
    for leaf in leaves:
        if _is_weight(leaf.value) or isinstance(leaf.value, Opaque):
            n = next((n for n, part in enumerate(leaf.path) if _is_averages(part)), None)
            if n is not None and not is_training_state(leaf.path[:n]):
                keys[leaf.path[: n + 1]] = None
    return [key_text(key) for key in keys if key not in begun]
