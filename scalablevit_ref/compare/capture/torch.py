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
        with own_code("copying the candidate"):
            model = copy.deepcopy(self.module).eval()
            if conditions.dtype is not None:
                model = model.to(getattr(torch, conditions.dtype))
            parameters = dict(model.named_parameters())
            held = {name: tuple(x.shape) for name, x in model.state_dict().items() if isinstance(x, torch.Tensor)}
            paths = [path for path, _ in model.named_modules() if path]
        first = next(iter(parameters.values()), None)
        if first is None:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        unreal = [name for name, value in parameters.items() if value.is_meta]
        if unreal:
            raise CaptureError(f"the candidate's {unreal[0]} is on the meta device: give it values, or nothing is computed")
        x = torch.from_numpy(np.ascontiguousarray(conditions.fed)).to(first.device, first.dtype)
        found, pairs = aligned(paths, held, lambda: _ran(model, x), conditions)
        with own_code("giving the candidate its weights"):
            own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
            if conditions.weights is not None:
                _load(own, pairs, conditions.weights)
        taps, seconds = _taps(model, x, {path: name for name, path in found.items()})
        shapes = conditions.network.parameter_shapes()
        return Captured(
            "torch module",
            {name: array_of(value, f"the candidate's {name!r}") for name, value in taps.items()},
            {**found, "logits": "output"},
            conditions.fed,
            str(first.dtype).removeprefix("torch."),
            {name: array_of(own[theirs], f"the candidate's {theirs}").reshape(shapes[name]) for name, theirs in pairs.items()},
            seconds,
        )


def _ran(model: nn.Module, x: torch.Tensor) -> list[Module]:
    """Every module that ran, in the order in which they ended."""
    ran: dict[str, Module] = {}

    def ended(path: str, module: nn.Module, out: Any) -> None:
        value = _one(out)
        if value is not None:
            shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
            ran.setdefault(path, Module(path, shapes, value.numel()))

    with own_code(RUNNING), _hooked(model, ended), torch.no_grad():
        model(x.clone())  # it may work in place
    return list(ran.values())


def _load(own: Mapping[str, torch.Tensor], pairs: Mapping[str, str], weights: Mapping[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, theirs in pairs.items():
            target = own[theirs]
            target.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])).reshape(target.shape))


def _taps(model: nn.Module, x: torch.Tensor, wanted: Mapping[str, str]) -> tuple[dict[str, torch.Tensor], float]:
    """The outputs of the modules at the wanted paths, by their layers' names, the logits, and the seconds that it took."""
    taps: dict[str, torch.Tensor] = {}

    def keep(path: str, module: nn.Module, out: Any) -> None:
        value = _one(out)
        if path in wanted and value is not None:
            taps[wanted[path]] = value.clone()  # a module behind may work in place

    start = time.perf_counter()
    with own_code(RUNNING), _hooked(model, keep), torch.no_grad():
        logits = _one(model(x.clone()))
    seconds = time.perf_counter() - start
    if logits is None:
        raise CaptureError("the candidate returns no array")
    return taps | {"logits": logits}, seconds


@contextmanager
def _hooked(model: nn.Module, ended: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """While open, `ended` gets the path, the module and the output of each submodule as it ends."""
    handles = [
        module.register_forward_hook(lambda module, _, out, path=path: ended(path, module, out))
        for path, module in model.named_modules()
        if path
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _one(out: Any) -> torch.Tensor | None:
    """The tensor that a module returns, or the first of several."""
    if isinstance(out, tuple | list) and out:
        out = out[0]
    return out.detach() if isinstance(out, torch.Tensor) else None
