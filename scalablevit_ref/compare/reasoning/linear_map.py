"""A linear map of each token: the step's own with another weight or another input, or any, with its rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, THE_INPUT, Case, flat, sampled
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.numbers import listed, named, three_digits

WIDEST = 512
"""Channels of a map that is solved for."""


def own_map(case: Case) -> list[Difference]:
    """The step's own weight and bias, used otherwise: transposed, twice, not at all, on another input."""
    weight = _matrix(case.weight)
    if weight is None or weight.shape[0] != case.channels:
        return []
    out, inside = weight.shape
    bias = np.zeros(out) if case.bias is None else case.bias.ravel()
    grid = case.actual.shape[:3]
    inputs = {name: x for name, x in case.given.items() if x.shape == (*grid, inside)}
    x = inputs.pop(THE_INPUT, None)
    found = []
    for words, source, matrix, shift in _uses(x, inputs, case.expected, weight, bias):
        if _close(case, source, matrix, shift, case.actual):
            left = case.explains(source @ matrix + shift)
            if left is not None:
                found.append(Difference("linear map", words, left, {"relation": words}, True))
    if not found and out == inside and _close(case, case.actual, weight.T, bias, case.expected):
        left = float(np.linalg.norm(case.actual @ weight.T + bias - case.expected)) / (float(np.linalg.norm(case.expected)) or 1.0)
        if left <= case.bar:
            words = "the linear layer is missing: applied to the candidate's value, it gives the reference's"
            found.append(Difference("linear map", words, left, {"relation": words}, True))
    return (found or _weight_times(case, bias))[:2]


def _weight_times(case: Case, bias: np.ndarray) -> list[Difference]:
    """What the weight gives is multiplied, the bias is not."""
    if not np.any(bias):
        return []
    x, y = flat(case.expected)[::2] - bias, flat(case.actual)[::2] - bias
    factor = float(np.vdot(x, y) / (np.vdot(x, x) or 1.0))
    left = case.explains(factor * (case.expected - bias) + bias)
    if left is None:
        return []
    word = named(factor, within=max(100 * case.tolerance, 1e-9), channels=case.channels, num_heads=case.num_heads)
    return [Difference("linear map", f"the weight is multiplied by {word}, the bias is not", left, {"factor": factor}, True)]


Use = tuple[str, np.ndarray, np.ndarray, np.ndarray | float]
"""What is done wrong, and the source, the matrix (in out) and the shift that it comes to."""


def _uses(
    x: np.ndarray | None, others: Mapping[str, np.ndarray], expected: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> Iterator[Use]:
    """Wrong uses of a weight (out in) and a bias."""
    out, inside = weight.shape
    square = out == inside
    if x is not None:
        if square:
            yield "the linear layer is missing: the value is its input", x, np.eye(out), 0.0
            yield "the weight is transposed", x, weight, bias
            yield "the weight is transposed, the bias is missing", x, weight, 0.0
            yield "the bias is added before the linear layer", x, weight.T, bias @ weight.T
        else:
            yield "the weight is reshaped to (in, out) where it should be transposed", x, weight.reshape(inside, out), bias
            yield "the weight is reshaped where it should be transposed", x, weight.T.reshape(out, inside).T, bias
        yield "the weight's output channels are in reversed order", x, weight[::-1].T, bias
        yield "the weight's input channels are in reversed order", x, weight[:, ::-1].T, bias
        yield "the bias is missing", x, weight.T, 0.0
    if square:
        yield "the linear layer is applied twice", expected, weight.T, bias
        yield "the linear layer is applied twice, the second time without its bias", expected, weight.T, 0.0
    for name, other in others.items():
        yield f"the linear layer is applied to {name}", other, weight.T, bias
        yield f"the linear layer is applied to {name}, without its bias", other, weight.T, 0.0


def _close(case: Case, source: np.ndarray, matrix: np.ndarray, shift: np.ndarray | float, value: np.ndarray) -> bool:
    """Whether this may explain a value, by some of its tokens."""
    at = sampled(case.tokens, 32)
    few = flat(value)[at]
    return bool(np.linalg.norm(flat(source)[at] @ matrix + shift - few) <= 30 * max(case.bar, 1e-13) * np.linalg.norm(few))


def other_weight(case: Case) -> list[Difference]:
    """The map that the candidate applies to the step's input, solved for and held against the step's weight."""
    weight, x = _matrix(case.weight), case.given.get(THE_INPUT)
    if weight is None or x is None or x.shape != (*case.actual.shape[:3], weight.shape[1]) or weight.shape[0] != case.channels:
        return []
    solved = _solved(case, x)
    if solved is None:
        return []
    matrix, shift, left = solved
    bias = np.zeros(len(shift)) if case.bias is None else case.bias.ravel()
    words = _weights_in_words(case, matrix, weight)
    other_shift = np.linalg.norm(shift - bias) > 1e4 * case.tolerance * (float(np.linalg.norm(bias)) + case.spread)
    if other_shift:
        words += (
            ", and the bias is another one"
            if np.linalg.norm(shift) > 1e4 * case.tolerance * case.spread
            else ", and the bias is missing"
        )
    return [
        Difference("linear map", words, left, {"of": THE_INPUT, "matrix": _numbers(matrix), "shift": shift[:64].tolist()}, True)
    ]


def _weights_in_words(case: Case, found: np.ndarray, own: np.ndarray) -> str:
    near = max(100 * case.tolerance, 1e-9)
    size = float(np.linalg.norm(own)) or 1.0
    factor = float(np.sum(found * own)) / size**2
    if np.linalg.norm(found - factor * own) <= near * size:
        if abs(factor - 1) <= near:
            return "the weight is right"
        return f"the weight is multiplied by {named(factor, within=near, channels=case.channels, num_heads=case.num_heads)}"
    rows = np.flatnonzero(np.linalg.norm(found - own, axis=1) > near * size)
    columns = np.flatnonzero(np.linalg.norm(found - own, axis=0) > near * size)
    for name, one, other in (("output", found, own), ("input", found.T, own.T)):
        order = _matching(one, other, near * size)
        if order is not None:
            shown = ", ".join(map(str, order[:6].tolist())) + (" …" if len(order) > 6 else "")
            return f"the weight's {name} channels are permuted (0, 1, 2 … come from {shown})"
    if 0 < len(rows) < len(own):
        return f"the weight is another one in output channels {listed(rows)} of {len(own)}"
    if 0 < len(columns) < own.shape[1]:
        return f"the weight is another one in input channels {listed(columns)} of {own.shape[1]}"
    if np.linalg.norm(np.sort(found, axis=None) - np.sort(own, axis=None)) <= near * size:
        return "the weight has the same numbers in other places"
    gap = float(np.linalg.norm(found - own)) / size
    return f"a linear layer of the same input with another weight, {three_digits(gap)} of its size away"


def _matching(one: np.ndarray, other: np.ndarray, near: float) -> np.ndarray | None:
    """The order of the rows of `other` that gives `one`."""
    distance = (one**2).sum(1)[:, None] - 2 * one @ other.T + (other**2).sum(1)
    order = np.argmin(distance, axis=1)
    if len(np.unique(order)) < len(order) or np.linalg.norm(one - other[order]) > near:
        return None
    return np.asarray(order)


def any_map(case: Case) -> list[Difference]:
    """Some linear map of the reference's value or of a given one: fitted on half of the tokens, judged on all."""
    for name, x in [(REFERENCE, case.expected), *((n, g) for n, g in case.given.items() if g.shape[:3] == case.actual.shape[:3])]:
        solved = _solved(case, x)
        if solved is None:
            continue
        matrix, shift, left = solved
        words = _map_in_words(case, matrix, shift, name)
        return [Difference("linear map", words, left, {"of": name, "matrix": _numbers(matrix), "shift": shift[:64].tolist()}, True)]
    return []


def _map_in_words(case: Case, matrix: np.ndarray, shift: np.ndarray, source: str) -> str:
    out, inside = matrix.shape
    shifted = " and a shift" if np.linalg.norm(shift) > 1e3 * case.tolerance * case.spread else ""
    start = f"a linear map{shifted} of each token of {source}"
    if case.num_heads and out == inside and out % case.num_heads == 0 and 1 < case.num_heads < out:
        d = out // case.num_heads
        inside_heads = np.kron(np.eye(case.num_heads), np.ones((d, d))) > 0
        if np.linalg.norm(matrix[~inside_heads]) <= max(100 * case.tolerance, 1e-9) * np.linalg.norm(matrix):
            start += ", inside each head"
    rank = _rank(case, matrix)
    if out == inside:
        away = _rank(case, matrix - np.eye(out))
        if away < out:
            return f"{start}: the identity plus a map of rank {away}"
    return f"{start}, of rank {rank}" + (f" of {min(out, inside)}" if rank < min(out, inside) else "")


def _rank(case: Case, matrix: np.ndarray) -> int:
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > max(10 * case.tolerance, 1e-9) * max(1.0, float(singular[0]))).sum())


def _solved(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Matrix and shift of the map from x's tokens to the candidate's; None if there is none or too few tokens to tell."""
    width = x.shape[-1]
    fitted = 2 * (width + 1)
    if width > WIDEST or case.tokens < 2 * fitted or case.tolerance > 1e-3:
        return None
    rows, y = flat(x), flat(case.actual)
    at = np.random.default_rng(case.tokens).permutation(case.tokens)
    fit, judge = at[:fitted], at[fitted : fitted + 64]
    few = slice(0, min(8, y.shape[1]))  # a few channels tell whether to go on
    table = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    trial = np.linalg.lstsq(table[fit], y[fit][:, few], rcond=None)[0]
    if np.linalg.norm(table[judge] @ trial - y[judge][:, few]) > 1e4 * case.bar * max(
        float(np.linalg.norm(y[judge][:, few])), 1e-300
    ):
        return None
    solution = np.linalg.lstsq(table[fit], y[fit], rcond=None)[0]
    left = case.explains((table @ solution).reshape(case.actual.shape))
    return None if left is None else (solution[:-1].T, solution[-1], left)


def _matrix(weight: np.ndarray | None) -> np.ndarray | None:
    """out in; a convolution of size 1 as its matrix."""
    if weight is None or weight.ndim < 2 or any(size != 1 for size in weight.shape[2:]):
        return None
    return np.reshape(weight, weight.shape[:2])


def _numbers(matrix: np.ndarray) -> list[list[float]]:
    return [[float(f"{x:.6g}") for x in row] for row in matrix[:32, :32]]
