"""TensorFlow: its own kernels for every op that has one; what sums or bends in float32 for the 16-bit types.

Nothing here branches on a value, and a size may be unknown until a graph runs: every op passes `tf.function`, one that takes any
batch too. A `tf.Variable` is taken where a tensor is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from einops import rearrange
from scalablevit_ref.backends.dispatch import Anywhere

from scalablevit_ref import ops
from scalablevit_ref.errors import brief

NAME = "tensorflow"

exp = tf.exp
erf = tf.math.erf


def zeros(x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    return tf.zeros(shape, x.dtype)


def pad(x: tf.Tensor, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> tf.Tensor:
    """Without a copy where there is nothing to add."""
    return tf.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))) if top or bottom or left or right else x


def linear(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """As one product of matrices: of more axes TensorFlow makes a product for each image, a third as fast."""
    y = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), weight, transpose_b=True)
    return tf.reshape(y if bias is None else y + bias, (*_sizes(x)[:-1], weight.shape[0]))


def _sizes(x: tf.Tensor) -> tuple[Any, ...]:
    """The shape, in which what is known only when a graph runs is a tensor."""
    return tuple(tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape))


def layer_norm(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor, *, eps: float) -> tf.Tensor:
    """The definition, in float32 for the 16-bit types."""
    return tf.cast(ops.layer_norm.definition(*(_wide(t) for t in (x, weight, bias)), eps=eps), x.dtype)


def gelu(x: tf.Tensor) -> tf.Tensor:
    wide = _wide(x)
    return tf.cast(0.5 * wide * (1 + tf.math.erf(wide * 0.5**0.5)), x.dtype)


def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """The definition, in float32 for the 16-bit types, whose squares overflow."""
    return tf.cast(ops.gelu_tanh.definition(_wide(x)), x.dtype)


def softmax(x: tf.Tensor) -> tf.Tensor:
    """As rows of a matrix: TensorFlow's kernel takes at most five axes."""
    rows = tf.nn.softmax(tf.reshape(_wide(x), (-1, x.shape[-1])))
    return tf.cast(tf.reshape(rows, _sizes(x)), x.dtype)


def attention(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *, scale: float) -> tf.Tensor:
    weights = softmax(tf.matmul(_wide(q), _wide(k), transpose_b=True) * scale)
    return tf.matmul(tf.cast(weights, v.dtype), v)


def conv2d(
    x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> tf.Tensor:
    """TensorFlow's dense and depthwise kernels; other groups by the definition, since on a CPU it has no gradient for them.

    The map is padded before: where a depthwise convolution pads it and a bias follows, TensorFlow's optimiser of graphs fuses them
    and aborts the process.
    """
    if groups not in (1, x.shape[-1]):
        y = ops.conv2d.definition(_wide(x), _wide(weight), stride=stride, padding=padding, groups=groups)
    else:
        wide, steps = pad(_wide(x), top=padding, bottom=padding, left=padding, right=padding), (1, stride, stride, 1)
        if groups == 1:
            y = tf.nn.conv2d(wide, rearrange(_wide(weight), "o i kh kw -> kh kw i o"), steps, "VALID")
        else:
            y = tf.nn.depthwise_conv2d(wide, rearrange(_wide(weight), "(g m) 1 kh kw -> kh kw g m", g=groups), steps, "VALID")
    return tf.cast(y if bias is None else y + _wide(bias), x.dtype)


def _wide(x: tf.Tensor) -> tf.Tensor:
    """In the dtype to accumulate in: float32 for the 16-bit types."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def device(x: tf.Tensor) -> Any:
    """The device's name; what a graph has not placed yet is anywhere."""
    return x.device or Anywhere()


def from_numpy(x: np.ndarray, dtype: str | None, device: Any) -> tf.Tensor:
    """`device`: a name as TensorFlow has them, "cpu", "GPU:1" or an array's own `device`."""
    with tf.device(None if device is None else _named(device)):
        try:
            return tf.constant(np.array(x, tf.as_dtype(dtype).as_numpy_dtype if dtype else None, order="C"))
        except (TypeError, ValueError):
            raise TypeError(f"params_or_array holds {x.dtype}, which TensorFlow does not have") from None


def _named(device: Any) -> str:
    present = [tf.DeviceSpec.from_string(one.name) for one in tf.config.list_logical_devices()]
    try:
        wanted = tf.DeviceSpec.from_string(device)
    except (AttributeError, TypeError, ValueError):
        wanted = None
    for one in present if wanted is not None else ():
        if (wanted.device_type, wanted.device_index or 0) == (one.device_type, one.device_index):
            return str(one.to_string())
    names = ", ".join(f"{one.device_type}:{one.device_index}" for one in present)
    kind = ValueError if isinstance(device, str) else TypeError
    raise kind(f"device must be one that TensorFlow has, {names}, got {brief(device)}")


def to_numpy(x: tf.Tensor) -> np.ndarray:
    return np.asarray(x.numpy())
