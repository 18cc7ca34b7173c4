"""Parameters of another size than the reference's, and whose place they stand in.

A port with another kernel, a hidden width of its own or a norm on the other side of a convolution has parameters that no size
pairs. What stands with them in the candidate, what runs before and after them and what they are called tell whose they are. A step
that another of the same sort has taken by its size alone is given back first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from scalablevit_ref.compare.capture.assignment import assigned
from scalablevit_ref.compare.capture.context import Context
from scalablevit_ref.compare.capture.layout import Layout
from scalablevit_ref.compare.capture.official import Atom
from scalablevit_ref.compare.capture.similarity import agreement_of
from scalablevit_ref.compare.capture.units import Unit, layout_of, usual
from scalablevit_ref.compare.capture.uses import Use
from scalablevit_ref.compare.capture.vocabulary import form, tokens

MOST = 0.5
"""Largest share of the reference's steps that may have another size in a port of it; with more it is another network."""

BESIDE = 6.0
"""Of standing with the parameters of the same layer."""

CALLED = 3.0
"""Of a name that says what it is."""

AROUND = 4.0
"""Of the same steps directly before and after."""

SAME = 2.0
"""Of having the size."""

SIZED = 4.0
"""Of the size along each axis: channels out, channels in, and the kernel's two."""

MADE = 4.0
"""Of making the same of q, k and v."""

SURE = 0.5
"""Least share of what stands beside a parameter that must belong to the same block."""


@dataclass(frozen=True)
class Resized:
    """A parameter that stands in the place of one of another size.

    Attributes
    ----------
    own, official
        Its name, and the reference's.
    sizes, usual
        Of both, as out, in, height, width as far as there are these axes; of norms the channels.
    shape, usual_shape
        As both are stored.
    before
        The steps of the layer before which it acts, though the reference has it after them.
    order, rows
        How its sizes lie in the candidate's parameter, and the run of its rows that acts; None for all.
    bias
        Its bias, if that has another size too, and the reference's; else empty.
    """

    own: str
    official: str
    sizes: tuple[int, ...]
    usual: tuple[int, ...]
    shape: tuple[int, ...]
    usual_shape: tuple[int, ...]
    before: tuple[str, ...] = ()
    order: tuple[int, ...] = (0,)
    rows: tuple[int, int] | None = None
    bias: tuple[str, str] = ("", "")

    @property
    def step(self) -> str:
        """The reference's step."""
        return self.official.rpartition(".")[0]

    @property
    def partial(self) -> bool:
        """Whether it has the reference's shape, and a part of it acts."""
        return self.shape == self.usual_shape

    def within(self, own: np.ndarray) -> np.ndarray:
        """The candidate's parameter as out, in, height, width."""
        view = Layout(self.order, 0).view(own, self.sizes)
        return view if self.rows is None else view[slice(*self.rows)]

    def __str__(self) -> str:
        """In words: what is otherwise."""
        mine, theirs = f"the candidate's {self.own}", f"the reference's {self.official}"
        if len(self.usual) == 1:
            words = f"{mine} normalises {self.sizes[0]} channels, {theirs} {self.usual[0]}"
        elif self.partial:
            words = f"{mine} acts as a kernel of {_times(self.sizes[2:] or (1, 1))}, {theirs} as one of {_times(self.usual[2:])}"
        elif self._is_dense:
            words = f"{mine} is a dense convolution, {self.sizes}, {theirs} a depthwise one, {self.usual}"
        elif len(self.sizes) == len(self.usual) == 4 and self.sizes[:2] == self.usual[:2]:
            words = f"{mine} has a kernel of {_times(self.sizes[2:])}, {theirs} one of {_times(self.usual[2:])}"
        else:
            kernel = " × kernel" * (prod(self.sizes[2:]) > 1)
            words = f"{mine} is {_times(self.sizes)} (channels out × in{kernel}), {theirs} {_times(self.usual)}"
        return words + (f", and acts before {' and '.join(self.before)}, not after" if self.before else "")

    def clause(self, layer: str) -> str:
        """The same as a clause, by the reference's name inside a layer."""
        name, short = (whole.removeprefix(f"{layer}.") for whole in (self.official, self.step))
        if len(self.usual) == 1:
            return f"{short} normalises {self.sizes[0]} channels, not {self.usual[0]}"
        if self._is_dense:
            return f"{short} is a dense convolution, not a depthwise one"
        if len(self.sizes) == len(self.usual) == 4 and self.sizes[:2] == self.usual[:2]:
            return f"{short} has a kernel of {_times(self.sizes[2:])}, not {_times(self.usual[2:])}"
        return f"{name} is {_times(self.sizes)}, not {_times(self.usual)}"

    @property
    def _is_dense(self) -> bool:
        """Whether it mixes channels, and the reference's does not."""
        return len(self.sizes) == len(self.usual) == 4 and self.usual[1] == 1 < self.sizes[1] and self.sizes[2:] == self.usual[2:]


def _times(sizes: Sequence[int]) -> str:
    sizes = sizes[:2] if all(size == 1 for size in sizes[2:]) else sizes
    return " × ".join(map(str, sizes))


def stand_ins(
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    units: Sequence[Unit],
    around: Sequence[Context],
) -> dict[int, Unit]:
    """The atoms that parameters of another size stand for, and those that are given back, with their units.

    `partner` are the pairs of one size. The result holds every pair that is new; an atom of `partner` that is not to keep its unit
    is among them, or has none now. Empty where the places are not sure.
    """
    taken = {id(unit) for unit in partner.values()}
    over = [unit for unit in units if id(unit) not in taken and unit.live and unit.sure and unit.uses]
    missing = [j for j in range(len(atoms)) if j not in partner]
    if not over or not missing or len(missing) > MOST * len(atoms):
        return {}
    sorts = {_sort(unit) for unit in over}
    roles = {atoms[j].first.role for j in missing}
    lacking = {atoms[j].first.block for j in missing}
    loose = {
        j: unit
        for j, unit in partner.items()
        if (_sort(unit) in sorts and atoms[j].first.role in roles)
        or (atoms[j].first.block in lacking and _alike_sizes(unit, atoms[j]) < 1)
    }
    fixed = {j: unit for j, unit in partner.items() if j not in loose}
    free = [*over, *loose.values()]
    places = sorted({*missing, *loose})
    scores = np.array([[_score(unit, j, atoms, fixed, around) for j in places] for unit in free])
    found: dict[int, Unit] = {}
    for i, place in assigned(np.where(np.isfinite(scores), scores, -1e6)):
        if np.isfinite(scores[i, place]):
            found[places[place]] = free[i]
    changed = {j: unit for j, unit in found.items() if partner.get(j) is not unit}
    return changed if any(unit in over for unit in changed.values()) else {}


def _sort(unit: Unit) -> tuple[str, ...]:
    """What units have in common whose names differ in numbers only."""
    return (unit.keys[0][0], *form(unit.name))


def _score(unit: Unit, j: int, atoms: Sequence[Atom], fixed: Mapping[int, Unit], around: Sequence[Context]) -> float:
    """How well a unit of any size fits an atom, by what is certain; −inf where it does not stand with what belongs to it."""
    atom = atoms[j]
    same = atom.key in unit.keys
    if unit.keys[0][0] != atom.key[0] or not unit.uses:
        return -np.inf
    layers, blocks = _beside(unit, atoms, fixed)
    if blocks.get(atom.first.block, 0.0) < SURE:
        return -np.inf
    rivals = {other.first.role for other in atoms if other.first.block == atom.first.block and other.key[0] == atom.key[0]}
    roles = {step.role for step, _ in atom.parts}
    score = BESIDE * layers.get(atom.first.layer, 0.0) + SAME * same + SIZED * _alike_sizes(unit, atom)
    made = frozenset[str]().union(*(around[use].attends for use in unit.uses))
    score += MADE * (bool(made) and made == frozenset(atom.letters))
    score += CALLED * agreement_of(unit, roles, atom.letters, rivals)
    return score + AROUND * _alike_around(unit, atom, atoms, fixed, around)


def _alike_sizes(unit: Unit, atom: Atom) -> float:
    """The share of axes along which both have one size."""
    one, other = ((*sizes, 1, 1, 1)[:4] for sizes in (unit.sizes[unit.keys[0]], atom.sizes))
    return sum(a == b for a, b in zip(one, other, strict=True)) / 4


def _beside(unit: Unit, atoms: Sequence[Atom], fixed: Mapping[int, Unit]) -> tuple[dict[str, float], dict[str, float]]:
    """The layers, and the blocks, of the parameters whose names begin as this one's does, by their shares."""
    path = tokens(unit.name)
    depth = {j: _shared(path, tokens(other.name)) for j, other in fixed.items() if other is not unit}
    most = max(depth.values(), default=0)
    if not most:
        return {}, {}
    near = [j for j, n in depth.items() if n == most]
    layers, blocks = Counter(atoms[j].first.layer for j in near), Counter(atoms[j].first.block for j in near)
    return {name: n / len(near) for name, n in layers.items()}, {name: n / len(near) for name, n in blocks.items()}


def _shared(a: Sequence[object], b: Sequence[object]) -> int:
    """How many of the first tokens are the same."""
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _alike_around(unit: Unit, atom: Atom, atoms: Sequence[Atom], fixed: Mapping[int, Unit], around: Sequence[Context]) -> float:
    """The share of steps directly before and after that are the same, of those that are known."""
    at = {use: atoms[j].first.name for j, other in fixed.items() for use in other.uses}
    known = set(at.values())
    mine = {(side, at[use]) for own in unit.uses for side, some in _sides(around[own]) for use in some if use in at}
    own = {step.name for step, _ in atom.parts}
    before = {("before", name) for step, _ in atom.parts for name, _ in step.before if name in known}
    after = {("after", other.first.name) for other in atoms if own & {name for name, _ in other.first.before}}
    usual = before | {pair for pair in after if pair[1] in known}
    either = mine | usual
    return len(mine & usual) / len(either) if either else 0.0


def _sides(context: Context) -> tuple[tuple[str, Collection[int]], ...]:
    return ("before", context.before), ("after", context.after)


def resized_of(
    atoms: Sequence[Atom],
    partner: Mapping[int, Unit],
    uses: Sequence[Use],
    own: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Resized]:
    """What is said of the pairs of two sizes, by the steps' names."""
    found, turned = {}, usual(partner.values())
    for j, unit in sorted(partner.items()):
        atom, step = atoms[j], atoms[j].first
        if atom.key in unit.keys or len(atom.parts) > 1 or atom.parts[0][1] is not None:
            continue
        first = min(unit.uses)
        layer = {
            atoms[i].first.name: min(other.uses)
            for i, other in partner.items()
            if other.uses and atoms[i].first.layer == step.layer
        }
        earlier = {name for name, _ in step.before}
        before = tuple(name for name, use in layer.items() if name in earlier and use > first)
        sizes = uses[first].sizes
        partial = own[unit.weight].shape == shapes[step.weight]
        whole = unit.rows is None
        order = (0,) if step.kind == "norm" or partial or not whole else layout_of(unit, own[unit.weight], sizes, turned).order
        beside = bool(step.bias and unit.bias) and own[unit.bias].size != step.sizes[0]
        bias = (unit.bias, step.bias) if beside else ("", "")
        shape = own[unit.weight].shape
        found[step.name] = Resized(
            unit.weight, step.weight, sizes, step.sizes, shape, shapes[step.weight], before, order, unit.rows, bias
        )
    return found
