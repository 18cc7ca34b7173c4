"""An operation that a layer does at another place than the reference: an activation, a bias or a norm, before or after others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from scalablevit_ref.compare.around import spoken
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.judge import tolerance
from scalablevit_ref.compare.steps import OUTPUT, Run, Step, run_layer
from scalablevit_ref.edits import Changes
from scalablevit_ref.layers import Layer

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Moved:
    """One operation taken away where the reference does it, and done elsewhere.

    Attributes
    ----------
    words
        As a clause.
    step, without
        The step that it is taken away from, and what that makes without it of its input and its output.
    before, after
        The step before or after which it is done, if it is one.
    done
        The operation.
    """

    words: str
    step: str
    without: Callable[[np.ndarray, np.ndarray], np.ndarray]
    done: Function
    before: str = ""
    after: str = ""
    _inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def given(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        self._inputs[name] = self.done(expected) if name == self.before else expected
        return self._inputs[name] if name == self.before else None

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        if name not in (self.step, self.after):
            return None
        y = self.without(self._inputs[name], expected) if name == self.step else expected
        return self.done(y) if name == self.after else y


def displaced(
    layer: Layer,
    x: np.ndarray,
    params: Mapping[str, np.ndarray],
    run: Run,
    actual: np.ndarray,
    eps: float,
    changes: Changes = (),
) -> list[Difference]:
    """What explains a layer's whole output: an activation, a norm or a bias at another place.

    Parameters
    ----------
    layer, x, params, changes
        As of `run_layer`.
    run
        The reference's run of the layer on `x`.
    actual
        The candidate's output.
    eps
        That of the candidate's dtype.
    """
    bar, found = tolerance(eps), []
    if actual.shape != run.output.shape or not np.isfinite(actual).all():
        return []

    def left(one: Moved, images: slice) -> float:
        y = run_layer(layer, x[images], params, one, changes).output
        y = one.done(y) if one.after == OUTPUT else y
        if y.shape != actual[images].shape:
            return np.inf
        return float(np.linalg.norm(actual[images] - y)) / (float(np.linalg.norm(actual[images])) or 1.0)

    before = float(np.linalg.norm(actual - run.output)) / (float(np.linalg.norm(actual)) or 1.0)
    with np.errstate(all="ignore"):
        for one in _moves(layer.name, run):
            try:
                if left(one, slice(1)) <= 2 * bar and (rest := left(one, slice(None))) <= min(bar, before / 8):
                    found.append(Difference("displaced", one.words, rest, exact=True))
                    break
            except ValueError:  # it does not fit there
                continue
    return found


def _moves(layer: str, run: Run) -> Iterator[Moved]:
    """Every operation that may be moved, to every other place; of places that are the same the first."""
    steps = run.steps
    for i, step in enumerate(steps):
        if step.op == "attention":
            continue
        named = spoken(layer, step.name)
        for what, said, without, done in _parts(step, named):
            at = partial(Moved, step=step.name, without=without, done=done)
            start, usual = f"{what} {said}", _usual(layer, steps, i, own=what == named)
            others = [(k, other.name) for k, other in enumerate(steps) if other.op != "attention" and k != i]
            own = i - 1 if what == named else i
            if what != named:
                yield at(f"{start} before {named}, not {usual}", before=step.name)
            yield from (at(f"{start} after {spoken(layer, o)}, not {usual}", after=o) for k, o in others if k != own)
            yield from (at(f"{start} before {spoken(layer, o)}, not {usual}", before=o) for k, o in others if k != i + 1)
            if i < len(steps) - 1:
                yield at(f"{start} to what the layer gives, not {usual}", after=OUTPUT)


def _usual(layer: str, steps: tuple[Step, ...], i: int, *, own: bool) -> str:
    """Where the reference does what a step is, or a part of it."""
    if not own or len(steps) == 1:
        return f"after {spoken(layer, steps[i].name)}"
    return f"after {spoken(layer, steps[i - 1].name)}" if i else f"before {spoken(layer, steps[1].name)}"


def _parts(step: Step, named: str) -> Iterator[tuple[str, str, Callable[[np.ndarray, np.ndarray], np.ndarray], Function]]:
    """What of a step may be done elsewhere: its name, a verb, the step without it, and what it does elsewhere."""
    if step.op in ("gelu", "gelu_tanh", "layer_norm") and step.given.shape == step.made.shape:
        yield named, "is applied", lambda x, y: x, step.function
    bias = step.params.get("bias")
    if bias is not None and step.op != "layer_norm" and bias.any():
        yield f"the bias of {named}", "is added", lambda x, y: y - bias, lambda y: _added(y, bias)


def _added(y: np.ndarray, bias: np.ndarray) -> np.ndarray:
    if y.shape[-1] != bias.size:
        raise ValueError("a bias of other channels")
    return np.asarray(y + bias)
