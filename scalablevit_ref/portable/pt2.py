"""The definitions as PyTorch's exported program, whose state dict is the official one."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from scalablevit_ref.adapters.torch import ScalableViT
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.network import trace
from scalablevit_ref.portable.bare import Bare

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": torch.exp,
    "zeros": torch.zeros,
    "reshape": torch.reshape,
    "permute_dims": torch.permute,
    "mean": torch.mean,
    "max": torch.amax,
    "sum": torch.sum,
    "concat": torch.concat,
}
"""PyTorch's functions under the array API standard's names."""

PLACES = ("stack_trace", "nn_module_stack", "source_fn_stack")
"""Where PyTorch notes which lines of which files of this machine wrote a step."""

PARAMETERS = "the state dict, under the official names"
"""Where the file has the parameters."""


class Network(ScalableViT):
    """The module with the official state dict, which computes by the definitions and gives every intermediate."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        params = {name: Bare(x, FUNCTIONS) for name, x in self.named_parameters()}
        return {name: x.held for name, x in trace(Bare(images, FUNCTIONS), params, self.config).items()}


def traced(weights: Mapping[str, np.ndarray], config: ScalableViTConfig, images: Sequence[int], *, free: bool) -> Any:
    """The exported program of images of this shape, or of any number of them."""
    network = Network(config, params=weights).eval().requires_grad_(False)
    example = torch.zeros(2 if free else images[0], *images[1:], dtype=next(network.parameters()).dtype)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")} if free else {},))
    for node in program.graph.nodes:
        for place in PLACES:
            node.meta.pop(place, None)
    return program


def saved(program: Any, notes: Mapping[str, str]) -> bytes:
    """The file, with these texts as extra files."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=dict(notes))
    return file.getvalue()


def run(data: bytes, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, as PyTorch runs the loaded program."""
    found = torch.export.load(io.BytesIO(data)).module()(torch.from_numpy(images))
    return {name: x.numpy() for name, x in found.items()}


def made_with() -> str:
    return f"torch {torch.__version__}"


reader = made_with
