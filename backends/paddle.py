"""PaddlePaddle: its own kernels. A CPU has none for 16 bits, not even a sum: such tensors are moved, but not computed with.

What `paddle.jit.to_static` traces as a whole graph (`full_graph=True`) are values of a program, which have a shape and a dtype, but
lie nowhere yet.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from scalablevit_ref.backends.start import beside_tensorflow

from scalablevit_ref import ops
from scalablevit_ref.errors import brief

with beside_tensorflow():
    import paddle
    import paddle.nn.functional as F

NAME = "paddle"

HERE = ModuleType("scalablevit_ref")
"""Stands for the package: it has its folder, but none of the modules that Paddle would search for functions."""

HERE.__file__ = str(Path(ops.__file__).with_name("__init__.py"))
paddle.jit.ignore_module([HERE])  # `to_static` would else write each function anew, without what it refers to

Tensor: TypeAlias = Any
"""A `paddle.Tensor`, or a value of a program that is being traced."""

exp = paddle.exp
erf = paddle.erf
gelu = F.gelu
gelu_tanh = partial(F.gelu, approximate=True)
softmax = F.softmax


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Paddle's weights are in × out."""
    return F.linear(x, weight.t(), bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Paddle's own holds eps in float32, as which 1e-5 is a 40-millionth part less, and takes 1e-3 at most."""
    if x.dtype != paddle.float64 and eps <= 1e-3:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    x = x - x.mean(-1, keepdim=True)
    return x / ((x * x).mean(-1, keepdim=True) + _number(eps, x)).sqrt() * weight + bias


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    return paddle.matmul(F.softmax(paddle.matmul(q * _number(scale, q), k, transpose_y=True)), v)


def _number(value: float, x: Tensor) -> Tensor:
    """As a tensor of the type of `x`: a program holds Python's numbers in float32."""
    return paddle.full([], value, x.dtype)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    return F.conv2d(x, weight, bias, stride, padding, groups=groups, data_format="NHWC")


def pad(x: Tensor, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Tensor:
    """Without a copy where there is nothing to add, which Paddle would make."""
    return F.pad(x, [0, 0, top, bottom, left, right, 0, 0]) if top or bottom or left or right else x


def zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return paddle.zeros(shape, x.dtype)


def device(x: Tensor) -> str:
    """Paddle's name of the device, "cpu" or "gpu:0"; of a value of a program the one on which Paddle runs."""
    return str(x.place)[len("Place(") : -1] if isinstance(x, paddle.Tensor) else paddle.get_device()


def usable(x: Tensor) -> bool:
    """Not so: sparse tensors, and those of 16 bits on a CPU."""
    return not isinstance(x, paddle.Tensor) or (x.is_dense() and not is_without_kernels(x))


def is_without_kernels(x: Tensor) -> bool:
    return x.dtype in (paddle.float16, paddle.bfloat16) and x.place.is_cpu_place()


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> Tensor:
    """`device`: a place of Paddle's, or its name, "cpu" or "gpu:0"."""
    wanted = str(x.dtype if dtype is None else dtype)
    if x.dtype.name not in KNOWN or (wanted != x.dtype.name and wanted not in KNOWN):
        raise TypeError(f"params_or_array holds {x.dtype}, which PaddlePaddle does not have")
    place = _place(device)
    if wanted == "bfloat16":  # whose bits Paddle takes from NumPy as uint16
        import ml_dtypes

        return paddle.to_tensor(np.array(x, ml_dtypes.bfloat16, order="C").view(np.uint16), place=place)
    return paddle.to_tensor(np.array(x, wanted, order="C"), place=place)


KNOWN = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128")
"""Types of elements that Paddle and NumPy both have."""


def _place(device: Any) -> Any:
    """Raises ValueError or TypeError for what is no device of Paddle's, or one that is not here."""
    if device is None or isinstance(device, paddle.base.libpaddle.Place | paddle.CPUPlace | paddle.CUDAPlace):
        return device
    if not isinstance(device, str):
        raise TypeError(f"device must be a place of PaddlePaddle's or its name, got {brief(device)}")
    present = ("cpu", *(f"gpu:{i}" for i in range(paddle.device.cuda.device_count())))
    name = "gpu:0" if device == "gpu" else device
    if name not in present:
        raise ValueError(f"PaddlePaddle has no device {device!r}, only {', '.join(present)}")
    return paddle.CPUPlace() if name == "cpu" else paddle.CUDAPlace(int(name.removeprefix("gpu:")))


def to_numpy(x: Tensor) -> np.ndarray:
    if not x.is_dense():
        raise TypeError("sparse")  # of which Paddle would end the process
    numbers: np.ndarray = x.detach().numpy()
    if x.dtype == paddle.bfloat16:  # which Paddle gives as uint16
        import ml_dtypes

        return numbers.view(ml_dtypes.bfloat16)
    return numbers
