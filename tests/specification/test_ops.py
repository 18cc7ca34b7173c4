"""Each op's native versions against its definition, and each definition against an independent formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.testing import EPS, max_error
from tests.support.op_calls import CALLS, TORCH, X, check_op


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("how", ["dispatched", "definition"])
@pytest.mark.parametrize("name", CALLS)
def test_op(name: str, how: str, dtype: str, backend: str) -> None:
    """Native version and definition, both against torch's functions in float64 on the same rounded numbers."""
    check_op(name, how, dtype, backend)


@pytest.mark.parametrize("name", CALLS)
def test_float16_keeps_its_dtype(name: str, backend: str) -> None:
    args, kwargs = CALLS[name]
    half = [sv.to_backend(x, backend, "float16") for x in args]
    y = sv.to_numpy(getattr(ops, name.split()[0])(*half, **kwargs))
    assert y.dtype == np.float16
    wide = [sv.to_backend(sv.to_numpy(x), "torch", "float64") for x in half]
    assert max_error(y, TORCH[name.split()[0]](*wide, **kwargs).numpy()) <= 8 * EPS["float16"]


def test_erf_to_the_last_bits() -> None:
    x = np.concatenate([np.linspace(0, 7, 7001), np.geomspace(1e-12, 1e3, 200)])
    expected = np.array([math.erf(value) for value in x])
    assert np.abs(ops.erf(x) - expected).max() <= 2 * EPS["float64"]


def test_gelu_in_float32() -> None:
    """The seven-term tanh form is the exact GELU to a few eps, far into both tails and at the extremes."""
    x = np.concatenate([np.linspace(-12, 12, 24001), np.geomspace(1e-30, 3e38, 300), -np.geomspace(1e-30, 3e38, 300)])
    x = x.astype(np.float32)
    expected = np.array([0.5 * float(value) * math.erfc(-float(value) / 2**0.5) for value in x])
    error = np.abs(ops.gelu(x) - expected) / np.maximum(np.abs(expected), 1)
    assert error.max() <= 5 * EPS["float32"]
    assert np.isnan(ops.gelu(np.float32([np.nan]))).all()


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_pad_on_one_side(side: str, backend: str) -> None:
    widths = {"top": (2, 0, 0, 0), "bottom": (0, 2, 0, 0), "left": (0, 0, 2, 0), "right": (0, 0, 0, 2)}[side]
    for pad in (ops.pad, ops.pad.definition):
        y = sv.to_numpy(pad(sv.to_backend(X, backend), **{side: 2}))
        np.testing.assert_array_equal(y, np.pad(X, [(0, 0), widths[:2], widths[2:], (0, 0)]))


def test_pad_by_nothing_copies_nothing(backend: str) -> None:
    x = sv.to_backend(X, backend)
    for pad in (ops.pad, ops.pad.definition):
        assert pad(x) is pad(x, top=0, bottom=0, left=0, right=0) is x


def test_zeros_around_what_is_not_a_number(backend: str) -> None:
    """What is padded is nothing that was computed from the map."""
    x = sv.to_backend(np.full((1, 2, 2, 1), np.nan), backend)
    for pad in (ops.pad, ops.pad.definition):
        y = sv.to_numpy(pad(x, top=1, right=2))
        assert np.isnan(y[:, 1:, :2]).all()
        assert (y[:, :1] == 0).all()
        assert (y[:, :, 2:] == 0).all()


def test_softmax_does_not_overflow(backend: str) -> None:
    x = sv.to_backend(np.array([[1e4, 0.0, -1e4], [-1e30, -1e30, -1e30]]), backend, "float32")
    assert sv.to_numpy(ops.softmax(x)) == pytest.approx(np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]), rel=1e-6)


@pytest.mark.usefixtures("as_in_production")
def test_a_foreign_type_is_named() -> None:
    with pytest.raises(TypeError, match=r"expected an array of NumPy, PyTorch, .*, got list$"):
        ops.gelu([1.0])


@pytest.mark.usefixtures("as_in_production")
def test_an_array_of_no_backend_is_told_the_way() -> None:
    class Tensor:
        """Some other library's, on whatever device."""

        def __dlpack__(self) -> object:
            raise AssertionError("nothing is moved unasked")

    said = r"got tests\.specification\.test_ops\.Tensor; torch\.from_dlpack\(x\) or cupy\.from_dlpack\(x\) takes it over"
    with pytest.raises(TypeError, match=said):
        ops.gelu(Tensor())
