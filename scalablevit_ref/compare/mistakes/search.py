"""Why a layer differs: each likely mistake is tried on the reference's layer until one gives what the candidate gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from scalablevit_ref.compare.mistakes.catalogue import mistakes_of
from scalablevit_ref.compare.mistakes.layerwise import Local
from scalablevit_ref.edits import Changes, Mistake, reach
from scalablevit_ref.layers import Layer
from scalablevit_ref.networks import Network
from scalablevit_ref.testing.arrays import EPS, ratio, relative_l2

PAIRED = 6
"""Single mistakes, those that leave least of the error, that are each tried together with every other."""

PAIRS_SECONDS = 20
"""Longest that the pairs of mistakes of one layer may take, in seconds, by what single ones took; else none is tried."""

SMALL = 8
"""Most layers between two taps whose parameters are tried one by one."""

HELPS = 0.5
"""Largest share of the error that a mistake may leave to be worth telling, where none explains the whole."""

CLEARS = 2
"""Smallest factor by which the error falls with a mistake that explains it; less may be rounding of another kind."""

NEAR = 0.3
"""Largest relative error that a mistake may leave to be worth telling."""

IDLE = 0.9
"""Largest share of what each mistake leaves alone that a pair of them may leave: else one of the two changes nothing."""


@dataclass(frozen=True)
class Finding:
    """A mistake tried on one layer: the error without it and with it, in eps of the candidate's dtype."""

    layer: str
    mistake: Mistake
    before: float
    after: float
    explains: bool

    @property
    def hypothesis(self) -> Mistake:
        """The old name of `mistake`."""
        return self.mistake

    def __str__(self) -> str:
        if self.explains:
            return f"{self.layer}: matches to {eps_said(self.after)} if {self.mistake.words}"
        return f"{self.layer}: the error falls from {eps_said(self.before)} to {eps_said(self.after)} if {self.mistake.words}"


def eps_said(error: float) -> str:
    """An error as it is printed."""
    return f"{error:.1f} eps" if error < 10 else f"{error:.3g} eps"


def diagnose(
    local: Local,
    name: str,
    actual: np.ndarray,
    *,
    dtype: str,
    tolerance: float,
    known: Iterable[Mistake] = (),
    search: bool = True,
    pairs: bool = True,
    acting: Collection[str] = (),
) -> list[Finding]:
    """What explains the output `actual` of layer `name`, best first; if nothing does, what comes nearest; empty if nothing helps.

    `known` are mistakes that explained other layers: where some of them explain this one too, no others are tried. Without `search`
    others are never tried, and without `pairs` never two at once. `acting` are parameters of which it is known that they act, so
    that none of them is left out.
    """
    eps, reference = EPS[dtype], local.output(name)
    before, size = relative_l2(actual, reference) / eps, float(np.linalg.norm(reference))

    def tried(some: Iterable[Mistake]) -> Iterator[Finding]:
        for mistake in some:
            after = error_with(local, name, actual, mistake, size) / eps
            yield Finding(name, mistake, before, after, after <= min(tolerance, before / CLEARS))

    explaining = [finding for finding in tried(known) if finding.explains]
    if explaining or not search:
        return explaining
    inside = local.inside(name)
    params = local.own_params(*inside) if len(inside) <= SMALL else {}
    start = time.perf_counter()
    absent = {f"no {parameter}" for parameter in acting}
    singles = list(tried(some for some in likely(local.network, inside.values(), params) if some.name not in absent))
    took = time.perf_counter() - start
    best = _best(singles, eps)
    if pairs and (not best or not best[0].explains) and PAIRED * took < PAIRS_SECONDS:
        helpful = sorted(singles, key=lambda finding: finding.after)[:PAIRED]
        couples = _pairs([f.mistake for f in helpful], [f.mistake for f in singles])
        alone = {finding.mistake: finding.after for finding in singles}
        both = [f for f in tried(couples) if f.explains or f.after < IDLE * min(alone[part] for part in couples[f.mistake])]
        best = _best([*singles, *both], eps)
    return best


def likely(network: Network, layers: Collection[Layer], params: Mapping[str, Any]) -> Iterator[Mistake]:
    """All mistakes that concern these layers or the wiring, and for each parameter its transposition or its lack.

    Of those that come to the same in these layers, only the first. params: the layers' own, by their names in the whole network.
    """
    reached = frozenset[Callable[..., Any]]().union(*(reach(layer.function) for layer in layers))
    seen: set[Changes] = {()}
    for known in mistakes_of(network):
        here = tuple(change for change in known.changes if change.function in reached)
        if known.wiring is not None or here not in seen:
            yield known
        seen.add(here)
    for name, value in params.items():
        if value.ndim >= 2 and value.shape[0] == value.shape[1] > 1:
            yield Mistake(f"{name} transposed", f"{name} is transposed", params=((name, _transposed),))
        if name.endswith("bias") and value.any():
            yield Mistake(f"no {name}", f"{name} is left out", params=((name, np.zeros_like),))


def _transposed(value: np.ndarray) -> np.ndarray:
    return value.swapaxes(0, 1)


def _best(findings: list[Finding], eps: float) -> list[Finding]:
    """Those that explain, the least error first and none ten times its error; else the three that leave least of the error."""
    findings = sorted((f for f in findings if np.isfinite(f.after)), key=lambda finding: finding.after)
    explaining = [f for f in findings if f.explains]
    if explaining:
        return [f for f in explaining if f.after <= max(10 * explaining[0].after, 1.0)]
    return [f for f in findings if f.after < min(HELPS * f.before, NEAR / eps)][:3]


def _pairs(some: list[Mistake], others: list[Mistake]) -> dict[Mistake, tuple[Mistake, Mistake]]:
    """Each of some with each of the others, once, unless they exclude each other; with the two that it is made of."""
    seen, found = set(), {}
    for a, b in product(some, others):
        pair = frozenset((a, b))
        if a != b and pair not in seen and not a.excludes(b):
            found[a & b] = (a, b)
        seen.add(pair)
    return found


def error_with(local: Local, name: str, actual: np.ndarray, mistake: Mistake, size: float) -> float:
    """What the mistake leaves, beside the size of the right reference; infinite where it gives another shape, or none at all."""
    try:
        with np.errstate(all="ignore"):
            changed = local.output(name, mistake)
    except (KeyError, ValueError):  # the wiring has no such layer, or its sources do not fit each other
        return float("inf")
    return ratio(float(np.linalg.norm(actual - changed)), size) if changed.shape == actual.shape else float("inf")
