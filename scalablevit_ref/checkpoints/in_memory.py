"""Values of a state dict in memory: which of them are arrays, their numbers, and words for those that have none to give.

An array is read by its own library (`scalablevit_ref.backends`), else by Python's protocols (`__array__`, `__dlpack__`), and what
comes is held against the shape and dtype that the array claims. Only when that fails is it asked what it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from scalablevit_ref.arguments import FLOATS, check_named
from scalablevit_ref.backends import backend
from scalablevit_ref.backends.dispatch import C_NAMES
from scalablevit_ref.backends.numberless import is_masked, is_sparse, what_it_is
from scalablevit_ref.errors import CheckpointError
from scalablevit_ref.formats.lazy import Tensor, is_lazy, numpy_dtype
from scalablevit_ref.formats.opaque import Opaque

Claim = TypeVar("Claim")

_MOST_BOXES = 4
"""Most boxes around one array: a variable of Flax that holds a partitioned array, which may be a DTensor's."""

_NO_ARRAYS = (Opaque, type, Mapping, list, tuple, str, bytes, int, float, complex, type(None))

_READABLE = ("__array__", "__dlpack__")

_LONGEST_SAID = 200
"""Longest message of a library that an error repeats, in characters."""


def is_array(value: Any) -> bool:
    """Whether it is an array of any library: it has a shape and a dtype, or says how it becomes one. Never raises.

    That says nothing of its numbers: an array may have lost them, or have none yet (`tensor_of`).
    """
    for _ in range(_MOST_BOXES):
        if isinstance(value, np.ndarray) or is_lazy(value):
            return True
        if isinstance(value, _NO_ARRAYS) or type(value).__name__ == "Namespace":  # argparse's: attributes of any names
            return False
        if (
            (_has(value, "shape") and _has(value, "dtype"))
            or _is_slice(value)
            or any(hasattr(type(value), how) for how in _READABLE)
        ):
            return True
        value = _inside(value)
    return False


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape that an array claims, in its boxes too; () where it claims none. Never raises, and reads no numbers."""
    return _claim(value, lambda x: tuple(int(n) for n in (x.get_shape() if _is_slice(x) else x.shape))) or ()


def dtype_of(value: Any) -> str:
    """The name of the dtype that an array claims, in its boxes too; "" where it claims none. Never raises, and reads no numbers."""
    return _claim(value, lambda x: str(x.get_dtype()) if _is_slice(x) else _dtype_name(x.dtype)) or ""


def _claim(value: Any, ask: Callable[[Any], Claim]) -> Claim | None:
    for _ in range(_MOST_BOXES):
        try:
            return ask(value)
        except AttributeError:
            value = _inside(value)
        except Exception:
            return None
    return None


def tensor_of(name: str, value: Any) -> Tensor:
    """The numbers of a parameter, wherever they are: a NumPy array of the machine's byte order, or a tensor still in its file.

    Memory is shared where the library allows it.

    Parameters
    ----------
    name
        The parameter, which errors name.
    value
        An array of any library, bare or in the boxes of a framework (a variable of Flax).

    Returns
    -------
    array
        Floating point, of the shape and dtype that the value claims.

    Raises
    ------
    CheckpointError
        For anything else, which says what the value is and what to do: without numbers (meta, fake, not initialised, a tracer,
        freed), with numbers that are not the weight (sparse, quantised, float8, a part of a sharded tensor, masked), of another
        dtype; and for whatever the array's library raises.

    Examples
    --------
    >>> tensor_of("norm.weight", np.ones(2, ">f4"))
    array([1., 1.], dtype=float32)
    >>> tensor_of("norm.weight", [1.0, 2.0])
    Traceback (most recent call last):
    scalablevit_ref.errors.CheckpointError: norm.weight: not an array; numpy.asarray(x, dtype='float32') makes one of it; found list
    """
    if not is_array(value):
        remedy = "; numpy.asarray(x, dtype='float32') makes one of it" if isinstance(value, list | tuple) else ""
        raise CheckpointError(f"not an array{remedy}", key=name, found=_type_name(value))
    try:
        value = _unboxed(value)
        shape, dtype = _claimed(value)
    except Exception as error:
        raise _refusal(name, value, error) from error
    if dtype is not None and (dtype not in FLOATS or is_masked(value)):
        raise _refusal(name, value, dtype=dtype)
    if is_lazy(value):
        return value  # type: ignore[no-any-return]
    try:
        array = _numbers(value, dtype)
    except Exception as error:
        raise _refusal(name, value, error, dtype) from error
    if dtype == "bfloat16" and array.dtype == np.uint16:  # the bits, as Paddle gives them to NumPy
        array = array.view(numpy_dtype("bfloat16"))
    if array.dtype.name not in FLOATS:
        raise _refusal(name, value, dtype=array.dtype.name)
    for what, claimed, given in (("shape", shape, array.shape), ("dtype", dtype, array.dtype.name)):
        if claimed not in (None, given):
            raise CheckpointError(
                f"a {_type_name(value)} whose numbers do not have the {what} that it claims",
                key=name,
                expected=claimed,
                found=given,
            )
    return array


def tensors_in(params: Any) -> dict[str, Tensor]:
    """Each parameter's numbers (`tensor_of`). Raises TypeError for no mapping, CheckpointError naming the first that has none."""
    check_named("params", params)
    return {name: tensor_of(name, x) for name, x in params.items()}


def check_names(names: Iterable[str]) -> None:
    """Raise CheckpointError for the first name that a module's own parameter has while another one is computed from it."""
    for name in names:
        if part := next(filter(_COMPUTED.get, name.split(".")), None):
            made_by, remedy = _COMPUTED[part]
            raise CheckpointError(f"{made_by}, from which the module computes its weight; {remedy}", key=name)


_COMPUTED = {
    "parametrizations": (
        "a parametrisation",
        "torch.nn.utils.parametrize.remove_parametrizations(module, …) makes it a weight again",
    ),
    "weight_g": ("a weight norm", "torch.nn.utils.remove_weight_norm(module) makes it a weight again"),
    "weight_orig": (
        "a pruned or spectrally normed weight",
        "torch.nn.utils.prune.remove or remove_spectral_norm makes it a weight again",
    ),
    "lora_A": ("a LoRA adapter", "model.merge_and_unload() adds it to the weight"),
}
"""Parts of a name that a module computed from others has, by what makes it and what undoes it."""


def _has(value: Any, name: str) -> bool:
    """Whether there is such an attribute, also where asking for its value fails."""
    try:
        getattr(value, name)
    except AttributeError:
        return False
    except Exception:
        return True
    return True


def _is_slice(value: Any) -> bool:
    """A tensor of an open safetensors file: its slices are arrays."""
    return all(hasattr(type(value), name) for name in ("get_shape", "get_dtype", "__getitem__"))


def _inside(value: Any) -> Any:
    """What a framework's box holds: a variable of Flax or Keras, a partitioned array. None where it is no box."""
    for name in ("get_value", "value"):
        if _has(value, name):
            try:
                held = getattr(value, name)
                return held() if name == "get_value" else held
            except Exception:
                continue
    return None


def _unboxed(value: Any) -> Any:
    """The array in a framework's boxes, and the local part of a DTensor that is the whole one."""
    for _ in range(_MOST_BOXES):
        if isinstance(value, np.ndarray) or is_lazy(value):
            return value
        if _is_slice(value):
            value = value[:]
        elif hasattr(type(value), "to_local") and hasattr(type(value), "placements"):
            if value.device_mesh.size() > 1 and not all(placement.is_replicate() for placement in value.placements):
                return value
            value = value.to_local()
        elif not hasattr(type(value), "__dlpack__") and is_array(held := _inside(value)):
            value = held
        else:
            return value
    return value


def _claimed(value: Any) -> tuple[tuple[int, ...] | None, str | None]:
    """The shape and the name of the dtype that a value claims, None for what it does not say."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return None if shape is None else tuple(int(n) for n in shape), None if dtype is None else _dtype_name(dtype)


def _dtype_name(dtype: Any) -> str:
    word = str(getattr(dtype, "name", dtype)).rpartition(".")[2].lower()
    return C_NAMES.get(word, word)


def _numbers(value: Any, dtype: str | None) -> np.ndarray:
    """In the machine's byte order. Raises whatever the array's library does."""
    try:
        library = backend(value)
    except TypeError:
        library = None
    if library is not None and library.NAME != "array_api":
        if library.NAME == "torch":
            _check_storage(value)
        array = np.asarray(library.to_numpy(value))
    elif is_sparse(value):
        raise TypeError("sparse")
    elif dtype == "bfloat16" and (bits := getattr(sys.modules.get(type(value).__module__), "uint16", None)) and _has(value, "view"):
        array = np.asarray(value.view(bits))  # MLX, which gives NumPy no bfloat16
    elif hasattr(type(value), "__array__"):
        array = np.asarray(value)
    elif hasattr(type(value), "__dlpack__"):
        array = np.from_dlpack(value)
    else:
        raise TypeError("it has a shape and a dtype but no numbers")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_storage(x: Any) -> None:
    """Raise ValueError for a tensor of torch whose memory has been freed: reading it would end the process."""
    if x.device.type == "cpu" and x.numel():
        last = x.numel() - 1 if x.is_contiguous() else sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
        if x.data_ptr() == 0 or x.untyped_storage().nbytes() < (x.storage_offset() + last + 1) * x.itemsize:
            raise ValueError("its memory has been freed; FSDP gives whole weights under FSDP.summon_full_params(model)")


_DTYPES: tuple[tuple[str | tuple[str, ...], str], ...] = (
    ("complex", "complex, and weights are real; .real gives them where .imag is 0"),
    (("float4", "float6", "float8"), "a float of few bits, whose scale is kept apart; multiply it by its scale in float32"),
    ("float", "of more digits than weights have; numpy.asarray(x, dtype='float64') rounds it"),
    (("int4", "int8", "uint4", "uint8"), "not floating point; dequantise it if it is a quantised weight"),
    ("object", "an array of Python objects; numpy.asarray(x, dtype='float32') makes numbers of them"),
)
"""What a dtype is in which no weights are read, by how its name begins."""


def _refusal(name: str, value: Any, error: Exception | None = None, dtype: str | None = None) -> CheckpointError:
    """What is wrong with a parameter: by what the value is, by its dtype, and else in the words of its library."""
    if words := what_it_is(value):
        return CheckpointError(words, key=name)
    if error is None:
        words = next((words for start, words in _DTYPES if str(dtype).startswith(start)), "not floating point")
        return CheckpointError(words, key=name, expected=", ".join(FLOATS), found=dtype)
    said = " ".join(str(error).split()) or "no more is said"
    library = type(value).__module__.partition(".")[0]
    remedy = (
        "; read it while its file is open"
        if library in ("h5py", "zarr")
        else "; convert it to float32"
        if dtype == "bfloat16"
        else ""
    )
    return CheckpointError(f"an array that cannot be read ({said[:_LONGEST_SAID]}){remedy}", key=name, found=_type_name(value))


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
