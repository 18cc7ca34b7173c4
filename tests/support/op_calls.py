"""Calls of every op, in all its forms, and the functions of PyTorch that they must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.testing import EPS, MAX_TOLERANCE, NETWORK_TOLERANCE, max_error

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


X = normal(2, 9, 11, 8)
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "linear": ((X, normal(5, 8), normal(5)), {}),
    "linear without bias": ((X, normal(5, 8)), {}),
    "layer_norm": ((X, normal(8), normal(8)), {"eps": 1e-2}),
    "gelu": ((4 * X,), {}),
    "gelu_tanh": ((4 * X,), {}),
    "erf": ((abs(3 * X),), {}),
    "softmax": ((30 * X,), {}),
    "attention": ((normal(2, 3, 7, 4), normal(2, 3, 5, 4), normal(2, 3, 5, 6)), {"scale": 0.3}),
    "conv2d dense": ((X, normal(5, 8, 3, 3), normal(5)), {"padding": 1}),
    "conv2d strided": ((X, normal(5, 8, 7, 7), normal(5)), {"stride": 4, "padding": 3}),
    "conv2d 1x1": ((X, normal(5, 8, 1, 1)), {}),
    "conv2d depthwise": ((X, normal(8, 1, 3, 3), normal(8)), {"padding": 1, "groups": 8}),
    "conv2d tiles": ((X, normal(8, 1, 4, 4), normal(8)), {"stride": 4, "groups": 8}),
    "conv2d oblong": ((X, normal(5, 8, 2, 3)), {"stride": 2}),
    "conv2d groups": ((X, normal(6, 4, 3, 3), normal(6)), {"padding": 2, "groups": 2}),
    "pad": ((X,), {"top": 1, "bottom": 2, "left": 3, "right": 4}),
    "pad at the end": ((X,), {"bottom": 5, "right": 3}),
}
TORCH: dict[str, Any] = {
    "linear": F.linear,
    "layer_norm": lambda x, w, b, eps: F.layer_norm(x, w.shape, w, b, eps),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "erf": torch.erf,
    "softmax": lambda x: x.softmax(-1),
    "attention": lambda q, k, v, scale: (q @ k.mT * scale).softmax(-1) @ v,
    "pad": lambda x, top=0, bottom=0, left=0, right=0: F.pad(x, (0, 0, left, right, top, bottom)),
    "conv2d": lambda x, w, b=None, **kw: rearrange(F.conv2d(rearrange(x, "b h w c -> b c h w"), w, b, **kw), "b c h w -> b h w c"),
}


WAYS = [(how, dtype) for how in ("dispatched", "definition") for dtype in ("float64", "float32")]
"""How an op is called, and in which dtype."""

WAYS_AND_16_BITS = WAYS + [("dispatched", dtype) for dtype in ("bfloat16", "float16")]
"""The definitions are not for 16 bits, in which they sum."""


def check_op(name: str, how: str, dtype: str, library: str) -> None:
    """One of `CALLS` on this library, against PyTorch's function in float64 on the same rounded numbers."""
    args, kwargs = CALLS[name]
    op = getattr(ops, name.split()[0])
    rounded = [sv.to_backend(x, "numpy", dtype) for x in args]
    y = (op if how == "dispatched" else op.definition)(*(sv.to_backend(x, library) for x in rounded), **kwargs)
    expected = TORCH[name.split()[0]](*(sv.to_backend(x, "torch", "float64") for x in rounded), **kwargs)
    y = sv.to_numpy(y)
    assert y.dtype.name == dtype
    tolerance = NETWORK_TOLERANCE[dtype] if dtype in ("bfloat16", "float16") else MAX_TOLERANCE
    assert max_error(y, expected.numpy()) <= tolerance * EPS[dtype]


def check_gelu_at_the_extremes(library: str) -> None:
    """A few eps everywhere, with no overflow on the way to a result that is none."""
    far = np.geomspace(1e-30, 3e38, 99)
    x = np.concatenate([np.linspace(-12, 12, 2401), far, -far]).astype("float32")
    expected = sv.to_numpy(ops.gelu(x.astype("float64")))
    y = sv.to_numpy(ops.gelu(sv.to_backend(x, library)))
    assert (np.abs(y - expected) / np.maximum(np.abs(expected), 1)).max() <= 6 * EPS["float32"]
    assert np.isnan(sv.to_numpy(ops.gelu(sv.to_backend(np.float32([np.nan]), library)))).all()


def check_gelu_tanh_in_half_precision(library: str) -> None:
    """Squares beyond float16's range, and sums beyond its largest number, do not overflow."""
    x = sv.to_backend(np.float16([-60000, -300, -1, 0, 1, 300, 60000]), library)
    assert sv.to_numpy(ops.gelu_tanh(x)).tolist() == pytest.approx([0, 0, -0.1588, 0, 0.8412, 300, 60000], rel=1e-3)
