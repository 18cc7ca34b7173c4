"""JAX's primitives by NumPy and SciPy: JAX would compile each for each shape, which takes longer than running it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from scipy import special  # JAX needs SciPy itself

HOST_DTYPES = frozenset(["float64", "float32", "int64", "int32", "uint32", "uint8", "bool"])
"""Of which NumPy rounds as JAX does; narrower numbers of floating point are left to JAX, unless they are moved only."""

NARROW_DTYPES = frozenset(["float16", "bfloat16"])

Params = Mapping[str, Any]


def on_host(name: str, params: Params, inputs: Sequence[Any], dtypes: Sequence[str]) -> list[np.ndarray] | None:
    """What a primitive makes of arrays; None where this is left to JAX.

    Parameters
    ----------
    name, params
        Of the equation.
    inputs
        Arrays of NumPy or JAX.
    dtypes
        Of the outputs.
    """
    call, known = PRIMITIVES.get(name), HOST_DTYPES
    if name in EXACT:
        call, known = EXACT[name], HOST_DTYPES | NARROW_DTYPES
    if call is None or not known.issuperset((*dtypes, *(str(x.dtype) for x in inputs))):
        return None
    with np.errstate(all="ignore"):
        found = call(params, *map(np.asarray, inputs))
    if found is None:
        return None
    outputs = found if isinstance(found, list) else [found]
    return [np.asarray(x).astype(dtype, copy=False) for x, dtype in zip(outputs, dtypes, strict=True)]


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *x: function(*x)


def _of_floats(function: Callable[..., Any]) -> Callable[..., Any]:
    """For what whole numbers do in another way."""
    return lambda params, *x: function(*x) if all(each.dtype.kind == "f" for each in x) else None


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, x: function(x, axis=tuple(params["axes"]))


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, x: function(x, axis=params["axes"][0]) if len(params["axes"]) == 1 else None


def _cumulative(function: Callable[..., Any]) -> Callable[..., Any]:
    def accumulated(params: Params, x: np.ndarray) -> np.ndarray:
        axis, turned = params["axis"], slice(None, None, -1 if params["reverse"] else 1)
        place = (slice(None),) * axis + (turned,)
        y: np.ndarray = function(x[place], axis=axis)[place]
        return y

    return accumulated


def _to_a_power(params: Params, x: np.ndarray) -> np.ndarray | None:
    return np.power(x, float(params["y"])) if x.dtype.kind == "f" else None


def _rounded(params: Params, x: np.ndarray) -> np.ndarray | None:
    return np.rint(x) if int(params["rounding_method"]) == 1 else None  # 1: to the nearest even number


def _converted(params: Params, x: np.ndarray) -> np.ndarray | None:
    new = np.dtype(params["new_dtype"])
    return None if x.dtype.kind == "f" and new.kind in "iu" else x.astype(new)


def _selected(params: Params, which: np.ndarray, *cases: np.ndarray) -> np.ndarray | None:
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 and which.dtype == bool else None


def _broadcast(params: Params, x: np.ndarray) -> np.ndarray:
    new = [axis for axis in range(len(params["shape"])) if axis not in params["broadcast_dimensions"]]
    return np.broadcast_to(np.expand_dims(x, new), params["shape"])


def _counted(params: Params) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis]).reshape(along), shape)


def _sliced(params: Params, x: np.ndarray) -> np.ndarray:
    steps = params["strides"] or [1] * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]


def _sliced_anywhere(params: Params, x: np.ndarray, *starts: np.ndarray) -> np.ndarray:
    return x[_window(x.shape, starts, params["slice_sizes"])]


def _updated(params: Params, x: np.ndarray, new: np.ndarray, *starts: np.ndarray) -> np.ndarray:
    y = x.copy()
    y[_window(x.shape, starts, new.shape)] = new
    return y


def _window(shape: Sequence[int], starts: Iterable[np.ndarray], sizes: Iterable[int]) -> tuple[slice, ...]:
    """JAX moves a window that would reach over the end back into the array."""
    places = [(min(max(int(start), 0), whole - size), size) for start, whole, size in zip(starts, shape, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in places)


def _padded(params: Params, x: np.ndarray, value: np.ndarray) -> np.ndarray | None:
    ends = params["padding_config"]
    if any(min(end) < 0 for end in ends):
        return None
    shape = [low + high + size + between * max(size - 1, 0) for size, (low, high, between) in zip(x.shape, ends, strict=True)]
    y = np.full(shape, value, x.dtype)
    places = [slice(low, low + (size - 1) * (between + 1) + 1) for size, (low, _, between) in zip(x.shape, ends, strict=True)]
    if x.size:
        y[tuple(slice(place.start, place.stop, end[2] + 1) for place, end in zip(places, ends, strict=True))] = x
    return y


def _parts(params: Params, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


def _reshaped(params: Params, x: np.ndarray) -> np.ndarray | None:
    return x.reshape(params["new_sizes"]) if params.get("dimensions") is None else None


def _product(params: Params, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Axes of the batch, then the left's free ones, then the right's."""
    (of_a, of_b), (batch_a, batch_b) = params["dimension_numbers"]
    free_a = [axis for axis in range(a.ndim) if axis not in (*of_a, *batch_a)]
    free_b = [axis for axis in range(b.ndim) if axis not in (*of_b, *batch_b)]
    batch, rows, columns = ([x.shape[i] for i in axes] for x, axes in ((a, batch_a), (a, free_a), (b, free_b)))
    inner = prod(a.shape[i] for i in of_a)
    left = a.transpose(*batch_a, *free_a, *of_a).reshape(*batch, prod(rows), inner)
    right = b.transpose(*batch_b, *of_b, *free_b).reshape(*batch, inner, prod(columns))
    y: np.ndarray = np.matmul(left, right)
    return y.reshape((*batch, *rows, *columns))


def _convolution(params: Params, x: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
    """The sum over a kernel's places of what each sees, times its weights; of images dilated with zeros it is left to JAX."""
    ends, groups, axes = params["padding"], params["feature_group_count"], params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1 or min(map(min, ends), default=0) < 0:
        return None
    x = np.moveaxis(x, axes.lhs_spec[1], -1).transpose(*_ranked(axes.lhs_spec), x.ndim - 1)
    kernel = weight.transpose(*axes.rhs_spec[2:], axes.rhs_spec[1], axes.rhs_spec[0])  # places, in, out
    x = np.pad(x, [(0, 0), *ends, (0, 0)])
    steps, apart = params["window_strides"], params["rhs_dilation"]
    size = [
        (whole - (places - 1) * between - 1) // step + 1
        for whole, places, between, step in zip(x.shape[1:-1], kernel.shape[:-2], apart, steps, strict=True)
    ]
    if min(size, default=1) < 1:
        return None
    seen = x.reshape(*x.shape[:-1], groups, -1)
    one = kernel.reshape(*kernel.shape[:-1], groups, -1)
    y = np.zeros((len(x), *size, groups, one.shape[-1]), x.dtype)
    for place in product(*map(range, kernel.shape[:-2])):
        at = [slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in zip(place, apart, size, steps, strict=True)]
        part = seen[(slice(None), *at)]
        if one.shape[-3] == 1:
            y += part * one[place][0]
        else:
            y += np.einsum("...gi,igo->...go", part, one[place], optimize=True)
    y = y.reshape(*y.shape[:-2], -1)
    return np.moveaxis(y, range(y.ndim), [axes.out_spec[0], *axes.out_spec[2:], axes.out_spec[1]])


def _ranked(spec: Sequence[int]) -> list[int]:
    """Where the batch and the places of a map stand when its channels are put last."""
    channels = spec[1]
    return [axis - (axis > channels) for axis in (spec[0], *spec[2:])]


EXACT: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(["copy", "copy_p", "stop_gradient", "device_put"], _elementwise(lambda x: x)),
    "optimization_barrier": lambda params, *x: [*x],
    "reshape": _reshaped,
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "squeeze": lambda params, x: x.squeeze(tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "scan_slice": lambda params, x: x[params["start_indices"][0]],
    "scan_stack": lambda params, *x: np.stack(x),
    "dynamic_slice": _sliced_anywhere,
    "dynamic_update_slice": _updated,
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "concatenate": lambda params, *x: np.concatenate(x, params["dimension"]),
    "split": _parts,
    "pad": _padded,
}
"""Primitives that only move numbers, of their parameters and their inputs."""

PRIMITIVES: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(["add", "add_any"], _elementwise(np.add)),
    "sub": _elementwise(np.subtract),
    "mul": _elementwise(np.multiply),
    "div": _of_floats(np.divide),
    "rem": _of_floats(np.fmod),
    "neg": _elementwise(np.negative),
    "abs": _elementwise(np.abs),
    "sign": _of_floats(np.sign),
    "square": _elementwise(np.square),
    "sqrt": _of_floats(np.sqrt),
    "rsqrt": _of_floats(lambda x: 1 / np.sqrt(x)),
    "cbrt": _of_floats(np.cbrt),
    "pow": _of_floats(np.power),
    "integer_pow": _to_a_power,
    "exp": _of_floats(np.exp),
    "exp2": _of_floats(np.exp2),
    "expm1": _of_floats(np.expm1),
    "log": _of_floats(np.log),
    "log1p": _of_floats(np.log1p),
    "sin": _of_floats(np.sin),
    "cos": _of_floats(np.cos),
    "tan": _of_floats(np.tan),
    "tanh": _of_floats(np.tanh),
    "logistic": _of_floats(special.expit),
    "erf": _of_floats(special.erf),
    "erfc": _of_floats(special.erfc),
    "max": _elementwise(np.maximum),
    "min": _elementwise(np.minimum),
    "clamp": _elementwise(lambda low, x, high: np.minimum(np.maximum(x, low), high)),
    "floor": _of_floats(np.floor),
    "ceil": _of_floats(np.ceil),
    "round": _rounded,
    "is_finite": _elementwise(np.isfinite),
    "eq": _elementwise(np.equal),
    "ne": _elementwise(np.not_equal),
    "lt": _elementwise(np.less),
    "le": _elementwise(np.less_equal),
    "gt": _elementwise(np.greater),
    "ge": _elementwise(np.greater_equal),
    "and": _elementwise(np.bitwise_and),
    "or": _elementwise(np.bitwise_or),
    "xor": _elementwise(np.bitwise_xor),
    "not": _elementwise(np.invert),
    "select_n": _selected,
    "convert_element_type": _converted,
    "reduce_sum": _reduction(np.sum),
    "reduce_prod": _reduction(np.prod),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_and": _reduction(np.logical_and.reduce),
    "reduce_or": _reduction(np.logical_or.reduce),
    "argmax": _extreme(np.argmax),
    "argmin": _extreme(np.argmin),
    "cumsum": _cumulative(np.cumsum),
    "cumprod": _cumulative(np.cumprod),
    "cummax": _cumulative(np.maximum.accumulate),
    "cummin": _cumulative(np.minimum.accumulate),
    "iota": _counted,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
"""Other primitives."""
