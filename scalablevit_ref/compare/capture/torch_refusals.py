"""Torch modules that cannot be followed: each is told in one line what it is, and what to do instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scalablevit_ref.errors import CaptureError, Spelling, Words

TRACE = 'scalablevit_ref.testing.traces.save_trace("mine.npz", {"images": images, "logits": model(images).detach()})'
"""The line that writes what a module computes as a trace file."""

WEIGHTS = Spelling("weights='FILE'", "--weights FILE")

QUANTISED = (
    "torch.ao.nn.quantized",
    "torch.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torchao.quantization",
    "bitsandbytes",
)
"""Packages whose modules hold weights of a few bits."""


def by_trace(*why: Words) -> CaptureError:
    """A refusal of a module that runs, but cannot be followed: the way on is a trace file."""
    return CaptureError(*why, ": write what it computes into a trace file, ", TRACE, ', and compare "mine.npz" with ', WEIGHTS)


def check_followed(model: nn.Module) -> None:
    """Raise CaptureError for a module whose operations, or weights, cannot be seen."""
    for path, module in model.named_modules():
        called = f"{type(module).__name__}{f' in {path}' if path else ''}"
        if type(module).__module__.startswith(QUANTISED):
            raise by_trace(f"the candidate is quantised ({called}): its weights are numbers of a few bits, not those given")
        if hasattr(module, "_fsdp_wrapped_module"):
            raise CaptureError(
                f"the candidate is sharded by FullyShardedDataParallel ({called}), its weights are flat: give the module that "
                "it wraps, with its full state dict (torch.distributed.checkpoint.state_dict.get_model_state_dict) loaded"
            )
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(x, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise CaptureError(f"the candidate's {name} has no shape yet: run it once, model(images), before it is compared")
        if x.is_meta:
            raise CaptureError(f"the candidate's {name} is on the meta device: give it values, or nothing is computed")
        if x.is_quantized or not _is_plain(x):
            raise by_trace(f"the candidate is quantised: its {name} is a {type(x).__name__} of {_dtype(x)}")
        if isinstance(x, nn.Parameter) and not (x.is_floating_point() or x.is_complex()):
            raise by_trace(f"the candidate is quantised: its parameter {name} is of {_dtype(x)}")
        if x.is_floating_point() and x.dtype.itemsize < 2:
            raise by_trace(f"the candidate's {name} is of {_dtype(x)}, numbers of 8 bits")


def _is_plain(x: torch.Tensor) -> bool:
    """Whether its numbers are what its operations see: no subclass with numbers packed inside."""
    flattens = getattr(type(x), "__tensor_flatten__", None) is not None
    return not flattens or type(x).__module__.startswith("torch.distributed")


def _dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")
