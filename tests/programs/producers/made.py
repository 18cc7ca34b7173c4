"""What a producer is, what it makes, and the weights that go into all files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT

Weights = Mapping[str, Any]

CONFIG = sv.variant("digits")
HEADLESS = sv.variant("digits", head="none", num_classes=0)
BACKBONE = sv.variant(
    "digits",
    head="none",
    num_classes=0,
    ssa_values="scaled",
    pad_windows=True,
    stage_norms=True,
    embed_norm_eps=1e-5,
)


@dataclass(frozen=True)
class Reading:
    """One call of `load_checkpoint` on the file, and what must come of it.

    Parameters
    ----------
    truth
        The weights, under official names.
    options
        What a person gives with the file.
    said
        A text of which the metadata must tell, so that a choice is not made in silence.
    instead
        Other weights that are right too, each with the text that must then be told.
    may_refuse
        A refusal that lists what there is, is right too: for files that hold two networks.
    """

    truth: Weights
    options: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    instead: tuple[tuple[Weights, str], ...] = ()
    may_refuse: bool = False


@dataclass(frozen=True)
class Made:
    """A file (or folder) as a producer left it.

    Parameters
    ----------
    path
        The file.
    readings
        What must come of it.
    at_hand
        The names that whoever wrote the file has in Python, for a remedy that is a line of Python.
    tell
        What a refusal must name, where no line that can be run helps: the weights are not in the file, or are others.
    """

    path: Path
    readings: tuple[Reading, ...]
    at_hand: Mapping[str, Any] = field(default_factory=dict)
    tell: tuple[str, ...] = ()


@dataclass(frozen=True)
class Producer:
    """A library's saving call: `distribution` is what pip calls it, `needs` the modules that must be there."""

    library: str
    distribution: str
    writes: str
    form: str
    make: Callable[[Path], Made]
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.make.__name__


FAMILIES: dict[str, list[Producer]] = {}
"""The producers by the module that makes their files."""


def producer(
    library: str, writes: str, form: str, *, distribution: str = "", needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    """Register a function that writes files into a folder, as a row of the table."""
    name = distribution or library

    def register(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        found = Producer(library, name, writes, form, make, needs or (name,))
        FAMILIES.setdefault(make.__module__.rpartition(".")[2], []).append(found)
        return make

    return register


def network(seed: int = 0, config: sv.ScalableViTConfig = CONFIG) -> Any:
    """The plain `torch.nn` network with random weights, in training."""
    torch.manual_seed(seed)
    return ScalableViT(config)


@cache
def weights(seed: int = 0, config: sv.ScalableViTConfig = CONFIG) -> Weights:
    """The state dict of `network`, of tensors of their own."""
    return {name: x.clone() for name, x in network(seed, config).state_dict().items()}


def of(module: Any) -> Weights:
    """A module's state dict as it is now, copied."""
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def arrays(state: Weights) -> dict[str, np.ndarray]:
    """The same weights as NumPy arrays."""
    return {name: x.detach().cpu().numpy() for name, x in state.items()}


def widened(state: Weights) -> dict[str, torch.Tensor]:
    """The same numbers in float32."""
    return {name: x.float() for name, x in state.items()}


def file(path: Path, truth: Weights | None = None, /, *, tell: tuple[str, ...] = (), **at_hand: Any) -> Made:
    """A file that must be read without an option as these weights, by default those of `network(0)`."""
    return Made(path, (Reading(weights() if truth is None else truth),), at_hand, tell)


def train(model: Any, optimizer: Any, scheduler: Any = None, steps: int = 2) -> None:
    """Some steps on random images."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(1, CONFIG.in_chans, 112, 112)).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
