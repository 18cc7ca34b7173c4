"""A layer of the reference with one step altered, or fed something else: what a candidate may do whose steps cannot be followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from scalablevit_ref.compare.around import spoken
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.elementwise import FUNCTIONS
from scalablevit_ref.compare.reasoning.judge import tolerance
from scalablevit_ref.compare.steps import Run, Step, run_layer
from scalablevit_ref.edits import Changes
from scalablevit_ref.layers import IMAGES, Layer


@dataclass(frozen=True)
class Alteration:
    """The output of one step is another; in words, as a clause."""

    step: str
    words: str
    output: np.ndarray

    def given(self, name: str, expected: np.ndarray) -> None:
        return None

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        return self.output if name == self.step else None


def altered(
    layer: Layer,
    x: np.ndarray,
    params: Mapping[str, np.ndarray],
    run: Run,
    actual: np.ndarray,
    given: Mapping[str, np.ndarray],
    eps: float,
    changes: Changes = (),
) -> list[Difference]:
    """What explains a layer's whole output: a step that is left out, applied twice or another function, or another input.

    Parameters
    ----------
    layer, x, params, changes
        As of `run_layer`.
    run
        The reference's run of the layer on `x`.
    actual
        The candidate's output.
    given
        The candidate's own values, by words, that may be fed to the layer instead.
    eps
        That of the candidate's dtype.
    """
    bar = tolerance(eps)
    size, found = float(np.linalg.norm(actual)) or 1.0, []

    def tried(kind: str, words: str, output: np.ndarray) -> None:
        left = float(np.linalg.norm(actual - output)) / size if output.shape == actual.shape else np.inf
        if left <= bar < float(np.linalg.norm(actual - run.output)) / size:
            found.append(Difference(kind, words, left, exact=True))

    with np.errstate(all="ignore"):
        for one in _alterations(layer.name, run):
            tried(
                "elementwise" if "instead" in one.words else "mixture", one.words, run_layer(layer, x, params, one, changes).output
            )
        if layer.sources != (IMAGES,) and run.steps:
            for words, other in given.items():
                if other.shape == x.shape and not np.array_equal(other, x):
                    tried("mixture", f"its input is {words}", run_layer(layer, other, params, None, changes).output)
    return found


def _alterations(layer: str, run: Run) -> Iterator[Alteration]:
    for step in run.steps:
        named = spoken(layer, step.name)
        yield Alteration(step.name, f"what {named} gives is left out", step.made * 0)
        if step.op != "attention" and step.given.shape == step.made.shape:
            yield Alteration(step.name, f"{named} is left out", step.given)
            yield Alteration(step.name, f"{named} is applied twice", step.function(step.made))
        if not step.has_parameters and step.op != "attention":
            for name, function in FUNCTIONS.items():
                yield Alteration(step.name, f"{name} instead of {named}", np.asarray(function(step.given)))
        if step.op == "layer_norm":
            yield from _norms(named, step)
        if "bias" in step.params and step.op != "layer_norm":
            yield Alteration(step.name, f"the bias of {named} is left out", step.made - step.params["bias"])


def _norms(named: str, step: Step) -> Iterator[Alteration]:
    gain, shift = step.params.get("weight"), step.params.get("bias")
    if gain is None or shift is None:
        return
    normalised = (step.made - shift) / gain
    yield Alteration(step.name, f"the gain and the shift of {named} are left out", normalised)
    yield Alteration(step.name, f"the shift of {named} is left out", normalised * gain)
    yield Alteration(step.name, f"the gain of {named} is left out", normalised + shift)
