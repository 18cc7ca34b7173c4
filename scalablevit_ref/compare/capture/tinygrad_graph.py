"""What a tinygrad model does, method by method: while a `Recorder` is on, those of `tinygrad.Tensor` are noted.

tinygrad's own graph has no products or convolutions any more, but sums of what was multiplied; so its tensors are watched instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import CodeType
from typing import Any

import numpy as np
from tinygrad import Tensor

from scalablevit_ref.backends.dispatch import dtype_name
from scalablevit_ref.backends.tinygrad import to_numpy
from scalablevit_ref.compare.capture.graph import Graph, Kind, Operation, fed_by_images, sources
from scalablevit_ref.compare.capture.own_code import user_line

MOVES = frozenset(
    {
        *("reshape", "view", "flatten", "unflatten", "permute", "transpose", "T", "expand", "shrink", "pad", "flip", "squeeze"),
        *("unsqueeze", "chunk", "split", "cat", "stack", "__getitem__", "cast", "contiguous", "rearrange", "repeat", "roll"),
        *("detach", "bitcast", "gather", "to", "float", "half", "double", "repeat_interleave", "movedim"),
    }
)
"""Methods that lay numbers out in another way, or leave some of them out."""

ARITHMETIC: Mapping[str, tuple[Kind, bool, bool]] = {
    **{name: ("add", False, name == "__radd__") for name in ("add", "__add__", "__radd__", "__iadd__")},
    **{name: ("add", True, name == "__rsub__") for name in ("sub", "__sub__", "__rsub__", "__isub__")},
    **{name: ("multiply", False, name == "__rmul__") for name in ("mul", "__mul__", "__rmul__", "__imul__")},
    **{name: ("multiply", True, name == "__rtruediv__") for name in ("div", "__truediv__", "__rtruediv__", "__itruediv__")},
}
"""What they do, whether it is undone (a difference, a quotient), and whether the other operand comes first."""

PRODUCTS = frozenset({"dot", "matmul", "__matmul__", "__imatmul__", "linear"})

OTHERS = frozenset(
    {
        *("softmax", "log_softmax", "gelu", "quick_gelu", "relu", "silu", "swish", "sigmoid", "tanh", "erf", "exp", "exp2", "log"),
        *("log2", "sqrt", "rsqrt", "reciprocal", "abs", "neg", "__neg__", "square", "pow", "__pow__", "__rpow__", "maximum"),
        *(
            "minimum",
            "clamp",
            "clip",
            "where",
            "sum",
            "mean",
            "max",
            "min",
            "var",
            "std",
            "einsum",
            "dropout",
            "sin",
            "cos",
            "relu6",
        ),
        *("relu6", "hardswish", "mish", "softplus", "leaky_relu", "elu", "celu", "sign", "__rmatmul__", "avg_pool2d", "max_pool2d"),
    }
)

WATCHED = MOVES | ARITHMETIC.keys() | PRODUCTS | OTHERS | {"conv2d", "layernorm"}
"""What is noted of `Tensor`; whatever else it has calls these."""


class Recorder:
    """The operations of one run, and the tensors that it made by their numbers.

    Parameters
    ----------
    parameters
        The candidate's tensors of floating point by name.
    images
        What it is fed.
    until
        The code that calls the candidate: lines are looked for inside of it.
    """

    def __init__(self, parameters: Mapping[str, Tensor], images: Tensor, until: CodeType) -> None:
        self.until, self.inside = until, False
        self.operations: list[Operation] = []
        self.tensors: list[Tensor] = []  # by number; they stay, so that no identity is used twice
        self.numbers: dict[int, int] = {}
        self.images = self.number(images)
        self.parameters = {self.number(x): name for name, x in parameters.items()}

    def number(self, x: Tensor) -> int:
        if id(x) not in self.numbers:
            self.numbers[id(x)] = len(self.tensors)
            self.tensors.append(x)
        return self.numbers[id(x)]

    def note(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        given = list(_tensors((args, tuple(kwargs.values()))))
        made = list(_tensors(out))
        if not given or not made or all(any(x is y for y in given) for x in made):
            return
        inputs = tuple(self.number(x) for x in given)
        for x in made:
            self.numbers.pop(id(x), None)
        kind, settings = _described(name, args, kwargs, given)
        outputs = tuple(self.number(x) for x in made)
        self.operations.append(Operation(kind, name.strip("_"), inputs, outputs, settings, "", user_line(self.until)))

    def graph(self, outputs: Mapping[str, Tensor]) -> Graph:
        """With the numbers of what is made of parameters alone and meets the images."""
        found = {name: self.number(x) for name, x in outputs.items()}
        shapes = {i: tuple(int(n) for n in x.shape) for i, x in enumerate(self.tensors)}
        dtypes = {i: dtype_name(x) for i, x in enumerate(self.tensors)}
        plain = Graph(tuple(self.operations), shapes, dtypes, self.images, self.parameters, {}, found)
        fed, own = fed_by_images(plain), sources(plain)
        wanted = {n for one in plain.operations if fed.intersection(one.inputs) for n in one.inputs if n in own}
        return Graph(plain.operations, shapes, dtypes, self.images, self.parameters, self.values(wanted), found)

    def values(self, wanted: Collection[int]) -> dict[int, np.ndarray]:
        """The numbers of these values, computed at once: each on its own would be scheduled with all that comes before."""
        order = sorted(wanted)
        if order:
            Tensor.realize(*(self.tensors[n] for n in order))
        return {n: to_numpy(self.tensors[n]) for n in order}


@contextmanager
def watched(recorder: Recorder) -> Iterator[None]:
    """While open, the recorder is told of every method of `WATCHED` that is called by none of them."""
    own = {name: vars(Tensor)[name] for name in WATCHED if name in vars(Tensor)}
    names = [name for name in sorted(WATCHED) if hasattr(Tensor, name)]
    made = {name: _noting(recorder, name) for name in names}
    for name in names:
        setattr(Tensor, name, made[name])
    try:
        yield
    finally:
        for name in names:
            if name in own:
                setattr(Tensor, name, own[name])
            else:
                delattr(Tensor, name)


def _noting(recorder: Recorder, name: str) -> Any:
    if isinstance(plain := getattr(Tensor, name), property):
        return property(_noted(recorder, name, plain.fget))
    return _noted(recorder, name, plain)


def _noted(recorder: Recorder, name: str, method: Callable[..., Any] | None) -> Callable[..., Any]:
    assert method is not None

    @wraps(method)
    def noted(*args: Any, **kwargs: Any) -> Any:
        if recorder.inside:
            return method(*args, **kwargs)
        recorder.inside = True
        try:
            out = method(*args, **kwargs)
        finally:
            recorder.inside = False
        recorder.note(name, args, kwargs, out)
        return out

    return noted


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for part in x:
            yield from _tensors(part)


def _described(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: list[Tensor]) -> tuple[Kind, dict[str, Any]]:
    """An operation's kind and settings."""
    if name in MOVES:
        return "move", {}
    if name in PRODUCTS and len(given) > 1 and min(x.ndim for x in given[:2]) > 1:
        left, right = (x.ndim for x in given[:2])
        shared = range(min(left, right) - 2)
        batch = tuple(tuple(rank - 2 - len(shared) + i for i in shared) for rank in (left, right))
        return "product", {"contracted": ((left - 1,), (right - 2,)), "batch": batch}
    if name == "conv2d" and len(given) > 1:
        told = dict(zip(("weight", "bias", "groups", "stride", "dilation", "padding"), args[1:], strict=False)) | dict(kwargs)
        pad = _pair(told.get("padding", 0), 2)
        sides = tuple((p, p) for p in pad) if len(pad) == 2 else ((pad[2], pad[3]), (pad[0], pad[1]))
        return "convolution", {
            "stride": _pair(told.get("stride", 1), 2),
            "padding": sides,
            "dilation": _pair(told.get("dilation", 1), 2),
            "groups": told.get("groups", 1),
            "transposed": False,
            "x": "bchw",
            "weight": "oihw",
        }
    if name == "layernorm":
        told = dict(zip(("axis", "eps"), args[1:], strict=False)) | dict(kwargs)
        axes = tuple(axis % given[0].ndim for axis in _pair(told.get("axis", -1), 1))
        return "norm", {"eps": told.get("eps", 1e-5), "axes": axes, "groups": None}
    if name in ARITHMETIC:
        kind, inverse, turned = ARITHMETIC[name]
        if len(given) == 2 and not turned:
            return kind, {"inverse": inverse}
        if len(given) == 1 and isinstance(args[-1], int | float):
            return kind, {"inverse": inverse, "scalars": (args[-1],), "turned": turned}
    axis = kwargs.get("axis", args[1] if len(args) > 1 else None)
    return "other", {"random": True} if name == "dropout" else {"dim": axis} if isinstance(axis, int | tuple) else {}


def _pair(value: Any, times: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * times
