"""One hypothesis of an attention against what a candidate gave: numbers solved on a sample, and verified on everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.attention_model import HOMOGENEOUS, Hypothesis, Part, Problem
from scalablevit_ref.compare.reasoning.attention_words import clauses, powers, simplified
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import SIMPLE, Array, joined, settled
from scalablevit_ref.compare.reasoning.judge import Judge

GRID = np.array([*(2.0**power for power in range(-6, 11)), -0.25, -1.0, -4.0])
"""Multiples of the reference's scale from which the scale is solved."""

HOPEFUL = 0.6
"""Share of the sum of squares that a scale of the grid must explain for the scale to be solved from there."""

FEW, MANY = 16, 48
"""Queries on which a hypothesis is tried: one among many, and one whose neighbours are tried next if it helps."""

LARGE = 1 << 15
"""Logits of a sample up to which its scale is solved."""

LOOSE = 1e3
"""Times the tolerance that a hypothesis may leave on the sample and still be verified on everything."""


@dataclass(frozen=True)
class Fit:
    """A hypothesis with its solved numbers: the logits' scale, the factors of the output (z) and of what is added to it."""

    hypothesis: Hypothesis
    scale: float
    factors: Mapping[str, float]
    left: float
    unexplained: float = 1.0
    """Share of what nothing that may be added explains that the attention leaves on the sample."""


class Search:
    """Hypotheses on one candidate's attention, the right one and how they are tried."""

    def __init__(self, problem: Problem, reference: Hypothesis, judge: Judge, budget: int) -> None:
        self.problem, self.reference, self.judge, self.budget = problem, reference, judge, budget
        self.expected = {"z": 1.0, **({"lim": 1.0} if "lim" in problem.added else {})}
        self.bar = judge.bar(rough=True)
        self.tried: dict[tuple[Hypothesis, int], Fit] = {}

    def scale(self, hypothesis: Hypothesis) -> float:
        """The reference's rule for this number of heads."""
        return self.problem.scale(hypothesis.heads)

    def nearest(self, hypothesis: Hypothesis, rows: int = FEW) -> Fit:
        """What the hypothesis leaves on the sample, with the factors and, unless the reference's does, the scale solved."""
        hypothesis = simplified(hypothesis)
        known = self.tried.get((hypothesis, rows))
        if known is not None:
            return known
        self.budget -= 1
        scale = self.scale(hypothesis)
        fit = Fit(hypothesis, scale, self.expected, float("inf"))
        with suppress(ValueError):
            sample = Sample(self.problem.sample(hypothesis, rows))
            if sample.y.size < 2 * (len(sample.added) + 2):
                raise ValueError("too few numbers are known")
            solved = sample.solved(scale, LOOSE * self.bar, fixed=_fixed(hypothesis, sample))
            left = sample.left(solved)
            factors = sample.factors(solved) if left <= LOOSE * self.bar else self.expected
            fit = Fit(hypothesis, solved, factors, left, sample.unexplained(solved))
        self.tried[hypothesis, rows] = fit
        return fit

    def verified(self, fit: Fit) -> Fit | None:
        """The fit with simple numbers where they do, on everything; None if it does not explain it."""
        if fit.left > LOOSE * self.bar:
            return None
        simple = {name: settled(factor, SIMPLE, within=1e-4) for name, factor in fit.factors.items()}
        scales = [value for value, _ in self.names(fit.hypothesis)]
        near = min([self.scale(fit.hypothesis), *scales], key=lambda value: abs(value - fit.scale))
        near = near if abs(near - fit.scale) <= 1e-4 * near else fit.scale
        for scale, factors in ((near, simple), (fit.scale, simple), (fit.scale, fit.factors)):
            left = self.left(fit.hypothesis, scale, factors)
            if left <= self.bar:
                return Fit(fit.hypothesis, scale, factors, left)
        return None

    def left(
        self, hypothesis: Hypothesis, scale: float | Array, factors: Mapping[str, float], *, bias: Array | None = None
    ) -> float:
        """What the hypothesis leaves of all of `actual`; a bias, heads n m, is added to the logits before they are scaled."""
        wrong, size = 0.0, 0.0
        for part in self.problem.parts(hypothesis):
            part = part if bias is None else replace(part, logits=part.logits + bias)
            explained = factors["z"] * part.output(scale) if factors["z"] else np.zeros_like(part.target)
            for name, factor in factors.items():
                explained = explained + factor * part.added[name] if name != "z" and factor else explained
            wrong += float((((part.target - explained) ** 2)[part.valid]).sum())
            size += float((part.target[part.valid] ** 2).sum())
        left = (wrong / (size or 1.0)) ** 0.5
        return left if np.isfinite(left) else float("inf")

    def names(self, hypothesis: Hypothesis) -> Iterator[tuple[float, str]]:
        sources = self.problem.sources
        keys = self.problem.keys if hypothesis.windows.kind == "all" else hypothesis.windows.size[0] * hypothesis.windows.size[1]
        return powers(hypothesis, self.problem.width, sources["q"].shape[-1], keys, self.scale(hypothesis))

    def difference(self, fit: Fit, *, exact: bool = True) -> Difference:
        found = self.clauses(fit)
        h = fit.hypothesis
        data: dict[str, Any] = {"scale": fit.scale, "factors": dict(fit.factors), "heads": h.heads}
        data |= {"window": list(h.windows.size), "shift": list(h.windows.shift)} if h.windows.kind != "all" else {}
        data |= {} if h.windows.sight is None else h.windows.sight.data
        return Difference("setting", joined(found), fit.left, data | {"changes": found}, exact)

    def changes(self, hypothesis: Hypothesis, factors: Mapping[str, float]) -> list[str]:
        """What differs beside the scale."""
        return self.clauses(Fit(hypothesis, self.scale(hypothesis), factors, 0.0))

    def clauses(self, fit: Fit) -> list[str]:
        return clauses(
            fit.hypothesis, self.reference, scale=fit.scale, own_scale=self.scale(fit.hypothesis), factors=fit.factors,
            expected=self.expected, names=self.names(fit.hypothesis),
        )  # fmt: skip


class Sample:
    """A hypothesis on its sample, as vectors of the numbers that are known."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.y = part.target[part.valid]
        self.size = float(np.linalg.norm(self.y)) or 1.0
        self.added = {name: x[part.valid] for name, x in part.added.items()}
        self.basis = np.linalg.qr(np.stack(list(self.added.values()), 1))[0] if self.added else np.zeros((self.y.size, 0))
        self.free = self.off(self.y)

    def off(self, x: Array) -> Array:
        """Without what the added values can explain."""
        return np.asarray(x - (x @ self.basis) @ self.basis.T)

    def z(self, scale: float | Array) -> Array:
        """The output's known numbers; for scales g 1 1 1 1 in rows g n. What is not finite, or no square can be taken of, is 0."""
        z = self.part.output(scale)[..., self.part.valid]
        return np.where(abs(z) < 1e100, z, 0.0)

    def factors(self, scale: float) -> dict[str, float]:
        """Least squares over the output and all that may be added to it."""
        columns = {"z": self.z(scale), **self.added}
        solved = np.linalg.lstsq(np.stack(list(columns.values()), 1), self.y, rcond=None)[0]
        return dict(zip(columns, map(float, solved), strict=True))

    def residual(self, scale: float) -> Array:
        """What is left with the factors solved."""
        z = self.off(self.z(scale))
        return np.asarray(self.free - z * (float(z @ self.free) / (float(z @ z) or 1.0)))

    def left(self, scale: float) -> float:
        return float(np.linalg.norm(self.residual(scale))) / self.size

    def unexplained(self, scale: float) -> float:
        return float(np.linalg.norm(self.residual(scale))) / (float(np.linalg.norm(self.free)) or 1.0)

    def solved(self, scale: float, enough: float, *, fixed: bool) -> float:
        """The scale that leaves least, with the factors solved for each; `scale` itself if it leaves no more than `enough`.

        From the best of a grid by Gauss's and Newton's steps.
        """
        if fixed or self.left(scale) <= enough:
            return scale
        grid = scale * GRID
        z = self.off(self.z(grid.reshape(-1, 1, 1, 1, 1)))
        explained = (z @ self.free) ** 2 / np.maximum((z * z).sum(-1), 1e-300)
        order = np.argsort(-explained, kind="stable")
        if explained[order[0]] < HOPEFUL * float(self.free @ self.free):
            return float(grid[order[0]])
        starts = [s for s in grid[order[:4]] if s == grid[order[0]] or not 0.4 < s / grid[order[0]] < 2.5][:2]
        return min((self.refined(float(s)) for s in starts), key=self.left)

    def refined(self, scale: float) -> float:
        here = self.residual(scale)
        for _ in range(25):
            slope = (self.residual(scale * (1 + 1e-7)) - here) / (scale * 1e-7)
            step = -float(slope @ here) / (float(slope @ slope) or 1.0)
            step = float(np.clip(step, -abs(scale) / 2, abs(scale) / 2)) if np.isfinite(step) else 0.0
            there = self.residual(scale + step)
            if np.linalg.norm(there) > 0.999 * np.linalg.norm(here):
                return scale
            scale, here = scale + step, there
        return scale


def _fixed(hypothesis: Hypothesis, sample: Sample) -> bool:
    """Whether no other scale is tried: where it comes to a factor of the output, or costs too much."""
    return hypothesis.normaliser.startswith(("top ", *HOMOGENEOUS)) or sample.part.logits.size > LARGE
