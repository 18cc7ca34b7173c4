"""Arrays that have no numbers to give, or others than those that they show: what each is, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def what_it_is(value: Any) -> str | None:
    """What an array is that gives no numbers, and the way out, in words; None for any other. Never raises.

    Examples
    --------
    >>> what_it_is(np.ma.masked_array([1.0], mask=[True]))
    'a masked array, some of whose numbers are masked; .filled(…) gives them a value'
    """
    for matches, words in KINDS:
        try:
            found = bool(matches(value))
        except Exception:
            continue
        if found:
            return words
    return None


def usable(x: np.ndarray) -> bool:
    """Whether the specification computes with this NumPy array: no masked one, whose mask would be lost, and no matrix."""
    return type(x) is np.ndarray or not (hasattr(x, "mask") or isinstance(x, np.matrix))


def is_masked(value: Any) -> bool:
    return isinstance(value, np.ndarray) and bool(np.any(getattr(value, "mask", False)))


def is_sparse(value: Any) -> bool:
    """Of Paddle, which ends the process when NumPy asks for the numbers."""
    asked = getattr(value, "is_sparse", None)
    return callable(asked) and bool(asked())


def _torch() -> Any:
    return sys.modules["torch"]


KINDS: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (lambda x: hasattr(x, "materialize"), "a parameter that is not initialised; run the model on one input first"),
    (lambda x: x.full_tensor, "a DTensor of which this process holds a part; call .full_tensor() on it in every process"),
    (lambda x: x.local_shards, "a sharded tensor of which this process holds a part; take a full state dict"),
    (lambda x: x.fake_mode, "a fake tensor, which has no numbers; make the model outside of FakeTensorMode"),
    (lambda x: x.is_meta, "a meta tensor, which has no numbers; load the weights into the model first"),
    (lambda x: x.is_nested, "a nested tensor, which has no one shape; .unbind() gives its parts"),
    (lambda x: x.is_quantized, "a quantised tensor; .dequantize() gives its numbers"),
    (lambda x: x.get_mask, "a masked tensor; .to_tensor(…) gives its masked numbers a value"),
    (lambda x: is_sparse(x) or "sparse" in str(x.layout), "a sparse tensor; .to_dense() gives its numbers"),
    (
        lambda x: x.place.is_cpu_place() and str(x.dtype) in ("paddle.float16", "paddle.bfloat16"),
        "a tensor of 16 bits on a CPU, with which PaddlePaddle cannot compute; .astype('float32') can be computed with",
    ),
    (lambda x: str(x.layout) not in ("torch.strided", "NCHW"), "a tensor in a layout of its own; .to_dense() gives its numbers"),
    (lambda x: x._is_zerotensor(), "a tensor of zeros that has no memory; .clone() gives it some"),
    (
        lambda x: _torch()._is_functional_tensor(x) or _torch()._C._functorch.is_functorch_wrapped_tensor(x),
        "a tensor inside of torch.func or torch.compile; take its numbers outside of the function that is transformed",
    ),
    (
        lambda x: x.__tensor_flatten__,
        "a tensor of a class that keeps other tensors and computes its numbers from them; .dequantize() may give a plain one",
    ),
    (is_masked, "a masked array, some of whose numbers are masked; .filled(…) gives them a value"),
    (
        lambda x: any(kind.__name__ == "Tracer" for kind in type(x).__mro__),
        "a tracer, which has no numbers; call this outside of jax.jit, jax.grad and jax.vmap",
    ),
    (lambda x: x.is_deleted(), "a deleted array, which was donated to a function; keep what that function returned"),
    (
        lambda x: x.is_fully_addressable is False,
        "an array that lies on devices of other processes too; jax.experimental.multihost_utils.process_allgather collects it",
    ),
    (
        lambda x: str(x.dtype) == "mlx.core.float64" and sys.modules["mlx.core"].default_device() == sys.modules["mlx.core"].gpu,
        "of float64, with which MLX computes on a CPU alone; mx.set_default_device(mx.cpu) makes that the default",
    ),
    (lambda x: x.toarray, "a sparse matrix; .toarray() makes it dense"),
    (lambda x: x.todense, "a sparse array; .todense() makes it dense"),
    (lambda x: x.filled, "a masked array, of which nothing is computed; .filled(…) gives a plain one"),
    (lambda x: isinstance(x, np.matrix), "a matrix, which always has two axes; numpy.asarray(x) gives an array"),
)
"""What has no numbers to give: how it is known, and what it is and what to do, in words."""
