"""The part of pickle that a torch file needs, and nothing that runs code.

A pickle is a program. Its opcodes are read first (`next_pickle`): which there are, how many, and what they make keys of dicts. Then
it is run (`load_pickle`) with stand-ins for the few globals that a checkpoint needs. A stand-in makes plain values out of plain
values, and refuses to have its own state set.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import MOST_AXES, Extent, StoredTensor, numpy_dtype

_NEEDED = """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2
    LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
"""
_OPCODES = frozenset(_NEEDED.split())

MOST_OPCODES = 500_000
"""Most opcodes of a pickle; that of `large` with its optimizer has some 60,000."""

MOST_BYTES = 8 << 20
"""Largest pickle, in bytes."""

_MOST_LONG_INTEGERS = 1_000
"""Most whole numbers of more than 64 bits in a pickle: any number of them can have one hash."""

_MOST_BUILDS = 1_000
"""Most objects whose state a pickle sets, which copies it; a checkpoint does so for `_metadata` and the Namespace only."""


def next_pickle(file: BinaryIO) -> bytes:
    """The bytes of the pickle that starts here, its opcodes checked; the file is left at its end."""
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    stack = _Stack()
    long_integers = builds = 0
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", _Bounded(file, size)))):
            if opcode.name not in _OPCODES:
                raise CheckpointError(f"the pickle uses opcode {opcode.name}, which no checkpoint needs; nothing was executed")
            if opcode.name == "LONG_BINPUT" and cast("int", argument) > count:  # the memo is an array that grows to this index
                raise CheckpointError("damaged pickle: memo index beyond its length", found=argument)
            long_integers += opcode.name == "LONG1" and cast("int", argument).bit_length() > 63
            builds += opcode.name == "BUILD"
            too_long = count >= MOST_OPCODES or file.tell() - start > MOST_BYTES
            if too_long or long_integers > _MOST_LONG_INTEGERS or builds > _MOST_BUILDS:
                raise CheckpointError(
                    "the pickle is larger than a checkpoint's", expected=f"{MOST_OPCODES} opcodes, {MOST_BYTES} bytes at most"
                )
            stack.run(opcode, argument)
    except CheckpointError:
        raise
    except Exception as error:  # pickletools raises ValueError and what its argument readers let through
        raise CheckpointError(f"damaged pickle ({error})") from error
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


class _Bounded:
    """A file that never tries to read past its end, whatever length a pickle claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, n: int) -> bytes:
        if n > self._size - self._file.tell():
            raise CheckpointError("the file ends inside a pickle")
        if n > MOST_BYTES:
            raise CheckpointError("the pickle is larger than a checkpoint's", expected=f"{MOST_BYTES} bytes at most", found=n)
        return self._file.read(n)

    def readline(self) -> bytes:
        return self._file.readline(1 << 16)


_NO_ATOMS = {"any", "tuple", "list", "dict"}
_ATOMS = {o.name for o in pickletools.opcodes if not o.stack_before and not _NO_ATOMS & {kind.name for kind in o.stack_after}}


class _Stack:
    """The stack of a pickle's machine, each object by whether it is a text, a number or a constant; None is a mark.

    Only these may be keys: any number of tuples, and of objects made of numbers, can have one hash, and one can take for ever to
    hash.
    """

    def __init__(self) -> None:
        self._stack: list[bool | None] = []
        self._memo: dict[int, bool | None] = {}

    def run(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._stack.append(None)
        elif name == "POP":
            self._stack.pop()
        else:
            taken = self._take(opcode.stack_before)
            if name in ("SETITEM", "SETITEMS") and not all(taken[1:-1:2]):
                raise CheckpointError("the pickle has a key that is neither text nor number, which no checkpoint needs")
            self._stack += [name in _ATOMS] * len(opcode.stack_after)

    def _take(self, before: list[Any]) -> list[bool]:
        """What the opcode takes off the stack, the top first: a number of objects, or a number beneath a mark and all above it."""
        taken: list[bool] = []
        if any(kind is pickletools.markobject for kind in before):
            while (top := self._stack.pop()) is not None:
                taken.append(top)
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            if (top := self._stack.pop()) is None:
                raise CheckpointError("damaged pickle: a mark where an object should be")
            taken.append(top)
        return taken


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
"""Most entries of a Namespace."""

_MOST_PAIRS = 100_000
"""Most pairs of all OrderedDicts that are made of pairs; a few opcodes make another one of the same pairs."""

_LONGEST_DEVICE = 100
"""Longest name of a device, in characters."""

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

    Parameters
    ----------
    storage
        Gives a storage's extent from its key, number of elements and bytes an element.
    limit
        Bytes that no tensor may exceed.
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
