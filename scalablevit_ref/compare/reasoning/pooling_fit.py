"""A pooling of tokens, fitted: a named reduction, a power, or weights of the tokens that are solved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from einops import rearrange

from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fitting import Array, distance
from scalablevit_ref.compare.reasoning.judge import Judge
from scalablevit_ref.compare.reasoning.numbers import ranged, three_digits

FEWEST = 4
"""Numbers that are needed for a power or a rectangle of tokens to be solved."""

POOLS: Mapping[str, Callable[[Array], Array]] = {
    "tokens are pooled by their maximum": lambda x: x.max((1, 2)),
    "tokens are pooled by their minimum": lambda x: x.min((1, 2)),
    "tokens are pooled by their median": lambda x: np.median(x, (1, 2)),
    "tokens are pooled by the mean of their mean and their maximum": lambda x: (x.mean((1, 2)) + x.max((1, 2))) / 2,
    "the maximum is added to the mean": lambda x: x.mean((1, 2)) + x.max((1, 2)),
    "tokens are pooled by their largest absolute value": lambda x: abs(x).max((1, 2)),
    "tokens are pooled by their absolute values' mean": lambda x: abs(x).mean((1, 2)),
    "tokens are pooled by the root of their squares' mean": lambda x: np.sqrt((x * x).mean((1, 2))),
    "tokens are pooled by their length (the root of their squares' sum)": lambda x: np.sqrt((x * x).sum((1, 2))),
    "tokens are pooled by their standard deviation": lambda x: x.std((1, 2)),
    "tokens are pooled by their variance": lambda x: x.var((1, 2)),
    "tokens are pooled by log-sum-exp": lambda x: _log_sum_exp(x, 1.0),
    "tokens are pooled by log-mean-exp": lambda x: _log_sum_exp(x, x.shape[1] * x.shape[2]),
    "tokens are pooled by their softmax-weighted mean": lambda x: _soft(x),
    "columns are averaged and of rows the maximum is taken": lambda x: x.mean(2).max(1),
    "rows are averaged and of columns the maximum is taken": lambda x: x.mean(1).max(1),
    "the mean is divided by its length": lambda x: _unit(x.mean((1, 2))),
}


def _log_sum_exp(x: Array, n: float) -> Array:
    top = x.max((1, 2), keepdims=True)
    return np.asarray(np.log(np.exp(x - top).sum((1, 2)) / n) + top[:, 0, 0])


def _soft(x: Array) -> Array:
    e = np.exp(x - x.max((1, 2), keepdims=True))
    return np.asarray((e * x).sum((1, 2)) / e.sum((1, 2)))


def _unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def fit_pool(
    actual: Array, sources: Mapping[str, Array], settings: Mapping[str, Any], *, eps: float, budget: int
) -> list[Difference]:
    """How tokens are pooled: `actual` b c, x b h w c, in the reference their mean.

    With `weight` and `bias`, and `before`, the map before the norm whose output x is (settings: its eps), also what is normalised
    after pooling, not at all, or twice.
    """
    x = sources["x"]
    if actual.shape != (x.shape[0], x.shape[-1]) or actual.size < FEWEST:
        return []
    judge = Judge(distance(actual, x.mean((1, 2))), eps)
    if judge.right():
        return []
    norm = _norm(sources, settings)
    named = list(_named(actual, sources, norm, judge))
    return named or _power(actual, x, judge) or _weighted(actual, x, judge)


def _norm(sources: Mapping[str, Array], settings: Mapping[str, Any]) -> Callable[[Array], Array]:
    gain, shift, eps = sources.get("weight", 1.0), sources.get("bias", 0.0), float(settings.get("eps", 1e-6))

    def norm(x: Array) -> Array:
        x = x - x.mean(-1, keepdims=True)
        return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain + shift)

    return norm


def _named(actual: Array, sources: Mapping[str, Array], norm: Callable[[Array], Array], judge: Judge) -> Iterator[Difference]:
    x, before = sources["x"], sources.get("before")
    tried: dict[str, Array] = {}
    for words, pool in POOLS.items():
        tried[words] = pool(x)
    if "weight" in sources:
        tried["the norm is applied once more after pooling"] = norm(x.mean((1, 2)))
        tried["the norm is applied twice before pooling"] = norm(x).mean((1, 2))
    if before is not None:
        tried["the norm is left out before pooling"] = before.mean((1, 2))
        tried["tokens are pooled before the norm, not after it"] = norm(before.mean((1, 2)))
        for words, pool in POOLS.items():
            tried[f"{words}, before the norm"] = norm(pool(before))
    for words, explained in tried.items():
        left = distance(actual, explained)
        if left <= judge.bar(rough=True):
            yield Difference("setting", words, left, {"changes": [words]}, exact=True)


def _power(actual: Array, x: Array, judge: Judge) -> list[Difference]:
    """(mean of x^p)^(1/p), numbers below a small one set to it (GeM): p solved."""
    for least in (1e-6, 1e-5, 1e-7, 1e-8, 1e-12, None):
        positive = abs(x) if least is None else np.maximum(x, least)
        if (positive <= 0).any():
            continue
        top = positive.max((1, 2), keepdims=True)

        def pooled(p: float, positive: Array = positive, top: Array = top) -> Array:
            return np.asarray((((positive / top) ** p).mean((1, 2))) ** (1 / p) * top[:, 0, 0])

        p = min((0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.5, 8.0, 16.0), key=lambda p: distance(actual, pooled(p)))
        for _ in range(30):
            wrong = pooled(p) - actual
            slope = (pooled(p * (1 + 1e-6)) - pooled(p)) / (p * 1e-6)
            p = float(np.clip(p - (slope * wrong).sum() / ((slope * slope).sum() or 1.0), p / 2, p * 2))
        if not np.isfinite(p):
            continue
        p = round(p) if abs(p - round(p)) < 1e-5 and round(p) else p
        left = distance(actual, pooled(p))
        if left <= judge.bar(rough=True):
            words = f"tokens are pooled by the mean of their powers (GeM), with p = {three_digits(p)}"
            return [Difference("setting", words, left, {"p": p, "changes": [words]}, exact=True)]
    return []


def _weighted(actual: Array, x: Array, judge: Judge) -> list[Difference]:
    """The tokens' weights, solved from half of the channels and judged on the others."""
    _, h, w, c = x.shape
    columns, y = rearrange(x, "b h w c -> (c b) (h w)"), rearrange(actual, "b c -> (c b)")
    half = np.repeat(np.random.default_rng(0).permutation(c) % 2 == 0, len(x))
    if half.sum() < h * w + 4 or (~half).sum() < 8:
        return _shared(actual, x, judge)
    weights = np.linalg.lstsq(columns[half], y[half], rcond=None)[0]
    left = distance(y[~half], columns[~half] @ weights)
    if left > judge.bar(rough=True):
        return _shared(actual, x, judge)
    weights = np.where(abs(weights) <= 1e-6 * abs(weights).max(), 0.0, weights)
    left = distance(y, columns @ weights)
    words = _weights_said(weights.reshape(h, w))
    exact = left <= judge.bar(rough=True)
    return [Difference("setting", words, left, {"weights": weights.tolist()[:200], "changes": [words]}, exact)]


def _shared(actual: Array, x: Array, judge: Judge) -> list[Difference]:
    """Rectangles of tokens with one factor, where there are too few channels to solve each token's weight."""
    _, h, w, _ = x.shape
    bar = judge.bar(rough=True)
    total = np.pad(x.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0), (0, 0)))
    for top, bottom in ((i, j) for i in range(h) for j in range(i + 1, h + 1)):
        for left, right in ((i, j) for i in range(w) for j in range(i + 1, w + 1)):
            part = total[:, bottom, right] - total[:, top, right] - total[:, bottom, left] + total[:, top, left]
            factor = float((part * actual).sum() / ((part * part).sum() or 1.0))
            if distance(actual, factor * part) <= bar:
                weights = np.zeros((h, w))
                weights[top:bottom, left:right] = factor
                words = _weights_said(weights)
                return [Difference("setting", words, distance(actual, factor * part), {"changes": [words]}, exact=True)]
    return []


def _weights_said(weights: Array) -> str:
    """Which tokens count, and how much."""
    h, w = weights.shape
    used = np.argwhere(weights != 0)
    (top, left), (bottom, right) = used.min(0), used.max(0)
    values = weights[weights != 0]
    equal = np.ptp(values) <= 1e-6 * abs(values).max()
    factor = float(values.mean())
    if len(used) == 1:
        where = {(0, 0): "the first", (h - 1, w - 1): "the last"}.get((top, left), f"row {top}, column {left},")
        times = "" if abs(factor - 1) < 1e-6 else f", times {three_digits(factor)}"
        return f"only one token is taken, {where}{' one' if where.startswith('the') else ''}, instead of the mean of all{times}"
    if not equal:
        return f"tokens are averaged with weights from {ranged(values)}, not equally"
    full = len(used) == (bottom - top + 1) * (right - left + 1)
    if len(used) == h * w:
        return (
            "tokens are summed instead of averaged"
            if abs(factor - 1) < 1e-6
            else f"the tokens' sum is multiplied by {three_digits(factor)}, not by 1/{h * w}"
        )
    where = f"{_run('row', top, bottom)} and {_run('column', left, right)}" if full else f"{len(used)} of {h * w} tokens"
    if full and top == left == h - 1 - bottom == w - 1 - right:
        where += " (the border is left out)"
    if len(used) == h * w - 1 and weights[0, 0] == 0:
        where = "all tokens but the first"
    how = (
        "averaged"
        if abs(factor * len(used) - 1) < 1e-6
        else "summed"
        if abs(factor - 1) < 1e-6
        else f"summed, times {three_digits(factor)},"
    )
    return (
        f"only {where} are {how}, instead of the mean of all"
        if not where.startswith("all")
        else f"{where} are {how}, instead of all"
    )


def _run(name: str, first: int, last: int) -> str:
    return f"{name} {first}" if first == last else f"{name}s {first}–{last}"
