"""A `torch.nn.Module`, through forward hooks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from scalablevit_ref.backends import to_numpy
from scalablevit_ref.checkpoints import from_state_dict
from scalablevit_ref.compare.capture import names as naming
from scalablevit_ref.compare.capture.captured import Captured, CaptureError
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.networks import Network


def config_of(model: nn.Module) -> ScalableViTConfig | None:
    """The settings that an official state dict shows; None for another one."""
    try:
        config = from_state_dict(_state(model)).config
    except ValueError:
        return None
    return config if isinstance(config, ScalableViTConfig) else None


def capture_torch(
    model: nn.Module,
    network: Network,
    images: np.ndarray,
    *,
    dtype: str | None,
    weights: Mapping[str, np.ndarray] | None,
    names: Mapping[str, str] | None,
) -> Captured:
    """One forward pass of a copy of the module, in evaluation mode, on its own device.

    dtype: of the copy; None leaves the module's. weights: official parameters that the copy gets; None leaves the module's own.
    """
    model = copy.deepcopy(model).eval()
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    first = next(model.parameters(), None)
    if first is None:
        raise CaptureError("the candidate holds no parameters: give a function of the images instead")
    x = torch.from_numpy(np.ascontiguousarray(images)).to(first.device, first.dtype)

    paths = [path for path, _ in model.named_modules() if path]
    found, pairs = naming.aligned(paths, model.state_dict(), lambda: _ran(model, x), network, tuple(x.shape), names)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    if weights is not None:
        _load(own, pairs, weights)
    taps: dict[str, Any] = {}
    wanted = {path: name for name, path in found.items()}

    def keep(path: str, module: nn.Module, out: Any) -> None:
        value = _one(out)
        if path in wanted and value is not None:
            taps[wanted[path]] = value.clone()  # a module behind may work in place

    start = time.perf_counter()
    with _hooked(model, keep), torch.no_grad():
        taps["logits"] = _one(model(x))
    seconds = time.perf_counter() - start
    if taps["logits"] is None:
        raise CaptureError("the candidate returns no array")
    params = {name: _values(own[theirs]).reshape(network.parameter_shapes()[name]) for name, theirs in pairs.items()}
    return Captured(
        "torch module",
        {name: _values(value) for name, value in taps.items()},
        {**found, "logits": "output"},
        images,
        str(first.dtype).removeprefix("torch."),
        params,
        seconds,
    )


def _ran(model: nn.Module, x: torch.Tensor) -> list[naming.Module]:
    """Every module that ran, in the order in which they ended."""
    ran: dict[str, naming.Module] = {}

    def ended(path: str, module: nn.Module, out: Any) -> None:
        value = _one(out)
        if value is not None:
            shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
            ran.setdefault(path, naming.Module(path, shapes, value.numel()))

    with _hooked(model, ended), torch.no_grad():
        model(x)
    return list(ran.values())


@contextmanager
def _hooked(model: nn.Module, ended: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """While open, `ended` is told the path, the module and the output of each submodule as it ends."""
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


def _load(own: Mapping[str, torch.Tensor], pairs: Mapping[str, str], weights: Mapping[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, theirs in pairs.items():
            target = own[theirs]
            target.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])).reshape(target.shape))


def _values(x: torch.Tensor) -> np.ndarray:
    return np.asarray(to_numpy(x.detach()))


def _state(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: _values(value) for name, value in model.state_dict().items()}
