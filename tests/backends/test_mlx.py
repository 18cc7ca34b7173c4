"""What MLX's users do with the reference: compiled calls, gradients, 16 bits, devices; and what MLX computes in float64."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from einops import rearrange, reduce

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, max_error, random_images, random_params, relative_l2
from tests.support.on_mlx import compiled
from tests.support.op_calls import CALLS, WAYS_AND_16_BITS, check_gelu_at_the_extremes, check_gelu_tanh_in_half_precision, check_op
from tests.support.small_network import small_network

CONFIG = small_network(depths=(2, 1), head="linear", patch_size=2)
PARAMS = random_params(sv.parameter_shapes(CONFIG))
IMAGES = random_images((2, 3, 8, 16))
IWSA = {"num_heads": 2, "window_size": 2}
X, P = random_images((1, 4, 4, 8), dtype="float32"), random_params(iwsa_shapes(8), dtype="float32")

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks are not for a compiler to trace


def on_mlx(dtype: str) -> tuple[mx.array, dict[str, mx.array]]:
    return sv.to_backend(IMAGES, "mlx", dtype), sv.to_backend(PARAMS, "mlx", dtype)


@pytest.mark.parametrize(("how", "dtype"), WAYS_AND_16_BITS)
@pytest.mark.parametrize("name", CALLS)
def test_op(name: str, how: str, dtype: str) -> None:
    check_op(name, how, dtype, "mlx")


def test_what_is_exact_in_float64() -> None:
    """The backend is built on it: products, powers, sums and roots are, to some eps, and Python's numbers keep their digits."""
    x = np.random.default_rng(0).standard_normal((40, 60))
    y = mx.array(x, mx.float64)
    for found, expected in (
        (math.e**y, np.exp(x)),
        (abs(y) ** 0.5, np.sqrt(abs(x))),
        (y @ y.T, x @ x.T),
        (y * 0.1 + 0.3, x * 0.1 + 0.3),
        (reduce(y, "n c -> n", "mean") + 1, x.mean(-1) + 1),
        (mx.addmm(y[:, 0], y, y.T), x[:, 0] + x @ x.T),
    ):
        assert found.dtype == mx.float64
        assert max_error(sv.to_numpy(found), expected) <= 16 * EPS["float64"]


@pytest.mark.skipif(mx.default_device() == mx.gpu, reason="float64 is the CPU's")
def test_why_float64_has_definitions() -> None:
    """MLX's own functions keep only float32's digits there. Where this fails a definition can go."""
    x = np.linspace(-3, 3, 1000)
    y = mx.array(x, mx.float64)
    shares = np.exp(x) / np.exp(x).sum()
    ones = mx.ones(1000, mx.float64)
    for found, expected in (
        (mx.exp(y), np.exp(x)),
        (mx.erf(y), np.vectorize(math.erf)(x)),
        (mx.softmax(y, precise=True), shares),
        (mx.fast.layer_norm(y, ones, 0 * ones, 1e-6), (x - x.mean()) / np.sqrt(x.var() + 1e-6)),
    ):
        assert max_error(sv.to_numpy(found), expected) > 1e6 * EPS["float64"]


def test_gelu_at_the_extremes() -> None:
    check_gelu_at_the_extremes("mlx")


def test_gelu_tanh_in_half_precision() -> None:
    check_gelu_tanh_in_half_precision("mlx")


def test_sums_of_16_bits_are_wider() -> None:
    """A thousand twos by ones, of which float16 holds no whole sums beyond 2048; a bias is added before the sum is rounded."""
    for dtype in (mx.float16, mx.bfloat16):
        ones = mx.ones((1, 2001), dtype)
        assert float(ops.linear(2 * ones, ones)) == float(mx.array(4002.0).astype(dtype))
        assert float(ops.linear(2 * ones, ones, mx.array([-4001], mx.float32).astype(dtype))) == pytest.approx(
            4002 - float(mx.array(4001.0).astype(dtype)), abs=0.01
        )


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_every_tap_keeps_its_dtype(dtype: str) -> None:
    """Of the specification; the tolerance is the network's."""
    images, params = on_mlx(dtype)
    rounded = (sv.to_backend(sv.to_numpy(x), "numpy", "float64") for x in (images, params))
    expected = sv.trace(*rounded, CONFIG)
    taps = sv.trace(images, params, CONFIG)
    assert {str(x.dtype) for x in taps.values()} == {f"mlx.core.{dtype}"}
    assert all(relative_l2(sv.to_numpy(x), expected[name]) <= NETWORK_TOLERANCE[dtype] * EPS[dtype] for name, x in taps.items())


def test_equal_shapes_are_traced_once() -> None:
    """In float32: a kernel of 16 bits takes MLX's compiler on a CPU ten seconds."""
    traces: list[tuple[int, ...]] = []
    run = compiled(CONFIG, traces)
    images, params = on_mlx("float32")
    first = run(images, params)
    second = run(2 * images, {name: x + 0 for name, x in params.items()})
    assert traces == [IMAGES.shape]
    assert not mx.array_equal(first, second)
    assert relative_l2(sv.to_numpy(first), sv.scalable_vit(IMAGES, PARAMS, CONFIG)) <= NETWORK_TOLERANCE["float32"] * EPS["float32"]
    run(images[:1], params)
    assert traces == [IMAGES.shape, (1, *IMAGES.shape[1:])]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients_are_torchs(dtype: str) -> None:
    """Of the network by its native operations, in float64 by definitions, eager and compiled. `properties` draw the rest."""
    images, params = on_mlx(dtype)
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in PARAMS.items()}
    sv.scalable_vit(torch.tensor(IMAGES), tensors, CONFIG).square().sum().backward()
    expected = {name: x.grad.numpy() for name, x in tensors.items() if x.grad is not None and not name.endswith("attn.k.bias")}
    gradient = mx.grad(lambda p: mx.square(sv.scalable_vit(images, p, CONFIG)).sum())
    for run in (gradient, mx.compile(gradient)):
        found = sv.to_numpy(run(params))
        assert set(found) == set(PARAMS)
        errors = {name: relative_l2(found[name], x) / EPS[dtype] for name, x in expected.items()}
        assert max(errors.values()) <= 64, errors


def test_other_libraries_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x is a mlx array but parameter '[\w.]+' is a numpy array"):
        sv.iwsa(mx.array(X), P, **IWSA)
    with pytest.raises(TypeError, match=r"x is a numpy array but parameter '[\w.]+' is a mlx array"):
        sv.iwsa(X, sv.to_backend(P, "mlx"), **IWSA)
    with pytest.raises(TypeError, match=r"x is float32 but parameter '[\w.]+' is bfloat16"):
        sv.iwsa(mx.array(X), sv.to_backend(P, "mlx", "bfloat16"), **IWSA)
    with pytest.raises(TypeError, match=r"x must be floating point \(float16, .*\), got int32"):
        sv.iwsa(mx.zeros((1, 4, 4, 8), mx.int32), P, **IWSA)


@pytest.mark.parametrize("x", [np.ones(2, "complex128"), np.ones(2, "longdouble")])
def test_dtypes_that_mlx_does_not_have(x: np.ndarray) -> None:
    """MLX itself would round in silence, or fail in words of C++."""
    with pytest.raises(TypeError, match=rf"^params_or_array holds {x.dtype}, which MLX does not have$"):
        sv.to_backend(x, "mlx")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "bool", "complex64"])
def test_transfer_keeps_the_bits_and_shares_no_memory(dtype: str) -> None:
    x = sv.to_backend(np.random.default_rng(0).standard_normal((8, 8)), "numpy", dtype if "float" in dtype else None)
    x = x if "float" in dtype else (8 * x).astype(dtype)
    x = np.asfortranarray(x)
    bits = x.tobytes()
    for device in (None, "cpu", mx.cpu, mx.Device(mx.cpu)):
        moved = sv.to_backend(x, "mlx", device=device)
        assert str(moved.dtype).removesuffix("_") == f"mlx.core.{dtype}"
        x[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
        x[:] = np.frombuffer(bits, x.dtype).reshape(8, 8)
        sv.to_numpy(moved)[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits


def test_float64_is_rounded_once() -> None:
    """Not to float32 on the way, where this number is a tie, which is rounded to even."""
    x = np.array([1 + 2**-11 + 2**-30])
    assert float(sv.to_backend(x, "mlx", "float16")) == 1 + 2**-10


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU")
@pytest.mark.parametrize("device", ["gpu", mx.gpu])
def test_a_device_that_is_not_there_is_named(device: Any) -> None:
    with pytest.raises(ValueError, match=rf"^MLX has no device {device} here, only the CPU$"):
        sv.to_backend(IMAGES, "mlx", device=device)


@pytest.mark.parametrize("device", ["cuda", "cpu:1", 0, torch.device("cpu")])
def test_what_is_no_device(device: Any) -> None:
    with pytest.raises(TypeError, match=r"^device must be 'cpu', 'gpu' or one of MLX's, got "):
        sv.to_backend(IMAGES, "mlx", device=device)


def test_float64_is_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU is MLX's default device, as on a Mac: said before anything is computed, and how the CPU is chosen."""
    x, params = sv.to_backend(X, "mlx", "float64"), sv.to_backend(P, "mlx", "float64")
    with monkeypatch.context() as patch:
        patch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        with pytest.raises(ValueError, match=r"^MLX has no float64 on a GPU: mx\.set_default_device\(mx\.cpu\) comp"):
            sv.to_backend(X, "mlx", "float64")
        with pytest.raises(TypeError, match=r"^x is of float64, with which MLX computes on a CPU alone; mx\.set_de"):
            sv.iwsa(x, params, **IWSA)
        assert sv.to_backend(X, "mlx", "float64", device="cpu").dtype == mx.float64
        assert sv.to_backend(X, "mlx", "float32").dtype == mx.float32
        assert str(sv.backends.backend(x).device(x)) == "Device(gpu, 0)"
    assert sv.iwsa(x, params, **IWSA).dtype == mx.float64


def test_a_traced_array_has_no_numbers_yet() -> None:
    with pytest.raises(TypeError, match=r"params_or_array, a mlx array, is one that gives no numbers \(\[eval\]"):
        mx.compile(sv.to_numpy)(mx.array(X))


def test_einops_takes_them_as_they_are() -> None:
    """The facts that the definitions rely on: views of one array in another order, in float64 too, and inside of `mx.compile`."""
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 8))
    pattern = "b (gh ph) (gw pw) (heads d) -> b gh gw heads (ph pw) d"
    cut = {"ph": 2, "pw": 3, "heads": 4}
    for run in (rearrange, mx.compile(lambda y, pattern, **cut: rearrange(y, pattern, **cut))):
        y = run(mx.array(x, mx.float64), pattern, **cut)
        assert (y.dtype, y.shape) == (mx.float64, (2, 2, 2, 4, 6, 2))
        assert np.array_equal(np.array(y), rearrange(x, pattern, **cut))
    assert np.array_equal(np.array(reduce(mx.array(x, mx.float64), "b h w c -> b c", "max")), x.max((1, 2)))
