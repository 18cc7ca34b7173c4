"""What a pairing shows that is worth saying: parameters that act nowhere, twice or in another's place, and what runs when."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.context import Context
from scalablevit_ref.compare.capture.graph import Graph
from scalablevit_ref.compare.capture.official import Atom, Key, Step
from scalablevit_ref.compare.capture.resized import Resized
from scalablevit_ref.compare.capture.units import Unit
from scalablevit_ref.compare.capture.uses import Use
from scalablevit_ref.errors import CaptureError, option

MOST_LACKING = 0.15
"""Largest share of the reference's products that a port of it may do without."""


@dataclass(frozen=True)
class Facts:
    """What is unusual about a port, as data. Steps and parameters have the reference's names.

    Attributes
    ----------
    never_used
        Steps whose parameters act nowhere.
    dropped
        Steps whose result no output depends on.
    twice
        Steps to all the places at which their parameters act.
    lacking
        Parameters that the candidate does not have.
    extra
        The candidate's own parameters that act and have no counterpart.
    moved
        Layers that run elsewhere: to the one after which they run, and the one that it is in the reference; "" is the start.
    pooled
        Norms that act on another number of tokens: to that number, and the reference's.
    wired
        Steps that take something else: to the steps directly before them in the candidate, and in the reference.
    attends
        Steps that make another of query, key and value than their name says: to what they make.
    silent
        The candidate's own biases where the reference has none: zero is what makes the two the same.
    turned
        Weights of the reference's name and shape, (out, in), that are used as (in, out).
    own
        Steps to the candidate's own name of their weight.
    late
        Steps whose bias is added elsewhere, behind them, to the candidate's own name of it.
    resized
        Steps whose weight has another size in the candidate, to both.
    """

    never_used: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    twice: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    moved: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    pooled: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    wired: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    attends: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    turned: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    resized: Mapping[str, Resized] = field(default_factory=dict)
    late: Mapping[str, str] = field(default_factory=dict)


def facts_of(
    steps: Mapping[str, Step],
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    over: Sequence[Unit],
    placed: Mapping[int, int],
    uses: Sequence[Use],
    around: Sequence[Context],
    parts: Mapping[str, Sequence[Any]],
    layer_shapes: Mapping[str, tuple[int, ...]],
    graph: Graph,
) -> Facts:
    """The facts of a pairing."""
    never = [step.name for j, unit in partner.items() if not unit.uses for step, _ in atoms[j].parts]
    dropped = [step.name for j, unit in partner.items() if unit.uses and not unit.live for step, _ in atoms[j].parts]
    lenders = {id(partner[j]): j for j in partner}
    home = {use: lenders[id(unit)] for unit in partner.values() for use in unit.uses}
    twice: dict[str, list[str]] = {}
    for j, unit in partner.items():
        if sum(uses[use].live for use in unit.uses) > 1:
            there = [k for k, use in placed.items() if home.get(use) == j]
            again = sum(uses[use].live for use in unit.uses) - len(there)
            twice[atoms[j].first.name] = [atoms[k].first.name for k in sorted(there)] + [""] * again
    extra = [unit.weight for unit in over if unit.live] + sorted(
        {use.weight for use in uses if use.live and use.kind not in ("linear", "convolution", "norm")}
        - {unit.weight for unit in (*partner.values(), *over)}
        - {unit.bias for unit in partner.values()}
    )
    return Facts(
        tuple(never),
        tuple(dropped),
        {name: tuple(places) for name, places in twice.items()},
        tuple(name for name, some in parts.items() if not some),
        tuple(extra),
        _moved(steps, atoms, placed, uses),
        _pooled(atoms, placed, uses, layer_shapes, graph),
        _wired(steps, atoms, placed, around),
        _attends(atoms, placed, around),
        own={step.name: unit.weight for j, unit in partner.items() for step, _ in atoms[j].parts},
    )


def _moved(
    steps: Mapping[str, Step], atoms: Sequence[Atom], placed: Mapping[int, int], uses: Sequence[Use]
) -> dict[str, tuple[str, str]]:
    """Layers out of the reference's order: all but the longest run of layers that are in it."""
    first: dict[str, int] = {}
    for j, use in placed.items():
        if uses[use].live:
            layer = atoms[j].first.layer
            first[layer] = min(first.get(layer, use), use)
    order = [layer for layer in dict.fromkeys(step.layer for step in steps.values()) if layer in first]
    kept = {order[i] for i in _longest_rise([first[layer] for layer in order])}
    run = sorted(order, key=lambda layer: first[layer])
    before = {layer: (["", *run])[i] for i, layer in enumerate(run)}
    usual = {layer: (["", *order])[i] for i, layer in enumerate(order)}
    return {layer: (before[layer], usual[layer]) for layer in order if layer not in kept}


def _longest_rise(values: Sequence[int]) -> list[int]:
    """Places of the longest rising subsequence."""
    ends: list[int] = []
    tails: list[int] = []
    before: list[int] = []
    for i, value in enumerate(values):
        at = bisect_left(tails, value)
        before.append(ends[at - 1] if at else -1)
        tails[at : at + 1], ends[at : at + 1] = [value], [i]
    found, i = [], ends[-1] if ends else -1
    while i >= 0:
        found.append(i)
        i = before[i]
    return found[::-1]


def _pooled(
    atoms: Sequence[Atom],
    placed: Mapping[int, int],
    uses: Sequence[Use],
    layer_shapes: Mapping[str, tuple[int, ...]],
    graph: Graph,
) -> dict[str, tuple[int, int]]:
    found = {}
    for j, use in placed.items():
        step = atoms[j].first
        shape = layer_shapes.get(step.layer)
        if step.kind == "norm" and step.name == step.layer and shape is not None:
            tokens = prod(graph.shapes[uses[use].made]) // step.sizes[0] // shape[0]
            if tokens != prod(shape[1:-1]):
                found[step.name] = (tokens, prod(shape[1:-1]))
    return found


def _wired(
    steps: Mapping[str, Step], atoms: Sequence[Atom], placed: Mapping[int, int], around: Sequence[Context]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    at: dict[int, set[str]] = {}
    for j, use in placed.items():
        at.setdefault(use, set()).update(step.name for step, _ in atoms[j].parts)
    order = {name: i for i, name in enumerate(steps)}
    found = {}
    for j, use in placed.items():
        before = set().union(*(at.get(other, {"?"}) for other in around[use].before)) if around[use].before else set()
        usual = {name for name, _ in atoms[j].first.before}
        if before != usual and "?" not in before:
            name = atoms[j].first.name
            found[name] = tuple(tuple(sorted(some, key=lambda other: order[other])) for some in (before, usual))
    return found  # type: ignore[return-value]


def _attends(atoms: Sequence[Atom], placed: Mapping[int, int], around: Sequence[Context]) -> dict[str, str]:
    found = {}
    for j, use in placed.items():
        made = around[use].attends
        if atoms[j].letters and made and not made & set(atoms[j].letters):
            found[_called(atoms[j])] = "".join(sorted(made))
    return found


def _called(atom: Atom) -> str:
    """A step's name, with the letters of the run of its rows that is meant."""
    return atom.first.name if atom.parts[0][1] is None else f"{atom.first.name}, {atom.letters}"


# Words


def words_of(facts: Facts) -> tuple[str, ...]:
    """The facts in words, each once however many blocks it is true of."""
    said: list[tuple[str, str, str]] = []  # what is the same in all blocks, a sentence with an example, the block
    lent = {place: name for name, places in facts.twice.items() for place in places if place and place != name}

    def own(name: str) -> str:
        return f" ({facts.own[name]})" if name in facts.own else ""

    whole = {block: _whole(block, facts, lent) for block in {_block_of(name) for name in facts.never_used}}
    for name in (*facts.never_used, *facts.dropped):
        what = "act nowhere" if name in facts.never_used else "act, and the result is dropped"
        block = _block_of(name)
        if whole.get(block) is not None:
            if name == next(other for other in facts.never_used if _block_of(other) == block):
                instead = f"; those of {whole[block]} act in their place" * bool(whole[block])
                said.append((f"{_form(block)} {what} whole {bool(whole[block])}", f"{block}'s parameters {what}{instead}", name))
            continue
        text = f"{name}'s parameters{own(name)} {what}"
        if name in lent:
            text += f"; those of {lent[name]}{own(lent[name])} act in its place"
        said.append((f"{_form(name)} {what} {_form(lent.get(name, ''))}", text, name))
    again = _whole_blocks_twice(facts)
    for block, times in again.items():
        said.append((f"{_form(block)} again", f"{block} runs {times}: all its parameters act {times}", block))
    for name, places in facts.twice.items():
        if _block_of(name) in again:
            continue
        others = [place for place in places if place not in ("", name)]
        if others and "" not in places and all(place in (*facts.never_used, *facts.dropped) for place in others):
            continue
        where = " and at ".join(dict.fromkeys(place or "a place that is no step's" for place in places))
        said.append((f"{_form(name)} twice {[_form(p) for p in places]}", f"{name}'s parameters{own(name)} act at {where}", name))
    said += [(f"{_form(name)} resized", str(some), name) for name, some in facts.resized.items()]
    for name in facts.lacking:
        step, _, leaf = name.rpartition(".")
        if step in facts.resized:
            continue
        whole_step = any(other != name and other.rpartition(".")[0] == step for other in facts.lacking)
        if not whole_step or leaf in ("weight", "g"):
            said.append((f"{_form(name)} lacking", f"the candidate has no {step if whole_step else name}", name))
    said += [
        (f"{_form(name)} silent", f"the reference has no bias where the candidate has {name}: it is set to 0", name)
        for name in facts.silent
    ]
    said += [(f"{_form(name)} turned", f"{name}, out, in by its name and shape, is used as in, out", name) for name in facts.turned]
    said += [
        (f"{_form(own_)} extra", f"the candidate's {own_} has no counterpart, and keeps its values", own_) for own_ in facts.extra
    ]
    for name, (after, usual) in facts.moved.items():
        if after == usual:  # it follows a layer that is moved
            continue
        text = f"{name} runs after {after or 'the images'}, in the reference after {usual or 'the images'}"
        said.append((f"{_form(name)} moved {_form(after)}", text, name))
    for name, (tokens, usual_tokens) in facts.pooled.items():
        said.append((f"{_form(name)} pooled", f"{name} acts on {tokens} tokens, in the reference on {usual_tokens}", name))
    for name, letters in facts.attends.items():
        roles = " and ".join({"q": "queries", "k": "keys", "v": "values"}[letter] for letter in letters)
        text = f"{name}{own(name.partition(',')[0])}, by its name, makes {roles}, by what is done with it"
        said.append((f"{_form(name)} attends {letters}", text, name))
    grouped: dict[str, list[str]] = {}
    for key, text, _ in said:
        grouped.setdefault(key, []).append(text)
    return tuple(some[0] + (f" ({len(some)} times)" if some[1:] else "") for some in grouped.values())


def _block_of(name: str) -> str:
    found = re.match(r"(stages\.\d+\.\d+|layers\.\d+\.0\.layers\.\d+)\.", name)
    return found[1] if found else name


def _whole(block: str, facts: Facts, lent: Mapping[str, str]) -> str | None:
    """Of a block of which nothing acts, the block that acts in its place, or nothing; None where some of it acts."""
    inside = [name for name in facts.own if _block_of(name) == block]
    if len(inside) < 2 or any(name not in facts.never_used for name in inside):
        return None
    lenders = {_block_of(lent[name]) if name in lent else "" for name in inside}
    return lenders.pop() if len(lenders) == 1 else None


def _whole_blocks_twice(facts: Facts) -> dict[str, str]:
    """Blocks of which every parameter acts several times and stands for no other's: to how often."""
    found: dict[str, str] = {}
    for block in dict.fromkeys(_block_of(name) for name in facts.twice):
        places = [facts.twice.get(name, ()) for name in facts.own if _block_of(name) == block]
        counts = {len(some) for some in places}
        if len(places) > 2 and len(counts) == 1 and all("" in some for some in places):
            times = counts.pop()
            found[block] = "twice" if times == 2 else f"{times} times"
    return found


def _form(name: str) -> str:
    return re.sub(r"\d+", "#", re.sub(r"(norm|fc|reduction\.|norm_act\.|head\.)(\d)", lambda m: m[1] + "ab"[int(m[2]) % 2], name))


# Refusals


def refusal(
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    over: Sequence[Unit],
    own: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    exact: Mapping[str, str],
) -> CaptureError | None:
    """Why a candidate's parameters are not the reference's; None where they are, or where it only does without some."""
    missing = [atom for j, atom in enumerate(atoms) if j not in partner]
    more = _more_blocks(atoms, over)
    if more:
        return CaptureError(
            f"the candidate has more blocks than the reference: nothing is the counterpart of {_some(more)}. ",
            option("variant"),
            " says which network it is",
        )
    if not missing:
        return None
    dense = [atom for atom in atoms if _mixes(atom)]
    lacking = [atom for atom in missing if _mixes(atom)]
    others = [unit for unit in over if unit.live]
    instead = [(atom, unit) for atom in missing if (unit := _instead(atom, others)) is not None]
    whole = _whole_blocks(atoms, missing)
    if not instead and not whole and len(lacking) <= MOST_LACKING * len(dense):
        return None
    atom, unit = instead[0] if instead else (missing[0], None)
    step = atom.first
    count = prod(atom.sizes)
    text = f"no parameter of {count:,} values for {step.weight} {shapes[step.weight]}"
    if unit is not None and own[unit.weight].shape == shapes[step.weight]:
        sizes = " x ".join(map(str, unit.sizes[unit.keys[0]]))
        text = f"the candidate's {unit.weight} has the shape of {step.weight}, {shapes[step.weight]}, but acts as one of {sizes}"
    elif unit is not None:
        text += f"; the candidate's {unit.weight} has {tuple(own[unit.weight].shape)}"
    elif whole:
        text += f"; the candidate has nothing of the sizes of {_some(whole)}"
    rest = len(missing) - 1
    if rest:
        text += f"; {rest} more of the reference's steps have no partner"
    return CaptureError(
        f"{text}. ",
        option("variant"),
        " says which network it is; names= maps the reference's layers to its modules; or write its layers to a file with "
        "np.savez('trace.npz', images=…, logits=…) and compare that",
    )


def _instead(atom: Atom, others: Iterable[Unit]) -> Unit | None:
    """A unit that acts, has no partner and may be what this step is, in another size."""
    kinds = {"norm": ("norm",)}.get(atom.key[0], ("dense",))
    fits = [unit for unit in others if unit.keys[0][0] in kinds and unit.sure]
    same = [unit for unit in fits if unit.keys[0][0] == atom.key[0]] or fits
    near = [unit for unit in same if set(unit.keys[0][1:]) & set(atom.key[1:])] or same
    return near[0] if near else None


def _more_blocks(atoms: Sequence[Atom], over: Sequence[Unit]) -> list[str]:
    """Weights that act, have no counterpart and are as many and as large as all products of a block are."""
    left = [unit for unit in over if unit.live and unit.keys[0][0] == "dense"]
    sizes = Counter(unit.keys[0] for unit in left)
    blocks: dict[str, Counter[Key]] = {}
    for atom in atoms:
        if _mixes(atom):
            blocks.setdefault(atom.first.block, Counter())[atom.key] += 1
    whole = any(sum(block.values()) > 2 and block <= sizes for block in blocks.values())
    return [unit.weight for unit in left] if whole else []


def _mixes(atom: Atom) -> bool:
    """Whether a step mixes channels: a product, or a convolution that is not depthwise."""
    return atom.key[0] == "dense" and not (len(atom.sizes) > 2 and atom.sizes[1] == 1)


def _whole_blocks(atoms: Sequence[Atom], missing: Sequence[Atom]) -> list[str]:
    """Blocks of which every product is missing."""
    blocks: dict[str, list[bool]] = {}
    lost = {id(atom) for atom in missing}
    for atom in atoms:
        if _mixes(atom):
            blocks.setdefault(atom.first.block, []).append(id(atom) in lost)
    return [name for name, some in blocks.items() if all(some)]


def _some(names: Sequence[str]) -> str:
    return names[0] + f" and {len(names) - 1} others" * bool(names[1:])
