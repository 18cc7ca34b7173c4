"""Fixtures of the command line's tests."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from tests.support.checkpoints import DIGITS
from tests.support.command_line import few_digits, run

__all__ = ["few_digits", "run"]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A training checkpoint with an EMA, as timm-style scripts save it."""
    params, ema = sv.init_params(DIGITS, seed=1), sv.init_params(DIGITS, seed=2)
    tree = {"model": params, "model_ema": {f"module.{name}": x for name, x in ema.items()} | {"n_averaged": np.array(3)}}
    args = argparse.Namespace(model="scalable_vit_digits")
    path = tmp_path / "checkpoint.pth"
    torch.save({key: sv.to_backend(state, "torch") for key, state in tree.items()} | {"epoch": 12, "args": args}, path)
    return path
