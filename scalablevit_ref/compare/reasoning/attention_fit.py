"""Attention's settings, fitted: hypotheses are tried on a few windows, with scale and factors solved, and what fits is verified on all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.attention_model import HOMOGENEOUS, PACKINGS, Hypothesis, Part, Problem
from scalablevit_ref.compare.reasoning.attention_words import LOGITS, MASKS, NORMALISERS, clauses, powers, simplified
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import SIMPLE, Array, Judge, joined, settled
from scalablevit_ref.compare.reasoning.windows import Windows

GRID = tuple(sign * 2.0**power for sign in (1, -1) for power in range(-6, 11))
"""Multiples of the reference's scale from which the scale is solved."""

BEAM = 10
"""Single changes, those that leave least, that are each tried together with every other."""

LOOSE = 1e3
"""Times the tolerance that a hypothesis may leave on the sample and still be verified on everything."""

Change = tuple[str, Mapping[str, Any]]
"""A setting's name, by which two changes exclude each other, and the hypothesis's fields with their new values."""


@dataclass(frozen=True)
class Fit:
    """A hypothesis with its solved numbers: the logits' scale, the factors of the output (z) and of what is added to it."""

    hypothesis: Hypothesis
    scale: float
    factors: Mapping[str, float]
    left: float


class Search:
    """Hypotheses on one candidate's attention, the right one and how they are tried."""

    def __init__(self, problem: Problem, reference: Hypothesis, judge: Judge, budget: int) -> None:
        self.problem, self.reference, self.judge, self.budget = problem, reference, judge, budget
        self.expected = {"z": 1.0, **({"lim": 1.0} if "lim" in problem.added else {})}
        self.bar = judge.bar(rough=True)
        self.tried: dict[Hypothesis, Fit] = {}

    def scale(self, hypothesis: Hypothesis) -> float:
        """The reference's rule for this number of heads."""
        return self.problem.scale(hypothesis.heads)

    def nearest(self, hypothesis: Hypothesis, *, solve: bool) -> Fit:
        """The least that the hypothesis leaves on the sample: as it is; with factors solved; with `solve`, with the scale solved too."""
        hypothesis = simplified(hypothesis)
        known = self.tried.get(hypothesis)
        if known is not None and (known.left <= LOOSE * self.bar or not solve):
            return known
        self.budget -= 1
        scale = self.scale(hypothesis)
        try:
            part = self.problem.sample(hypothesis)
        except ValueError:
            fit = Fit(hypothesis, scale, self.expected, float("inf"))
        else:
            sample = Sample(part, self.expected)
            fit = Fit(hypothesis, scale, self.expected, sample.fixed(scale))
            if fit.left > LOOSE * self.bar:
                factors, left = sample.factors(scale)
                fit = Fit(hypothesis, scale, factors, left)
            if solve and fit.left > LOOSE * self.bar and hypothesis.normaliser not in HOMOGENEOUS:
                solved = sample.solved(scale)
                factors, left = sample.factors(solved)
                if left < fit.left:
                    fit = Fit(hypothesis, solved, factors, left)
        self.tried[hypothesis] = fit
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

    def left(self, hypothesis: Hypothesis, scale: float | Array, factors: Mapping[str, float]) -> float:
        """What the hypothesis leaves of all of `actual`."""
        wrong, size = 0.0, 0.0
        for part in self.problem.parts(hypothesis):
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
        return Difference("setting", joined(found), fit.left, data | {"changes": found}, exact)

    def clauses(self, fit: Fit) -> list[str]:
        return clauses(
            fit.hypothesis, self.reference, scale=fit.scale, own_scale=self.scale(fit.hypothesis), factors=fit.factors,
            expected=self.expected, names=self.names(fit.hypothesis),
        )  # fmt: skip


class Sample:
    """A hypothesis on its sample, as vectors of the numbers that are known."""

    def __init__(self, part: Part, expected: Mapping[str, float]) -> None:
        self.part, self.expected = part, expected
        self.y = part.target[part.valid]
        self.size = float(np.linalg.norm(self.y)) or 1.0
        self.added = {name: x[part.valid] for name, x in part.added.items()}
        self.basis = np.linalg.qr(np.stack(list(self.added.values()), 1))[0] if self.added else np.zeros((self.y.size, 0))
        self.free = self.off(self.y)

    def off(self, x: Array) -> Array:
        """Without what the added values can explain."""
        return x - self.basis @ (self.basis.T @ x)

    def z(self, scale: float) -> Array:
        return self.part.output(scale)[self.part.valid]

    def fixed(self, scale: float) -> float:
        explained = self.expected["z"] * self.z(scale)
        for name, factor in self.expected.items():
            explained = explained + factor * self.added[name] if name != "z" else explained
        return _finite(float(np.linalg.norm(self.y - explained)) / self.size)

    def factors(self, scale: float) -> tuple[dict[str, float], float]:
        """Least squares over the output and all that may be added to it."""
        columns = {"z": self.z(scale), **self.added}
        matrix = np.stack(list(columns.values()), 1)
        if not np.isfinite(matrix).all():
            return dict(self.expected), float("inf")
        solved = np.linalg.lstsq(matrix, self.y, rcond=None)[0]
        return dict(zip(columns, map(float, solved), strict=True)), float(np.linalg.norm(self.y - matrix @ solved)) / self.size

    def residual(self, scale: float) -> Array:
        z = self.off(self.z(scale))
        if not np.isfinite(z).all():
            return np.full_like(self.free, np.inf)
        return self.free - z * (float(z @ self.free) / (float(z @ z) or 1.0))

    def solved(self, scale: float) -> float:
        """The scale that leaves least, with the factors solved for each: from the best of a grid by Gauss's and Newton's steps."""
        starts = sorted((float(np.linalg.norm(self.residual(scale * g))), scale * g) for g in GRID)
        return min((self.refined(start) for _, start in starts[:2]), key=lambda s: float(np.linalg.norm(self.residual(s))))

    def refined(self, scale: float) -> float:
        here = self.residual(scale)
        for _ in range(25):
            slope = (self.residual(scale * (1 + 1e-7)) - here) / (scale * 1e-7)
            step = -float(slope @ here) / (float(slope @ slope) or 1.0)
            step = float(np.clip(step, -abs(scale) / 2, abs(scale) / 2)) if np.isfinite(step) else 0.0
            there = self.residual(scale + step)
            while np.linalg.norm(there) > np.linalg.norm(here) and abs(step) > 1e-15 * abs(scale):
                step /= 4
                there = self.residual(scale + step)
            if abs(step) <= 1e-15 * abs(scale):
                break
            scale, here = scale + step, there
        return scale


def _finite(x: float) -> float:
    return x if np.isfinite(x) else float("inf")


def fit_window_attention(
    actual: Array, sources: Mapping[str, Array], settings: Mapping[str, Any], *, eps: float, budget: int
) -> list[Difference]:
    """Which settings explain what enters proj in IWSA; q, k, v, `lim` and `x` are maps b h w c, the first three possibly padded."""
    heads, p = int(settings["num_heads"]), int(settings["window_size"])
    c = sources["q"].shape[-1]
    reference = Hypothesis(Windows((p, p)), heads)
    return _fitted(Problem(actual, sources, lambda n: float((c / n) ** -0.5)), reference, eps, budget)


def fit_attention(
    actual: Array, sources: Mapping[str, Array], settings: Mapping[str, Any], *, eps: float, budget: int
) -> list[Difference]:
    """Which settings explain what enters proj in SSA; q b h w c', k b h' w' c', v b h' w' c or c'."""
    heads, c_ratio = int(settings["num_heads"]), float(settings["c_ratio"])
    scaled = settings.get("ssa_scale", "scaled") == "scaled"
    c = actual.shape[-1] if settings.get("values", "unscaled") == "unscaled" else round(actual.shape[-1] / c_ratio)
    reference = Hypothesis(Windows(actual.shape[1:3], "all"), heads)
    return _fitted(
        Problem(actual, sources, lambda n: float((c / n * (c_ratio if scaled else 1.0)) ** -0.5)), reference, eps, budget
    )


def _fitted(problem: Problem, reference: Hypothesis, eps: float, budget: int) -> list[Difference]:
    expected = {"z": 1.0, **({"lim": 1.0} if "lim" in problem.added else {})}
    before = Search(problem, reference, Judge(float("inf"), eps), 0).left(reference, problem.scale(reference.heads), expected)
    judge = Judge(before, eps)
    if judge.right():
        return []
    search = Search(problem, reference, judge, budget)
    found = _exact(search)
    if found:
        return [search.difference(fit) for fit in found]
    return []


def _exact(search: Search) -> list[Fit]:
    """All fits of the first level that has any: solved numbers alone, one change, two."""
    for level in (_numbers, _singles, _pairs):
        found = level(search)
        if found:
            return _apart(search, found)
    return []


def _apart(search: Search, fits: Iterable[Fit]) -> list[Fit]:
    """Each explanation once, those with fewest changes only."""
    by_words = {joined(search.clauses(fit)): fit for fit in fits}
    least = min(len(search.clauses(fit)) for fit in by_words.values())
    return [fit for fit in by_words.values() if len(search.clauses(fit)) == least]


def _numbers(search: Search) -> list[Fit]:
    fit = search.verified(search.nearest(search.reference, solve=True))
    return [fit] if fit else []


def _singles(search: Search) -> list[Fit]:
    made = [replace(search.reference, **dict(fields)) for _, fields in alternatives(search)]
    for solve in (False, True):
        found = [fit for h in made if (fit := search.verified(search.nearest(h, solve=solve)))]
        if found:
            return found
    return []


def _pairs(search: Search) -> list[Fit]:
    changes = list(alternatives(search))
    likely = [change for change in changes if _likely(change, search)]
    ranked = sorted(changes, key=lambda change: search.nearest(replace(search.reference, **change[1]), solve=True).left)
    pairs = [*product(ranked[:BEAM], changes), *combinations(likely, 2)]
    for solve in (False, True):
        for (axis, fields), (other, more) in pairs:
            if search.budget <= 0:
                return []
            if axis == other:
                continue
            fit = search.verified(search.nearest(replace(search.reference, **fields, **more), solve=solve))
            if fit:
                return [fit]
    return []


def alternatives(search: Search) -> Iterator[Change]:
    """Every single change of a setting, the likeliest of each setting first."""
    problem, reference = search.problem, search.reference
    for windows in _windows(problem, reference.windows):
        yield "windows", {"windows": windows}
    for heads in _heads(problem, reference.heads):
        yield "heads", {"heads": heads}
    yield "splits", {"splits": ("d heads",) * 3, "merge": "d heads"}
    for way in ("d heads", "view", "view of b c n", "view as d n"):
        yield "splits", {"merge": way}
        for which in ((1, 1, 1), (1, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)):
            splits = tuple(way if here else "heads d" for here in which)
            yield "splits", {"splits": splits}
            if way != "d heads" and which[2]:
                yield "splits", {"splits": splits, "merge": way}
    for packing in PACKINGS:
        yield "roles", {"packing": packing}
    for roles in product(("q", "k", "v"), ("q", "k", "v"), ("q", "k", "v", "lim", "x")):
        if roles != reference.roles and set(roles) <= set(problem.tables):
            yield "roles", {"roles": roles}
    for logits in LOGITS:
        yield "logits", {"logits": logits}
    for mask in MASKS:
        yield "mask", {"mask": mask}
    for normaliser in NORMALISERS:
        yield "normaliser", {"normaliser": normaliser}
    keys = problem.cut(reference).keys.shape[1]
    for most in sorted(
        {1, 2, 3, 4, 5, 8, 10, 16, 20, 32, 64, keys // 2, keys // 4, 3 * keys // 4, keys - 1} | set(range(1, min(keys, 50)))
    ):
        if 0 < most < keys:
            yield "normaliser", {"normaliser": f"top {most}"}


def _heads(problem: Problem, heads: int) -> list[int]:
    widths = (problem.width, problem.sources["q"].shape[-1])
    return [n for n in range(1, min(widths) + 1) if n != heads and all(width % n == 0 for width in widths)]


def _windows(problem: Problem, reference: Windows) -> Iterator[Windows]:
    if reference.kind == "all":
        for placed in ("turned",):
            yield replace(reference, placed=placed)
        return
    (h, w), p = problem.map, reference.size[0]
    yield Windows((h, w), "all")
    sizes = sorted({s for s in range(1, max(h, w) + 1) if (h % s == 0 and w % s == 0) or s <= 16} - {p})
    for kind in ("grid", "runs"):
        yield replace(reference, kind=kind)
        yield replace(reference, kind=kind, placed="as tiles")
    for placed in ("column by column", "turned", "as a grid", "as runs"):
        yield replace(reference, placed=placed)
    if problem.map != problem.real or h % p or w % p:
        yield replace(reference, hidden=True)
    for size in sizes:
        yield replace(reference, size=(size, size))
        if h % size or w % size:
            yield replace(reference, size=(size, size), hidden=True)
        else:
            yield replace(reference, size=(size, size), kind="grid")
    half = p // 2
    shifts = [(s, s) for s in (half, *range(1, p)) if s]
    for shift in dict.fromkeys(shifts):
        yield from _shifted(reference, shift)
    for size in sizes:
        if size > 1 and not (h % size or w % size):
            yield from _shifted(replace(reference, size=(size, size)), (size // 2, size // 2))
    for shift in product(range(p), repeat=2):
        if shift[0] != shift[1]:
            yield from _shifted(reference, shift)
    for rows, columns in product(_divisors(h), _divisors(w)):
        if rows != columns and (rows, columns) != (h, w):
            yield Windows((rows, columns))
    for halo in range(1, p + 1):
        for hidden in (True, False):
            yield replace(reference, halo=halo, hidden=hidden)
    for around in (3, 5, 7, 9, 11, 13):
        for hidden in (True, False):
            yield Windows((around, around), "sliding", hidden=hidden)


def _divisors(n: int) -> list[int]:
    return [m for m in range(1, n + 1) if n % m == 0]


def _shifted(windows: Windows, shift: tuple[int, int]) -> Iterator[Windows]:
    for apart in (False, True):
        for placed in ("as cut", "unrolled", "rolled on"):
            yield replace(windows, shift=shift, apart=apart, placed=placed)


def _likely(change: Change, search: Search) -> bool:
    """Whether a change is tried with other likely ones even if it leaves much of the difference alone."""
    _, fields = change
    windows = fields.get("windows")
    if windows is not None:
        h, w = search.problem.map
        half = windows.shift in {(0, 0), (windows.size[0] // 2,) * 2} and windows.placed in ("as cut", "unrolled")
        square = windows.size[0] == windows.size[1] and not (h % windows.size[0] or w % windows.size[1])
        return windows.kind == "all" or (half and square and not windows.halo and windows.kind != "sliding")
    if "logits" in fields:
        return fields["logits"] in ("cosine", "norm", "nearness")
    if "normaliser" in fields:
        return not fields["normaliser"].startswith("top ") or fields["normaliser"] == "top 1"
    if "roles" in fields:
        return len(set(fields["roles"])) == 3
    return True
