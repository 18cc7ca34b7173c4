"""A module that stands in for CuPy where there is no GPU: NumPy's numbers behind CuPy's names, and CuPy's refusals.

It has what is named here and nothing else; each name exists in CuPy 14 and means what it means in NumPy (`test_cupy.py` compares
them with an installed CuPy). Its arrays are no NumPy arrays and do not mix with them. Its kernels are the real ones, run by
`cuda_on_host`.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import einops
import numpy as np
import pytest

from tests.support.cuda_on_host import built, signatures

ATTRIBUTES = ("shape", "ndim", "size", "dtype", "itemsize", "nbytes", "strides", "flags")
METHODS = ("astype", "copy", "max", "mean", "min", "ravel", "reshape", "squeeze", "sum", "swapaxes", "transpose", "view")
OPERATORS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "matmul",
    "pow",
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
)
REFLECTED = ("add", "sub", "mul", "truediv", "pow")
FUNCTIONS = (
    *(
        "arange",
        "ascontiguousarray",
        "broadcast_to",
        "concatenate",
        "einsum",
        "empty",
        "empty_like",
        "exp",
        "expand_dims",
        "matmul",
    ),
    *("sqrt", "stack", "tile", "zeros", "zeros_like"),
)


class Device:
    """The current device, or the one asked for: there is one."""

    def __init__(self, device: Any = None) -> None:
        self.id = int(getattr(device, "id", device or 0))
        if self.id:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class ndarray:  # noqa: N801
    """A device array."""

    def __init__(self, held: np.ndarray) -> None:
        assert held.dtype.char in "efd?bBhHiIlLqQ", f"CuPy has no {held.dtype}"
        self._held = held

    device = property(lambda self: Device())
    T = property(lambda self: ndarray(self._held.T))
    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> ndarray:
        return ndarray(np.asarray(self._held[index]))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._held[index] = unwrapped(value)

    def __abs__(self) -> ndarray:
        return ndarray(np.asarray(abs(self._held)))

    def __neg__(self) -> ndarray:
        return ndarray(-self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array.")

    def __array_ufunc__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("a NumPy array and a CuPy one do not mix")

    def get(self, *arguments: Any) -> Any:
        raise AssertionError("waits for the GPU and copies to the host")

    __bool__ = __float__ = __int__ = __iter__ = item = tolist = get


def unwrapped(value: Any) -> Any:
    """NumPy's array of a device array; Python's scalars, dtypes, tuples and so on as they are. TypeError for a NumPy array."""
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(map(unwrapped, value))
    return value


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        y = function(*map(unwrapped, arguments), **{name: unwrapped(value) for name, value in options.items()})
        if y is NotImplemented:
            return y
        return ndarray(np.asarray(y))

    return call


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: ndarray, other: Any) -> ndarray:
        self._held = function(self._held, unwrapped(other))
        return self

    return call


for _name in ATTRIBUTES:
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._held, name)))
for _name in METHODS:
    setattr(ndarray, _name, wrapped(getattr(np.ndarray, _name)))
for _name in OPERATORS:
    setattr(ndarray, f"__{_name}__", (in_place if _name.startswith("i") else wrapped)(getattr(operator, _name)))
for _name in REFLECTED:
    setattr(ndarray, f"__r{_name}__", wrapped(lambda self, other, name=_name: getattr(operator, name)(other, self)))


class RawModule:
    """Kernels by name. What CuPy would hand on as garbage is refused: arguments that are not what the signature says."""

    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        self.code, self.options = code, options

    def get_function(self, name: str) -> Callable[..., None]:
        parameters = signatures(self.code)[name]
        real = np.dtype({"-DREAL=float": "float32", "-DREAL=double": "float64"}[self.options[0]])
        scalars = {"T": real, "int": np.dtype("int32"), "long long": np.dtype("int64")}

        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            assert len(arguments) == len(parameters), f"{name} takes {parameters}"
            assert 0 < block[0] <= 1024
            assert 0 < grid[0] < 2**31
            values: list[Any] = []
            for (kind, parameter), value in zip(parameters, arguments, strict=True):
                if kind.endswith("*"):
                    assert isinstance(value, ndarray), f"{name}: {parameter} must be a device array, not {type(value)}"
                    assert value.dtype == real, f"{name}: {parameter} must be {real}, not {value.dtype}"
                    assert value.flags.c_contiguous, f"{name}: {parameter} has gaps"
                    values.append(ctypes.c_void_p(value._held.ctypes.data))
                else:
                    assert isinstance(value, np.generic), f"{name}: {parameter} must be a NumPy scalar, not {type(value)}"
                    assert value.dtype == scalars[kind], f"{name}: {parameter} must be {kind}, not {value.dtype}"
                    values.append(np.ctypeslib.as_ctypes_type(value.dtype)(value.item()))
            getattr(built(self.code, self.options), f"launch_{name}")(grid[0], block[0], *values)

        return launch


def array(x: np.ndarray, dtype: Any = None, order: str = "K") -> ndarray:
    """To the device, if it is on the host."""
    return ndarray(np.array(x._held if isinstance(x, ndarray) else x, dtype=dtype, order=order))  # type: ignore[call-overload]


def asnumpy(x: ndarray) -> np.ndarray:
    """To the host."""
    return np.array(x._held)


def module(available: bool = True) -> dict[str, ModuleType]:
    """The modules, by name; `available` is whether they see a GPU."""
    cupy, cuda, lib, tricks = (ModuleType(name) for name in ("cupy", "cupy.cuda", "cupy.lib", "cupy.lib.stride_tricks"))
    vars(cupy).update({name: wrapped(getattr(np, name)) for name in FUNCTIONS})
    vars(cupy).update(ndarray=ndarray, array=array, asnumpy=asnumpy, RawModule=RawModule, cuda=cuda, lib=lib)
    vars(cuda).update(Device=Device, is_available=lambda: available, runtime=ModuleType("cupy.cuda.runtime"))
    cuda.runtime.getDeviceCount = lambda: int(available)
    lib.stride_tricks = tricks  # type: ignore[attr-defined]
    tricks.as_strided = wrapped(np.lib.stride_tricks.as_strided)  # type: ignore[attr-defined]
    return {x.__name__: x for x in (cupy, cuda, lib, tricks)}


PRESENT = module()


@contextmanager
def cupy_stand_in(modules: dict[str, ModuleType] = PRESENT) -> Iterator[None]:
    """`import cupy` finds the stand-in; what einops and the package remember of a CuPy is forgotten before and after."""
    import scalablevit_ref.backends

    ours = "scalablevit_ref.backends.cupy"
    with pytest.MonkeyPatch.context() as patch:
        for name, x in modules.items():
            patch.setitem(sys.modules, name, x)
        einops_backends = {name: x for name, x in einops._backends._loaded_backends.items() if name != "cupy"}
        patch.setattr(einops._backends, "_loaded_backends", einops_backends)
        patch.setattr(einops._backends, "_type2backend", {})
        patch.delitem(sys.modules, ours, raising=False)
        yield
        sys.modules.pop(ours, None)
        vars(scalablevit_ref.backends).pop("cupy", None)
