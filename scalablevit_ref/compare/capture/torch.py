"""A `torch.nn.Module`, through forward hooks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from scalablevit_ref.checkpoints import from_state_dict
from scalablevit_ref.compare.capture.alignment import Captured, Conditions, Module, aligned
from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.errors import CaptureError


class TorchModule:
    """A module; a copy of it is run, in evaluation mode and on its own device."""

    takes_weights = True
    brings_images = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def config(self) -> ScalableViTConfig | None:
        """The settings that an official state dict shows; None for another one."""
        with own_code("asking the candidate for its weights"):
            state = self.module.state_dict()
        try:
            return from_state_dict({name: array_of(value, name) for name, value in state.items()}).config
        except ValueError:
            return None

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        from scalablevit_ref.compare.capture.followed import followed
        from scalablevit_ref.compare.capture.torch_graph import TorchRunner
        return followed(TorchRunner(self.module, conditions.dtype), conditions)
