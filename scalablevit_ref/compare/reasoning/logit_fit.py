"""What is solved for each head or each pair of positions: a temperature of each head, a bias that is added to the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from scalablevit_ref.compare.reasoning.attention_model import Hypothesis, Part
from scalablevit_ref.compare.reasoning.attention_search import Sample, Search
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import SIMPLE, Array, joined, settled, spread
from scalablevit_ref.compare.reasoning.numbers import three_digits
from scalablevit_ref.compare.reasoning.windows import Windows

EQUATIONS = 3
"""Equations for each unknown bias."""

MASKED = 1e-9
"""Weight of a pair of positions, relative to the largest, below which it counts as masked."""


def of_each_head(search: Search) -> list[Difference]:
    """A scale of the logits for each head."""
    reference = search.reference
    own, heads = search.scale(reference), reference.heads
    if heads == 1:
        return []
    part = search.problem.sample(reference, 64)
    samples = [Sample(_head(part, i)) for i in range(heads)]
    scales = np.array([sample.solved(own, search.bar, fixed=False) for sample in samples])
    if max(sample.left(scale) for sample, scale in zip(samples, scales, strict=True)) > 1e3 * search.bar:
        return []
    solved = samples[0].factors(scales[0])
    factors = {name: settled(factor, SIMPLE, within=1e-4) for name, factor in solved.items()}
    left = search.left(reference, scales[:, None, None], factors)
    if left > search.bar:
        return []
    words = (
        f"each head has its own scale of the logits (a temperature): {', '.join(map(three_digits, scales[:8]))}{' …' * (heads > 8)}"
    )
    return [
        _difference(
            search, reference, factors, [f"{words}; the reference's is {three_digits(own)}"], left, {"scales": scales.tolist()}
        )
    ]


BOUNDS: Mapping[str, Callable[[Array, float], Array]] = {
    "logits are clamped to [−{0}, {0}]": lambda x, bound: np.clip(x, -bound, bound),
    "logits are clamped to at most {0}": lambda x, bound: np.minimum(x, bound),
    "logits are clamped to at least −{0}": lambda x, bound: np.maximum(x, -bound),
    "logits are {0}·tanh(logits/{0}), a soft cap": lambda x, bound: bound * np.tanh(x / bound),
}
"""What bounds the scaled logits before the softmax, with one number."""


def bounded(search: Search) -> list[Difference]:
    """Logits that are clamped or capped: the number is searched on a sample."""
    reference, scale = search.reference, search.scale(search.reference)
    part = search.problem.sample(reference, 64)
    logits, target = part.logits * scale, part.target[part.valid]
    size, largest = float(np.linalg.norm(target)) or 1.0, float(abs(part.logits).max()) * scale
    added = sum((search.expected.get(name, 0.0) * x for name, x in part.added.items()), np.zeros_like(part.target))

    def left(bound: float, function: Callable[[Array, float], Array]) -> float:
        made = replace(part, logits=function(logits, bound)).output(1.0) + added
        return float(np.linalg.norm(made[part.valid] - target)) / size

    for words, function in BOUNDS.items():
        grid = np.geomspace(largest / 64, 4 * largest, 25)
        errors = [left(bound, function) for bound in grid]
        best = int(np.argmin(errors))
        if errors[best] > min(0.5 * left(np.inf, _unbounded), errors[0]):
            continue
        bound = _golden(lambda x, f=function: left(x, f), grid[max(best - 1, 0)], grid[min(best + 1, 24)])  # type: ignore[misc]
        for value in (float(f"{bound:.3g}"), bound):
            if left(value, function) > 1e3 * search.bar:
                continue
            whole = _bounded_left(search, function, value, scale)
            if whole <= search.bar:
                said = [words.format(three_digits(value)) + " before the softmax"]
                return [_difference(search, reference, search.expected, said, whole, {"bound": value})]
    return []


def _unbounded(x: Array, bound: float) -> Array:
    return x


def _bounded_left(search: Search, function: Callable[[Array, float], Array], bound: float, scale: float) -> float:
    """What it leaves of all of `actual`."""
    wrong, size = 0.0, 0.0
    for part in search.problem.parts(search.reference):
        made = replace(part, logits=function(part.logits * scale, bound)).output(1.0)
        made = made + sum((search.expected.get(name, 0.0) * x for name, x in part.added.items()), np.zeros_like(made))
        wrong += float(((made - part.target)[part.valid] ** 2).sum())
        size += float((part.target[part.valid] ** 2).sum())
    return float(np.sqrt(wrong / (size or 1.0)))


def _golden(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is least, by golden sections."""
    ratio = (5**0.5 - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = f(a), f(b)
    for _ in range(60):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = f(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = f(b)
    return (low + high) / 2


def biased(search: Search) -> list[Difference]:
    """A bias of the logits for each relative position or for each pair of positions in a window, for each head."""
    for hypothesis in _windows(search):
        try:
            part = _whole(search, hypothesis)
        except ValueError:
            continue
        for factors in _factors(search):
            for kind, solve in (("relative", _relative), ("pairs", _pairs)):
                bias = solve(part, hypothesis.windows, search.scale(hypothesis), factors, search.bar)
                if bias is None:
                    continue
                left = _left(search, hypothesis, bias, factors)
                if left <= search.bar:
                    words, data = _said(kind, bias, hypothesis.windows)
                    return [_difference(search, hypothesis, factors, [words], left, data)]
    return []


def _difference(
    search: Search, hypothesis: Hypothesis, factors: Mapping[str, float], words: list[str], left: float, data: Mapping[str, Any]
) -> Difference:
    found = [*words, *search.changes(hypothesis, factors)]
    return Difference("setting", joined(found), left, {**data, "changes": found}, exact=True)


def _windows(search: Search) -> Iterator[Hypothesis]:
    """The reference's windows, and the shifted ones of Swin."""
    yield search.reference
    windows = search.reference.windows
    half = (windows.size[0] // 2,) * 2
    if windows.kind == "tiles" and half[0]:
        for apart in (True, False):
            yield replace(search.reference, windows=replace(windows, shift=half, apart=apart))


def _factors(search: Search) -> Iterator[dict[str, float]]:
    yield dict(search.expected)
    if "lim" in search.expected:
        yield {**search.expected, "lim": 0.0}


def _head(part: Part, i: int) -> Part:
    one = slice(i, i + 1)
    return replace(
        part, logits=part.logits[:, one], values=part.values[:, one], target=part.target[:, one], valid=part.valid[:, one],
        added={name: x[:, one] for name, x in part.added.items()},
    )  # fmt: skip


def _whole(search: Search, hypothesis: Hypothesis) -> Part:
    """As many whole windows as solving needs, if there are."""
    cut = search.problem.cut(hypothesis)
    count, m = cut.queries.shape[0], cut.keys.shape[1]
    if m > 256:
        raise ValueError("too many keys")
    d = search.problem.width // hypothesis.heads
    pairs = np.stack(np.meshgrid(np.arange(search.problem.images), np.arange(count), indexing="ij"), -1).reshape(-1, 2)
    part = search.problem.part(hypothesis, pairs[spread(len(pairs), 2 + EQUATIONS * m // d)])
    if not part.valid.all():
        raise ValueError("what is cut off leaves too little")
    return part


def _equations(part: Part, scale: float, factors: Mapping[str, float]) -> Array:
    """Σ_j u_j e_ij (v_j − z_i) = 0, with u the bias's exponential: s heads n m d."""
    logits = part.logits * scale
    if part.seen is not None:
        logits = np.where(part.seen, logits, -np.inf)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    z = part.target
    for name, factor in factors.items():
        z = z - factor * part.added[name] if name != "z" and factor else z
    return np.asarray(e[..., None] * (part.values[:, :, None] - z[:, :, :, None]))


def _null(matrix: Array, bar: float) -> Array | None:
    """The unknowns that these equations leave 0, largest 1, negative ones as 0; None where all leave more."""
    _, sizes, rows = np.linalg.svd(matrix, full_matrices=False)
    if sizes[-1] > max(100 * bar, 1e-8) * sizes[0]:
        return None
    u = rows[-1] / rows[-1][np.argmax(abs(rows[-1]))]
    return np.asarray(np.where(u > MASKED, u, 0.0))


def _logarithm(u: Array) -> Array:
    return np.asarray(np.log(u))


def relative_positions(size: tuple[int, int]) -> Array:
    """Which of the (2 ph − 1)(2 pw − 1) relative positions a query and a key of a window have: n n."""
    rows, columns = np.divmod(np.arange(size[0] * size[1]), size[1])
    return np.asarray((rows[:, None] - rows + size[0] - 1) * (2 * size[1] - 1) + columns[:, None] - columns + size[1] - 1)


def _relative(part: Part, windows: Windows, scale: float, factors: Mapping[str, float], bar: float) -> Array | None:
    if windows.kind == "all":
        return None
    position = relative_positions(windows.size)
    unknowns = int(position.max()) + 1
    equations = _equations(part, scale, factors)
    s, heads, n, _, d = equations.shape
    if s * n * d < EQUATIONS * unknowns:
        return None
    found = []
    for head in range(heads):
        rows = np.zeros((s, n, d, unknowns))
        for i in range(n):
            rows[:, i, :, position[i]] = equations[:, head, i].transpose(1, 0, 2)
        some = np.sort(np.random.default_rng(head).permutation(s * n * d)[: 8 * unknowns])
        u = _null(rows.reshape(-1, unknowns)[some], bar)
        if u is None:
            return None
        found.append(_logarithm(u)[position])
    return np.stack(found)


def _pairs(part: Part, windows: Windows, scale: float, factors: Mapping[str, float], bar: float) -> Array | None:
    equations = _equations(part, scale, factors)
    s, heads, n, m, d = equations.shape
    if s * d < 2 * m:
        return None
    found = np.empty((heads, n, m))
    for head, i in np.ndindex(heads, n):
        u = _null(equations[:, head, i].transpose(0, 2, 1).reshape(-1, m), bar)
        if u is None:
            return None
        found[head, i] = _logarithm(u)
    return found


def _left(search: Search, hypothesis: Hypothesis, bias: Array, factors: Mapping[str, float]) -> float:
    """What the bias leaves of the windows, also of those that it is not solved from."""
    if not np.isfinite(bias).any(-1).all():
        return float("inf")
    scale = search.scale(hypothesis)
    return search.left(hypothesis, scale, factors, bias=bias / scale)


def _said(kind: str, bias: Array, windows: Windows) -> tuple[str, dict[str, Any]]:
    hidden = ~np.isfinite(bias)
    shared = np.where(hidden, 0.0, bias - np.where(hidden, -np.inf, bias).max(-1, keepdims=True))
    data: dict[str, Any] = {"masked": int(hidden[0].sum()), "spread": float(np.ptp(bias[~hidden]))}
    if hidden.any() and np.abs(shared).max() < 1e-6:
        words = f"{int(hidden[0].sum())} of the {hidden[0].size} pairs of a query and a key in a window are masked"
        return words, data | {"mask": True}
    heads = "the same in each head" if len(bias) > 1 and np.allclose(shared, shared[0], atol=1e-6) else "of each head"
    heads = "" if len(bias) == 1 else f", {heads}"
    where = "for each relative position of query and key" if kind == "relative" else "for each pair of positions in a window"
    name = " (a relative position bias)" if kind == "relative" else ""
    return f"a bias {where}{heads} is added to the logits{name}", data
