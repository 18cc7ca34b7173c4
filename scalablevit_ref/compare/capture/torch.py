"""A `torch.nn.Module`, followed by its operations."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from scalablevit_ref.checkpoints import from_state_dict
from scalablevit_ref.compare.capture.alignment import Captured, Conditions
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.own_code import own_code
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.config import ScalableViTConfig


class TorchModule:
    """A module or an exported program; a copy of it is run, in evaluation mode and on its own device."""

    takes_weights = True
    brings_images = False

    def __init__(self, module: Any) -> None:
        self.module = module

    def config(self) -> ScalableViTConfig | None:
        """The settings that an official state dict shows; None for another one."""
        with own_code("asking the candidate for its weights"):
            state = self.module.state_dict if isinstance(self.module.state_dict, dict) else self.module.state_dict()
        try:
            return from_state_dict(state).config
        except ValueError:
            return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        return followed(TorchRunner(self.module, conditions.dtype), conditions)
