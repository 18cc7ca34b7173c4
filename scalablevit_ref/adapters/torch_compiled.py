"""A network's inference through PyTorch's compilers: what `adapters.torch.ScalableViT.compiled` gives."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

SETTINGS = {"freezing": True}
"""The compiler's: the weights are constants, packed for products and folded with all that depends on them alone."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""Where a module keeps the functions that are called with what it takes and gives."""


def write_package(network: nn.Module, images: Tensor, path: str | os.PathLike[str]) -> None:
    """What AOTInductor makes of a module in eval mode for images of this shape: a file (.pt2) of machine code and the weights."""
    from torch._inductor import aoti_compile_and_package

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about PyTorch's own inside
        program = torch.export.export(network, (images,), strict=False)
        aoti_compile_and_package(program, package_path=os.fspath(path), inductor_configs=SETTINGS)


def packaged(network: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
    """Such a package, loaded; its file is gone."""
    from torch._inductor import aoti_load_package

    with TemporaryDirectory(prefix="scalablevit_ref-") as folder:
        path = Path(folder) / "network.pt2"
        write_package(network, images, path)
        loaded: Callable[[Tensor], Any] = aoti_load_package(str(path))
    return loaded


def inference(network: nn.Module) -> Callable[[Tensor], Any]:
    """Of a module in eval mode, compiled for each shape, dtype and device of images when it first comes.

    By AOTInductor and not by `torch.compile`: of a product in float32 with constant weights that one makes a call of MKL, and this
    one a call of oneDNN that does what follows too. On an AMD EPYC it is twice as fast.
    """
    compiled: dict[Any, Callable[[Tensor], Any]] = {}

    def call(images: Tensor) -> Any:
        kind, images = (images.shape, images.dtype, images.device), images.contiguous()  # what was compiled reads it so
        if kind not in compiled:
            compiled[kind] = packaged(network, images)
        with torch.no_grad():
            return compiled[kind](images)

    return call


class Compiled(nn.Module):
    """A network's inference: called with images b c h w it gives what the network gives in eval mode, without gradients.

    It holds a copy of the network, under the same names. Its parameters need no gradients, and it stays in eval mode.

    The first call compiles, and so does the first one with a new shape, and the first one after a change: of the parameters, by
    `load_state_dict`, `to` and the like, or in place; or of the hooks inside. Hooks of the layers that the network has are compiled
    with it. What is not seen is a layer inside that is replaced by another.

    Parameters
    ----------
    network
        Is copied.
    """

    _run: Callable[[Tensor], Any] | None
    _compiled_state: tuple[list[int], list[int]] | None
    _watched: tuple[list[nn.Parameter], list[Mapping[int, Any]]]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        hooks = {id(hook): hook for m in network.modules() for kind in HOOKS for hook in getattr(m, kind).values()}
        network = copy.deepcopy(network, hooks).requires_grad_(False).eval()  # whose hooks are the same functions
        for name, part in network.named_children():
            self.add_module(name, part)
        self._network = (network,)  # in a tuple, so that it is no child beside its own children
        self._forget()
        self.eval()

    def forward(self, images: Tensor) -> Any:
        state = self._state()
        if self._run is None or state != self._compiled_state:
            self._run, self._compiled_state = inference(self._network[0]), state
        return self._run(images)

    def _state(self) -> tuple[list[int], list[int]]:
        """What changes where a parameter is written to or a hook comes or goes. It takes 0.1 ms, so the lists are kept."""
        if not self._watched[0]:
            network = self._network[0]
            self._watched = list(network.parameters()), [getattr(m, hooks) for m in network.modules() for hooks in HOOKS]
        parameters, hooks = self._watched
        return [p._version for p in parameters if not p.is_inference()], [key for found in hooks for key in found]

    def _forget(self) -> None:
        self._run, self._compiled_state, self._watched = None, None, ([], [])

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which no file and no other network can hold."""
        return self.__dict__ | {"_run": None, "_compiled_state": None, "_watched": ([], [])}

    def train(self, mode: bool = True) -> Compiled:
        """Stays in eval mode."""
        return super().train(False)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As of any module; the next call compiles."""
        self._forget()
        return super().load_state_dict(*arguments, **options)

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self._forget()
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
