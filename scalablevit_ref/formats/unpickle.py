"""The part of pickle that a torch file needs, and nothing that runs code.

A pickle is a program. Its opcodes are read first (`opcodes.py`), against a list; then it is run with stand-ins for the few globals
a checkpoint needs. A stand-in makes plain values out of plain values, and refuses to have its own state set.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import MOST_AXES, Extent, StoredTensor, numpy_dtype

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

_DTYPES = tuple(_STORAGES.values())

_MOST_ENTRIES = 1_000
"""Of a Namespace."""

_MOST_PAIRS = 100_000
"""Of all OrderedDicts that are made of pairs; a few opcodes make another one of the same pairs."""

_LONGEST_DEVICE = 100

Storages = Callable[[str, int, int], Extent]


class _Inert:
    """No attributes to set, and no state."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise CheckpointError(f"pickle sets the state of {type(self).__name__.lstrip('_')}")


class StorageType(_Inert):
    """Stands in for a class such as `torch.FloatStorage`."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class Storage(_Inert):
    """Numbers in the file, of one dtype."""

    __slots__ = ("dtype", "extent")

    def __init__(self, extent: Extent, dtype: np.dtype[Any]) -> None:
        self.extent, self.dtype = extent, dtype


class _Function(_Inert):
    """A global that a pickle may call. Not a Python function, whose code and defaults a pickle could replace."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


class _Mapping(dict[Any, Any]):
    """Stands in for an OrderedDict. A state dict's `_metadata` attribute, module versions that nothing here needs, is dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise CheckpointError("pickle sets an odd state on an OrderedDict", found=type(state).__name__)


class Namespace:
    """Stands in for `argparse.Namespace`: plain attributes, to be read with `vars`."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) and not name.startswith("__") for name in state):
            raise CheckpointError("argparse.Namespace with an odd state", found=type(state).__name__)
        if len(state) > _MOST_ENTRIES:
            raise CheckpointError("argparse.Namespace larger than a checkpoint's", found=f"{len(state)} entries")
        self.__dict__.update(state)


def _size(*args: Any) -> tuple[int, ...]:
    (sizes,) = args
    if type(sizes) not in (list, tuple) or len(sizes) > MOST_AXES or not all(type(n) is int for n in sizes):
        raise CheckpointError("torch.Size of something other than whole numbers", found=type(sizes).__name__)
    return tuple(sizes)


def _device(*args: Any) -> str:
    if not 1 <= len(args) <= 2 or not all(type(arg) in (str, int) for arg in args):
        raise CheckpointError("odd arguments to torch.device")
    if any(type(arg) is str and len(arg) > _LONGEST_DEVICE for arg in args):
        raise CheckpointError("odd arguments to torch.device")
    return ":".join(map(str, args))


def _parameter(*args: Any) -> StoredTensor:
    if len(args) != 3 or not isinstance(args[0], StoredTensor):
        raise CheckpointError("odd arguments to torch._utils._rebuild_parameter", expected="a tensor, requires_grad, hooks")
    return args[0]


class CheckpointUnpickler(pickle.Unpickler):
    """Loads a torch pickle into plain containers, `Namespace` and `StoredTensor`.

    storage: gives a storage's extent from its key, number of elements and bytes an element. limit: bytes that no tensor may exceed.
    """

    def __init__(self, data: bytes, storage: Storages, limit: int) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._storage, self._limit, self._pairs_left = storage, limit, _MOST_PAIRS
        self._globals: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Function(self._ordered_dict),
            ("argparse", "Namespace"): Namespace,
            ("torch", "Size"): _Function(_size),
            ("torch", "device"): _Function(_device),
            ("torch._utils", "_rebuild_tensor_v2"): _Function(self._tensor),
            ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
        }

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch" and name in _STORAGES:
            return StorageType(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return name
        try:
            return self._globals[module, name]
        except KeyError:
            raise CheckpointError(f"the pickle asks for {module}.{name}, which no checkpoint needs; nothing was executed") from None

    def persistent_load(self, pid: Any, /) -> Storage:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or not isinstance(pid[1], StorageType):
            raise CheckpointError("odd persistent id in the pickle", expected="a storage")
        key, elements = pid[2], pid[4]
        if type(key) is not str or type(elements) is not int or elements < 0 or pid[5:] not in ((), (None,)):
            raise CheckpointError("odd storage in the pickle", found=f"key {brief(key)}, {brief(elements)} elements")
        dtype = numpy_dtype(pid[1].dtype)
        return Storage(self._storage(key, elements, dtype.itemsize), dtype)

    def _ordered_dict(self, *args: Any) -> _Mapping:
        if not args:
            return _Mapping()
        (pairs,) = args
        self._pairs_left -= len(pairs)
        if self._pairs_left < 0:
            raise CheckpointError("OrderedDicts larger than a checkpoint's", expected=f"{_MOST_PAIRS} pairs at most")
        if type(pairs) is not list or not all(
            type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs
        ):
            raise CheckpointError("OrderedDict of something other than pairs", found=type(pairs).__name__)
        return _Mapping(pairs)

    def _tensor(self, *args: Any) -> StoredTensor:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None)`."""
        if len(args) not in (6, 7) or not isinstance(args[0], Storage) or type(args[2]) is not tuple or type(args[3]) is not tuple:
            raise CheckpointError("odd arguments to torch._utils._rebuild_tensor_v2")
        if len(args) == 7 and args[6]:
            raise CheckpointError("a tensor with its negative or conjugate bit set")
        storage, offset, shape, strides = args[:4]
        return StoredTensor(storage.extent, storage.dtype, offset, shape, strides, self._limit)


def load_pickle(data: bytes, storage: Storages, limit: int) -> Any:
    """What a torch pickle describes. Raises CheckpointError for one that is damaged, or asks for more than a checkpoint needs."""
    try:
        return CheckpointUnpickler(data, storage, limit).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged or hostile pickle makes of the stand-ins
        raise CheckpointError(f"damaged pickle ({type(error).__name__}: {error})") from error
