"""MLX's primitives by NumPy, in float64 to the last digits, which MLX does not have; in narrower dtypes by MLX where it rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from scalablevit_ref import ops
from scalablevit_ref.backends import to_backend, to_numpy

Arguments = Sequence[Any]

REDUCTIONS = ("all", "any", "sum", "prod", "min", "max")
"""By MLX's numbers of them."""

NARROW = ("float16", "bfloat16")


def _erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(x) * ops.erf(np.abs(x)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softmax(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(shares / shares.sum(-1, keepdims=True))


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    top = x.max(-1, keepdims=True)
    return np.asarray(np.log(np.exp(x - top).sum(-1, keepdims=True)) + top)


ELEMENTWISE: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Abs": (np.abs, mx.abs),
    "Add": (np.add, mx.add),
    "Ceil": (np.ceil, mx.ceil),
    "Cos": (np.cos, mx.cos),
    "Divide": (np.divide, mx.divide),
    "Equal": (np.equal, mx.equal),
    "Erf": (_erf, mx.erf),
    "Exp": (np.exp, mx.exp),
    "Expm1": (np.expm1, mx.expm1),
    "Floor": (np.floor, mx.floor),
    "Greater": (np.greater, mx.greater),
    "GreaterEqual": (np.greater_equal, mx.greater_equal),
    "Less": (np.less, mx.less),
    "LessEqual": (np.less_equal, mx.less_equal),
    "Log1p": (np.log1p, mx.log1p),
    "LogAddExp": (np.logaddexp, mx.logaddexp),
    "LogSumExp": (_log_sum_exp, lambda x: mx.logsumexp(x, axis=-1, keepdims=True)),
    "LogicalAnd": (np.logical_and, mx.logical_and),
    "LogicalNot": (np.logical_not, mx.logical_not),
    "LogicalOr": (np.logical_or, mx.logical_or),
    "Matmul": (np.matmul, mx.matmul),
    "Maximum": (np.maximum, mx.maximum),
    "Minimum": (np.minimum, mx.minimum),
    "Multiply": (np.multiply, mx.multiply),
    "Negative": (np.negative, mx.negative),
    "NotEqual": (np.not_equal, mx.not_equal),
    "Power": (np.power, mx.power),
    "Remainder": (np.remainder, mx.remainder),
    "Select": (np.where, mx.where),
    "Sigmoid": (_sigmoid, mx.sigmoid),
    "Sign": (np.sign, mx.sign),
    "Sin": (np.sin, mx.sin),
    "Softmax": (_softmax, lambda x: mx.softmax(x, axis=-1, precise=True)),
    "Square": (np.square, mx.square),
    "Subtract": (np.subtract, mx.subtract),
    "Tanh": (np.tanh, mx.tanh),
}
"""By NumPy, and by MLX."""


def _reduced(arguments: Arguments, x: Any, library: Any) -> Any:
    return getattr(library, REDUCTIONS[arguments[0]])(x, axis=tuple(arguments[1]), keepdims=True)


def _rooted(arguments: Arguments, x: Any, library: Any) -> Any:
    return 1 / library.sqrt(x) if arguments[0] else library.sqrt(x)


def _logarithm(arguments: Arguments, x: Any, library: Any) -> Any:
    return (library.log2, library.log10, library.log)[arguments[0]](x)


def _convolved(arguments: Arguments, x: Any, weight: Any, library: Any) -> Any:
    """Of a b h w c map and a kernel o h w i. NumPy dilates by zeros, and takes steps of a convolution without."""
    stride, low, high, dilation, spread, groups, flipped = arguments
    if library is mx:
        return mx.conv_general(x, weight, stride, (list(low), list(high)), dilation, spread, groups, flipped)
    x, weight = _spread(x, spread, (1, 2)), _spread(weight, dilation, (1, 2))
    x = np.pad(x, ((0, 0), (low[0], high[0]), (low[1], high[1]), (0, 0)))
    kernel = weight[:, ::-1, ::-1] if flipped else weight
    kernel = np.ascontiguousarray(kernel.transpose(0, 3, 1, 2))
    if stride[0] == stride[1]:
        return ops.conv2d(x, kernel, stride=int(stride[0]), groups=groups)
    return ops.conv2d(x, kernel, groups=groups)[:, :: stride[0], :: stride[1]]


def _spread(x: np.ndarray, steps: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """With zeros between neighbours."""
    for step, axis in zip(steps, axes, strict=True):
        if step > 1:
            shape = list(x.shape)
            shape[axis] = (shape[axis] - 1) * step + 1
            wide = np.zeros(shape, x.dtype)
            wide[(slice(None),) * axis + (slice(None, None, step),)] = x
            x = wide
    return x


OF_ARGUMENTS: Mapping[str, Callable[..., Any]] = {
    "Convolution": _convolved,
    "Log": _logarithm,
    "Reduce": _reduced,
    "Sqrt": _rooted,
}


def _sliced(arguments: Arguments, x: np.ndarray) -> np.ndarray:
    return x[_places(*arguments)]


def _places(starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> tuple[slice, ...]:
    """MLX's stop before the first element, of a step back, is a number below zero, which NumPy would count from the end."""
    return tuple(
        slice(start, None if step < 0 and stop < 0 else stop, step) for start, stop, step in zip(starts, stops, steps, strict=True)
    )


def _updated(arguments: Arguments, x: np.ndarray, new: np.ndarray) -> np.ndarray:
    """0 to 4: the larger, the smaller, the sum, the product, the new one."""
    kind, *places = arguments
    y, at = x.copy(), _places(*places)
    y[at] = new if kind == 4 else (np.maximum, np.minimum, np.add, np.multiply)[kind](y[at], new)
    return y


def _gathered(arguments: Arguments, x: np.ndarray, *indices: np.ndarray) -> np.ndarray:
    """For each of the indices a window of x, whose axes come last."""
    axes, sizes = arguments
    many = np.broadcast_arrays(*indices)
    found = np.empty((many[0].size, *sizes), x.dtype)
    for i, at in enumerate(zip(*(each.reshape(-1).tolist() for each in many), strict=True)):
        place = [slice(0, size) for size in sizes]
        for axis, index in zip(axes, at, strict=True):
            index += x.shape[axis] if index < 0 else 0
            place[axis] = slice(index, index + sizes[axis])
        found[i] = x[tuple(place)]
    return found.reshape(*many[0].shape, *sizes)


def _padded(arguments: Arguments, x: np.ndarray, value: np.ndarray) -> np.ndarray:
    axes, low, high = arguments
    ends = dict(zip(axes, zip(low, high, strict=True), strict=True))
    return np.pad(x, [ends.get(axis, (0, 0)) for axis in range(x.ndim)], constant_values=value.item())


def _accumulated(arguments: Arguments, x: np.ndarray) -> np.ndarray | None:
    kind, axis, backwards, inclusive = arguments
    if kind != 2 or not inclusive:
        return None
    turned = (slice(None),) * axis + (slice(None, None, -1 if backwards else 1),)
    return np.asarray(np.cumsum(x[turned], axis)[turned])


MOVED: Mapping[str, Callable[..., Any]] = {
    "Concatenate": lambda arguments, *x: np.concatenate(x, arguments[0]),
    "ExpandDims": lambda arguments, x: np.expand_dims(x, tuple(arguments[0])),
    "Gather": _gathered,
    "GatherAxis": lambda arguments, x, indices: np.take_along_axis(x, indices.astype(np.int64), arguments[0]),
    "Pad": _padded,
    "Slice": _sliced,
    "SliceUpdate": _updated,
    "Split": lambda arguments, x: np.split(x, list(arguments[0]), arguments[1]),
    "Squeeze": lambda arguments, x: np.squeeze(x, tuple(arguments[0])),
    "Transpose": lambda arguments, x: x.transpose(arguments[0]),
}

SAME = frozenset(["Copy", "Contiguous", "StopGradient", "Full", "Depends"])
"""Primitives that give their first input."""

RESHAPED = frozenset(["Reshape", "Flatten", "Unflatten"])

MOVES = frozenset([*MOVED, *SAME, *RESHAPED, "Broadcast", "BroadcastAxes", "AsType"]) - {"Pad", "SliceUpdate"}
"""Primitives that only move numbers. So do `Pad` with zeros and `SliceUpdate` with what is put in the place of others."""


def known(name: str) -> bool:
    """Whether a primitive of this name can be run here."""
    others = MOVES | MOVED.keys() | OF_ARGUMENTS.keys() | ELEMENTWISE.keys()
    return name in others or name in ("Arange", "ArgReduce", "RandomBits", "Scan")


def on_host(
    name: str, arguments: Arguments, inputs: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], dtype: str, *, exact: bool
) -> list[np.ndarray]:
    """What a primitive makes of arrays.

    Parameters
    ----------
    name, arguments
        As MLX tells them.
    inputs
        Arrays of NumPy; of bfloat16 as ml_dtypes has it.
    shapes, dtype
        Of the outputs.
    exact
        Whether NumPy computes; else MLX, as it rounds.
    """
    found: Any
    with np.errstate(all="ignore"):
        if name in ELEMENTWISE or name in OF_ARGUMENTS:
            narrow = any(x.dtype.name in NARROW for x in inputs)
            library = mx if narrow or not exact else np
            given = [to_backend(x, "mlx") for x in inputs] if library is mx else inputs
            if name in ELEMENTWISE:
                found = ELEMENTWISE[name][library is mx](*given)
            else:
                found = OF_ARGUMENTS[name](arguments, *given, library)
            found = to_numpy(found) if library is mx else found
        elif name in MOVED:
            found = MOVED[name](arguments, *inputs)
        elif name in SAME:
            found = inputs[0]
        elif name in RESHAPED:
            found = inputs[0].reshape(shapes[0])
        elif name in ("Broadcast", "BroadcastAxes"):
            found = np.broadcast_to(inputs[0], shapes[0])
        elif name == "AsType":
            found = inputs[0]
        elif name == "Arange":
            start, _, step = arguments
            found = start + step * np.arange(prod(shapes[0]))
        elif name == "RandomBits":
            key, width = inputs[0].reshape(-1).tolist(), arguments[1]
            found = np.random.default_rng(key).integers(0, 2 ** (8 * width), shapes[0], np.uint64)
        elif name == "Scan":
            found = _accumulated(arguments, *inputs)
        else:
            found = (np.argmax if arguments[0] else np.argmin)(inputs[0], axis=arguments[1], keepdims=True)
    parts = found if isinstance(found, list) else [found]
    return [_as(np.asarray(x), dtype) for x in parts]


def _as(x: np.ndarray, dtype: str) -> np.ndarray:
    if x.dtype.name == dtype:
        return x
    if dtype == "bfloat16":
        import ml_dtypes

        return x.astype(ml_dtypes.bfloat16)
    return x.astype(dtype)
