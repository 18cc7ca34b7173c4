"""Functions of the channels of each token, or of the tokens of each channel, together: softmax, a cumulative sum, an order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from scalablevit_ref.compare.reasoning.case import REFERENCE, Case, sampled
from scalablevit_ref.compare.reasoning.difference import Difference

FEWEST = 3
"""Numbers that a vector must have."""

Function = Callable[[np.ndarray], np.ndarray]


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(x / x.sum(-1, keepdims=True))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def _one_hot(x: np.ndarray) -> np.ndarray:
    return np.asarray(x == x.max(-1, keepdims=True), float)


FUNCTIONS: Mapping[str, Function] = {
    "softmax over {}": _softmax,
    "log-softmax over {}": _log_softmax,
    "softmax over {}, twice": lambda x: _softmax(_softmax(x)),
    "1 at the largest of {} and 0 elsewhere": _one_hot,
    "the cumulative sum over {}": lambda x: x.cumsum(-1),
    "the cumulative sum over {} from the end": lambda x: x[..., ::-1].cumsum(-1)[..., ::-1],
    "the numbers in ascending order along {}": lambda x: np.sort(x, axis=-1),
    "the numbers in descending order along {}": lambda x: -np.sort(-x, axis=-1),
    "division by the sum over {}": lambda x: x / x.sum(-1, keepdims=True),
    "division by the sum of magnitudes over {}": lambda x: x / abs(x).sum(-1, keepdims=True),
    "division by the largest magnitude of {}": lambda x: x / abs(x).max(-1, keepdims=True),
    "differences of neighbours along {}": lambda x: np.diff(x, axis=-1, prepend=0.0),
}


def vector_function(case: Case) -> list[Difference]:
    """A function of each token's channels, or of each channel's tokens, of the reference's value or of a given one."""
    _, h, w, c = case.actual.shape
    few_tokens, few_channels = sampled(case.tokens, 8), sampled(c, 4)
    for source, x in case.sources():
        for axis, size in (("the channels", c), ("the tokens", h * w)):
            if size < FEWEST or case.actual.size < 8:
                continue
            along = _along(x, axis), _along(case.actual, axis)
            at = few_tokens if axis == "the channels" else few_channels
            few, y = (t.reshape(-1, size)[at] for t in along)
            for name, function in FUNCTIONS.items():
                if not np.linalg.norm(function(few) - y) <= 8 * max(case.bar, 1e-13) * float(np.linalg.norm(y)):
                    continue
                explained = function(along[0])
                explained = explained if axis == "the channels" else explained.swapaxes(1, 2)
                left = case.explains(explained.reshape(case.actual.shape))
                if left is not None:
                    return [_found(case, name.format(axis), source, left)]
    return []


def _along(x: np.ndarray, axis: str) -> np.ndarray:
    """b n c, or b c n: the axis that the function runs over comes last."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return x if axis == "the channels" else np.ascontiguousarray(x.swapaxes(1, 2))


def _found(case: Case, name: str, source: str, left: float) -> Difference:
    words = f"it is {name} of {source}"
    if source == REFERENCE and name == "softmax over the channels" and case.tokens == case.actual.shape[0]:
        words = "probabilities, not logits: softmax over the channels of the reference's value"
    return Difference("vectors", words, left, {"function": name, "of": source}, True)
