"""Attention's settings, fitted: which hypotheses are tried, in which order, and what is told of those that explain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, combinations, islice, product, takewhile, zip_longest
from typing import Any

from scalablevit_ref.compare.reasoning.attention_model import PACKINGS, TWO, V_FIRST, Hypothesis, Problem
from scalablevit_ref.compare.reasoning.attention_search import MANY, Fit, Search
from scalablevit_ref.compare.reasoning.attention_words import LOGITS, MASKS, NORMALISERS
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import ENOUGH, Array, joined
from scalablevit_ref.compare.reasoning.judge import Judge
from scalablevit_ref.compare.reasoning.logit_fit import biased, bounded, of_each_head
from scalablevit_ref.compare.reasoning.windows import Measured, Windows

HELPFUL = 10
"""Single changes, those that leave least, that are tried with each other one, the pair that promises most first."""

SIZES = 3
"""Sizes of windows, those that leave least, that are tried with every shift."""

MUCH = 0.5
"""Share of what the reference leaves that a change may leave to be worth telling where nothing explains the whole."""

SHARP = 1000
"""Times the tolerance that solved numbers may leave for no other change to be tried."""

LIKELY = ("queries", "heads", "queries and keys", "plus one", "none", "sigmoid", "twice", "top 1")
"""Normalisers that are tried together with other likely changes."""

Change = tuple[str, Mapping[str, Any]]
"""A setting's name, by which two changes exclude each other, and the hypothesis's fields with their new values."""


Measure = Callable[[], Measured]
"""Measures which tokens see which in the candidate."""


def fit_window_attention(
    actual: Array,
    sources: Mapping[str, Array],
    settings: Mapping[str, Any],
    *,
    eps: float,
    budget: int,
    measure: Measure | None = None,
) -> list[Difference]:
    """Which settings explain what enters proj in IWSA; q, k, v, `lim` and `x` are maps b h w c, the first three possibly padded.

    `measure` is asked where no single change of a setting explains it.
    """
    heads, p = int(settings["num_heads"]), int(settings["window_size"])
    c = sources["q"].shape[-1]
    reference = Hypothesis(Windows((p, p)), heads)
    return _fitted(Problem(actual, sources, lambda n: float((c / n) ** -0.5)), reference, eps, budget, measure)


def fit_attention(
    actual: Array,
    sources: Mapping[str, Array],
    settings: Mapping[str, Any],
    *,
    eps: float,
    budget: int,
    measure: Measure | None = None,
) -> list[Difference]:
    """Which settings explain what enters proj in SSA; q b h w c', k b h' w' c', v b h' w' c or c'; `measure` as for IWSA."""
    heads, c_ratio = int(settings["num_heads"]), float(settings["c_ratio"])
    scaled = settings.get("ssa_scale", "scaled") == "scaled"
    c = actual.shape[-1] if settings.get("values", "unscaled") == "unscaled" else round(actual.shape[-1] / c_ratio)
    reference = Hypothesis(Windows(actual.shape[1:3], "all"), heads)
    problem = Problem(actual, sources, lambda n: float((c / n * (c_ratio if scaled else 1.0)) ** -0.5))
    return _fitted(problem, reference, eps, budget, measure)


def _fitted(problem: Problem, reference: Hypothesis, eps: float, budget: int, measure: Measure | None) -> list[Difference]:
    expected = {"z": 1.0, **({"lim": 1.0} if "lim" in problem.added else {})}
    before = Search(problem, reference, Judge(float("inf"), eps), 0).left(reference, problem.scale(reference.heads), expected)
    judge = Judge(before, eps)
    if judge.right():
        return []
    if problem.actual.size < ENOUGH * (len(problem.added) + 2):
        return []
    search = Search(problem, reference, judge, budget)
    return explained(search, measure) or nearest(search)


def explained(search: Search, measure: Measure | None = None) -> list[Difference]:
    """All explanations of the first level with any: solved numbers, one change, numbers of each head or position, two changes.

    Of these one is which tokens see which, where that was measured.
    """
    numbers = _numbers(search)
    alone = bool(numbers and numbers[0].factors["z"]) and numbers[0].left <= SHARP * search.judge.tolerance
    found = _apart(search, numbers if alone else [*_singles(search), *numbers])
    if found:
        return [search.difference(fit) for fit in found]
    solved = of_each_head(search) or bounded(search)
    if solved:
        return solved
    told = Measured() if measure is None else measure()
    found = _measured(search, told)
    if found or told.mixed or told.dead:
        return [search.difference(fit) for fit in found]
    solved = [] if told.windows else biased(search)
    if solved and not solved[0].data.get("mask"):
        return solved
    return [search.difference(fit) for fit in _pairs(search, told=told.right)] or solved


def nearest(search: Search) -> list[Difference]:
    """The change that explains most, if that is much, as a fact."""
    fit = min(search.tried.values(), key=lambda fit: fit.unexplained, default=None)
    if fit is None or fit.unexplained > MUCH * search.nearest(search.reference, MANY).unexplained:
        return []
    found = joined(search.clauses(fit) or ["the reference's settings"])
    words = f"comes nearest: {found}; it leaves {fit.unexplained:.0%} of the attention's output unexplained"
    return [Difference("setting", words, fit.left, {"changes": found}, exact=False)]


def _apart(search: Search, fits: Iterable[Fit]) -> list[Fit]:
    """Each explanation once, those with fewest changes only; none that is rough where another is not."""
    by_words = {joined(search.clauses(fit)): fit for fit in fits}
    sharp = {words: fit for words, fit in by_words.items() if fit.left <= search.judge.tolerance}
    by_words = sharp or by_words
    least = min((len(search.clauses(fit)) for fit in by_words.values()), default=0)
    return [fit for fit in by_words.values() if len(search.clauses(fit)) == least]


def _numbers(search: Search) -> list[Fit]:
    fit = search.verified(search.nearest(search.reference))
    return [fit] if fit else []


def _singles(search: Search) -> list[Fit]:
    made = (replace(search.reference, **fields) for _, fields in alternatives(search))
    return [fit for h in takewhile(lambda h: search.budget > 0, made) if (fit := search.verified(search.nearest(h)))]


def _measured(search: Search, told: Measured) -> list[Fit]:
    """What each query sees as it was measured; and one change more."""
    known: list[tuple[str, dict[str, Any]]] = [("windows", {"windows": windows}) for windows in told.windows]
    known += [("normaliser", {"normaliser": "uniform"})] * told.dead
    alone = (replace(search.reference, **base) for _, base in known)
    more = list(alternatives(search)) if known else []
    both = (replace(search.reference, **base, **fields) for axis, base in known for other, fields in more if axis != other)
    made = (search.nearest(h) for h in takewhile(lambda h: search.budget > 0, chain(alone, both)))
    return list(islice(filter(None, map(search.verified, made)), 1))


def _pairs(search: Search, *, told: bool) -> list[Fit]:
    """Two changes: those that each leave least, likely ones, and windows of another size that are shifted; by turns.

    `told`: that windows are the reference's is known.
    """
    changes = [change for change in alternatives(search) if not (told and change[0] == "windows")]
    left = [(search.nearest(replace(search.reference, **fields), MANY).unexplained, axis, fields) for axis, fields in changes]
    helpful = sorted(left, key=lambda change: change[0])
    best = [
        (a * b, {**one, **other}) for (a, axis, one), (b, second, other) in product(helpful[:HELPFUL], helpful) if axis != second
    ]
    best.sort(key=lambda pair: pair[0])
    sizes = dict.fromkeys(
        f["windows"].size for _, axis, f in helpful if axis == "windows" and f["windows"].kind in ("tiles", "grid")
    )
    moved = [{"windows": w} for size in list(sizes)[:SIZES] for w in _moved(Windows(size))]
    turns = (
        (fields for _, fields in best),
        _likely_pairs([(axis, fields) for axis, fields in changes if _likely(axis, fields, search)]),
        iter(moved),
    )
    for fields in (fields for turn in zip_longest(*turns) for fields in turn if fields is not None):
        if search.budget <= 0:
            break
        fit = search.verified(search.nearest(replace(search.reference, **fields)))
        if fit:
            return [fit]
    return []


def _likely_pairs(changes: Iterable[Change]) -> Iterator[dict[str, Any]]:
    """Pairs of likely changes, the likelier of each setting first."""
    ranked: dict[str, list[Mapping[str, Any]]] = {}
    for axis, fields in changes:
        ranked.setdefault(axis, []).append(fields)
    placed = [(place, axis, fields) for axis, some in ranked.items() for place, fields in enumerate(some)]
    pairs = [(a + b, {**one, **other}) for (a, axis, one), (b, second, other) in combinations(placed, 2) if axis != second]
    return (fields for _, fields in sorted(pairs, key=lambda pair: pair[0]))


def alternatives(search: Search) -> Iterator[Change]:
    """Every single change of a setting, the likeliest of each setting first."""
    problem, reference = search.problem, search.reference
    for windows in _windows(problem, reference.windows):
        yield "windows", {"windows": windows}
    for heads in _heads(problem, reference.heads):
        yield "heads", {"heads": heads}
    yield "splits", {"splits": ("d heads",) * 3, "merge": "d heads"}
    for way in ("d heads", "view", "view of b c n", "view as d n"):
        yield "merge", {"merge": way}
        for which in ((1, 1, 1), (1, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)):
            splits = tuple(way if here else "heads d" for here in which)
            yield "splits", {"splits": splits}
            if way != "d heads" and which[2]:
                yield "splits", {"splits": splits, "merge": way}
    for packing in (*PACKINGS, *TWO):
        yield "roles", {"packing": packing}
    if problem.tables["k"].shape[-1] != problem.tables["v"].shape[-1]:
        yield "roles", {"packing": V_FIRST}
    for shared in (("k",), ("v",), ("k", "v"), ("q",)) if reference.heads > 1 else ():
        yield "splits", {"shared": shared}
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
    for most in sorted({*range(1, 50), 64, keys // 4, keys // 2, 3 * keys // 4, keys - 1}):
        if 0 < most < keys:
            yield "normaliser", {"normaliser": f"top {most}"}


def _heads(problem: Problem, heads: int) -> list[int]:
    widths = (problem.width, problem.sources["q"].shape[-1])
    found = [n for n in range(1, min(widths) + 1) if n != heads and all(width % n == 0 for width in widths)]
    return sorted(found, key=lambda n: max(n / heads, heads / n))


def _windows(problem: Problem, reference: Windows) -> Iterator[Windows]:
    if reference.kind == "all":
        for placed in ("turned",):
            yield replace(reference, placed=placed)
        return
    (h, w), p = problem.map, reference.size[0]
    yield Windows((h, w), "all")
    sizes = sorted({s for s in range(1, max(h, w) + 1) if (h % s == 0 and w % s == 0) or s <= 16} - {p})
    sizes = [s for s in sizes if (s, s) != (h, w)]
    for kind in ("grid", "runs"):
        yield replace(reference, kind=kind)
        yield replace(reference, kind=kind, placed="as tiles")
    turned = ("turned map",) if h != w and problem.map == problem.real and not (h % p or w % p) else ()
    for placed in ("column by column", "turned", *turned, "as a grid", "as runs"):
        yield replace(reference, placed=placed)
    if problem.map != problem.real or h % p or w % p:
        yield replace(reference, hidden=True)
    for size in sizes:
        yield replace(reference, size=(size, size))
        if h % size or w % size:
            yield replace(reference, size=(size, size), hidden=True)
        else:
            yield replace(reference, size=(size, size), kind="grid")
    yield from _moved(reference)
    for s in dict.fromkeys(s for s in (p // 2, *range(1, p)) if s):
        yield replace(reference, masked=(s, s))
    for size in sizes:
        if size > 1 and not (h % size or w % size):
            yield from _shifted(replace(reference, size=(size, size)), (size // 2, size // 2))
    for rows, columns in product(_divisors(h), _divisors(w)):
        if rows != columns and (rows, columns) != (h, w):
            yield Windows((rows, columns))
    for halo in range(1, min(p + 1, max(h, w) - p)):
        for hidden in (True, False):
            yield replace(reference, halo=halo, hidden=hidden)
    for around in range(3, min(14, 2 * max(h, w) - 1), 2):
        for hidden in (True, False):
            yield Windows((around, around), "sliding", hidden=hidden)


def _divisors(n: int) -> list[int]:
    return [m for m in range(1, n + 1) if n % m == 0]


def _moved(windows: Windows) -> Iterator[Windows]:
    """All shifts: first by half a window, then by the same number of rows and columns, then by others."""
    p = windows.size[0]
    for s in dict.fromkeys(s for s in (p // 2, *range(1, p)) if s):
        yield from _shifted(windows, (s, s))
    for shift in product(range(p), range(windows.size[1])):
        if shift[0] != shift[1]:
            yield replace(windows, shift=shift)
            if 0 in shift:
                yield replace(windows, shift=shift, placed="unrolled")


def _shifted(windows: Windows, shift: tuple[int, int]) -> Iterator[Windows]:
    for apart in (False, True):
        for placed in ("as cut", "unrolled", "rolled on"):
            yield replace(windows, shift=shift, apart=apart, placed=placed)


def _likely(axis: str, fields: Mapping[str, Any], search: Search) -> bool:
    """Whether a change is tried with other likely ones even if it leaves much of the difference alone."""
    if axis == "windows":
        windows = fields["windows"]
        h, w = search.problem.map
        half = windows.shift in {(0, 0), (windows.size[0] // 2,) * 2} and windows.placed in ("as cut", "unrolled")
        square = windows.size[0] == windows.size[1] and not (h % windows.size[0] or w % windows.size[1])
        return windows.kind == "all" or (half and square and not windows.halo and windows.kind in ("tiles", "grid"))
    if axis == "logits":
        return fields["logits"] in ("cosine", "norm", "nearness")
    if axis == "normaliser":
        return fields["normaliser"] in LIKELY
    if axis == "roles":
        roles = fields.get("roles", ("q", "k", "v"))
        return len(set(roles)) == 3 and (set(roles) == {"q", "k", "v"} or roles[:2] == ("q", "k"))
    if axis == "mask":
        return fields["mask"] in ("causal", "not itself")
    if axis == "splits":
        return len(set(fields.get("splits", ()))) <= 1
    return True
