"""A quantised torch module as one of floating point, in which each rounding of a value is one operation that can be left out.

Taken apart are the quantised modules of `torch.ao.nn`, what torch.fx and PT2E make of a module, and torchao's tensors.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from scalablevit_ref.compare.capture.arrays import array_of
from scalablevit_ref.compare.capture.quantised import Grid, counted
from scalablevit_ref.compare.capture.torch_few_bits import QUANTISED, is_packed, kind_of
from scalablevit_ref.errors import CaptureError


@torch.library.custom_op("scalablevit_ref::rounded", mutates_args=())
def rounded(x: torch.Tensor, step: float, zero: int, low: int, high: int, on: bool) -> torch.Tensor:
    """The nearest numbers of a grid: those that whole numbers from `low` to `high` stand for. A copy where it is not on."""
    if not on:
        return x.clone()
    return (torch.clamp(torch.round(x / step) + zero, low, high) - zero) * step


@torch.library.custom_op("scalablevit_ref::rounded_in_the_run", mutates_args=())
def rounded_in_the_run(x: torch.Tensor, low: int, high: int, each_token: bool, on: bool) -> torch.Tensor:
    """The same, on a grid that has 0 and fits all values; or, evenly around 0, those of each token."""
    if not on:
        return x.clone()
    tiny = torch.finfo(x.dtype).tiny
    if each_token:
        step = (x.abs().amax(-1, keepdim=True) / ((high - low) / 2)).clamp(min=tiny)
        return torch.clamp(torch.round(x / step), low, high) * step
    least, greatest = x.min().clamp(max=0), x.max().clamp(min=0)
    step = ((greatest - least) / (high - low)).clamp(min=tiny)
    zero = torch.clamp(low - torch.round(least / step), low, high)
    return (torch.clamp(torch.round(x / step) + zero, low, high) - zero) * step


@dataclass
class Taken:
    """A module of floating point, and what was taken apart.

    Attributes
    ----------
    words
        What was quantised in it.
    grids
        Of its weights, by their names.
    ranges
        Whether values are rounded on ranges that were fixed before.
    rounded
        What is computed on numbers of few bits: of "linear", "conv2d", "attention", "layer_norm" and "gelu".
    """

    module: nn.Module
    found: list[str] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    by_channel: bool = False
    fixed: bool = False
    rounded: set[str] = field(default_factory=set)

    @property
    def words(self) -> str:
        return counted(self.found)


def taken_apart(module: nn.Module, *, on: bool) -> Taken:
    """A copy of floating point. on: whether values are rounded in it.

    Raises CaptureError for a part that is quantised in another way.
    """
    found = Taken(copy.deepcopy(module).eval())
    with torch.no_grad():
        for path, inner in list(found.module.named_modules()):
            if isinstance(inner, torch.fx.GraphModule):
                _take_graph(found, path, inner, on=on)
        for path, inner in list(found.module.named_modules()):
            if type(inner).__module__.startswith(QUANTISED) and type(inner).__name__ != "LinearPackedParams":
                _put(found, path, _plain(found, path, inner, on=on))
        for path, inner in list(found.module.named_modules()):
            for name, x in list(inner.named_parameters(recurse=False)):
                if is_packed(x):
                    _unpack(found, path, inner, name, x, on=on)
    return found


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _put(found: Taken, path: str, made: nn.Module) -> None:
    holder, _, name = path.rpartition(".")
    setattr(found.module.get_submodule(holder), name, made)


# Weights


def _numbers(found: Taken, name: str, weight: torch.Tensor) -> nn.Parameter:
    """What a quantised tensor stands for, as a parameter."""
    whole = weight.int_repr()
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        step, zero = torch.tensor(weight.q_scale()), torch.tensor(float(weight.q_zero_point()))
    else:
        shape = [1] * weight.ndim
        shape[weight.q_per_channel_axis()] = -1
        step, zero = weight.q_per_channel_scales().reshape(shape), weight.q_per_channel_zero_points().reshape(shape)
    _keep_grid(found, name, step, zero, weight.shape, torch.iinfo(whole.dtype).min, torch.iinfo(whole.dtype).max)
    return nn.Parameter(weight.dequantize(), requires_grad=False)


def _keep_grid(found: Taken, name: str, step: torch.Tensor, zero: torch.Tensor, shape: Any, low: int, high: int) -> None:
    steps, zeros = (array_of(x.double(), "a scale") for x in (step, zero))
    found.by_channel |= steps.size > 1
    parts = (steps, (low - zeros) * steps, (high - zeros) * steps)
    found.grids[name] = Grid(*(np.broadcast_to(part, tuple(shape)) for part in parts))


# Modules


class _Rounding(nn.Module):
    """Rounds on a grid that was fixed."""

    def __init__(self, step: float, zero: int, dtype: torch.dtype, *, on: bool) -> None:
        super().__init__()
        whole = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.qint32: torch.int32}[dtype]
        self.settings = (float(step), int(zero), torch.iinfo(whole).min, torch.iinfo(whole).max, on)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.scalablevit_ref.rounded(x, *self.settings)  # type: ignore[no-any-return]


class _RoundingInTheRun(nn.Module):
    """Rounds on the grid that fits the values, or each token's."""

    def __init__(self, low: int, high: int, *, each_token: bool, on: bool) -> None:
        super().__init__()
        self.settings = (low, high, each_token, on)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.scalablevit_ref.rounded_in_the_run(x, *self.settings)  # type: ignore[no-any-return]


class _Functional(nn.Module):
    """A `QFunctional` on numbers of floating point."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        self.after = after

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.after(x + y)  # type: ignore[no-any-return]

    def mul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.after(x * y)  # type: ignore[no-any-return]

    def matmul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.after(x @ y)  # type: ignore[no-any-return]

    def cat(self, x: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        return self.after(torch.cat(x, dim))  # type: ignore[no-any-return]

    def add_relu(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.after(torch.relu(x + y))  # type: ignore[no-any-return]

    def add_scalar(self, x: torch.Tensor, y: float) -> torch.Tensor:
        return x + y

    def mul_scalar(self, x: torch.Tensor, y: float) -> torch.Tensor:
        return x * y


class _Beside(nn.Module):
    """A layer whose input or result is rounded, its parameters under its own path."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, before: nn.Module | None, after: nn.Module | None, *, relu: bool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._layer, self._before, self._after, self._relu = [layer], before, after, relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self._layer[0]
        x = x if self._before is None else self._before(x)
        if isinstance(layer, nn.Conv2d):
            y = nn.functional.conv2d(x, self.weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        else:
            y = nn.functional.linear(x, self.weight, self.bias)
        y = torch.relu(y) if self._relu else y
        return y if self._after is None else self._after(y)


def _plain(found: Taken, path: str, inner: Any, *, on: bool) -> nn.Module:
    """A module of floating point that computes the same, but for rounding."""
    kind = type(inner).__name__
    if kind == "DeQuantize":
        return nn.Identity()
    if kind == "Dropout":
        return nn.Identity()
    found.found.append(f"{kind} in {path}")
    dynamic = ".dynamic" in type(inner).__module__
    if kind == "Quantize":
        found.fixed = True
        return _Rounding(float(inner.scale), int(inner.zero_point), inner.dtype, on=on)
    if kind in ("Linear", "LinearReLU", "Conv2d", "ConvReLU2d"):
        layer = _layer(found, path, inner)
        found.rounded.add("conv2d" if isinstance(layer, nn.Conv2d) else "linear")
        relu = kind.endswith(("ReLU", "ReLU2d"))
        if dynamic:
            return _Beside(layer, _RoundingInTheRun(0, 127 if _reduced() else 255, each_token=False, on=on), None, relu=relu)
        found.fixed = True
        return _Beside(layer, None, _after(inner, on=on), relu=relu)
    after = _after(inner, on=on) if hasattr(inner, "scale") else None
    if kind == "QFunctional" and after is not None:
        found.fixed = True
        return _Functional(after)
    if kind == "LayerNorm" and after is not None:
        found.fixed = True
        found.rounded.add("layer_norm")
        norm = nn.LayerNorm(inner.normalized_shape, inner.eps)
        norm.weight, norm.bias = (nn.Parameter(x.detach().clone(), requires_grad=False) for x in (inner.weight, inner.bias))
        return nn.Sequential(norm, after)
    raise CaptureError(f"the candidate is quantised, and its {kind} in {path} cannot be followed")


def _reduced() -> bool:
    """Whether this machine's kernels give dynamic values 7 bits."""
    return bool(torch.backends.quantized.engine in ("fbgemm", "x86", "onednn"))


def _after(inner: Any, *, on: bool) -> _Rounding:
    return _Rounding(float(inner.scale), int(inner.zero_point), torch.quint8, on=on)


def _layer(found: Taken, path: str, inner: Any) -> nn.Linear | nn.Conv2d:
    weight, bias = inner.weight(), inner.bias()
    numbers = _numbers(found, _joined(path, "weight"), weight)
    layer: nn.Linear | nn.Conv2d
    if weight.ndim == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        sizes = (inner.in_channels, inner.out_channels, inner.kernel_size)
        layer = nn.Conv2d(*sizes, inner.stride, inner.padding, inner.dilation, inner.groups, bias=bias is not None)
    layer.weight = numbers
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


# torchao's tensors


def _unpack(found: Taken, path: str, inner: nn.Module, name: str, x: Any, *, on: bool) -> None:
    numbers = nn.Parameter(x.dequantize().detach().clone(), requires_grad=False)
    setattr(inner, name, numbers)
    found.found.append(f"{type(x).__name__} in {_joined(path, name)}")
    step, whole = getattr(x, "scale", None), getattr(x, "qdata", None)
    if step is None or whole is None or whole.dtype not in (torch.int8, torch.uint8) or whole.shape != numbers.shape:
        raise CaptureError(f"the candidate is quantised, and its {_joined(path, name)}, a {type(x).__name__}, cannot be followed")
    zero = getattr(x, "zero_point", None)
    limits = torch.iinfo(whole.dtype)
    _keep_grid(found, _joined(path, name), step, torch.zeros(1) if zero is None else zero, numbers.shape, limits.min, limits.max)
    if getattr(x, "act_quant_kwargs", None) is not None and isinstance(inner, nn.Linear):
        found.rounded.add("linear")
        _put(found, path, _Beside(inner, _RoundingInTheRun(-128, 127, each_token=True, on=on), None, relu=False))


# What torch.fx and PT2E make of a module


PLAIN: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "add_relu": lambda x, y: torch.relu(x + y),
    "matmul": torch.matmul,
    "cat": torch.cat,
}
"""Operations of two quantised values, or of several, and what they stand for."""


def _value(inner: Any, x: Any) -> Any:
    """A number, or a constant of the graph."""
    if not isinstance(x, torch.fx.Node):
        return x
    if x.op == "get_attr":
        return operator.attrgetter(str(x.target))(inner)
    raise CaptureError(f"the candidate is quantised, and {x.name} is computed in the run")


def _take_graph(found: Taken, path: str, inner: Any, *, on: bool) -> None:
    graph = inner.graph
    for node in list(graph.nodes):
        kind = kind_of(node)
        if kind is None:
            continue
        short = kind.removeprefix("quantized_decomposed.").removeprefix("quantized.").partition(".")[0]
        with graph.inserting_before(node):
            made = _replaced(found, path, inner, node, short, on=on)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    taken = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    for name, _ in list(inner.named_parameters()):  # those that numbers of few bits have taken the place of
        holder, _, own = name.rpartition(".")
        if name not in taken and not any(name.startswith(f"{one}.") for one in taken):
            delattr(inner.get_submodule(holder), own)
    inner.recompile()


def _replaced(found: Taken, path: str, inner: Any, node: Any, short: str, *, on: bool) -> Any:
    graph, args = inner.graph, node.args
    if short == "dequantize":
        return args[0]
    if short.startswith("dequantize_per"):
        if args[0].op == "get_attr":
            return _weight_of(found, path, inner, node)
        return args[0]
    found.found.append(short)
    if short == "quantize_per_tensor":
        found.fixed = True
        found.rounded |= {"linear", "conv2d"}
        step, zero = float(_value(inner, args[1])), int(_value(inner, args[2]))
        low, high = args[3:5] if len(args) > 4 else ((0, 255) if args[3] == torch.quint8 else (-128, 127))
        return graph.call_function(torch.ops.scalablevit_ref.rounded.default, (args[0], step, zero, low, high, on))
    if short in PLAIN:
        step, zero = float(_value(inner, args[-2])), int(_value(inner, args[-1]))
        y = graph.call_function(PLAIN[short], tuple(args[:-2]))
        return graph.call_function(torch.ops.scalablevit_ref.rounded.default, (y, step, zero, 0, 255, on))
    raise CaptureError(f"the candidate is quantised, and {node.target} cannot be followed")


def _weight_of(found: Taken, path: str, inner: Any, node: Any) -> Any:
    """A constant of whole numbers, as the parameter that it stands for."""
    args, name = node.args, str(node.args[0].target)
    whole = _value(inner, args[0])
    step, zero = (torch.as_tensor(_value(inner, x)) for x in args[1:3])
    if step.ndim:
        shape = [1] * whole.ndim
        shape[int(args[3])] = -1
        step, zero = step.reshape(shape), zero.reshape(shape)
    low, high = args[4:6] if step.ndim else args[3:5]
    own = f"{name}_numbers"
    setattr(inner, own, nn.Parameter((whole.to(torch.float32) - zero) * step, requires_grad=False))
    _keep_grid(found, _joined(path, own), step, zero, whole.shape, int(low), int(high))
    found.found.append(f"a weight of {str(whole.dtype).removeprefix('torch.')}")
    return inner.graph.get_attr(own)
