"""A network's inference through PyTorch's compiler: what `adapters.torch.ScalableViT.compiled` gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

BACKEND = "inductor"
"""The compiler, by PyTorch's name for it."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""Where a module keeps the functions that are called with what it takes and gives."""


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls this one, to be compiled beside others of the same code.

    PyTorch keeps what it has compiled with the code of a function: eight times at most, and it takes what it finds there for a
    module whose weights are others where they are constants. This function has code of its own.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    call.__code__ = call.__code__.replace()
    return call


def inference(network: nn.Module) -> Callable[[Tensor], Any]:
    """Compiled for the images' sizes as they are, in one graph without gradients, with the weights as constants ("freezing").

    So the compiler packs the weights of products once, and computes what depends on weights alone while it compiles. The network
    is in eval mode. A new shape or dtype is compiled when it first comes.
    """
    from torch._inductor import config

    compiled: dict[Any, Callable[[Tensor], Any]] = {}

    def call(images: Tensor) -> Any:
        kind = (images.shape, images.dtype, images.device)
        run = compiled.get(kind)
        with torch.no_grad():
            if run is not None:
                return run(images)
            run = torch.compile(alone(network), fullgraph=True, dynamic=False, backend=BACKEND)
            with config.patch(freezing=True):
                found = run(images)
        compiled[kind] = run
        return found

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
        """A copy compiles for itself: what was compiled has the weights of this one."""
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
