"""A module of `mlx.nn`, or a function of images that uses arrays of MLX, followed by MLX's own primitives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from scalablevit_ref.compare.capture.alignment import Candidate, Captured, Conditions
from scalablevit_ref.compare.capture.followed import followed
from scalablevit_ref.compare.capture.holders import holders
from scalablevit_ref.compare.capture.mlx_runner import MlxRunner, held_by
from scalablevit_ref.compare.capture.traces import Function
from scalablevit_ref.errors import CaptureError

COMPILED = type(mx.compile(lambda x: x))
"""What `mx.compile` gives, which does not tell what it calls."""


class MlxModule(Candidate):
    """A module of `mlx.nn`; it is run in evaluation mode, and is afterwards what it was."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        return followed(MlxRunner(self.module, conditions.dtype), conditions)


class MlxFunction(Candidate):
    """A function of images that uses arrays of MLX; where it cannot be followed it is a function like others."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def capture(self, conditions: Conditions, files: ExitStack) -> Captured:
        """Raises CaptureError where it cannot be followed and its weights are not known, besides what `followed` raises."""
        try:
            runner = MlxRunner(self.function, conditions.dtype)
            runner.look(conditions.fed)
            return followed(runner, conditions)
        except CaptureError as error:
            if conditions.drawn or conditions.weights is None:
                why = f"weights must be given for a function that is not followed inside: {error}"
                raise CaptureError(why) from error.__cause__
            captured = Function(self._given).capture(conditions, files)
            return replace(captured, notes=(*captured.notes, f"it is not followed inside: {error}"))

    def _given(self, images: np.ndarray) -> Any:
        """What it makes of images as MLX has them, b c h w, or b h w c where it does not take these."""
        x = mx.array(images.astype(np.float32))
        try:
            return self.function(x)
        except Exception:  # its own way to refuse them
            return self.function(x.transpose(0, 2, 3, 1))


def is_mlx_function(value: Any) -> bool:
    """Whether it is a callable that uses arrays of MLX, or MLX and arrays of NumPy, or one that `mx.compile` made."""
    if not callable(value) or isinstance(value, type):
        return False
    if isinstance(value, COMPILED):
        return True
    with suppress(Exception):  # its own ways to be looked at
        held = held_by(value).values()
        return any(isinstance(x, mx.array) for x in held) or (bool(held) and any(one.value is mx for one in holders(value)))
    return False
