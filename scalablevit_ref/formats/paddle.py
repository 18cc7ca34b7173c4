"""PaddlePaddle's `.pdparams`: a pickle of NumPy arrays by name, written as a stream; and the bfloat16 that lies in it as uint16.

Source: paddle/framework/io.py of PaddlePaddle 3.3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from scalablevit_ref.formats.lazy import Blocks, LazyTensor, StoredTensor, numpy_dtype, write_blocks

_OTHER_NAMES = "StructuredToParameterName@@"
"""The entry of a Paddle state dict that holds no array, but the parameters' names in a program."""

_START = b"\x80\x04}("
_STOP = b"u."

_BYTES = struct.Struct("<cQ")

_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01("
"""An empty array that is to be given its shape and the rest. NumPy 1 and 2 know it by this name."""

_DTYPE = b"tcnumpy\ndtype\n%b\x89\x88\x87R(K\x03%bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
"""The end of the shape, then a type of elements by its letter and size, its byte order, and that they lie in C order."""


def write_pdparams(file: BinaryIO, state: Mapping[str, Any], notes: Mapping[str, str], read: Blocks) -> None:
    """A pickle that `paddle.load` takes, array after array, with the notes as texts. Equal arrays and notes make equal files.

    bfloat16 is written as Paddle has it, as uint16 of the same bits.
    """
    file.write(_START)
    for name, x in state.items():
        dtype = np.dtype("uint16") if x.dtype == numpy_dtype("bfloat16") else np.dtype(x.dtype)
        size = math.prod(x.shape) * dtype.itemsize
        shape, bytes_follow = b"".join(map(_number, x.shape)), _BYTES.pack(b"\x8e", size)
        file.write(_text(name) + _ARRAY + shape + _DTYPE % (_text(dtype.str[1:]), _text("<")) + bytes_follow)
        write_blocks(file, read(name))
        file.write(b"tb")
    for name, text in notes.items():
        file.write(_text(name) + _text(text))
    file.write(_STOP)


def _text(text: str) -> bytes:
    """A text as a pickle holds it."""
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n) if n < 1 << 31 else b"\x8a\x08" + struct.pack("<q", n)


def as_paddle_has_it(tree: Any, levels: int = 3) -> Any:
    """A pickle's tree with the arrays of uint16 in its mappings as the bfloat16 that they are, some levels deep.

    NumPy has no bfloat16, so Paddle pickles its bits; nothing else keeps weights as uint16. Its table of other names for the
    same parameters is left out.
    """
    if isinstance(tree, dict) and levels:
        return {name: as_paddle_has_it(value, levels - 1) for name, value in tree.items() if name != _OTHER_NAMES}
    if isinstance(tree, np.ndarray | StoredTensor | LazyTensor) and tree.dtype == np.uint16:
        return _as_bfloat16(tree)
    return tree


def _as_bfloat16(x: np.ndarray | StoredTensor | LazyTensor) -> np.ndarray | StoredTensor | LazyTensor:
    dtype = numpy_dtype("bfloat16")
    if isinstance(x, np.ndarray):
        return x.view(dtype)
    if isinstance(x, StoredTensor):
        return replace(x, dtype=dtype)
    return LazyTensor(x.shape, dtype, lambda: x.read().view(dtype))
