"""Arrays and parameter mappings from one library to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from scalablevit_ref.backends.dispatch import BACKENDS, ENCLOSING, backend, registered
from scalablevit_ref.backends.numberless import what_it_is
from scalablevit_ref.backends.start import FAULTS, said

from scalablevit_ref.arguments import FLOATS, float_dtype
from scalablevit_ref.errors import brief


def to_backend(params_or_array: Any, name: str, dtype: str | None = None, device: Any = None) -> Any:
    """The same values as arrays of another library. The result never shares memory with the source.

    Parameters
    ----------
    params_or_array : array, or mapping of names to arrays
        Of any library. A mapping gives a dict.
    name : str
        "numpy", "torch", "jax", "cupy", "mlx", "tensorflow", "paddle", "tinygrad", "flint", or the NAME of a backend that is
        registered.
    dtype : str, optional
        "float16", "bfloat16", "float32" or "float64"; None keeps it.
    device : optional
        As the library names it; None is its default. Of "flint" it is the precision in bits.

    Raises
    ------
    ValueError
        For an unknown library, dtype or device.
    TypeError
        For what is no array, holds no numbers, or hides some of them behind a mask.
    ModuleNotFoundError
        Where the library is not installed.
    ImportError
        Where it is installed and does not start.

    Examples
    --------
    >>> import numpy as np
    >>> to_backend({"weight": np.ones(2)}, "numpy", dtype="float32")
    {'weight': array([1., 1.], dtype=float32)}
    """
    known = (*BACKENDS, *ENCLOSING, *registered)
    if not isinstance(name, str):
        raise TypeError(f"name must be that of a backend, one of {', '.join(known)}, got {brief(name)}")
    if name not in known:
        raise ValueError(f"unknown backend {name!r}; there are {', '.join(known)}")
    if dtype is not None and not isinstance(dtype, str):
        dtype = float_dtype("dtype", dtype).name
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"unknown dtype {dtype!r}; there are {', '.join(FLOATS)}")
    try:
        target = registered[name][1] if name in registered else _started(name)
        return _each(params_or_array, lambda key, x: target.from_numpy(numbers_of(key, x, real=dtype is not None), dtype, device))
    except ModuleNotFoundError as error:
        if name in registered:
            raise
        extra = ENCLOSING.get(name, name)
        raise ModuleNotFoundError(f"backend {name!r} needs {error.name}: pip install 'scalablevit-ref[{extra}]'") from error


def _started(name: str) -> Any:
    """The backend's module. Whatever its library raises instead of starting is an ImportError that says so."""
    try:
        return import_module(f"scalablevit_ref.backends.{name}")
    except ModuleNotFoundError:
        raise
    except FAULTS as error:
        raise ImportError(f"backend {name!r} does not start: {said(error)}") from error


def to_numpy(params_or_array: Any) -> Any:
    """The same values as NumPy arrays on the host, dtype kept (bfloat16 as ml_dtypes'). A mapping gives a dict of arrays.

    Raises TypeError for what is no array, holds no numbers, or hides some of them behind a mask.
    """
    return _each(params_or_array, lambda key, x: np.array(numbers_of(key, x)))


def _each(params_or_array: Any, move: Callable[[str, Any], Any]) -> Any:
    if isinstance(params_or_array, Mapping):
        return {name: move(f"params_or_array[{name!r}]", x) for name, x in params_or_array.items()}
    return move("params_or_array", params_or_array)


def numbers_of(name: str, x: Any, *, real: bool = False) -> np.ndarray:
    """An array's numbers in the machine's byte order. Raises TypeError, which says what the array is, where it gives none.

    With `real`, complex numbers are refused too, whose imaginary part would be lost.
    """
    library = backend(x, name)
    try:
        if isinstance(x, np.ndarray) and hasattr(x, "mask"):
            raise TypeError("masked")
        numbers = library.to_numpy(x)
    except MemoryError:
        raise
    except Exception as error:
        is_what = what_it_is(x) or f"one that gives no numbers ({error})"
        raise TypeError(f"{name}, a {library.NAME} array, is {is_what}") from error
    if numbers.dtype.kind in "OSUMm" or numbers.dtype.names:
        raise TypeError(f"{name} must hold numbers, got an array of {numbers.dtype}")
    if real and numbers.dtype.kind == "c":
        raise TypeError(f"{name} must hold real numbers, got {numbers.dtype}")
    native: np.ndarray = numbers if numbers.dtype.isnative else numbers.astype(numbers.dtype.newbyteorder("="))
    return native
