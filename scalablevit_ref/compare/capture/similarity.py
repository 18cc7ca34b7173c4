"""How well each of the candidate's steps fits each of the reference's: names, groups, order of use and surroundings, together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from scalablevit_ref.compare.capture.assignment import aligned
from scalablevit_ref.compare.capture.context import Context
from scalablevit_ref.compare.capture.official import Atom, Key, Step, cuts, letters_of, shared
from scalablevit_ref.compare.capture.units import Unit
from scalablevit_ref.compare.capture.vocabulary import agreement, form, meanings, numbers, tokens

EXACT = 60.0
"""Of the reference's own name behind one prefix."""

MAPPED = 300.0
"""Of what a user's mapping says."""

GROUP = 12.0
"""Of a step in the group of parameters that is this block."""

WORD = 7.0
"""Of a word in the name that says what it is."""

ALIGNED = 4.0
"""Of the place in the order of use."""

BESIDE = 2.0
"""Of a place in the order of use beside the steps of the same block."""

RANKED = 9.0
"""Of the rank by numbers among names that differ in their numbers only."""

WITHIN = 4.5
"""Of the rank by numbers among such names within a block."""

AROUND = 3.0
"""Of the steps directly before and after."""

ATTENDS = 3.0
"""Of being query, key or value."""

DECLARED = 1.0
"""Of the order of declaration."""

LIVE = 3.0
"""Of being used at all."""

STRANGER = -60.0
"""Of a parameter in a part of the candidate of which nothing is used, as long as another part is."""

UNSURE = -20.0
"""Of a gain that may be a norm's."""

LIKE = 0.6
"""Least likeness of a group of parameters to a block, sizes in common by sizes in either, that it is taken for one."""

TRUSTED = 0.75
"""Least share of pairs of names whose numbers are in the order of use, for numbers to count in names that say nothing else."""


@dataclass
class Evidence:
    """What is known of all units and atoms before they are held against each other."""

    units: Sequence[Unit]
    atoms: Sequence[Atom]
    exact: Mapping[str, str] = field(default_factory=dict)
    mapped: Mapping[str, str] = field(default_factory=dict)


def atoms_of(steps: Mapping[str, Step], units: Sequence[Unit], around: Sequence[Context], exact: Mapping[str, str]) -> list[Atom]:
    """The reference's steps cut, or put together, as the candidate's weights are; in the order in which they run.

    q, k and v that share an input may be one weight or several: in each stage the way is taken that leaves the fewest without a
    partner, and the fewest partners over, and in which they make what is done with them. A weight counts as often as it makes
    several of q, k and v: else the way with fewer weights would seem to lack less.
    """
    made = Counter((unit.keys[0], frozenset().union(*(around[use].attends for use in unit.uses))) for unit in units if unit.live)
    used, there = (Counter(key for unit in some for key in unit.keys[:1]) for some in ([u for u in units if u.live], units))
    stages: dict[str, list[list[tuple[Atom, ...]]]] = {}
    joint: set[str] = set()
    for layer, pieces in shared(steps):
        named = all(step.weight in exact for step, _, _ in pieces)
        stages.setdefault(_stage(layer), []).append(cuts(pieces)[: 1 if named else None])
        joint |= {step.name for step, _, _ in pieces}
    rest: dict[str, Counter[Key]] = {}
    for step in steps.values():
        if step.name not in joint:
            rest.setdefault(_stage(step.name), Counter())[Atom(((step, None),), "").key] += 1
    chosen: dict[str, tuple[Atom, ...]] = {}
    for cluster, universe in _clusters(stages, rest):
        ways: dict[Any, list[list[tuple[Atom, ...]]]] = {}
        for choices in (choices for stage in cluster for choices in stages[stage]):
            ways.setdefault((len(choices), *(atom.letters for atom in choices[0])), []).append(choices)
        fixed = sum((rest.get(stage, Counter()) for stage in cluster), Counter[Key]())
        joined: dict[Key, int] = {}
        for atom in (atom for members in ways.values() for choices in members for way in choices for atom in way):
            joined[atom.key] = max(joined.get(atom.key, 1), len(atom.letters))
        best: tuple[tuple[int, int, int], tuple[int, ...]] | None = None
        for picks in product(*(range(len(members[0])) for members in ways.values())):
            need, letters = Counter(fixed), Counter[tuple[Key, frozenset[str]]]()
            for pick, members in zip(picks, ways.values(), strict=True):
                for choices in members:
                    need.update(atom.key for atom in choices[pick])
                    letters.update((atom.key, frozenset(atom.letters)) for atom in choices[pick])
            lacking, over, idle = (
                sum(count * joined.get(key, 1) for key, count in some.items())
                for some in (need - there, Counter({key: used[key] for key in universe}) - need, need - used)
            )
            unmade = sum(count * len(some) for (_, some), count in (letters - made).items())
            cost = (lacking * 3 + over + idle + unmade * 4, lacking, sum(picks))
            if best is None or cost < best[0]:
                best = (cost, picks)
        assert best is not None
        for pick, members in zip(best[1], ways.values(), strict=True):
            for atom in (atom for choices in members for atom in choices[pick]):
                chosen[atom.first.name] = (*chosen.get(atom.first.name, ()), atom)
    return [
        atom
        for step in steps.values()
        for atom in (chosen.get(step.name, ()) if step.name in joint else (Atom(((step, None),), ""),))
    ]


def _clusters(
    stages: Mapping[str, Sequence[Sequence[tuple[Atom, ...]]]], rest: Mapping[str, Counter[Key]]
) -> list[tuple[list[str], set[Key]]]:
    """Stages with the sorts of steps that they may have; those of which some are the same together."""
    found: list[tuple[list[str], set[Key]]] = []
    for stage, some in stages.items():
        keys = {atom.key for choices in some for way in choices for atom in way} | set(rest.get(stage, ()))
        near = [cluster for cluster in found if cluster[1] & keys]
        found = [cluster for cluster in found if cluster not in near]
        names = [name for cluster in near for name in cluster[0]]
        found.append(([*names, stage], keys.union(*(cluster[1] for cluster in near))))
    return found


def _stage(name: str) -> str:
    return ".".join(name.split(".")[:2])


@dataclass(frozen=True)
class Surroundings:
    """Of a unit or an atom: what sorts of steps are directly before and after, and which of q, k and v it makes."""

    before: Counter[Key]
    after: Counter[Key]
    attends: frozenset[str]

    def likeness(self, other: Surroundings) -> float:
        return (_jaccard(self.before, other.before) + _jaccard(self.after, other.after)) / 2


def _jaccard(a: Counter[Key], b: Counter[Key]) -> float:
    both = sum(min(count, b[key]) for key, count in a.items() if key in b)
    either = a.total() + b.total() - both
    return both / either if either else 1.0


def around_atoms(atoms: Sequence[Atom]) -> list[Surroundings]:
    """What stands around each of the reference's."""
    holders: dict[tuple[str, str], set[int]] = {}
    for i, atom in enumerate(atoms):
        for step, rows in atom.parts:
            for _, letter, run in letters_of(step) if step.letters else [(step, "", None)]:
                if rows is None or run is None or (rows[0] <= run[0] and run[1] <= rows[1]):
                    holders.setdefault((step.name, letter), set()).add(i)
                    holders.setdefault((step.name, ""), set()).add(i)
    before = [
        set().union(*(holders.get((name, letter), set()) for name, letter in atom.first.before)) if atom.first.before else set()
        for atom in atoms
    ]
    after: list[set[int]] = [set() for _ in atoms]
    for i, some in enumerate(before):
        for j in some:
            after[j].add(i)
    return [
        Surroundings(Counter(atoms[j].key for j in before[i]), Counter(atoms[j].key for j in after[i]), frozenset(atoms[i].letters))
        for i in range(len(atoms))
    ]


def around_uses(units: Sequence[Unit], around: Sequence[Context]) -> dict[int, Surroundings]:
    """What stands around each of the candidate's uses, by their places."""
    keys = {use: unit.keys[0] for unit in units for use in unit.uses}
    return {
        use: Surroundings(
            Counter(keys[j] for j in around[use].before if j in keys),
            Counter(keys[j] for j in around[use].after if j in keys),
            around[use].attends,
        )
        for use in keys
    }


def places(
    units: Sequence[Unit],
    atoms: Sequence[Atom],
    live: Sequence[bool],
    of_uses: Mapping[int, Surroundings],
    of_atoms: Sequence[Surroundings],
) -> tuple[dict[int, int], np.ndarray, list[int]]:
    """Uses to the atoms that they stand at, by the order in which both run; those out of order are left out.

    With the scores behind it, and the uses that are its rows.
    """
    owner = {use: unit for unit in units for use in unit.uses}
    order = sorted(owner)
    rows = {use: i for i, use in enumerate(order)}
    scores = np.zeros((len(order), len(atoms)))
    by_key: dict[Key, list[int]] = {}
    for j, atom in enumerate(atoms):
        by_key.setdefault(atom.key, []).append(j)
    for use in order:
        for j in by_key.get(owner[use].keys[0], ()):
            scores[rows[use], j] = (1 + of_uses[use].likeness(of_atoms[j])) * (1 if live[use] else 0.3)
    return {order[i]: j for i, j in aligned(scores)}, scores, order


def places_within(
    stands: dict[int, int],
    units: Sequence[Unit],
    atoms: Sequence[Atom],
    block_of: Mapping[int, str],
    scores: np.ndarray,
    order: Sequence[int],
) -> dict[int, int]:
    """The same, with each block by itself where a group of parameters is known to be it: blocks may run in any order."""
    found = dict(stands.items())
    members: dict[str, list[int]] = {}
    for i, block in block_of.items():
        members.setdefault(block, []).extend(units[i].uses)
    row = {use: i for i, use in enumerate(order)}
    for block, some in members.items():
        inside = [j for j, atom in enumerate(atoms) if atom.first.block == block]
        some = sorted(set(some))
        for use in some:
            if found.get(use) is not None and atoms[found[use]].first.block in members:
                del found[use]
        found |= {some[a]: inside[b] for a, b in aligned(scores[np.ix_([row[use] for use in some], inside)])}
    return found


def groups(units: Sequence[Unit], atoms: Sequence[Atom]) -> dict[int, str]:
    """Units to the reference's blocks, by the paths that their names share: those with a block's sizes, in the order of numbers."""
    blocks: dict[str, Counter[Key]] = {}
    for atom in atoms:
        blocks.setdefault(atom.first.block, Counter())[_loose(atom.key)] += 1
    blocks = {name: sizes for name, sizes in blocks.items() if sum(sizes.values()) > 2}
    types: dict[tuple[tuple[Key, int], ...], list[str]] = {}
    for name, sizes in blocks.items():
        types.setdefault(tuple(sorted(sizes.items())), []).append(name)
    prefixes: dict[tuple[str | int, ...], list[int]] = {}
    for i, unit in enumerate(units):
        path = tokens(unit.name)
        for end in range(1, len(path) + 1):
            prefixes.setdefault(path[:end], []).append(i)
    ranked = []
    for prefix, members in prefixes.items():
        sizes = Counter(_loose(units[i].keys[0]) for i in members)
        for kind in types:
            likeness = _jaccard(sizes, Counter(dict(kind)))
            if likeness >= LIKE:
                ranked.append((likeness, len(prefix), prefix, kind))
    taken: set[int] = set()
    found: dict[tuple[tuple[Key, int], ...], list[tuple[tuple[str | int, ...], list[int]]]] = {}
    for _, _, prefix, kind in sorted(ranked, key=lambda item: (-item[0], item[1])):
        members = [i for i in prefixes[prefix] if i not in taken]
        if len(members) < LIKE * len(prefixes[prefix]):
            continue
        taken |= set(members)
        found.setdefault(kind, []).append((prefix, members))
    result: dict[int, str] = {}
    letters = _letters(prefix for some in found.values() for prefix, _ in some)
    for kind, some in found.items():
        for (_, members), block in zip(_ordered(some, units, len(types[kind]), letters), types[kind], strict=False):
            result |= dict.fromkeys(members, block)
    return result


def lettered(prefix: tuple[str | int, ...], letters: Mapping[tuple[str | int, ...], set[str]]) -> bool:
    """Whether groups are called a, b, c … in the place where this one has a letter."""
    there = letters.get(prefix[:-1], set())
    return str(prefix[-1]).lower() in there and there == {chr(ord("a") + i) for i in range(len(there))}


def _letters(prefixes: Iterable[tuple[str | int, ...]]) -> dict[tuple[str | int, ...], set[str]]:
    """Of all groups that are called by one letter, what comes before it, and the letters."""
    found: dict[tuple[str | int, ...], set[str]] = {}
    for prefix in prefixes:
        if isinstance(prefix[-1], str) and len(prefix[-1]) == 1:
            found.setdefault(prefix[:-1], set()).add(prefix[-1].lower())
    return found


def _ordered(
    some: Sequence[tuple[tuple[str | int, ...], list[int]]],
    units: Sequence[Unit],
    wanted: int,
    letters: Mapping[tuple[str | int, ...], set[str]],
) -> list[tuple[tuple[str | int, ...], list[int]]]:
    """Groups in the order of the reference's blocks; of more than there are blocks, those that are used."""

    def first(members: Iterable[int]) -> float:
        return min((use for i in members for use in units[i].uses), default=float("inf"))

    used = [group for group in some if any(units[i].live for i in group[1])]
    if len(used) < len(some) and len(some) > wanted:
        roots = {group[0][:1] for group in used}
        idle = sorted((group for group in some if group not in used), key=lambda group: group[0][:1] not in roots)
        some = [*used, *idle][: max(wanted, len(used))]
    named = [tuple(part for part in prefix if isinstance(part, int)) for prefix, _ in some]
    if len(set(named)) < len(named) and all(lettered(prefix, letters) for prefix, _ in some):
        named = [(*numbers_, ord(str(prefix[-1]))) for numbers_, (prefix, _) in zip(named, some, strict=True)]
    if (len(set(named)) == len(named) and all(named)) or len(some) == 1:
        return [group for _, group in sorted(zip(named, some, strict=True), key=lambda pair: pair[0])]
    return sorted(some, key=lambda group: (first(group[1]), min(units[i].declared for i in group[1])))


def _loose(key: Key) -> Key:
    """The same for a weight and its transpose, as far as a shape tells."""
    return (key[0], *sorted(key[1:])) if key[0] == "dense" else key  # type: ignore[return-value]


def ranks(units: Sequence[Unit], atoms: Sequence[Atom]) -> dict[tuple[int, int], float]:
    """Units and atoms that have the same rank by number: of names that differ in numbers only, where a role has as many."""
    families: dict[tuple[tuple[str, ...], Key], list[int]] = {}
    for i, unit in enumerate(units):
        families.setdefault(((*form(unit.name), *meanings(unit.name)[:1]), unit.keys[0]), []).append(i)
    agree = total = 0
    for members in families.values():
        for a, b in product(members, members):
            if numbers(units[a].name) < numbers(units[b].name) and units[a].uses and units[b].uses:
                agree += min(units[a].uses) < min(units[b].uses)
                total += 1
    trusted = agree >= TRUSTED * total
    roles: dict[tuple[str, Key], list[int]] = {}
    for j, atom in enumerate(atoms):
        local = atom.first.name.removeprefix(atom.first.block) or atom.first.role
        roles.setdefault((f"{local} {atom.letters}", atom.key), []).append(j)
    found: dict[tuple[int, int], float] = {}
    for (_, key), members in families.items():
        if not (trusted or meanings(units[members[0]].name)):
            continue
        ordered = sorted(members, key=lambda i: numbers(units[i].name))
        for (_, other), some in roles.items():
            if other == key and len(some) == len(ordered) > 1:
                found |= dict.fromkeys(zip(ordered, some, strict=True), RANKED)
    return found


def ranks_within(units: Sequence[Unit], atoms: Sequence[Atom], block_of: Mapping[int, str]) -> dict[tuple[int, int], float]:
    """The same within a block: norms called 0 and 2 are the first and the second one."""
    families: dict[tuple[str, tuple[str, ...], Key], list[int]] = {}
    for i, block in block_of.items():
        words = tuple(part for part in form(units[i].name) if part != "#")
        families.setdefault((block, (*words, *meanings(units[i].name)[:1]), units[i].keys[0]), []).append(i)
    places: dict[tuple[str, Key], list[int]] = {}
    for j, atom in enumerate(atoms):
        places.setdefault((atom.first.block, atom.key), []).append(j)
    found: dict[tuple[int, int], float] = {}
    for (block, _, key), members in families.items():
        some = places.get((block, key), [])
        if len(some) == len(members) > 1:
            ordered = sorted(members, key=lambda i: numbers(units[i].name))
            found |= dict.fromkeys(zip(ordered, some, strict=True), WITHIN)
    return found


def strangers(units: Sequence[Unit]) -> set[int]:
    """Units in a part of the candidate, by their names' first word, of which nothing is used, and which is like one that is."""
    roots: dict[str | int, list[int]] = {}
    for i, unit in enumerate(units):
        roots.setdefault(next(iter(tokens(unit.name)), ""), []).append(i)
    lives = [root for root, members in roots.items() if any(units[i].live for i in members)]
    found: set[int] = set()
    for root, members in roots.items():
        sizes = Counter(units[i].keys[0] for i in members)
        if root not in lives and any(_jaccard(sizes, Counter(units[i].keys[0] for i in roots[other])) > LIKE for other in lives):
            found |= set(members)
    return found


def scored(
    evidence: Evidence,
    around: Sequence[Context],
    live: Sequence[bool],
) -> tuple[np.ndarray, dict[int, int], dict[int, Surroundings], list[Surroundings]]:
    """A score for each unit and each atom that it may be, −inf for others; and where the uses stand by their order."""
    units, atoms = evidence.units, evidence.atoms
    of_atoms, of_uses = around_atoms(atoms), around_uses(units, around)
    stands, likeness, order_of_use = places(units, atoms, live, of_uses, of_atoms)
    block_of, strange = groups(units, atoms), strangers(units)
    rank = ranks(units, atoms) | ranks_within(units, atoms, block_of)
    beside = _beside(units, atoms, stands)
    near = places_within(stands, units, atoms, block_of, likeness, order_of_use)
    declared = _declared(units)
    rivals: dict[Key, set[str]] = {}
    for atom in atoms:
        rivals.setdefault(atom.key, set()).add(atom.first.role)
    order = {key: [j for j, atom in enumerate(atoms) if atom.key == key] for key in rivals}
    scores = np.full((len(units), len(atoms)), -np.inf)
    for i, unit in enumerate(units):
        for key in unit.keys:
            members = order.get(key, [])
            for place, j in enumerate(members):
                atom = atoms[j]
                block, own_block = atom.first.block, block_of.get(i)
                score = -2.0 * unit.keys.index(key)
                if own_block is not None and (block in block_of.values()):
                    score += GROUP if own_block == block else -GROUP
                elif own_block is not None:
                    score -= BESIDE
                elif block in block_of.values():
                    score -= GROUP / 2
                roles = {step.role for step, _ in atom.parts}
                score += WORD * agreement_of(unit, roles, atom.letters, rivals[key])
                score += ALIGNED * any(near.get(use) == j for use in unit.uses)
                if own_block is None and block in beside.get(i, ()):
                    score += BESIDE
                score += rank.get((i, j), 0.0)
                if unit.uses:
                    score += AROUND * max(of_uses[use].likeness(of_atoms[j]) for use in unit.uses)
                    attends = frozenset().union(*(of_uses[use].attends for use in unit.uses))
                    if attends and atom.letters:
                        score += ATTENDS * (_overlap(attends, frozenset(atom.letters)) * 2 - 1)
                    elif attends or atom.letters:
                        score -= ATTENDS / 2
                score += LIVE * unit.live + UNSURE * (not unit.sure) + STRANGER * (i in strange)
                score -= DECLARED * abs(declared[key, unit.declared] - place / max(len(members) - 1, 1))
                score += _named(unit, atom, evidence)
                scores[i, j] = score
    return scores, stands, of_uses, of_atoms


def agreement_of(unit: Unit, roles: set[str], words: str, rivals: set[str]) -> int:
    """What a unit's name says of its being this."""
    said = max(agreement(unit.name, role, rivals - roles) for role in roles)
    return said if not words else agreement_letters(unit.name, words, said)


def agreement_letters(name: str, letters: str, otherwise: int) -> int:
    """The same of a run of q, k and v."""
    for word in meanings(name):
        if word in ("q", "k", "v", "kv", "qkv"):
            return 1 if word == letters else -1
    return min(otherwise, 0)


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def _declared(units: Sequence[Unit]) -> dict[tuple[Key, int], float]:
    """Where a unit is declared among those of its sort, from 0 to 1, by the sort and its place among all parameters."""
    sorts: dict[Key, list[int]] = {}
    for unit in units:
        for key in unit.keys:
            sorts.setdefault(key, []).append(unit.declared)
    return {(key, at): i / max(len(some) - 1, 1) for key, some in sorts.items() for i, at in enumerate(sorted(some))}


def _beside(units: Sequence[Unit], atoms: Sequence[Atom], stands: Mapping[int, int]) -> dict[int, set[str]]:
    """Units to the blocks of the uses that run directly before and after theirs."""
    known = sorted(stands)
    found: dict[int, set[str]] = {}
    for i, unit in enumerate(units):
        for use in unit.uses:
            before = [at for at in known if at < use][-1:]
            after = [at for at in known if at > use][:1]
            found.setdefault(i, set()).update(atoms[stands[at]].first.block for at in (*before, *after))
            if use in stands:
                found[i].add(atoms[stands[use]].first.block)
    return found


def _named(unit: Unit, atom: Atom, evidence: Evidence) -> float:
    """What exact names, and a user's mapping, say."""
    score = 0.0
    if evidence.exact:
        names = {evidence.exact.get(step.weight) for step, _ in atom.parts}
        score += EXACT if unit.weight in names else -EXACT if unit.weight in evidence.exact.values() else 0.0
    if evidence.mapped:
        layer = _innermost(atom.first.weight, evidence.mapped)
        path = _innermost(unit.weight, dict.fromkeys(evidence.mapped.values(), ""))
        if layer and path:
            score += MAPPED if evidence.mapped[layer] == path else -MAPPED
        elif layer or path:
            score -= MAPPED / 3
    return score


def _innermost(name: str, paths: Mapping[str, str]) -> str:
    """The longest of these paths that a parameter lies under, or is."""
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return name
