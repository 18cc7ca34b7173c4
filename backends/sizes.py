"""Arrays without numbers: the network runs on them to tell what it would cost, before anything is computed or allocated.

Each op has the version that counts here: what it multiplies, what it puts out, and what it holds meanwhile. An array's memory is
alive as long as something refers to it, as NumPy's is, so that the most there ever was is that of the code as it really runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

NAME = "sizes"

BLOCK = 1 << 15
"""Elements that the NumPy backend's `attention` works on at a time, and more where `QUERIES` rows of the matrix are more."""

QUERIES = 128
"""Most rows of the attention matrix in one of NumPy's products."""


class Ledger:
    """What a run on `Sizes` has cost so far.

    Parameters
    ----------
    dtype
        Of all its arrays.
    whole
        Whether attention holds its whole matrix, as JAX does and PyTorch's slower path; NumPy goes block by block.

    Attributes
    ----------
    alive, peak
        Bytes of the arrays that are alive, and the most that ever were.
    multiply_adds
        Of products and convolutions.
    exponentials
        Of attention, one for each element of its matrix.
    """

    def __init__(self, dtype: Any = np.float64, *, whole: bool = False) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.whole = whole
        self.alive = self.peak = self.multiply_adds = self.exponentials = 0

    def take(self, size: int) -> None:
        """Memory for so many elements, until it is given back."""
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def hold(self, size: int) -> None:
        """Memory for so many elements that an op gives back before it ends."""
        self.peak = max(self.peak, self.alive + size)


class Sizes:
    """An array of which its shape is known, and its place in a ledger. A view has none of its own, and keeps its base alive.

    `in_order` is an array whose elements lie one after the other, so that it can be reshaped without a copy.
    """

    def __init__(self, shape: Sequence[int], ledger: Ledger, *, base: Sizes | None = None, in_order: bool = True) -> None:
        self.shape, self.ledger, self.base, self.in_order = tuple(shape), ledger, base, in_order
        if base is None:
            ledger.take(self.nbytes)

    def __del__(self) -> None:
        if self.base is None:
            self.ledger.alive -= self.nbytes

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.ledger.dtype

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.ledger.dtype.itemsize

    def new(self, *shape: int) -> Sizes:
        """Another array, of memory of its own."""
        return Sizes(shape, self.ledger)

    def view(self, shape: Sequence[int], *, in_order: bool) -> Sizes:
        return Sizes(shape, self.ledger, base=self if self.base is None else self.base, in_order=in_order)

    def reshaped(self, shape: Sequence[int]) -> Sizes:
        if self.in_order or _splits(self.shape, shape):
            return self.view(shape, in_order=self.in_order)
        return self.new(*shape)

    def transposed(self, axes: Sequence[int]) -> Sizes:
        moved = [axis for axis in axes if self.shape[axis] != 1]
        return self.view([self.shape[axis] for axis in axes], in_order=self.in_order and moved == sorted(moved))

    def __getitem__(self, key: Any) -> Sizes:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
        keys += [slice(None)] * (len(self.shape) - len(keys))
        cuts = (k.indices(n) for k, n in zip(keys, self.shape, strict=True) if isinstance(k, slice))
        shape = [max(0, -(-(stop - start) // step)) for start, stop, step in cuts]  # `len` knows no sizes beyond 2⁶³
        first = sum(not isinstance(k, slice) for k in keys)
        return self.view(shape, in_order=self.in_order and tuple(shape) == self.shape[first:])

    def _with(self, other: Any) -> Sizes:
        axes = zip_longest(self.shape[::-1], getattr(other, "shape", ())[::-1], fillvalue=1)
        return self.new(*[max(pair) for pair in axes][::-1])

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _with


def _splits(shape: Sequence[int], into: Sequence[int]) -> bool:
    """Whether each axis becomes one or several, so that even a transposed array needs no copy."""
    parts = list(into)
    for n in shape:
        left = n
        while parts and (left != 1 or parts[0] == 1):
            if not parts[0] or left % parts[0]:
                return False
            left //= parts.pop(0)
        if left != 1:
            return False
    return not parts


def namespace(x: Sizes) -> ModuleType:
    return sys.modules[__name__]


def reshape(x: Sizes, shape: Sequence[int]) -> Sizes:
    return x.reshaped(shape)


def permute_dims(x: Sizes, axes: Sequence[int]) -> Sizes:
    return x.transposed(axes)


def mean(x: Sizes, *, axis: tuple[int, ...]) -> Sizes:
    return x.new(*[n for i, n in enumerate(x.shape) if i not in axis])


def device(x: Sizes) -> str:
    return "none"


def linear(x: Sizes, weight: Sizes, bias: Sizes | None = None) -> Sizes:
    return _product(x, weight.shape[0])


def layer_norm(x: Sizes, weight: Sizes, bias: Sizes, *, eps: float) -> Sizes:
    return _elementwise(x, blocks=4)


def gelu(x: Sizes) -> Sizes:
    return _elementwise(x, blocks=12)


gelu_tanh = gelu


def attention(q: Sizes, k: Sizes, v: Sizes, *, scale: float) -> Sizes:
    """The products, with the matrix whole or a block of it: its logits and, where they are another array, their exponentials."""
    n, m, e = q.shape[-2], k.shape[-2], v.shape[-1]
    ledger, maps = q.ledger, prod(q.shape[:-2])
    matrix = maps * n * m
    ledger.multiply_adds += matrix * (q.shape[-1] + e)
    ledger.exponentials += matrix
    z = q.new(*q.shape[:-1], e)
    copies = sum(x.nbytes for x in (q, k, v) if not x.in_order)
    held = 3 * matrix + q.size if ledger.whole else 2 * min(matrix, max(BLOCK, min(n, QUERIES) * m))
    ledger.hold(copies + held * ledger.dtype.itemsize)
    return z


def conv2d(x: Sizes, weight: Sizes, bias: Sizes | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Sizes:
    """A dense kernel is multiplied with all patches, which are laid out for it; a depthwise one goes over the padded map."""
    x = pad(x, top=padding, bottom=padding, left=padding, right=padding)
    out, taken, kh, kw = weight.shape
    b, h, w, _ = x.shape
    h, w = (h - kh) // stride + 1, (w - kw) // stride + 1
    if groups == 1 and kh * kw > 1:
        kernel = weight.new(*weight.shape)  # laid out likewise
        return _product(x.new(b, h, w, taken * kh * kw), kernel.shape[0])
    if groups == 1:
        return _product(x, out)
    x.ledger.multiply_adds += b * h * w * prod(weight.shape)
    y = x.new(b, h, w, out)
    x.ledger.hold((kh * kw * w * out + 2 * min(y.size, max(BLOCK, w * out))) * x.dtype.itemsize)  # the kernel along a row, terms
    return y


def pad(x: Sizes, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Sizes:
    b, h, w, c = x.shape
    return x.new(b, top + h + bottom, left + w + right, c) if top or bottom or left or right else x


def _product(x: Sizes, width: int) -> Sizes:
    """Of all tokens with a matrix that gives `width` channels."""
    x.ledger.multiply_adds += x.size * width
    y = x.new(*x.shape[:-1], width)
    x.ledger.hold(0 if x.in_order else x.nbytes)
    return y


def _elementwise(x: Sizes, blocks: int) -> Sizes:
    """In steps that need so many arrays of a block's size, such as those of the error function."""
    y = x.new(*x.shape)
    x.ledger.hold(blocks * min(x.size, BLOCK) * x.dtype.itemsize + (0 if x.in_order else x.nbytes))
    return y
