"""A torch module as a `Runner`: what it does is seen by a dispatch mode, below all of its own code."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.graph import ABSENT, Graph, Kind, ModuleRun, Operation
from scalablevit_ref.compare.capture.own_code import RUNNING, own_code, user_line
from scalablevit_ref.errors import CaptureError

MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "t",
        "transpose",
        "numpy_T",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "cat",
        "stack",
        "clone",
        "_to_copy",
        "unsqueeze",
        "squeeze",
        "roll",
        "flip",
        "constant_pad_nd",
        "alias",
        "detach",
        "repeat",
        "unfold",
        "im2col",
        "index",
        "gather",
        "index_select",
        "narrow",
        "unbind",
        "contiguous",
        "as_strided",
        "lift_fresh",
        "copy",
        "pixel_shuffle",
        "pixel_unshuffle",
        "_reshape_alias",
        "movedim",
        "diagonal",
        "tile",
        "rot90",
        "channel_shuffle",
    ]
)
"""Operations of aten, without namespace and overload, that only move numbers."""


class TorchRunner:
    """A copy of a module, in evaluation mode and on its own device."""

    kind = "torch module"

    def __init__(self, module: nn.Module, dtype: str | None) -> None:
        with own_code("copying the candidate"):
            self.model = copy.deepcopy(module).eval()
            if dtype is not None:
                self.model = self.model.to(getattr(torch, dtype))
        self._own = {name: x for name, x in (*self.model.named_parameters(), *self.model.named_buffers()) if x.is_floating_point()}
        first = next(iter(self.model.parameters()), None)
        if first is None:
            raise CaptureError("the candidate holds no parameters: give a function of the images instead")
        self.first = first

    @property
    def dtype(self) -> str:
        return str(self.first.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return {name: array_of(x.detach(), f"the candidate's {name}") for name, x in self._own.items()}

    def record(self, images: np.ndarray, weights: Mapping[str, np.ndarray]) -> Graph:
        recorder = self._run(images, weights, keep=None)
        return recorder.graph()

    def values(
        self, images: np.ndarray, weights: Mapping[str, np.ndarray], wanted: Collection[int]
    ) -> tuple[Mapping[int, np.ndarray], float]:
        start = time.perf_counter()
        recorder = self._run(images, weights, keep=frozenset(wanted))
        seconds = time.perf_counter() - start
        return {value: array_of(x, f"value {value}") for value, x in recorder.kept.items()}, seconds

    def _run(self, images: np.ndarray, weights: Mapping[str, np.ndarray], keep: frozenset[int] | None) -> Recorder:
        x = torch.from_numpy(np.array(images)).to(self.first.device, self.first.dtype)
        with torch.no_grad():
            for name, value in weights.items():
                target = self._own[name]
                target.copy_(torch.from_numpy(np.array(value)).reshape(target.shape))
        recorder = Recorder(self._own, x, keep)
        with own_code(RUNNING), torch.no_grad(), _hooked(self.model, recorder), recorder:
            recorder.ended(self.model(x))
        return recorder


class Recorder(TorchDispatchMode):
    """While it is on, every operation of torch is an `Operation`.

    A tensor is known by its identity; what is written in place gets a new number, and so do the other tensors on the same memory.
    """

    def __init__(self, own: Mapping[str, torch.Tensor], images: torch.Tensor, keep: frozenset[int] | None) -> None:
        super().__init__()
        self.keep, self.kept = keep, dict[int, torch.Tensor]()
        self.operations: list[Operation] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.dtypes: dict[int, str] = {}
        self.modules: list[ModuleRun] = []
        self.path: list[str] = []
        self.outputs: dict[str, int] = {}
        self.constant: dict[int, torch.Tensor] = {}
        self._known: dict[int, tuple[Any, int]] = {}  # a tensor's id: a weak reference to it, and its number
        self._written: dict[int, int] = {}  # a storage: the number of what was last written into it
        self._fed: set[int] = set()
        self._weights: set[int] = set()
        self.images = self._new(images)
        self._fed.add(self.images)
        self.parameters = {self._new(x): name for name, x in own.items()}
        self._weights |= set(self.parameters)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [self.number(x) for x in _tensors((args, kwargs))]
        out = func(*args, **kwargs)
        results = _tensors(out)
        if not results:
            return out
        kind, ordered, settings = _described(func, args, kwargs, self.number, inputs)
        written = [x for x in _tensors((args, kwargs)) if any(x is y for y in results)]
        outputs = tuple(self._new(x) for x in results)
        if self._fed.intersection(inputs):
            self._fed.update(outputs)
            for x, value in zip(_tensors((args, kwargs)), inputs, strict=True):
                if value in self._weights:
                    self.constant.setdefault(value, x)
        elif self._weights.intersection(inputs):
            self._weights.update(outputs)
        for x in written:
            self._written[x.untyped_storage()._cdata] = outputs[0]
        module = self.path[-1] if self.path else ""
        self.operations.append(Operation(kind, str(func), ordered, outputs, settings, module, user_line()))
        for value, x in zip(outputs, results, strict=True):
            if self.keep is not None and value in self.keep:
                self.kept[value] = x.detach().clone()
        return out

    def number(self, x: torch.Tensor) -> int:
        """A tensor's number; one that nothing has made is a constant of the candidate's own."""
        known = self._known.get(id(x))
        return known[1] if known is not None and known[0]() is x else self._new(x)

    def _new(self, x: torch.Tensor) -> int:
        value = len(self.shapes)
        self.shapes[value], self.dtypes[value] = tuple(x.shape), str(x.dtype).removeprefix("torch.")
        self._known[id(x)] = (weakref.ref(x), value)
        return value

    def ended(self, out: Any) -> None:
        self.outputs = {"logits": self.number(_tensors(out)[0])}

    def graph(self) -> Graph:
        return Graph(
            tuple(self.operations),
            self.shapes,
            self.dtypes,
            self.images,
            self.parameters,
            {value: array_of(x.detach(), f"value {value}") for value, x in self.constant.items()},
            self.outputs,
            tuple(self.modules),
        )


def _tensors(x: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(x) if isinstance(leaf, torch.Tensor)]


def _described(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], number: Callable[[torch.Tensor], int], inputs: Sequence[int]
) -> tuple[Kind, tuple[int, ...], dict[str, Any]]:
    name = str(func).split(".")[1].rstrip("_")

    def of(*some: Any) -> tuple[int, ...]:
        return tuple(number(x) if isinstance(x, torch.Tensor) else ABSENT for x in some)

    if name in ("mm", "bmm", "matmul", "mv", "dot"):
        a, b = args[:2]
        if name == "bmm":
            return "product", of(a, b), {"contracted": ((2,), (1,)), "batch": ((0,), (0,))}
        return "product", of(a, b), {"contracted": ((a.ndim - 1,), (max(b.ndim - 2, 0),)), "batch": ((), ())}
    if name in ("addmm", "baddbmm"):
        bias, a, b = args[:3]
        batched = name == "baddbmm"
        axes = {"contracted": ((2,), (1,)), "batch": ((0,), (0,))} if batched else {"contracted": ((1,), (0,)), "batch": ((), ())}
        return "product", of(a, b, bias), axes
    if name == "convolution":
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        settings = {
            "stride": tuple(stride),
            "padding": tuple((p, p) for p in padding),
            "dilation": tuple(dilation),
            "groups": groups,
            "transposed": transposed,
            "x": "bchw",
            "weight": "oihw",
        }
        return "convolution", of(x, weight, bias), settings
    if name == "native_layer_norm":
        x, shape, weight, bias, eps = args
        return "norm", of(x, weight, bias), {"eps": eps, "axes": tuple(range(x.ndim - len(shape), x.ndim)), "groups": None}
    if name == "native_group_norm":
        x, weight, bias, *_, groups, eps = args
        return "norm", of(x, weight, bias), {"eps": eps, "axes": tuple(range(1, x.ndim)), "groups": groups}
    if name in ("add", "sub", "rsub", "mul", "div"):
        kind: Kind = "add" if name in ("add", "sub", "rsub") else "multiply"
        scalars = [x for x in args if not isinstance(x, torch.Tensor)]
        return kind, tuple(inputs), {"inverse": name in ("sub", "rsub", "div"), "scalars": scalars}
    if name in MOVES:
        return "move", tuple(inputs), {}
    return "other", tuple(inputs), {"scalars": [x for x in args if isinstance(x, int | float)]}


@contextmanager
def _hooked(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """While open, the recorder knows in which module an operation runs, and what each module was given and returned."""
    handles = []
    for path, module in model.named_modules():
        if not path:
            continue

        def begun(module: Any, args: Any, kwargs: Any, path: str = path) -> None:
            recorder.path.append(path)

        def ended(module: Any, args: Any, kwargs: Any, out: Any, path: str = path) -> None:
            recorder.path.pop()
            given = tuple(recorder.number(x) for x in _tensors((args, kwargs)))
            recorder.modules.append(ModuleRun(path, given, tuple(recorder.number(x) for x in _tensors(out))))

        handles.append(module.register_forward_pre_hook(begun, with_kwargs=True))
        handles.append(module.register_forward_hook(ended, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
