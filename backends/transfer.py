"""Arrays and parameter mappings from one library to another."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from scalablevit_ref.backends.dispatch import BACKENDS, backend, registered
from scalablevit_ref.backends.start import FAULTS, said

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that `to_backend` converts to."""


def to_backend(params_or_array: Any, name: str, dtype: str | None = None, device: Any = None) -> Any:
    """The same values as arrays of another library. The result never shares memory with the source.

    Parameters
    ----------
    params_or_array : array, or mapping of names to arrays
        Of any library. A mapping gives a dict.
    name : str
        "numpy", "torch", "jax", "cupy", or the NAME of a backend that is registered.
    dtype : str, optional
        "float16", "bfloat16", "float32" or "float64"; None keeps it.
    device : optional
        As the library names it; None is its default.

    Raises
    ------
    ValueError
        For an unknown library or dtype.
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
    if name not in BACKENDS and name not in registered:
        raise ValueError(f"unknown backend {name!r}; there are {', '.join((*BACKENDS, *registered))}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
    try:
        target = registered[name][1] if name in registered else _started(name)
        return _each(params_or_array, lambda x: target.from_numpy(backend(x).to_numpy(x), dtype, device))
    except ModuleNotFoundError as error:
        if name in registered:
            raise
        raise ModuleNotFoundError(f"backend {name!r} needs {error.name}: pip install 'scalablevit-ref[{name}]'") from error


def _started(name: str) -> Any:
    """The backend's module. Whatever its library raises instead of starting is an ImportError that says so."""
    try:
        return import_module(f"scalablevit_ref.backends.{name}")
    except ModuleNotFoundError:
        raise
    except FAULTS as error:
        raise ImportError(f"backend {name!r} does not start: {said(error)}") from error


def to_numpy(params_or_array: Any) -> Any:
    """The same values as NumPy arrays on the host, dtype kept (bfloat16 as ml_dtypes'). A mapping gives a dict of arrays."""
    return _each(params_or_array, lambda x: np.array(backend(x).to_numpy(x)))


def _each(params_or_array: Any, move: Any) -> Any:
    if isinstance(params_or_array, Mapping):
        return {name: move(x) for name, x in params_or_array.items()}
    return move(params_or_array)
