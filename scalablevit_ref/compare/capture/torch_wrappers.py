"""A copy of a torch module without its wrappings: compiled, parallel or sharded, its weights computed from others or masked.

What is unwrapped computes the same; its parameters are those that its operations take.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from scalablevit_ref.compare.capture.torch_refusals import check_followed

DEEPEST = 6
"""How many containers and objects may lie in each other, where tensors are looked for that are no registered parameters."""

REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})
"""Where a module keeps what is registered with it."""


@dataclass(frozen=True)
class Held:
    """All that a module holds, by its own names: each tensor and each module once, under its first name.

    Attributes
    ----------
    parameters, buffers
        The registered ones.
    loose
        Tensors that are plain attributes, or lie in lists, mappings and objects.
    modules
        Those in plain lists and mappings too; the module itself is "".
    """

    parameters: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    loose: dict[str, torch.Tensor]
    modules: dict[str, nn.Module]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return self.parameters | self.buffers | self.loose


def is_torch(value: Any) -> bool:
    """Whether it is a candidate that can be unwrapped: a module, or an exported program."""
    return isinstance(value, nn.Module) or _is_exported(value)


def unwrapped(value: Any) -> nn.Module:
    """The module inside a compiled, a parallel or an exported one."""
    while True:
        if _is_exported(value):
            value = value.module()
        elif "_orig_mod" in value._modules:
            value = value._modules["_orig_mod"]
        elif isinstance(value, nn.DataParallel | nn.parallel.DistributedDataParallel):
            value = value.module
        else:
            return value  # type: ignore[no-any-return]


def _is_exported(value: Any) -> bool:
    """Whether it is an exported program. torch.export, which takes seconds to load, is not loaded to ask."""
    loaded = sys.modules.get("torch.export")
    return loaded is not None and isinstance(value, loaded.ExportedProgram)


@dataclass(frozen=True)
class Copied:
    """A deep copy of a module, in evaluation mode, in which nothing wraps anything.

    Attributes
    ----------
    shared
        What it shares with the module, because it cannot be copied: a lock, a process group.
    views
        By the names of tensors that are no parameters, but views of one: its name, and size, strides and offset in it.
    """

    module: nn.Module
    shared: tuple[Any, ...]
    views: dict[str, tuple[str, tuple[Any, ...]]]


def copied(module: Any) -> Copied:
    """A copy that can be followed. Raises CaptureError for a module of which there is none."""
    module = unwrapped(module)
    check_followed(module)
    found = held(module)
    memo: dict[int, Any] = {id(x): one for x in found.tensors.values() if (one := _plain(x)) is not x}
    for holder in reversed(list(module.modules())):
        if _is_sharded(holder):
            _unshard(holder, memo)
        for inner in holder.children():
            if unwrapped(inner) is not inner:
                memo[id(inner)] = copy.deepcopy(unwrapped(inner), memo)
    shared: list[Any] = []
    try:
        made = copy.deepcopy(module, dict(memo))
    except Exception:
        shared = [x for holder in module.modules() for x in _uncopied(_attributes(holder), memo, DEEPEST)]
        made = copy.deepcopy(module, memo | {id(x): x for x in shared})
    made.eval()
    with torch.no_grad():
        _bake(made)
    return Copied(made, tuple(shared), _views(found))


def _views(found: Held) -> dict[str, tuple[str, tuple[Any, ...]]]:
    whole = {int(x.data_ptr()): name for name, x in found.parameters.items() if x.layout is torch.strided and x.is_contiguous()}
    views = {}
    for name, x in found.loose.items():
        if x.layout is torch.strided and x.numel():
            start = int(x.data_ptr() - x.storage_offset() * x.itemsize)
            if start in whole and x.untyped_storage().data_ptr() == start:
                views[name] = (whole[start], (tuple(x.shape), x.stride(), x.storage_offset()))
    return views


def held(module: nn.Module) -> Held:
    found = Held({}, {}, {}, {})
    seen: set[int] = set()

    def keep(kind: dict[str, Any], path: str, x: Any) -> bool:
        new = id(x) not in seen
        if new:
            seen.add(id(x))
            kind[path] = x
        return new

    def registered(root: nn.Module, prefix: str) -> None:
        inside = [(path, inner) for path, inner in root.named_modules(prefix=prefix) if keep(found.modules, path, inner)]
        for path, x in root.named_parameters(prefix=prefix):
            keep(found.parameters, path, x)
        for path, buffer in root.named_buffers(prefix=prefix):
            keep(found.buffers, path, buffer)
        for path, inner in inside:
            for name, value in _attributes(inner).items():
                loose(f"{path}.{name}" if path else name, value, DEEPEST)

    def loose(path: str, value: Any, deepest: int) -> None:
        if isinstance(value, torch.Tensor):
            keep(found.loose, path, value)
        elif isinstance(value, nn.Module):
            if id(value) not in seen:
                registered(value, path)
        elif deepest:
            for name, part in _parts(value):
                loose(f"{path}.{name}", part, deepest - 1)

    registered(module, "")
    return found


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What is not registered."""
    return {name: value for name, value in vars(module).items() if name not in REGISTERED and not name.endswith("_hooks")}


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """What containers hold, and objects of the candidate's own classes."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if type(value).__module__.partition(".")[0] in ("builtins", "torch", "numpy", "collections"):
        return []
    return list(getattr(value, "__dict__", {}).items()) if not isinstance(value, type) and not callable(value) else []


def _plain(x: torch.Tensor) -> torch.Tensor:
    """A dense copy of a tensor that is sharded, sparse, or one that `copy.deepcopy` refuses; else itself."""
    data = x.detach()
    if hasattr(data, "full_tensor"):
        data = data.full_tensor()
    elif x.layout is not torch.strided:
        data = data.to_dense()
    elif x.is_leaf and not x.is_inference():
        return x
    data = data.clone()
    return nn.Parameter(data, requires_grad=False) if isinstance(x, nn.Parameter) else data


def _is_sharded(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def _unshard(module: nn.Module, memo: dict[int, Any]) -> None:
    """Put into `memo` what stands for a module of FSDP2: one of the class that it was, without the hooks that gather and shard."""
    original: Any = next(kind for kind in type(module).__bases__ if kind.__name__ != "FSDPModule")
    made = memo[id(module)] = original.__new__(original)
    kept = dict(vars(module))
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            kept[name] = type(value)((key, hook) for key, hook in value.items() if not _is_of_sharding(hook))
        elif _is_of_sharding(value):
            del kept[name]
    vars(made).update(copy.deepcopy(kept, memo))


def _is_of_sharding(value: Any) -> bool:
    """Whether an attribute, a hook, or what a mapping holds is torch.distributed's."""
    if isinstance(value, dict) and value:
        return all(_is_of_sharding(one) for one in value.values())
    owner = getattr(value, "__self__", value)
    return type(owner).__module__.startswith("torch.distributed") and not isinstance(owner, torch.Tensor)


def _uncopied(parts: dict[Any, Any], memo: dict[int, Any], deepest: int) -> Iterator[Any]:
    """What of this, as deep inside as can be told, cannot be copied."""
    for value in parts.values():
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:
            inside = list(_uncopied(dict(_parts(value)), memo, deepest - 1)) if deepest else []
            yield from inside or [value]


def _bake(module: nn.Module) -> None:
    """Weights that are computed from others before each pass, or masked, become parameters."""
    for inner in module.modules():
        if parametrize.is_parametrized(inner):
            _unparametrize(inner)
        for key, hook in list(inner._forward_pre_hooks.items()):
            if isinstance(hook, WeightNorm | SpectralNorm | BasePruningMethod):
                hook.remove(inner)
                del inner._forward_pre_hooks[key]


def _unparametrize(module: nn.Module) -> None:
    """As torch's `remove_parametrizations`, which also changes the class, that of the module and of its copy."""
    parametrized: Any = module.parametrizations
    weights = {name: getattr(module, name).detach().clone() for name in parametrized}
    del module.parametrizations
    module.__class__ = parametrize.type_before_parametrizations(module)
    for name, x in weights.items():
        module.register_parameter(name, nn.Parameter(x, requires_grad=False))
