"""Modules for the tests of the torch runner, and a graph computed again in NumPy from what its operations say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Operation
from scalablevit_ref.compare.capture.torch_runner import TorchRunner

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8))


class Module(nn.Module):
    """A module with a Linear of 8 features, `lin`, and a forward of one's own."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], prepare: Callable[[Any], object] = lambda module: None) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)
        prepare(self)
        self.own = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.own(self, x)


def holding(**parts: Callable[[], Any]) -> Callable[[Any], None]:
    """What puts these, made anew, into a module."""

    def prepare(module: nn.Module) -> None:
        for name, part in parts.items():
            setattr(module, name, part())

    return prepare


def drawn(runner: TorchRunner, seed: int = 1) -> dict[str, np.ndarray]:
    """Positive weights for a runner, so that they can be variances."""
    draws = np.random.default_rng(seed)
    return {name: 0.5 + draws.random(x.shape) for name, x in runner.parameters.items()}


def all_values(
    runner: TorchRunner, graph: Graph, images: np.ndarray, weights: Mapping[str, np.ndarray]
) -> Mapping[int, np.ndarray]:
    return runner.values(images, weights, list(graph.shapes))[0]


def check_replay(graph: Graph, values: Mapping[int, np.ndarray]) -> Collection[str]:
    """Compute every operation again from its inputs, as its kind and its settings say; the kinds that were checked."""
    checked = set()
    for one in graph.operations:
        inputs = [None if value == ABSENT else values.get(value) for value in one.inputs]
        if any(x is None and value != ABSENT for x, value in zip(inputs, one.inputs, strict=True)) or one.kind not in REPLAYED:
            continue
        actual = values[one.outputs[0]]
        REPLAYED[one.kind](one, inputs, actual)
        checked.add(one.kind)
    return checked


def _close(one: Operation, actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), rtol=1e-5, atol=1e-6, err_msg=str(one))


def _product(one: Operation, inputs: list[Any], actual: np.ndarray) -> None:
    left, right, *bias = inputs
    (on_left, on_right), (batch_left, batch_right) = one.settings["contracted"], one.settings["batch"]
    letters = iter("abcdefghijklmnop")
    a, b = [next(letters) for _ in range(left.ndim)], [next(letters) for _ in range(right.ndim)]
    for i, j in (*zip(on_left, on_right, strict=True), *zip(batch_left, batch_right, strict=True)):
        b[j] = a[i]
    out = [a[i] for i in batch_left]
    out += [a[i] for i in range(left.ndim) if i not in (*on_left, *batch_left)]
    out += [b[j] for j in range(right.ndim) if j not in (*on_right, *batch_right)]
    expected = np.einsum(f"{''.join(a)},{''.join(b)}->{''.join(out)}", left, right) * one.settings.get("factor", 1)
    _close(one, actual, expected + (bias[0] if bias and bias[0] is not None else 0))


def _convolution(one: Operation, inputs: list[Any], actual: np.ndarray) -> None:
    x, weight, *bias = [None if v is None else torch.from_numpy(np.array(v)) for v in inputs]
    s, axes = one.settings, x.ndim - 2
    assert s["x"] == {1: "bcw", 2: "bchw", 3: "bcdhw"}[axes]
    assert (s["weight"][0] == "i") == s["transposed"]
    assert len(s["stride"]) == len(s["padding"]) == len(s["dilation"]) == axes
    convolve = getattr(F, f"conv_transpose{axes}d" if s["transposed"] else f"conv{axes}d")
    more = {"output_padding": s["output_padding"]} if s["transposed"] else {}
    padding = tuple(p for p, _ in s["padding"])
    out = convolve(x, weight, bias[0] if bias else None, s["stride"], padding, groups=s["groups"], dilation=s["dilation"], **more)
    _close(one, actual, out.numpy())


def _norm(one: Operation, inputs: list[Any], actual: np.ndarray) -> None:
    x, weight, bias, *running = inputs
    s = one.settings
    whole = x
    if s["groups"]:
        x = x.reshape(len(x), s["groups"], -1)
        axes: tuple[int, ...] = (2,)
    else:
        axes = s["axes"]
    if s.get("running"):
        mean, variance = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in running)
    else:
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    if s.get("centred") is False:
        mean, variance = 0, (x**2).mean(axes, keepdims=True)
    y = ((x - mean) / np.sqrt(variance + s["eps"])).reshape(whole.shape)
    per_channel = s["groups"] or 0 in axes  # the weight is one of channels, which are axis 1
    weight, bias = (v if v is None or not per_channel else v.reshape(1, -1, *[1] * (whole.ndim - 2)) for v in (weight, bias))
    _close(one, actual, y * (1 if weight is None else weight) + (0 if bias is None else bias))


def _both(one: Operation, inputs: list[Any]) -> tuple[Any, Any]:
    scalars = list(one.settings["scalars"])
    assert len(inputs) + len(scalars) == 2, one
    both = (*inputs, *scalars)
    return both[::-1] if one.settings.get("turned") else both


def _add(one: Operation, inputs: list[Any], actual: np.ndarray) -> None:
    a, b = _both(one, inputs)
    b = b * one.settings.get("alpha", 1)
    _close(one, actual, a - b if one.settings["inverse"] else a + b)


def _multiply(one: Operation, inputs: list[Any], actual: np.ndarray) -> None:
    a, b = _both(one, inputs)
    _close(one, actual, a / b if one.settings["inverse"] else a * b)


def _move(one: Operation, inputs: list[Any], actual: np.ndarray) -> None:
    """Its numbers are among those of its inputs, rounded if it casts, or what it pads with."""
    known = np.concatenate([*map(_real, inputs), np.array([0.0, one.settings.get("value", 0.0)])])
    found = _real(actual)
    if "dtype" in one.settings:
        assert (np.abs(found[:, None] - known[None]).min(1) <= 1e-2 * np.abs(found)).all(), one
    else:  # bit by bit: a circular border starts as memory that nobody has written, which may hold NaN
        assert np.isin(found.view(np.int64), known.view(np.int64)).all(), one


def _real(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(x.real.dtype).ravel().astype(float)


REPLAYED: dict[str, Callable[[Operation, list[Any], np.ndarray], None]] = {
    "product": _product,
    "convolution": _convolution,
    "norm": _norm,
    "add": _add,
    "multiply": _multiply,
    "move": _move,
}
