"""A Flax module, followed by its program."""

from __future__ import annotations

from contextlib import ExitStack

from flax import linen, nnx

from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.flax_runner import flax_runner
from scalablevit_ref.compare.capture.followed import followed


class FlaxModule(Candidate):
    """A Flax nnx module, or a linen module that is bound to its variables; a copy of it is run, in evaluation mode."""

    def __init__(self, module: linen.Module | nnx.Module) -> None:
        self.module = module

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        runner = flax_runner(self.module, conditions.dtype)
        runner.look(conditions.fed)
        return followed(runner, conditions)
