"""Why a layer differs: each likely mistake is tried on the reference's layer until one gives what the candidate gave."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from scalablevit_ref.compare.mistakes.catalogue import Hypothesis, hypotheses
from scalablevit_ref.compare.mistakes.local import Local
from scalablevit_ref.testing.arrays import EPS, relative_l2

PAIRED = 6
"""Of so many of the changes that help most, each is tried together with every other."""

PAIRS_SECONDS = 20
"""Unless that would take longer."""

SMALL = 8
"""So many layers between two taps have their parameters tried one by one."""

HELPS = 0.5
"""A change that leaves less than this share of the error is worth telling, where none explains it."""


@dataclass(frozen=True)
class Finding:
    """A hypothesis on one layer: the error without the change and with it, in eps of the candidate's dtype."""

    layer: str
    hypothesis: Hypothesis
    before: float
    after: float
    explains: bool

    def __str__(self) -> str:
        if self.explains:
            return f"{self.layer}: matches to {eps_said(self.after)} if {self.hypothesis.words}"
        return f"{self.layer}: the error falls from {eps_said(self.before)} to {eps_said(self.after)} if {self.hypothesis.words}"


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
    known: Iterable[Hypothesis] = (),
    search: bool = True,
) -> list[Finding]:
    """What explains the output `actual` of layer `name`, best first; if nothing does, what comes nearest; empty if nothing helps.

    known: hypotheses that explained other layers; where some explain this one too, no others are tried. search: whether others are.
    """
    eps = EPS[dtype]
    start = time.perf_counter()
    before = relative_l2(actual, local.output(name)) / eps
    took = time.perf_counter() - start

    def tried(some: Iterable[Hypothesis]) -> Iterator[Finding]:
        for hypothesis in some:
            after = _error(local, name, actual, hypothesis) / eps
            yield Finding(name, hypothesis, before, after, after <= tolerance)

    explaining = [finding for finding in tried(known) if finding.explains]
    if explaining or not search:
        return explaining
    inside = local.inside(name)
    kinds = frozenset(layer.kind for layer in inside.values())
    singles = list(tried(hypotheses(kinds, local.own_params(*inside) if len(inside) <= SMALL else {})))
    best = _best(singles)
    if (not best or not best[0].explains) and PAIRED * len(singles) * took < PAIRS_SECONDS:
        helpful = sorted(singles, key=lambda finding: finding.after)[:PAIRED]
        best = _best([*singles, *tried(_pairs([f.hypothesis for f in helpful], [f.hypothesis for f in singles]))])
    return best


def _best(findings: list[Finding]) -> list[Finding]:
    """Those that explain, the least error first and none ten times its error; else the three that leave least of the error."""
    findings = sorted((f for f in findings if np.isfinite(f.after)), key=lambda finding: finding.after)
    explaining = [f for f in findings if f.explains]
    if explaining:
        return [f for f in explaining if f.after <= max(10 * explaining[0].after, 1.0)]
    return [f for f in findings if f.after < HELPS * f.before][:3]


def _pairs(some: list[Hypothesis], others: list[Hypothesis]) -> Iterator[Hypothesis]:
    seen = set()
    for a in some:
        for b in others:
            pair = frozenset((a, b))
            if a == b or pair in seen:
                continue
            seen.add(pair)
            try:
                yield a & b
            except ValueError:
                continue


def _error(local: Local, name: str, actual: np.ndarray, hypothesis: Hypothesis) -> float:
    """The relative error with the change; infinite where it gives another shape, or none at all."""
    try:
        with np.errstate(all="ignore"):
            changed = local.output(name, hypothesis.variation, hypothesis.wiring)
    except (KeyError, ValueError):  # the wiring has no such layer, or its sources do not fit each other
        return float("inf")
    return relative_l2(actual, changed) if changed.shape == actual.shape else float("inf")
