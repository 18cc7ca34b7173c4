"""A `torch.nn.Module`, followed by its operations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import log10
from typing import Any

import numpy as np
import torch

from scalablevit_ref.checkpoints import from_state_dict
from scalablevit_ref.compare.capture.alignment import Captured, Conditions
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.own_code import own_code
from scalablevit_ref.compare.capture.quantised import Grid, Quantised, Range
from scalablevit_ref.compare.capture.returned import named_outputs
from scalablevit_ref.compare.capture.torch_few_bits import has_few_bits
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing.arrays import relative_l2

KERNELS = 2**-10
"""Relative difference of logits from which on a quantised module's own kernels are said to compute otherwise."""


class TorchModule:
    """A module or an exported program; a copy of it is run, in evaluation mode and on its own device."""

    brings_images = False

    def __init__(self, module: Any) -> None:
        self.module = module
        self.quantised = has_few_bits(module)

    @property
    def takes_weights(self) -> bool:
        """A quantised one keeps its own."""
        return not self.quantised

    def config(self) -> ScalableViTConfig | None:
        """The settings that an official state dict shows; None for another one."""
        if self.quantised:
            return None
        with own_code("asking the candidate for its weights"):
            state = self.module.state_dict if isinstance(self.module.state_dict, dict) else self.module.state_dict()
        try:
            return from_state_dict(state).config
        except ValueError:
            return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        if self.quantised:
            return _quantised(self.module, conditions)
        return followed(TorchRunner(self.module, conditions.dtype), conditions)


def _quantised(module: Any, conditions: Conditions) -> Captured:
    """A quantised module, followed without its quantisation."""
    from scalablevit_ref.compare.capture.torch_quantised import taken_apart

    if conditions.weights is None:
        raise CaptureError("weights must be given for this module, which is quantised: those that it was made from")
    with own_code("taking apart the candidate's quantisation"):
        plain, few = taken_apart(module, on=False), taken_apart(module, on=True)
    captured = followed(TorchRunner(plain.module, None), replace(conditions, weights=None))
    rounding = TorchRunner(few.module, None)
    graph = captured.followed.graph
    ranges = tuple(
        Range(one.inputs[0], _grid(**{key: one.settings[key] for key in ("step", "zero", "low", "high")}), one.module or "a value")
        for one in graph.operations
        if one.name.startswith("scalablevit_ref.rounded.")
    )
    found = Quantised(
        plain.words,
        plain.grids,
        ranges,
        plain.by_channel,
        frozenset(plain.rounded),
        plain.fixed,
        lambda wanted: rounding.values(conditions.fed, {}, wanted)[0],
    )
    notes = (f"it is quantised ({plain.words})", *captured.notes, *_kernels(module, rounding, captured))
    return replace(captured, kind="quantised torch module", notes=notes, quantised=found)


def _kernels(module: Any, rounding: TorchRunner, captured: Captured) -> Iterator[str]:
    """What to say of a module whose own kernels round otherwise than its numbers say."""
    result = captured.followed.graph.outputs.get("logits")
    if result is None:
        return
    with own_code("running the candidate"), torch.no_grad():
        given = copy.deepcopy(module).eval()(torch.from_numpy(captured.images.astype(captured.dtype)))
    own = [*named_outputs(given, lambda x: isinstance(x, torch.Tensor)).values()]
    numbers = rounding.values(captured.images, {}, [result])[0][result]
    if len(own) == 1 and own[0].shape == numbers.shape:
        apart = relative_l2(array_of(own[0], "the candidate's logits"), numbers)
        if apart > KERNELS:
            level = f"{20 * log10(apart):.1f} dB"
            yield f"its own kernels round otherwise than its numbers say: its logits are {level} from those shown"


def _grid(step: float, zero: int, low: int, high: int) -> Grid:
    return Grid(*(np.array(x) for x in (step, (low - zero) * step, (high - zero) * step)))
