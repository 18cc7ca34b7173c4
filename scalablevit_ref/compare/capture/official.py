"""The reference's parametrised steps: in which order they run, of which sizes they are, and what stands directly around each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import prod

from scalablevit_ref.compare.capture.context import MOST_SUMS
from scalablevit_ref.layers import IMAGES, Layer
from scalablevit_ref.networks import Network

Key = tuple[str, int, int]
"""What sort of step can stand for another: "dense" or "norm", channels out, and numbers for each of them."""

INSIDE: Mapping[str, Mapping[str, str]] = {
    "patch_embed": {"proj": "x", "norm": "proj"},
    "iwsa": {"qkv": "x", "lim_func": "v", "proj": "q k v + lim_func"},
    "ssa": {
        "q": "x",
        "reduction.0": "x",
        "reduction.1": "reduction.0",
        "norm_act.0": "reduction.1",
        "k": "norm_act.0",
        "v": "norm_act.0",
        "kv": "norm_act.0 | x",
        "proj": "q k v",
    },
    "mlp": {"fc1": "x", "fc2": "fc1"},
    "peg": {"proj.0": "x", "proj": "x", "": "x + proj.0 | x + proj"},
    "downsample": {"conv": "x"},
    "ssa_layer": {"norm": "x", "to_q": "norm", "to_k": "norm", "to_v": "norm", "to_out.0": "q k v"},
    "iwsa_layer": {
        "norm": "x",
        "to_q": "norm",
        "to_k": "norm",
        "to_v": "norm",
        "local_interactive_module": "v",
        "to_out.0": "q k v + local_interactive_module",
    },
    "feed_forward_layer": {"net.0": "x", "net.1": "net.0", "net.4": "net.1"},
}
"""What each step inside a layer's function is computed from: "x" is what the layer is fed, "q", "k" and "v" are an attention's, "+"
is a sum, "|" takes the first that is there; "" is what the layer gives, where that is not its last step."""

LETTERS = {"qkv": "qkv", "kv": "kv", "q": "q", "k": "k", "v": "v", "to_q": "q", "to_k": "k", "to_v": "v"}
"""Which of an attention's queries, keys and values a step makes, in the order of its rows."""


@dataclass(frozen=True)
class Step:
    """One parametrised step of the reference.

    Attributes
    ----------
    name, layer, block
        "stages.0.0.attn.qkv" of the layer "stages.0.0.attn", in the block "stages.0.0".
    role
        What it is to its block, "iwsa.qkv"; the same in every block.
    weight, bias
        The parameters' names; empty where there is none.
    sizes
        Channels out, numbers in for each, and the kernel; of a norm, channels.
    letters
        Which of q, k and v it makes.
    before
        The steps directly before it, each with the one of q, k and v that is meant, or with nothing.
    """

    name: str
    layer: str
    block: str
    role: str
    weight: str
    bias: str
    kind: str
    sizes: tuple[int, ...]
    letters: str
    before: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Atom:
    """What one of the candidate's weights stands for: a step, a run of its rows, or several steps that share an input.

    parts
        Steps with the run of rows, None for all, in the order in which they lie behind one another.
    """

    parts: tuple[tuple[Step, tuple[int, int] | None], ...]
    letters: str

    @property
    def first(self) -> Step:
        return self.parts[0][0]

    @property
    def sizes(self) -> tuple[int, ...]:
        wide = sum(step.sizes[0] if rows is None else rows[1] - rows[0] for step, rows in self.parts)
        return (wide, *self.first.sizes[1:])

    @property
    def key(self) -> Key:
        return key_of(self.first.kind, self.sizes)


def key_of(kind: str, sizes: tuple[int, ...]) -> Key:
    """What sort of step this is: a convolution is a Linear on what its kernel sees, as it may be written."""
    if kind in ("norm", "gain"):
        return "norm", sizes[0], 1
    return "dense", sizes[0], prod(sizes[1:])


def steps_of(network: Network) -> dict[str, Step]:
    """The steps by name, in the order in which they run."""
    shapes, table = network.parameter_shapes(), network.layers()
    held = _held(shapes)
    owners = {name: _owner(name, table) for name in held}
    nodes: dict[str, tuple[str, ...]] = {}  # a name: what it is computed from; a sum has two, and is called "…+"
    found: dict[str, Step] = {}
    ends = {IMAGES: IMAGES}
    for layer in table.values():
        x = _summed([ends[source] for source in layer.sources], nodes)
        own = [name for name, owner in owners.items() if owner == layer.name]
        ends[layer.name] = _inside(layer, own, x, nodes)
    for name in _in_order(nodes, held):
        kind, weight, bias = held[name]
        owner = table[owners[name]]
        local = name.removeprefix(owner.name).removeprefix(".")
        sizes = tuple(size for size in shapes[weight] if kind != "norm" or size > 1) or (1,)
        found[name] = Step(
            name,
            owner.name,
            _block(owner.name),
            f"{_role(owner)}.{local}".strip("."),
            weight,
            bias,
            kind,
            sizes,
            LETTERS.get(local, ""),
            frozenset(_before(name, nodes, held)),
        )
    return found


def _held(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, str, str]]:
    """Modules to what they are, their weight and their bias."""
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    found = {}
    for module, names in groups.items():
        weight, *rest = sorted(names, key=lambda name: name.rpartition(".")[2] not in ("weight", "g"))
        long = [size for size in shapes[weight] if size > 1]
        kind = "norm" if len(long) <= 1 and len(shapes[weight]) != 2 else "linear" if len(shapes[weight]) == 2 else "convolution"
        if kind == "norm" and len(shapes[weight]) == 4 and (prod(shapes[weight][2:]) > 1 or shapes[weight][0] > 1):
            kind = "convolution"
        found[module] = (kind, weight, rest[0] if rest else "")
    return found


def _owner(module: str, table: Mapping[str, Layer]) -> str:
    """The innermost layer that a module is, or is part of."""
    while module not in table:
        module = module.rpartition(".")[0]
    return module


def _block(layer: str) -> str:
    """The block that a layer is part of: itself where it is in none."""
    found = re.match(r"(stages\.\d+\.\d+|layers\.\d+\.0\.layers\.\d+)(\.|$)", layer)
    return found[1] if found else layer


def _role(layer: Layer) -> str:
    """What a layer is to its block, without numbers of stages and blocks."""
    block = _block(layer.name)
    local = layer.name.removeprefix(block).removeprefix(".")
    name = getattr(layer.function, "__name__", "")
    if local == "attn":
        return name
    return local or re.sub(r"\.\d+$", "", layer.name) if block != layer.name else re.sub(r"^(\D*)\.\d+$", r"\1", layer.name)


def _summed(names: list[str], nodes: dict[str, tuple[str, ...]]) -> str:
    """The sum of several, two by two, as a network adds them."""
    total = names[0]
    for name in names[1:]:
        both = f"({total}+{name})"
        nodes[both] = (total, name)
        total = both
    return total


def _inside(layer: Layer, own: list[str], x: str, nodes: dict[str, tuple[str, ...]]) -> str:
    """Add a layer's steps; what it gives."""
    if not own:
        return x
    rules = INSIDE.get(getattr(layer.function, "__name__", ""), {})
    local = {name.removeprefix(layer.name).removeprefix("."): name for name in own}
    letters = {letter: f"{name}:{letter}" for part, name in local.items() for letter in LETTERS.get(part, "")}
    for letter, name in letters.items():
        nodes[name] = (name.removesuffix(f":{letter}"),)

    def resolved(rule: str) -> str:
        for choice in rule.split(" | "):
            sums = [
                [letters.get(word) or local.get(word) or x * (word == "x") for word in term.split()] for term in choice.split(" + ")
            ]
            if all(all(words) for words in sums):
                joined = []
                for words in sums:
                    if len(words) > 1:
                        joint = f"[{' '.join(words)}]"
                        nodes[joint] = ("", *words)
                        words = [joint]
                    joined += words
                return _summed(joined, nodes)
        return x

    last = x
    for part in (part for part in rules if part in local):
        nodes[local[part]] = (resolved(rules[part]),)
        last = local[part]
    for part in local:
        if part not in rules:
            nodes[local[part]] = (last,)
            last = local[part]
    return resolved(rules[""]) if "" in rules else last


def _in_order(nodes: Mapping[str, tuple[str, ...]], held: Mapping[str, object]) -> Iterator[str]:
    yield from (name for name in nodes if name in held)


def _before(name: str, nodes: Mapping[str, tuple[str, ...]], held: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The steps that this one's input is made of, with letters, across as many sums as in a candidate."""
    queue, seen = [(nodes[name][0], MOST_SUMS)], set()
    while queue:
        at, budget = queue.pop()
        step, _, letter = at.partition(":")
        if step in held and not at.startswith(("(", "[")):
            yield step, letter
            continue
        if (at, budget) in seen or at not in nodes:
            continue
        seen.add((at, budget))
        inputs = nodes[at]
        budget -= at.startswith("(")
        if budget >= 0:
            queue += [(x, budget) for x in inputs if x]


# Atoms


def shared(steps: Mapping[str, Step]) -> Iterator[tuple[str, list[tuple[Step, str, tuple[int, int] | None]]]]:
    """The projections that could be one weight, as they share an input: the layer's role, and letters with their steps and rows."""
    groups: dict[tuple[str, frozenset[tuple[str, str]]], list[Step]] = {}
    for step in steps.values():
        if step.letters:
            groups.setdefault((step.layer, step.before), []).append(step)
    for (layer, _), members in groups.items():
        yield (
            layer,
            [piece for step in sorted(members, key=lambda step: "qkv".index(step.letters[0])) for piece in letters_of(step)],
        )


def letters_of(step: Step) -> Iterator[tuple[Step, str, tuple[int, int] | None]]:
    """A step's letters, each with its run of rows; None for all."""
    wide = step.sizes[0] // len(step.letters)
    for i, letter in enumerate(step.letters):
        yield step, letter, None if len(step.letters) == 1 else (i * wide, (i + 1) * wide)


def cuts(pieces: list[tuple[Step, str, tuple[int, int] | None]]) -> list[tuple[Atom, ...]]:
    """All ways to cut letters that share an input into weights, as the reference does it first."""
    found = []
    for count in range(len(pieces)):
        for places in combinations(range(1, len(pieces)), count):
            edges = (0, *places, len(pieces))
            runs = [pieces[a:b] for a, b in pairwise(edges)]
            if all(len({(step.kind, step.sizes[1:]) for step, _, _ in run}) == 1 for run in runs):
                found.append(tuple(_atom(run) for run in runs))
    return sorted(found, key=lambda atoms: not all(len(atom.parts) == 1 and atom.parts[0][1] is None for atom in atoms))


def _atom(run: list[tuple[Step, str, tuple[int, int] | None]]) -> Atom:
    parts: list[tuple[Step, tuple[int, int] | None]] = []
    for step, _, rows in run:
        if parts and parts[-1][0] is step and rows is not None and parts[-1][1] is not None:
            parts[-1] = (step, (parts[-1][1][0], rows[1]))
        else:
            parts.append((step, rows))
    whole = [(step, None if rows == (0, step.sizes[0]) else rows) for step, rows in parts]
    return Atom(tuple(whole), "".join(letter for _, letter, _ in run))
