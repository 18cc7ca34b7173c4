"""What the names in a pickle stand for: tensors, arrays and plain containers out of plain values, and `Opaque` for all others.

Nothing is imported, and nothing is called but the functions of this module. The shapes of the calls are those of
`torch._utils`, `torch._tensor` and `numpy._core.multiarray`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, cast

import numpy as np

from scalablevit_ref.errors import CheckpointError, brief
from scalablevit_ref.formats.lazy import MOST_AXES, Extent, LazyTensor, StoredTensor, in_memory, numpy_dtype, row_major
from scalablevit_ref.formats.opaque import Namespace, Opaque, described

MOST_OPCODES = 500_000
"""Most opcodes of all pickles of a file; those of `large` with its optimizer are some 60,000."""

_MOST_COPIED = 100_000
"""Most entries that are copied, by all OrderedDicts made of pairs and all Namespaces; a few opcodes copy the same ones again."""

_MOST_FORESEEN = 4_000
"""Most keys of dicts whose hash can be foreseen: fractions, whole numbers of more than 63 bits, tuples with numbers in them."""

_MOST_ENCODED = 8 << 20
"""Most characters of all texts that are bytes in protocol 2, arrays' apart."""

_MOST_FILES = 5_000
"""Most torch files inside of a plain pickle, one for each storage."""

_LONGEST_KEY = 16
"""Longest tuple that is a key, in items."""

_LONGEST_NAME = 300
"""Longest name of a class or function, with its module, in characters."""

_LONGEST_WORD = 100
"""Longest name of a device or a layout, in characters."""

Storages = Callable[[str, int, int | None], Extent]
"""Gives a storage's extent from its key, number of elements and bytes an element (None where its type is unknown)."""

LoadBytes = Callable[[BinaryIO, int, int], Any]
"""Reads a whole torch file that lies between two positions of a file."""


class Global(Opaque):
    """A class or function that a pickle names. It is never looked up."""

    __slots__ = ()


class Instance(Opaque):
    """An object of a class that is not built; its state is kept only to tell what it was."""

    __slots__ = ("state",)

    def __init__(self, name: str, entries: dict[Any, Any] | None = None) -> None:
        super().__init__(name, entries)
        self.state: Any = None


class Span(Opaque):
    """Bytes that stay in the file, as they are (encoding None) or as a text in UTF-8 of which they are the encoding."""

    __slots__ = ("encoding", "extent")

    def __init__(self, extent: Extent, encoding: str | None) -> None:
        super().__init__("bytes")
        self.extent, self.encoding = extent, encoding


class Storage(Opaque):
    """Numbers in the file; dtype: NumPy's name, or what they are in words where NumPy has none."""

    __slots__ = ("dtype", "extent")

    def __init__(self, extent: Extent, dtype: str) -> None:
        super().__init__("a storage of tensors")
        self.extent, self.dtype = extent, dtype


class Dtype(Opaque):
    """A NumPy dtype; None unless it is one of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        super().__init__("numpy.dtype")
        self.dtype = dtype


class Placeholder(Opaque):
    """A NumPy array that is still to be filled; memo_keys: where the pickle's memo has it."""

    __slots__ = ("memo_keys",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.memo_keys: list[int] = []


Array = np.ndarray | StoredTensor | LazyTensor

_STORAGES = {
    "Float": ("float32", 4), "Double": ("float64", 8), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8), "Int": ("int32", 4), "Short": ("int16", 2), "Char": ("int8", 1),
    "Byte": ("uint8", 1), "Bool": ("bool", 1),
    "Untyped": ("uint8", 1), "ComplexFloat": ("complex64", 8), "ComplexDouble": ("complex128", 16),
    "QInt8": ("quantised numbers", 1), "QUInt8": ("quantised numbers", 1), "QInt32": ("quantised numbers", 4),
    "QUInt4x2": ("quantised numbers", 1), "QUInt2x4": ("quantised numbers", 1),
}  # fmt: skip
"""torch's types of storages: the dtype and the bytes of an element."""

_BEYOND_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
"""torch's dtypes that are ml_dtypes'."""

_DTYPES = {f"torch.{name}": name for name in ("float16", "float32", "float64", "bool", "complex64", "complex128", *_BEYOND_NUMPY)}
_DTYPES |= {f"torch.{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

_UNREADABLE = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch.nested._internal.nested_tensor._rebuild_njt": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values, of the meta device",
    "torch.nn.parameter.UninitializedParameter": "a parameter that is not initialised yet",
    "torch.nn.parameter.UninitializedBuffer": "a buffer that is not initialised yet",
    "builtins.set": "a set",
    "builtins.frozenset": "a frozenset",
}
"""What is called by these names, in words."""

_NUMBER = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)")
"""A NumPy dtype of numbers that is the same everywhere."""

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy.core": "numpy._core"}


class Left:
    """What is left of the limits for all pickles of a file."""

    def __init__(self, limit: int) -> None:
        self.opcodes, self.copied, self.foreseen, self.encoded = MOST_OPCODES, _MOST_COPIED, _MOST_FORESEEN, _MOST_ENCODED
        self.bytes, self.files = limit, _MOST_FILES


class Rebuilder:
    """Answers what a pickle asks for, within limits that hold for all pickles of a file.

    Parameters
    ----------
    storage
        Gives a storage's extent.
    limit
        Bytes that no tensor may exceed.
    load_bytes
        Reads a torch file inside the pickle, as tensors are outside of torch's own files; None to leave it unread.
    left
        What is left of the limits; None for the first pickle of a file.
    """

    def __init__(self, storage: Storages, limit: int, load_bytes: LoadBytes | None = None, *, left: Left | None = None) -> None:
        self._storage, self._limit, self._load_bytes = storage, limit, load_bytes
        self.left = left or Left(limit)
        self.unknown: dict[str, None] = {}
        self.arrays = 0
        self._names: dict[str, Any] = {}
        self._functions: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            "collections.OrderedDict": self._dict,
            "collections.defaultdict": lambda args: {},
            "collections.Counter": self._dict,
            "builtins.dict": self._dict,
            "builtins.tuple": _tuple,
            "builtins.list": lambda args: [] if not args else self._instance("builtins.list", args),
            "builtins.bytes": self._bytes,
            "builtins.bytearray": self._bytes,
            "builtins.getattr": self._attribute,
            "_codecs.encode": self._encode,
            "copyreg._reconstructor": self._reconstructor,
            "argparse.Namespace": lambda args: Namespace(),
            "types.SimpleNamespace": lambda args: Namespace(),
            "torch.Size": _size,
            "torch.device": _device,
            "torch.serialization._get_layout": _word,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch._utils._rebuild_device_tensor_from_numpy": self._device_tensor,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
            "torch._utils._rebuild_mlc_tensor": self._device_tensor,
            "torch._utils._rebuild_xla_tensor": self._device_tensor,
            "torch._utils._rebuild_hpu_tensor": self._device_tensor,
            "torch._tensor._rebuild_from_type": self._typed,
            "torch._tensor._rebuild_from_type_v2": self._typed,
            "torch.storage._load_from_bytes": self._storage_in_bytes,
            "numpy.dtype": self._numpy_dtype,
            "numpy._core.multiarray._reconstruct": lambda args: Placeholder("a NumPy array"),
            "numpy._core.multiarray.scalar": self._scalar,
            "numpy._core.numeric._frombuffer": self._from_buffer,
            "jax._src.array._reconstruct_array": self._jax_array,
        }
        for name, what in _UNREADABLE.items():
            self._functions[name] = partial(_unreadable, what)

    def inside(self, storage: Storages) -> Rebuilder:
        """One for another pickle of the same file, with what is left of the limits, in which no further file is read."""
        return Rebuilder(storage, self._limit, left=self.left)

    def named(self, module: str, name: str) -> Any:
        """A class, function or constant by its name."""
        if len(module) + len(name) > _LONGEST_NAME:
            raise CheckpointError(
                "the pickle names a class with a longer name than any", found=f"{len(module) + len(name)} characters"
            )
        for old, new in _PYTHON_2.items():
            if module == old or module.startswith(f"{old}."):
                module = new + module.removeprefix(old)
        full = f"{module}.{name}"
        if not full.isprintable():
            full = "an object of a class whose name cannot be printed"
        if full not in self._names:
            self._names[full] = _DTYPES.get(full) or Global(full)
        return self._names[full]

    def call(self, function: Any, arguments: Any) -> Any:
        """What the pickle says to call or to build. Only this module's functions are ever called."""
        if not isinstance(function, Opaque) or type(arguments) is not tuple:
            raise CheckpointError(f"damaged pickle: it calls {described(function)} with {described(arguments)}")
        if type(function) is Global and function.name in self._functions:
            return self._functions[function.name](arguments)
        return self._instance(function.name, arguments)

    def _instance(self, name: str, arguments: tuple[Any, ...]) -> Instance:
        if name.startswith("copyreg.") and arguments and isinstance(arguments[0], Global):
            name = arguments[0].name
        self.unknown[name] = None
        return Instance(name, arguments[0] if len(arguments) == 1 and type(arguments[0]) is dict else None)

    def build(self, target: Any, state: Any) -> Any:
        """The object after the pickle has set its state."""
        if type(target) is Placeholder:
            return self._filled(state)
        if type(target) is Dtype:
            _set_byte_order(target, state)
        elif type(target) is Namespace:
            self._set_attributes(target, state)
        elif type(target) is Instance:
            target.state = state
        elif not isinstance(target, Opaque) and type(target) is not dict:
            raise CheckpointError(f"the pickle sets the state of {described(target)}")
        return target

    def _set_attributes(self, namespace: Namespace, state: Any) -> None:
        if type(state) is not dict:
            return
        self._count(state)
        plain = {name: value for name, value in state.items() if type(name) is str and not name.startswith("__")}
        vars(namespace).update(plain)

    def _count(self, copied: Any) -> None:
        self.left.copied -= len(copied)
        if self.left.copied < 0:
            raise CheckpointError("the pickle copies more entries than a checkpoint's", expected=f"at most {_MOST_COPIED}")

    def may_be_key(self, key: Any) -> bool:
        """Whether a dict may have this key; entries with other keys are left out.

        Any number of tuples of numbers can have one hash, and one tuple can take for ever to hash.
        """
        if key is None or type(key) in (str, bool, bytes):
            return True
        if type(key) is tuple:
            if len(key) > _LONGEST_KEY or not all(part is None or type(part) in (str, bool, bytes, int, float) for part in key):
                return False
            foreseen = any(type(part) in (int, float) for part in key)
        elif type(key) in (int, float):
            foreseen = type(key) is float or key.bit_length() > 63
        else:
            return False
        self.left.foreseen -= foreseen
        return not foreseen or self.left.foreseen >= 0

    def persistent(self, pid: Any) -> Any:
        """What lies outside of the pickle: a storage; in old files a class with its source."""
        kind = pid[0] if type(pid) is tuple and len(pid) in (4, 5, 6) and type(pid[0]) is str else ""
        if kind == "module" and type(pid[1]) is Global:
            return pid[1]
        if kind != "storage" or len(pid) == 4 or type(pid[1]) is not Global:
            raise CheckpointError("odd persistent id in the pickle", expected="a storage")
        module, _, name = pid[1].name.rpartition(".")
        if module not in ("torch", "torch.storage", "torch.cuda") or not name.endswith("Storage"):
            raise CheckpointError("odd persistent id in the pickle", expected="a storage", found=pid[1].name)
        key, elements = pid[2], pid[4]
        if type(key) is not str or type(elements) is not int or elements < 0 or (len(pid) == 6 and pid[5] is not None):
            raise CheckpointError("odd storage in the pickle", found=f"key {brief(key)}, {brief(elements)} elements")
        dtype, size = _STORAGES.get(name.removesuffix("Storage"), (f"numbers of a {name}", None))
        return Storage(self._storage(key, elements, size), dtype)

    def _dict(self, args: tuple[Any, ...]) -> dict[Any, Any]:
        """`dict()`, of a dict, or of pairs."""
        if not args:
            return {}
        (items,) = args
        if type(items) is dict:
            return items
        if type(items) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in items):
            raise CheckpointError("a dict made of something other than pairs", found=described(items))
        self._count(items)
        return {key: value for key, value in items if self.may_be_key(key)}

    def _bytes(self, args: tuple[Any, ...]) -> Any:
        if args and (type(args[0]) is bytes or type(args[0]) is Span):
            return args[0]
        if len(args) == 2 and type(args[0]) is str:
            return self._encode(args)
        return Opaque("bytes") if args else b""

    def _encode(self, args: tuple[Any, ...]) -> Any:
        """Bytes, as protocol 2 writes them: a text to be encoded in Latin-1."""
        if len(args) == 2 and type(args[0]) is Span:
            return args[0]
        if len(args) != 2 or type(args[0]) is not str or type(args[1]) is not str or args[1] not in ("latin1", "latin-1"):
            return Opaque("bytes")
        self.left.encoded -= len(args[0])
        return Opaque("bytes") if self.left.encoded < 0 else args[0].encode("latin-1")

    def _attribute(self, args: tuple[Any, ...]) -> Opaque:
        """A class inside of a class, as protocol 2 writes it."""
        if len(args) == 2 and type(args[0]) is Global and type(args[1]) is str and len(args[0].name + args[1]) < _LONGEST_NAME:
            return Global(f"{args[0].name}.{args[1]}")
        return self._instance("builtins.getattr", ())

    def _reconstructor(self, args: tuple[Any, ...]) -> Any:
        """An object of protocol 0 or 1: its class, its base, and what the base is made of."""
        if len(args) != 3 or type(args[0]) is not Global:
            return self._instance("copyreg._reconstructor", args)
        return self.call(args[0], args[2:] if type(args[2]) is dict else ())

    def _tensor(self, args: tuple[Any, ...]) -> Array | Opaque:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None)`."""
        if (
            len(args) not in (4, 6, 7)
            or not isinstance(args[0], Opaque)
            or type(args[2]) is not tuple
            or type(args[3]) is not tuple
        ):
            raise CheckpointError("odd arguments to torch._utils._rebuild_tensor_v2")
        return self._view(args, args[0].dtype if isinstance(args[0], Storage) else "", args[6] if len(args) == 7 else None)

    def _tensor_v3(self, args: tuple[Any, ...]) -> Array | Opaque:
        """`_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None)`."""
        if len(args) not in (7, 8) or not isinstance(args[0], Opaque) or type(args[2]) is not tuple or type(args[3]) is not tuple:
            raise CheckpointError("odd arguments to torch._utils._rebuild_tensor_v3")
        dtype = args[6].name if type(args[6]) is Global else args[6]
        if type(dtype) is not str or len(dtype) > _LONGEST_NAME:
            raise CheckpointError("odd arguments to torch._utils._rebuild_tensor_v3")
        return self._view(args, dtype, args[7] if len(args) == 8 else None)

    def _view(self, args: tuple[Any, ...], dtype: str, metadata: Any) -> Array | Opaque:
        storage, offset, shape, strides = args[:4]
        if not isinstance(storage, Storage):
            return Opaque(f"a tensor whose storage is {storage.name}")
        if f"torch.{dtype}" not in _DTYPES:
            return Opaque(f"a tensor of {dtype}")
        tensor = StoredTensor(storage.extent, numpy_dtype(dtype), offset, shape, strides, self._limit)
        self.arrays += 1
        bits = metadata if type(metadata) is dict else {}
        if bits.get("neg") is True:
            return LazyTensor(shape, tensor.dtype, lambda: -tensor.read())
        if bits.get("conj") is True:
            return LazyTensor(shape, tensor.dtype, lambda: tensor.read().conj())
        return tensor

    def _device_tensor(self, args: tuple[Any, ...]) -> Any:
        """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`; NumPy has no bfloat16, hence float32 there."""
        array = _first(args)
        if isinstance(array, Opaque) or len(args) < 2 or type(args[1]) is not str or f"torch.{args[1]}" not in _DTYPES:
            return array
        dtype = numpy_dtype(args[1])
        if array.dtype == dtype:
            return array
        source: Array = array
        return LazyTensor(tuple(source.shape), dtype, lambda: in_memory(source).astype(dtype))

    def _typed(self, args: tuple[Any, ...]) -> Any:
        """`_rebuild_from_type_v2(function, type, arguments, state)`: a subclass of Tensor; what it adds is dropped."""
        if len(args) != 4 or type(args[0]) is not Global or type(args[1]) is not Global:
            raise CheckpointError("odd arguments to torch._tensor._rebuild_from_type_v2")
        function, kind, arguments, state = args
        if function.name == "torch._utils._rebuild_wrapper_subclass":
            return _whole_of_dtensor(kind.name, arguments, state)
        made = self.call(function, arguments)
        return Opaque(f"a tensor of class {kind.name}") if type(made) is Instance else made

    def _storage_in_bytes(self, args: tuple[Any, ...]) -> Opaque:
        """`_load_from_bytes(data)`: a torch file of one storage, inside a plain pickle."""
        data = args[0] if args else None
        found: Any = None
        if type(data) is Span and data.encoding is not None:
            return Opaque("bytes of protocol 2, which torch.save does not write")
        self.left.files -= 1
        if self.left.files < 0:
            raise CheckpointError("the pickle holds more storages than a checkpoint's", expected=f"at most {_MOST_FILES}")
        if self._load_bytes is not None and type(data) is Span:
            start = cast("int", data.extent.start)
            found = self._load_bytes(data.extent.file, start, start + data.extent.size)
        elif self._load_bytes is not None and type(data) is bytes:
            found = self._load_bytes(io.BytesIO(data), 0, len(data))
        return found if type(found) is Storage else Opaque("bytes that are no storage")

    def _numpy_dtype(self, args: tuple[Any, ...]) -> Dtype:
        kind = args[0] if args else None
        if type(kind) is Global and kind.name.removeprefix("ml_dtypes.") in _BEYOND_NUMPY:
            return Dtype(numpy_dtype(kind.name.removeprefix("ml_dtypes.")))
        return Dtype(np.dtype(kind) if type(kind) is str and _NUMBER.fullmatch(kind) else None)

    def _filled(self, state: Any) -> Any:
        """`ndarray.__setstate__((version, shape, dtype, is_fortran, data))`, of old files without the version."""
        if type(state) is not tuple or len(state) not in (4, 5):
            raise CheckpointError("damaged pickle: the state of a NumPy array")
        return self._array(*state[-4:])

    def _array(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> Array | Opaque:
        if type(dtype) is not Dtype or dtype.dtype is None or not isinstance(data, bytes | str | Span):
            return Opaque("a NumPy array of something other than numbers")
        if type(shape) is not tuple or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
            raise CheckpointError("damaged pickle: the shape of a NumPy array", found=brief(shape))
        kind, native = dtype.dtype, dtype.dtype.newbyteorder("=")
        size = math.prod(shape) * kind.itemsize
        if isinstance(data, str):  # Python 2's bytes
            data = data.encode("utf-8", "surrogatepass")
        held = data.extent.size if isinstance(data, Span) else len(data)
        encoded = isinstance(data, Span) and data.encoding is not None
        if not (size <= held <= 2 * size if encoded else size == held):
            raise CheckpointError("a NumPy array and its bytes differ", expected=f"{brief(size)} bytes", found=held)
        self.left.bytes -= size
        if self.left.bytes < 0 or math.prod(n or 1 for n in shape) * kind.itemsize > self._limit:
            raise CheckpointError("NumPy arrays that are together larger than the file", expected=f"at most {self._limit} bytes")
        self.arrays += 1
        order: Any = "F" if fortran is True else "C"

        def filled(content: bytes | np.ndarray) -> np.ndarray:
            return np.frombuffer(content, kind).reshape(shape, order=order).astype(native, order="C")

        if not isinstance(data, Span):
            return filled(data)
        extent = data.extent
        if encoded:
            return LazyTensor(shape, native, lambda: filled(_encoded(extent, size)))
        if kind != native:
            return LazyTensor(shape, native, lambda: filled(extent.read(0, size)))
        strides = row_major(shape[::-1])[::-1] if fortran is True else row_major(shape)
        return StoredTensor(extent, kind, 0, shape, strides, self._limit)

    def _from_buffer(self, args: tuple[Any, ...]) -> Any:
        """`_frombuffer(buffer, dtype, shape, order)`, of protocol 5."""
        if len(args) < 4 or type(args[3]) is not str or args[3] not in ("C", "F"):
            return Opaque("a NumPy array of unusual order")
        return self._array(args[2], args[1], args[3] == "F", args[0])

    def _jax_array(self, args: tuple[Any, ...]) -> Any:
        """`_reconstruct_array(function, arguments, array_state, aval_state)`."""
        return self._filled(args[2]) if len(args) == 4 else self._instance("jax.Array", ())

    def _scalar(self, args: tuple[Any, ...]) -> Any:
        """`scalar(dtype, data)`: a number."""
        kind, data = (*args, None, None)[:2]
        data = data.encode("utf-8", "surrogatepass") if type(data) is str else data
        if type(kind) is not Dtype or kind.dtype is None or kind.dtype.kind == "c" or type(data) is not bytes:
            return Opaque("a NumPy scalar")
        if len(data) != kind.dtype.itemsize:
            raise CheckpointError("a NumPy scalar and its bytes differ", expected=f"{kind.dtype.itemsize} bytes", found=len(data))
        value = np.frombuffer(data, kind.dtype)
        return (value.astype("f8") if kind.dtype.kind == "V" else value)[0].item()


def is_module(x: Any) -> bool:
    """Whether an object is a torch module, by its state."""
    return all(type(_attribute(x, name)) is dict for name in ("_parameters", "_modules"))


def _attribute(x: Any, name: str) -> Any:
    """An attribute of an object that is not built, None where it has none."""
    return _in_state(x.state, name) if type(x) is Instance else None


def _in_state(state: Any, name: str) -> Any:
    """An attribute in an object's state: a dict, or a pair of which the second one is for slots."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    return next((part[name] for part in parts if type(part) is dict and name in part), None)


def _whole_of_dtensor(kind: str, arguments: Any, state: Any) -> Any:
    """A DTensor's local tensor where that is all of it."""
    local, placements = _in_state(state, "_local_tensor"), _attribute(_in_state(state, "_spec"), "placements")
    if not kind.endswith(".DTensor") or local is None or placements is None:
        return Opaque(f"a tensor of class {kind}")
    shape = arguments[2] if type(arguments) is tuple and len(arguments) > 2 else None
    names = [x.name.rpartition(".")[2] for x in placements if isinstance(x, Opaque)] if type(placements) is tuple else []
    sound = names and len(names) == len(placements) and set(names) <= {"Replicate", "Shard"}  # not Partial
    if sound and isinstance(local, Array) and tuple(local.shape) == shape:
        return local
    return Opaque("a shard of a tensor (DTensor)")


def _set_byte_order(dtype: Dtype, state: Any) -> None:
    """`dtype.__setstate__((version, byte order, subdtype, names, fields, …))`."""
    if type(state) is not tuple or len(state) < 5 or any(part is not None for part in state[2:5]):
        dtype.dtype = None
    elif dtype.dtype is not None and type(state[1]) is str and state[1] in ("<", ">") and dtype.dtype.kind != "V":
        dtype.dtype = dtype.dtype.newbyteorder("<" if state[1] == "<" else ">")


def _unreadable(what: str, _: tuple[Any, ...]) -> Opaque:
    return Opaque(what)


def _encoded(extent: Extent, size: int) -> bytes:
    """The bytes that a text in the file stands for."""
    try:
        data = str(extent.read(0, extent.size).data, "utf-8").encode("latin-1")
    except UnicodeError as error:
        raise CheckpointError(f"damaged pickle: the bytes of a NumPy array ({error})") from error
    if len(data) != size:
        raise CheckpointError("a NumPy array and its bytes differ", expected=f"{size} bytes", found=len(data))
    return data


def _first(args: tuple[Any, ...]) -> Any:
    """A tensor with what else belongs to it, which is dropped."""
    if not args or not isinstance(args[0], Array | Opaque):
        raise CheckpointError("odd arguments to torch._utils._rebuild_parameter", expected="a tensor, requires_grad, hooks")
    return args[0]


def _tuple(args: tuple[Any, ...]) -> Any:
    """`tuple((name, array))` is how PaddlePaddle pickles a tensor."""
    (items,) = args or ((),)
    if type(items) is not tuple:
        return Opaque("a tuple")
    paddle = len(items) == 2 and type(items[0]) is str and isinstance(items[1], Array | Placeholder)
    return items[1] if paddle else items


def _size(args: tuple[Any, ...]) -> tuple[int, ...]:
    (sizes,) = args
    if type(sizes) not in (list, tuple) or len(sizes) > MOST_AXES or not all(type(n) is int for n in sizes):
        raise CheckpointError("torch.Size of something other than whole numbers", found=described(sizes))
    return tuple(sizes)


def _device(args: tuple[Any, ...]) -> str:
    if not 1 <= len(args) <= 2 or not all(type(arg) in (str, int) for arg in args):
        raise CheckpointError("odd arguments to torch.device")
    if any(type(arg) is str and len(arg) > _LONGEST_WORD for arg in args):
        raise CheckpointError("odd arguments to torch.device")
    return ":".join(map(str, args))


def _word(args: tuple[Any, ...]) -> Any:
    return args[0] if args and type(args[0]) is str and len(args[0]) <= _LONGEST_WORD else Opaque("a layout of tensors")
