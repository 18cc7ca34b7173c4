"""A Linear's settings, fitted: its matrix is solved where there are tokens enough, and related to the weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, product
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref import ops
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import (
    ENOUGH,
    SIMPLE,
    Array,
    distance,
    joined,
    settled,
    solved_factors,
    spread,
)
from scalablevit_ref.compare.reasoning.judge import Judge
from scalablevit_ref.compare.reasoning.numbers import three_digits

TOKENS = 4096
"""Tokens at most that a matrix is solved from."""

SAMPLE = 256
"""Tokens on which a relation is tried before it is verified on all."""

LOOSE = 100.0
"""Times the tolerance that a relation may leave on those tokens and still be verified on all."""

CLOSE = 1e-6
"""Relative distance of two rows or matrices that count as the same, in float64; in other dtypes 1e3 eps if that is more."""

Function = Callable[[Array], Array]

BEFORE: Mapping[str, tuple[Function, str]] = {
    "GELU": (ops.gelu, "GELU comes before it"),
    "tanh GELU": (ops.gelu_tanh, "tanh GELU comes before it"),
    "ReLU": (lambda x: np.maximum(x, 0), "ReLU comes before it"),
    "SiLU": (lambda x: x / (1 + np.exp(-x)), "SiLU comes before it"),
    "tanh": (np.tanh, "tanh comes before it"),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), "the sigmoid comes before it"),
    "norm": (lambda x: _standard(x), "its input is normalised (mean 0, variance 1)"),
    "unit": (lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True), "its input is divided by its length"),
    "reversed": (lambda x: x[..., ::-1], "its input's channels are in reversed order"),
}

AFTER: Mapping[str, tuple[Function, str]] = {
    name: (function, words.replace("comes before it", "comes after it").replace("its input is", "its output is"))
    for name, (function, words) in BEFORE.items()
    if name != "reversed"
} | {"softmax": (ops.softmax, "softmax comes after it")}


def _relaid(w: Array) -> Array:
    """The numbers taken in the order (i o); of a square weight that is the transposed one."""
    return w if w.shape[0] == w.shape[1] else w.reshape(w.shape[::-1]).T


def _standard(x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6))


WEIGHTS: Mapping[str, tuple[Function, str]] = {
    "as it is": (lambda w: w, ""),
    "transposed": (lambda w: w.T if w.shape[0] == w.shape[1] else w, "the weight is transposed"),
    "reshaped": (
        lambda w: w if w.shape[0] == w.shape[1] else w.reshape(w.shape[::-1]).T,
        "the weight is reshaped where it should be transposed",
    ),
    "twice": (lambda w: w @ w if w.shape[0] == w.shape[1] else w, "the Linear is applied twice"),
    "spectral": (lambda w: w / np.linalg.norm(w, 2), "the weight is divided by its largest singular value (spectral norm)"),
    "unit rows": (
        lambda w: w / np.linalg.norm(w, axis=1, keepdims=True),
        "the weight's rows have length 1 (weight norm without gain)",
    ),
    "standardised": (
        lambda w: (w - w.mean(1, keepdims=True)) / w.std(1, keepdims=True),
        "the weight's rows are standardised (weight standardisation)",
    ),
    "centred": (lambda w: w - w.mean(1, keepdims=True), "the weight's rows are centred"),
}


def fit_linear(
    actual: Array, sources: Mapping[str, Array], settings: Mapping[str, Any], *, eps: float, budget: int
) -> list[Difference]:
    """Which settings explain a Linear's output ... o; x ... i, weight o i, bias o or none; other arrays ... i may be its input."""
    weight, bias = sources["weight"], sources.get("bias")
    inputs = {name: x for name, x in sources.items() if name not in ("weight", "bias") and x.shape == sources["x"].shape}
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in inputs.items()}
    y = actual.reshape(-1, actual.shape[-1])
    if len(y) != len(flat["x"]) or y.shape[1] != weight.shape[0]:
        return []
    judge = Judge(distance(y, flat["x"] @ weight.T + (0 if bias is None else bias)), eps)
    if judge.right():
        return []
    return _named(y, flat, weight, bias, judge) or _solved(y, flat["x"], weight, bias, judge, settings)


def _named(y: Array, inputs: Mapping[str, Array], weight: Array, bias: Array | None, judge: Judge) -> list[Difference]:
    """What of one input, with functions before and after, and another weight, is the output; the fewest changes."""
    found = list(_explaining(y, inputs, weight, bias, judge))
    fewest = min((len(d.data["changes"]) for d in found), default=0)
    return [d for d in found if len(d.data["changes"]) == fewest]


def _explaining(y: Array, inputs: Mapping[str, Array], weight: Array, bias: Array | None, judge: Judge) -> Iterator[Difference]:
    """All that explain the output: tried on some tokens, then on all."""
    some, bar = spread(len(y), SAMPLE), judge.bar(rough=True)
    few = {name: x[some] for name, x in inputs.items()}
    none: tuple[Function, str] = (lambda x: x, "")
    for source, (before, pre), (how, made) in product(inputs, (none, *BEFORE.values()), WEIGHTS.values()):
        matrix = how(weight)
        if made and matrix is weight:
            continue
        shift = None if bias is None else bias + (bias @ weight.T if made == WEIGHTS["twice"][1] else 0.0)
        clauses = [f"it is applied to {source}"] * (source != "x") + [c for c in (pre, made) if c]

        def terms(
            inputs: Mapping[str, Array],
            before: Function = before,
            matrix: Array = matrix,
            shift: Array | None = shift,
            source: str = source,
        ) -> dict[str, Array]:
            product = before(inputs[source]) @ matrix.T
            own = {} if shift is None else {"bias": np.broadcast_to(shift, product.shape)}
            return {"product": product, **own, **{name: x for name, x in inputs.items() if x.shape == product.shape}}

        tried = terms(few)
        try:
            _, left = solved_factors(y[some], tried)
        except ValueError:
            continue
        if left <= LOOSE * bar:
            everything = terms(inputs)
            if y.size < ENOUGH * len(everything):
                continue
            factors, left = solved_factors(y, everything)
            if left <= bar:
                yield _of_factors(y, everything, factors, clauses, judge)
                continue
        for after, post in AFTER.values() if len(clauses) <= 1 else ():
            if distance(y[some], after(tried["product"] + tried.get("bias", 0.0))) <= LOOSE * bar:
                everything = terms(inputs)
                left = distance(y, after(everything["product"] + everything.get("bias", 0.0)))
                if left <= bar:
                    yield _difference([*clauses, post], left)


def _of_factors(y: Array, terms: Mapping[str, Array], factors: Mapping[str, float], clauses: list[str], judge: Judge) -> Difference:
    simple = {name: settled(factor, SIMPLE, within=1e-4) for name, factor in factors.items()}
    for some in (simple, factors):
        left = distance(y, np.asarray(sum(factor * terms[name] for name, factor in some.items())))
        if left <= judge.bar(rough=True):
            break
    return _difference([*clauses, *_added(some)], left, factors=dict(some))


def _added(factors: Mapping[str, float]) -> Iterator[str]:
    for name, factor in factors.items():
        if name == "product" and factor != 1:
            yield f"the weight is multiplied by {three_digits(factor)}" if factor else "the weight has no influence"
        elif name == "bias" and factor != 1:
            known = {0.0: "the bias is left out", 2.0: "the bias is added twice", -1.0: "the bias is subtracted"}
            yield known.get(factor, f"the bias is multiplied by {three_digits(factor)}")
        elif name not in ("product", "bias") and factor:
            what = "the input" if name == "x" else name
            yield f"{what} is added too (a residual)" if factor == 1 else f"{what} is added too, times {three_digits(factor)}"


def _difference(clauses: list[str], left: float, *, exact: bool = True, kind: str = "setting", **data: Any) -> Difference:
    return Difference(kind, joined(clauses), left, {**data, "changes": clauses}, exact)


def _solved(y: Array, x: Array, weight: Array, bias: Array | None, judge: Judge, settings: Mapping[str, Any]) -> list[Difference]:
    """The matrix and the bias that explain one half of the tokens, if they explain the other half too, related to the weight."""
    tokens, inputs = x.shape
    if tokens < 2 * (inputs + 1) + 8:
        return []
    order = np.random.default_rng(0).permutation(tokens)[:TOKENS]
    fit, judged = order[::2], order[1::2]
    if len(fit) <= inputs + 1:
        return []
    columns = np.concatenate([x, np.ones((tokens, 1))], 1)
    solved = np.linalg.lstsq(columns[fit], y[fit], rcond=None)[0]
    left = distance(y[judged], columns[judged] @ solved)
    if left > judge.bar(rough=True):
        words = "the output is not linear in the input: something else than a Linear acts here"
        return [_difference([words], left, exact=False, kind="linear map")]
    return _related(y, x, weight, bias, solved[:-1].T, solved[-1], judge, settings)


def _related(
    y: Array, x: Array, weight: Array, bias: Array | None, matrix: Array, shift: Array, judge: Judge, settings: Mapping[str, Any]
) -> list[Difference]:
    """The solved matrix in words; each is exact if with it all of y comes out."""
    close = max(CLOSE, 1e3 * judge.eps)
    own_shift = np.zeros(len(weight)) if bias is None else bias
    size = float(np.linalg.norm(own_shift)) or 1.0
    for made, clause, likely in _relations(weight, own_shift, matrix, close, settings):
        clauses, added = list(clause), shift
        if np.linalg.norm(shift - likely) <= close * size:
            added = likely
        elif np.linalg.norm(shift) <= close * size:
            clauses, added = [*clauses, "the bias is left out"], np.zeros_like(shift)
        elif np.linalg.norm(shift - own_shift) <= close * size:
            clauses, added = [*clauses, "the bias is as it should be"], own_shift
        else:
            clauses.append("the bias is another one")
        left = distance(y, x @ made.T + added)
        if left <= judge.bar(rough=True) and clauses:
            return [_difference(clauses, left)]
    difference = matrix - weight
    rows = np.linalg.norm(difference, axis=1) > close * np.linalg.norm(weight) / len(weight) ** 0.5
    rank = int((np.linalg.svd(difference, compute_uv=False) > close * np.linalg.norm(weight, 2)).sum())
    share = f"{rows.sum()} of {len(rows)} rows, by a matrix of rank {rank}"
    words = f"each token goes through another matrix: it differs from the weight in {share}"
    return [_difference([words], 0.0, exact=False, kind="linear map", rank=rank)]


def _relations(
    weight: Array, bias: Array, matrix: Array, close: float, settings: Mapping[str, Any]
) -> Iterator[tuple[Array, list[str], Array]]:
    """Matrices near the solved one that are made from the weight, with their words, and the bias made likewise."""
    size, (o, i) = float(np.linalg.norm(weight)), weight.shape
    if np.linalg.norm(matrix - weight) <= close * size:
        yield weight, [], bias
        return
    for axis, what in ((1, "output"), (0, "input")):
        kept = np.linalg.norm(matrix, axis=axis, keepdims=True) > close * size / weight.shape[1 - axis] ** 0.5
        if not kept.all() and np.linalg.norm(matrix - weight * kept) <= close * size:
            masked = bias * kept[:, 0] if what == "output" else bias
            yield weight * kept, [f"{what} channels {_listed(~kept.reshape(-1))} have no weight"], masked
    rows = _rows(weight, matrix, close)
    if rows is not None:
        yield weight[rows], [f"the weight's rows are in another order: {_order(rows, settings)}"], bias[rows]
    columns = _rows(weight.T, matrix.T, close)
    if columns is not None:
        words = f"the weight's columns (its input's channels) are in another order: {_order(columns, settings)}"
        yield weight[:, columns], [words], bias
    for axis, what in ((1, "output"), (0, "input")):
        scale = (matrix * weight).sum(axis, keepdims=True) / np.maximum((weight * weight).sum(axis, keepdims=True), 1e-300)
        if np.linalg.norm(matrix - scale * weight) <= close * size:
            scaled = bias * scale[:, 0] if what == "output" else bias
            yield scale * weight, [f"each {what} channel has a factor: {_factors(scale.reshape(-1))}"], scaled
    left, sizes, right = np.linalg.svd(matrix - weight, full_matrices=False)
    rank = int((sizes > close * size / min(o, i) ** 0.5).sum())
    if rank <= min(o, i) // 4:
        low = (left[:, :rank] * sizes[:rank]) @ right[:rank]
        yield weight + low, [f"a matrix of rank {rank} is added to the weight (as LoRA adds one)"], bias


def _rows(weight: Array, matrix: Array, close: float) -> Array | None:
    """Which row of the weight each row of the matrix is, if each is one."""
    size = np.maximum(np.linalg.norm(weight, axis=1).mean(), 1e-300)
    apart = (weight**2).sum(1)[None] + (matrix**2).sum(1)[:, None] - 2 * matrix @ weight.T
    rows = np.argmin(apart, 1)
    same = np.linalg.norm(weight[rows] - matrix) <= close * size * len(rows) ** 0.5
    return rows if same and not np.array_equal(rows, np.arange(len(rows))) else None


def _order(rows: Array, settings: Mapping[str, Any]) -> str:
    """A permutation in words."""
    n, index = len(rows), np.arange(len(rows))
    heads = int(settings.get("num_heads", 0))
    named: dict[str, Array] = {"reversed": index[::-1]}
    if n % 3 == 0:
        for thirds in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            named[f"q, k, v are {', '.join('qkv'[i] for i in thirds)}"] = index.reshape(3, -1)[list(thirds)].reshape(-1)
        if heads and n % (3 * heads) == 0:
            for pattern in ("heads three d", "heads d three", "d three heads", "d heads three", "three d heads"):
                sizes = {"three": 3, "heads": heads}
                named[f"({pattern}) for (three heads d)"] = rearrange(index, f"(three heads d) -> ({pattern})", **sizes)
                named[f"(three heads d) for ({pattern})"] = rearrange(index, f"({pattern}) -> (three heads d)", **sizes)
    if heads and n % heads == 0:
        named["(d heads) for (heads d)"] = rearrange(index, "(heads d) -> (d heads)", heads=heads)
        named["(heads d) for (d heads)"] = rearrange(index, "(d heads) -> (heads d)", heads=heads)
    if n % 2 == 0:
        named["the halves are interchanged"] = np.roll(index, n // 2)
        named["(d two) for (two d)"] = rearrange(index, "(two d) -> (d two)", two=2)
        named["(two d) for (d two)"] = rearrange(index, "(d two) -> (two d)", two=2)
    for words, order in named.items():
        if np.array_equal(rows, order):
            return words
    moved = np.flatnonzero(rows != index)
    if len(moved) == 2 and rows[moved[0]] == moved[1]:
        return f"{moved[0]} and {moved[1]} are interchanged"
    shift = int((rows[0] - index[0]) % n)
    if np.array_equal(rows, np.roll(index, -shift)):
        return f"rolled by {shift}"
    return f"{', '.join(map(str, rows[:6]))}{' …' * (n > 6)}"


def _factors(scale: Array) -> str:
    """Factors of channels: the runs that share one."""
    edges = [0, *(np.flatnonzero(abs(np.diff(scale)) > 1e-6 * abs(scale).max()) + 1).tolist(), len(scale)]
    if len(edges) > 9:
        return f"from {three_digits(float(scale.min()))} to {three_digits(float(scale.max()))}"
    return ", ".join(f"{three_digits(float(scale[a]))} for {a}–{b - 1}" for a, b in pairwise(edges))


def _listed(where: Array) -> str:
    index = np.flatnonzero(where)
    if len(index) == index[-1] - index[0] + 1 and len(index) > 1:
        return f"{index[0]}–{index[-1]}"
    return f"{', '.join(map(str, index[:6]))}{' …' * (len(index) > 6)}"
