"""The reference's parameters and steps, and the candidate's: which is which, whatever it is called and wherever it is declared.

Every kind of evidence is a score: sizes decide what is possible; a user's mapping, the reference's own names, words, groups of
parameters that are a block, the order of use, what stands around and the order of declaration decide what is likely. The best
assignment of all to all is taken. A parameter that acts at two places is put at its own and lent to the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

import numpy as np

from scalablevit_ref.compare.capture.assignment import assigned
from scalablevit_ref.compare.capture.context import Context, contexts
from scalablevit_ref.compare.capture.flow import Flow
from scalablevit_ref.compare.capture.graph import Graph, live
from scalablevit_ref.compare.capture.layout import Layout
from scalablevit_ref.compare.capture.names import by_mapping
from scalablevit_ref.compare.capture.official import Atom, Step, steps_of
from scalablevit_ref.compare.capture.pairing_notes import Facts, facts_of, refusal, words_of
from scalablevit_ref.compare.capture.resized import resized_of, stand_ins
from scalablevit_ref.compare.capture.similarity import ALIGNED, AROUND, MAPPED, Evidence, Surroundings, atoms_of, scored
from scalablevit_ref.compare.capture.units import Unit, layout_of, units_of, usual
from scalablevit_ref.compare.capture.uses import Use, uses_of
from scalablevit_ref.compare.capture.vocabulary import stem_of
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.networks import Network

__all__ = ["Facts", "Pairing", "Part", "paired"]

NAMED = 0.3
"""Least share of the reference's parameters that are there under its names, for a name to say what a parameter is."""


@dataclass(frozen=True)
class Part:
    """Where an official parameter, or a run of its rows, lies in the candidate.

    Attributes
    ----------
    own
        The candidate's parameter.
    turned
        Whether its axes are in another order than the reference's: (in, out), (kh, kw, in, out).
    official_rows, own_rows
        The runs of the official parameter's first axis, and of the own one's output axis; None for all.
    sizes
        Of this part as out, in, height, width.
    order
        These axes in the order in which the candidate's parameter holds them.
    """

    own: str
    turned: bool
    official_rows: tuple[int, int] | None = None
    own_rows: tuple[int, int] | None = None
    sizes: tuple[int, ...] = ()
    order: tuple[int, ...] = (0,)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the candidate's parameter, in the order of the reference's axes."""
        return self.own_rows is None and self.order == tuple(sorted(self.order))

    def within(self, own: np.ndarray) -> np.ndarray:
        """This part of the candidate's parameter as out, in, height, width: a view, into which can be written."""
        view = Layout(self.order, 0).view(own, self.sizes)
        return view if self.own_rows is None else view[slice(*self.own_rows)]


@dataclass(frozen=True)
class Pairing:
    """What of the candidate is what of the reference.

    Attributes
    ----------
    parts
        Official parameters to where they lie; nothing for those that the candidate does not have (`facts.lacking`).
    steps
        Official steps, named by their parameters ("stages.0.0.attn.qkv"), to the uses at their place: several where q, k and v are
        apart, whose outputs are concatenated in this order; with `made_rows` where the use makes more than this step. A step at
        whose place nothing runs is not there.
    notes, facts
        What is worth saying, in words and as data.
    shapes
        Of the official parameters.
    """

    parts: Mapping[str, tuple[Part, ...]]
    steps: Mapping[str, tuple[Use, ...]]
    notes: tuple[str, ...]
    facts: Facts
    shapes: Mapping[str, tuple[int, ...]]

    def own_weights(self, official: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Official parameters under the candidate's names and in its shapes, bit for bit; rows that none is for are the own ones.

        Parameters
        ----------
        official
            Under the official names, in the official shapes.
        own
            The candidate's, for shapes. The result has the dtype of the official ones, whose memory it may share.
        """
        found: dict[str, np.ndarray] = {}
        written: set[tuple[str, tuple[int, int] | None]] = set()
        holding = Counter(part.own for parts in self.parts.values() for part in parts)
        for name, parts in self.parts.items():
            value = np.asarray(official[name])
            for part in parts:
                if (part.own, part.own_rows) in written:  # it stands for two of the reference's: the first keeps it
                    continue
                written.add((part.own, part.own_rows))
                rows = value if part.official_rows is None else value[slice(*part.official_rows)]
                if part.is_whole and holding[part.own] == 1:
                    found[part.own] = rows.reshape(own[part.own].shape)
                    continue
                if part.own not in found:
                    found[part.own] = np.array(own[part.own], value.dtype, order="C")
                part.within(found[part.own])[...] = rows.reshape(part.sizes)
        return found | {name: np.zeros_like(own[name]) for name in self.facts.silent if name not in found}

    def official_weights(self, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The candidate's parameters under the official names and in the official shapes, bit for bit; without those it lacks.

        The result may share their memory.
        """
        found = {}
        for name, parts in self.parts.items():
            if not parts:
                continue
            if len(parts) == 1 and parts[0].is_whole and parts[0].official_rows is None:
                found[name] = own[parts[0].own].reshape(self.shapes[name])
                continue
            pieces = [np.ascontiguousarray(part.within(np.ascontiguousarray(own[part.own]))) for part in parts]
            ordered = sorted(zip(parts, pieces, strict=True), key=lambda pair: pair[0].official_rows or (0, 0))
            whole = np.concatenate([piece.reshape(len(piece), -1) for _, piece in ordered])
            if whole.size == prod(self.shapes[name]):  # else it lacks some of its rows
                found[name] = whole.reshape(self.shapes[name])
        return found


def paired(
    graph: Graph,
    own: Mapping[str, np.ndarray],
    network: Network,
    images_shape: Sequence[int],
    *,
    names: Mapping[str, str] | None = None,
) -> Pairing:
    """What of a candidate is what of a network.

    Parameters
    ----------
    graph
        The candidate's run. Where its weights were random, their values tell how they lie.
    own
        The weights of that run, in the order of their declaration.
    network
        What it is a port of.
    images_shape
        Of the images of that run, b c h w.
    names
        A user's mapping from layers, or modules or parameters, of the network to the candidate's own; "{k}" and "{i}" are numbers.

    Raises
    ------
    CaptureError
        Where parameters find no partner, with what is there instead and what to do.
    """
    flow = Flow(graph)
    uses = uses_of(graph, own)
    around = contexts(flow, uses)
    units = units_of(flow, uses, own)
    steps = steps_of(network)
    shapes = network.parameter_shapes()
    exact = _exact(own, shapes, network.aliases(), {name for use in uses if use.live for name in (use.weight, use.bias)})
    atoms = atoms_of(steps, units, around, exact)
    evidence = Evidence(units, atoms, exact, _mapped(names, graph, own, network, steps))
    scores, stands, of_uses, of_atoms = scored(evidence, around, [use.live for use in uses])
    partner = {
        j: units[i]
        for i, j in assigned(np.where(np.isfinite(scores), scores, -1e6))
        if np.isfinite(scores[i, j]) and scores[i, j] > -MAPPED / 2
    }
    if names is None:
        partner = _as_declared(partner, atoms, of_uses, of_atoms, set(exact.values()))
    partner = _acting_norms(partner, atoms, units, scores, set(exact.values()))
    taken = {id(unit) for unit in partner.values()}
    over = [unit for unit in units if id(unit) not in taken]
    error = refusal(atoms, partner, over, own, shapes, exact)
    if error is not None:
        partner, over = _with_stand_ins(error, atoms, partner, units, around, own, shapes, exact)
    parts, silent, turned = _parts(
        atoms, partner, own, shapes, uses, exact, same=len(exact) == len(shapes) and not _odd(exact, own, shapes)
    )
    placed = _placed(atoms, partner, uses, stands, of_uses, of_atoms)
    at = {name: tuple(chosen) for name, chosen in _steps(atoms, placed, uses, units).items()}
    facts = facts_of(steps, atoms, partner, over, placed, uses, around, parts, network.layer_shapes(images_shape), graph)
    taking = {own_name for own_name in map(graph.parameters.get, _read(graph)) if own_name is not None}
    held = {part.own for some in parts.values() for part in some}
    facts = replace(
        facts,
        silent=silent,
        turned=turned,
        never_used=tuple(step for step in facts.never_used if facts.own.get(step) not in taking),
        extra=tuple(name for name in facts.extra if name not in held),
        resized=resized_of(atoms, partner, uses, own, shapes),
        late=_late(at, parts, uses),
    )
    return Pairing(parts, at, words_of(facts), facts, shapes)


def _acting_norms(
    partner: Mapping[int, Unit], atoms: Sequence[Atom], units: Sequence[Unit], scores: np.ndarray, named: Collection[str]
) -> dict[int, Unit]:
    """The pairs, in which a vector that acts nowhere, as a bias that is not added, is no norm while one that acts is over."""
    found = dict(partner)
    taken = {id(unit) for unit in partner.values()}
    over = [(i, unit) for i, unit in enumerate(units) if id(unit) not in taken and unit.live and unit.sure and unit.bias]
    for j, unit in partner.items():
        if unit.uses or unit.bias or unit.weight in named or atoms[j].key[0] != "norm":
            continue
        fits = [(scores[i, j], i, other) for i, other in over if atoms[j].key in other.keys and np.isfinite(scores[i, j])]
        if fits:
            _, i, found[j] = max(fits, key=lambda fit: fit[:2])
            over = [(k, other) for k, other in over if k != i]
    return found


def _with_stand_ins(
    error: CaptureError,
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    units: Sequence[Unit],
    around: Sequence[Context],
    own: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    exact: Mapping[str, str],
) -> tuple[dict[int, Unit], list[Unit]]:
    """The pairs with those of two sizes, and what is left over; raises the error where their places are not sure.

    A last Linear to another number of classes is another network.
    """
    new = stand_ins(atoms, partner, units, around)
    given_back = {id(unit) for unit in new.values()}
    found = {j: unit for j, unit in partner.items() if id(unit) not in given_back} | new
    taken = {id(unit) for unit in found.values()}
    over = [unit for unit in units if id(unit) not in taken]
    last = len(atoms) - 1
    classes = last in new and atoms[last].key not in new[last].keys and new[last].keys[0][1] != atoms[last].key[1]
    if not new or classes or refusal(atoms, found, over, own, shapes, exact) is not None:
        raise error
    return found, over


def _late(steps: Mapping[str, Sequence[Use]], parts: Mapping[str, Sequence[Part]], uses: Sequence[Use]) -> dict[str, str]:
    """Steps whose bias is added later than at their place, to the own name of that."""
    added = {use.weight for use in uses if use.kind == "shift" and use.live}
    found = {}
    for step, some in steps.items():
        own = [part.own for part in parts.get(f"{step}.bias", ())]
        if len(some) == len(own) == 1 and not some[0].bias and own[0] in added:
            found[step] = own[0]
    return found


def _read(graph: Graph) -> frozenset[int]:
    """The values that operations take whose results are used."""
    used = live(graph)
    return frozenset(x for operation in graph.operations if used.intersection(operation.outputs) for x in operation.inputs)


def _as_declared(
    partner: dict[int, Unit],
    atoms: Sequence[Atom],
    of_uses: Mapping[int, Surroundings],
    of_atoms: Sequence[Surroundings],
    named: Collection[str],
) -> dict[int, Unit]:
    """Two norms of a block in the order in which they are declared, unless each stands exactly where the reference's does.

    Where norms come after the sums, what stands around the second is like what stands around the first.
    """
    found = dict(partner)
    blocks: dict[str, set[str]] = {}
    for j, unit in partner.items():
        blocks.setdefault(_parent(unit), set()).add(atoms[j].first.block)
    norms = [j for j in sorted(partner) if atoms[j].key[0] == "norm" and partner[j].uses and partner[j].weight not in named]
    for first, second in combinations(norms, 2):
        a, b = found[first], found[second]
        one_block = atoms[first].first.block == atoms[second].first.block and atoms[first].key == atoms[second].key
        if not one_block or a.declared < b.declared:
            continue
        if _parent(a) != _parent(b) or len(blocks[_parent(a)]) > 1:  # no module of this block holds both
            continue
        if any(of_uses[unit.uses[0]].likeness(of_atoms[j]) < 1 for unit, j in ((a, first), (b, second))):
            found[first], found[second] = b, a
    return found


def _parent(unit: Unit) -> str:
    return unit.name.rpartition(".")[0]


# Names


def _exact(
    own: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], aliases: Sequence[Mapping[str, str]], used: set[str]
) -> dict[str, str]:
    """Official names to the candidate's, where these are published ones behind one prefix: the one whose parameters are used."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    for i, published in enumerate(({name: name for name in shapes}, *aliases)):
        official = {theirs: name for name, theirs in published.items()}
        for name, value in own.items():
            at, dotted = 0, name.replace("/", ".")
            while at >= 0:
                suffix = official.get(dotted[at:])
                if suffix is not None and value.size == prod(shapes[suffix]):
                    found.setdefault((i, dotted[:at]), {})[suffix] = name
                at = dotted.find(".", at) + 1 or -1
    if not found:
        return {}
    best = max(found.values(), key=lambda names: (sum(theirs in used for theirs in names.values()), len(names)))
    return best if len(best) >= NAMED * len(shapes) else {}


def _odd(exact: Mapping[str, str], own: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a parameter of an official name has another shape than the official one."""
    return any(
        [size for size in own[theirs].shape if size > 1] != [size for size in shapes[name] if size > 1]
        for name, theirs in exact.items()
    )


def _mapped(
    names: Mapping[str, str] | None, graph: Graph, own: Mapping[str, np.ndarray], network: Network, steps: Mapping[str, Step]
) -> dict[str, str]:
    """A user's mapping without placeholders."""
    if names is None:
        return {}
    layers = {**network.layers(), **dict.fromkeys(steps), **dict.fromkeys(network.parameter_shapes())}
    targets = {run.path for run in graph.modules}
    for name in own:
        while name:
            targets.add(name)
            name = name.rpartition(".")[0]
    return by_mapping(names, targets, layers)


# Parameters


def _parts(
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    own: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    uses: Sequence[Use],
    exact: Mapping[str, str],
    *,
    same: bool,
) -> tuple[dict[str, tuple[Part, ...]], tuple[str, ...], tuple[str, ...]]:
    """Where the official parameters lie; own biases that the reference has none for; weights that are used as no such weight is.

    same
        Every name and shape is the official one: then each weight lies as the official one, however it is used.
    """
    otherwise: list[str] = []
    turned, kernels = usual(partner.values()), _orders_of_kernels(atoms, partner, own, shapes)
    found: dict[str, list[Part]] = {name: [] for name in shapes}
    silent: list[str] = []
    for j, unit in sorted(partner.items()):
        atom = atoms[j]
        if atom.key not in unit.sizes:
            for name, part in _of_another_size(atom, unit, own, shapes):
                found[name].append(part)
            continue
        sizes = unit.sizes[atom.key]
        if unit.layout is None and len(sizes) < len(atom.sizes) == own[unit.weight].ndim:
            sizes = atom.sizes  # a kernel that meets patches as a matrix
        layout = layout_of(unit, own[unit.weight], sizes, turned) if atom.first.kind != "norm" else Layout((0,), 0)
        alike = layout.order not in kernels and _shaped_alike(own[unit.weight], shapes[atom.first.weight])
        if layout.turned and (same or alike):
            if unit.layout is not None:
                otherwise.append(atom.first.weight)
            layout = Layout(tuple(sorted(layout.order)), 0)
        elif _is_square(sizes) and unit.layout is not None:
            near = [other for i, other in partner.items() if atoms[i].first.layer == atom.first.layer]
            usually = _usual_beside(unit, near, uses, turned)
            if usually is not None and usually != layout.turned:
                otherwise.append(atom.first.weight)
                layout = Layout(layout.order[::-1], 0)
        start = unit.rows[0] if unit.rows else 0
        for step, rows in atom.parts:
            wide = step.sizes[0] if rows is None else rows[1] - rows[0]
            part_sizes = (wide, *sizes[1:])
            whole = wide * max(prod(sizes[1:]), 1) == own[unit.weight].size
            own_rows = None if whole else (start, start + wide)
            found[step.weight].append(Part(unit.weight, layout.turned, rows, own_rows, part_sizes, layout.order))
            if step.bias and unit.bias:
                beside = None if own[unit.bias].size == wide else (start, start + wide)
                if own[unit.bias].size == atom.sizes[0] != wide:
                    beside = (start - (unit.rows[0] if unit.rows else 0), start - (unit.rows[0] if unit.rows else 0) + wide)
                found[step.bias].append(Part(unit.bias, False, rows, beside, (wide,), (0,)))
            elif unit.bias:
                silent.append(unit.bias)
            start += wide
    for name, part in _stray_biases(atoms, partner, uses, own, found, exact):
        found[name].append(part)
    return {name: tuple(parts) for name, parts in found.items()}, tuple(dict.fromkeys(silent)), tuple(otherwise)


def _of_another_size(
    atom: Atom, unit: Unit, own: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Part]]:
    """What a step of another size has in the reference's size all the same: its bias, or a weight of which a part acts."""
    step = atom.first
    if own[unit.weight].shape == shapes[step.weight]:
        yield step.weight, Part(unit.weight, False, None, None, step.sizes, tuple(range(len(step.sizes))))
    if step.bias and unit.bias and own[unit.bias].size == step.sizes[0]:
        yield step.bias, Part(unit.bias, False, None, None, (step.sizes[0],), (0,))


def _stray_biases(
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    uses: Sequence[Use],
    own: Mapping[str, np.ndarray],
    found: Mapping[str, Sequence[Part]],
    exact: Mapping[str, str],
) -> Iterator[tuple[str, Part]]:
    """Biases that act away from their weights, or nowhere: of those that are left, of the right size, the likeliest.

    That is the one of the reference's name, or of the weight's; the first that is added after its weight has acted; else the one
    declared nearest.
    """
    added = {use.weight: use.operation for use in uses if use.kind == "shift"}
    place = {name: i for i, name in enumerate(own)}
    taken = {part.own for parts in found.values() for part in parts}
    for j, unit in sorted(partner.items()):
        for step, rows in atoms[j].parts:
            if not step.bias or atoms[j].key not in unit.sizes:
                continue
            if any(rows is None or part.official_rows in (None, rows) for part in found[step.bias]):
                continue
            wide = step.sizes[0] if rows is None else rows[1] - rows[0]
            spare = [name for name, x in own.items() if name not in taken and x.size == wide and x.ndim <= 4]
            if spare:
                last = max((uses[use].operation for use in unit.uses), default=0)
                after = [name for name in spare if added.get(name, -1) > last]
                alike = [name for name in spare if name == exact.get(step.bias) or stem_of(name) == unit.name]
                best = min(alike or after, key=lambda name: added.get(name, 0), default="")
                best = best or min(spare, key=lambda name: abs(place[name] - place[unit.weight] - 1))
                taken.add(best)
                yield step.bias, Part(best, False, rows, None, (wide,), (0,))


def _orders_of_kernels(
    atoms: Sequence[Atom], partner: Mapping[int, Unit], own: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> set[tuple[int, ...]]:
    """The orders of axes of kernels whose shape is not the official one: the candidate's other kernels may lie so too."""
    found = ((unit, own[unit.weight].shape, shapes[atoms[j].first.weight]) for j, unit in partner.items())
    return {
        unit.layout.order for unit, shape, official in found if unit.layout is not None and len(shape) == 4 and shape != official
    }


def _shaped_alike(own: np.ndarray, official: tuple[int, ...]) -> bool:
    """Whether a parameter's shape says that it lies as the official one does: a square matrix's does not."""
    return own.shape == official and (own.ndim > 2 or len(set(official)) > 1)


def _is_square(sizes: tuple[int, ...]) -> bool:
    """Whether a weight has as many outputs as inputs, so that no size tells how it lies."""
    return len(sizes) > 1 and sizes[0] == sizes[1] and all(size == 1 for size in sizes[2:])


def _usual_beside(unit: Unit, units: Iterable[Unit], uses: Sequence[Use], turned: bool) -> bool | None:
    """Whether a square weight should lie as in, out: as those of its layer that are not square, else as most; None for any way.

    They count if they are held where it is. A module that is the weight's own, as an `nn.Linear`, has a way of its own; who takes
    the weight out of it does not.
    """
    module = unit.weight.rpartition(".")[0]
    beside = [
        other.layout.turned
        for other in units
        if other is not unit
        and other.weight.rpartition(".")[0] == module
        and other.layout is not None
        and other.keys[0][0] == "dense"
        and all(not _is_square(sizes) and prod(sizes[2:]) == 1 for sizes in other.sizes.values())
    ]
    if beside:
        return 2 * sum(beside) > len(beside)
    return None if all(uses[i].module == module for i in unit.uses) else turned


# Places


def _placed(
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    uses: Sequence[Use],
    stands: Mapping[int, int],
    of_uses: Mapping[int, Surroundings],
    of_atoms: Sequence[Surroundings],
) -> dict[int, int]:
    """Atoms to the uses at their places: of its own parameter, or of another's that acts twice."""
    placed: dict[int, int] = {}
    several: list[int] = []
    for j, unit in partner.items():
        alive = [use for use in unit.uses if uses[use].live] or unit.uses
        if len(alive) == 1:
            placed[j] = alive[0]
        elif alive:
            several.append(j)
    free = {j for j in range(len(atoms)) if j not in placed and j not in several}
    free |= {j for j, use in placed.items() if not uses[use].live}
    lent: dict[int, int] = {}
    for key in dict.fromkeys(atoms[j].key for j in several):
        own_places = [j for j in several if atoms[j].key == key]
        targets = [*own_places, *(j for j in sorted(free) if atoms[j].key == key)]
        candidates = [(use, j) for j in own_places for use in partner[j].uses if uses[use].live or len(partner[j].uses) == 1]
        scores = np.array([[_at(use, home, j, atoms, stands, of_uses, of_atoms) for j in targets] for use, home in candidates])
        for row, column in assigned(scores):
            use, home = candidates[row]
            target = targets[column]
            if target == home or (home not in targets):
                placed[home] = use
            else:
                lent[target] = use
        for home in own_places:  # a parameter stands at its own place at least once
            if home not in placed and home not in lent:
                placed[home] = next(use for use, at in candidates if at == home)
    whole = _layers_run_again(atoms, partner, uses, set(lent.values()))
    return placed | lent | {j: min(use for use in partner[j].uses if uses[use].live) for j in whole}


def _layers_run_again(atoms: Sequence[Atom], partner: Mapping[int, Unit], uses: Sequence[Use], lent: set[int]) -> list[int]:
    """The atoms of layers that run several times, each step as often as the others: they stand where they first run."""
    layers: dict[str, list[int]] = {}
    for j in partner:
        layers.setdefault(atoms[j].first.layer, []).append(j)
    found = []
    for members in layers.values():
        counts = {sum(uses[use].live for use in partner[j].uses) for j in members}
        if len(counts) == 1 and counts.pop() > 1 and not any(lent & set(partner[j].uses) for j in members):
            found += members
    return found


def _at(
    use: int,
    home: int,
    place: int,
    atoms: Sequence[Atom],
    stands: Mapping[int, int],
    of_uses: Mapping[int, Surroundings],
    of_atoms: Sequence[Surroundings],
) -> float:
    """How well a use of the parameters of one place fits another."""
    score = AROUND * of_uses[use].likeness(of_atoms[place]) + ALIGNED * (stands.get(use) == place) + 1.0 * (home == place)
    return score + 1.5 * (atoms[home].first.block == atoms[place].first.block)


def _steps(atoms: Sequence[Atom], placed: Mapping[int, int], uses: Sequence[Use], units: Sequence[Unit]) -> dict[str, list[Use]]:
    """Official steps to the uses at their places."""
    found: dict[str, list[Use]] = {}
    rows_of = {use: unit.rows for unit in units for use in unit.uses}
    for j, atom in enumerate(atoms):
        if j not in placed:
            continue
        use, start = replace(uses[placed[j]], rows=rows_of[placed[j]]), 0
        for step, rows in atom.parts:
            wide = step.sizes[0] if rows is None else rows[1] - rows[0]
            base = use.made_rows[0] if use.made_rows else 0
            shared = len(atom.parts) > 1
            found.setdefault(step.name, []).append(replace(use, made_rows=(base + start, base + start + wide)) if shared else use)
            start += wide
    wanted = Counter(step.name for atom in atoms for step, _ in atom.parts)
    return {name: some for name, some in found.items() if len(some) == wanted[name]}
