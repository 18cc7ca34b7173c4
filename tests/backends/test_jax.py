"""What JAX users do with the reference: eager and compiled calls, transforms, devices, x64 on and off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scalablevit_ref.backends import jax as backend

import scalablevit_ref as sv
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2
from tests.support.jitted import UNOPTIMISED, jit, known
from tests.support.library import prepared
from tests.support.op_calls import CALLS, WAYS_AND_16_BITS, check_gelu_at_the_extremes, check_gelu_tanh_in_half_precision, check_op
from tests.support.small_network import small_network

CONFIG = small_network(depths=(2, 1), head="linear", patch_size=2)
PARAMS = random_params(sv.parameter_shapes(CONFIG), dtype="float32")
IMAGES = random_images((2, 3, 8, 16), dtype="float32")
IWSA = {"num_heads": 2, "window_size": 2}
X, P = random_images((1, 4, 4, 8), dtype="float32"), random_params(iwsa_shapes(8), dtype="float32")

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks of every trace would only cost time


@pytest.fixture
def jitted() -> Iterator[None]:
    with prepared("jax"):
        yield


@pytest.mark.parametrize(("how", "dtype"), WAYS_AND_16_BITS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("jitted")
def test_op(name: str, how: str, dtype: str) -> None:
    check_op(name, how, dtype, "jax")


def test_gelu_at_the_extremes() -> None:
    check_gelu_at_the_extremes("jax")


def test_gelu_tanh_in_half_precision() -> None:
    check_gelu_tanh_in_half_precision("jax")


def test_float32_products_are_not_rounded_to_less() -> None:
    """Every product of the compiled network asks for float32's own precision, which GPUs and TPUs do not use of themselves."""
    lowered = jax.jit(sv.scalable_vit, static_argnums=2).lower(*on_jax(IMAGES, PARAMS), CONFIG).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) > 15
    assert all("HIGHEST" in line and "DEFAULT" not in line for line in products), products


def on_jax(*arrays: Any) -> tuple[Any, ...]:
    return tuple(sv.to_backend(x, "jax") for x in arrays)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_eager_call_keeps_its_dtype_with_x64_on_and_off(dtype: str, x64: bool) -> None:
    x, p = (sv.to_backend(t, "numpy", dtype) for t in (X, P))
    with jax.enable_x64(x64):
        y = sv.iwsa(sv.to_backend(x, "jax"), sv.to_backend(p, "jax"), **IWSA)
    assert y.dtype == dtype
    wide = (sv.to_backend(t, "numpy", "float64") for t in (x, p))
    assert relative_l2(sv.to_numpy(y), sv.iwsa(*wide, **IWSA)) <= NETWORK_TOLERANCE[dtype] * EPS[dtype]


def test_blocks_are_taken_by_number_though_jax_sorts_names() -> None:
    """With more than ten blocks in a stage "10" sorts before "2"."""
    config = sv.ScalableViTConfig(**{**vars(CONFIG), "depths": (11, 1)})
    params = random_params(sv.parameter_shapes(config), dtype="float32")
    found = jit(lambda x, p: sv.scalable_vit(x, p, config))(*on_jax(IMAGES, params))
    assert relative_l2(sv.to_numpy(found), sv.scalable_vit(IMAGES, params, config)) < 1e-5


def test_equal_shapes_and_settings_are_traced_once() -> None:
    traces = []

    def counted(images: Any, params: Any, config: sv.ScalableViTConfig) -> Any:
        traces.append(images.shape)
        return sv.scalable_vit(images, params, config)

    compiled = jit(counted, static_argnums=2)
    images, params = on_jax(IMAGES, PARAMS)
    equal = sv.ScalableViTConfig(**vars(CONFIG))
    assert equal is not CONFIG
    first = compiled(images, params, CONFIG)
    second = compiled(2 * images, dict(reversed(params.items())), equal)
    assert traces == [IMAGES.shape]
    assert not jnp.array_equal(first, second)
    compiled(images[:1], params, CONFIG)
    assert traces == [IMAGES.shape, (1, *IMAGES.shape[1:])]


def test_gradients_of_each_sample() -> None:
    def loss(params: Any, x: Any) -> Any:
        return jnp.square(sv.iwsa(x[None], params, **IWSA)).sum()

    x, params = on_jax(random_images((3, 4, 4, 8), dtype="float32"), P)
    together = jit(jax.grad(lambda p: jnp.square(sv.iwsa(x, p, **IWSA)).sum()))(params)
    each = jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, x)
    for name, gradient in together.items():
        np.testing.assert_allclose(np.asarray(each[name]).sum(0), gradient, rtol=1e-3, atol=1e-3, err_msg=name)


def test_parameters_may_be_traced_or_closed_over() -> None:
    """A tracer is on no device yet: it goes with whatever the other arguments are on."""
    x, p = on_jax(X, P)
    held = {name: jax.device_put(value, jax.devices()[0]) for name, value in p.items()}
    expected = sv.iwsa(x, p, **IWSA)
    for function in (lambda x: sv.iwsa(x, held, **IWSA), jax.vmap(lambda x: sv.iwsa(x[None], held, **IWSA)[0])):
        np.testing.assert_allclose(jit(function)(x), expected, rtol=1e-5, atol=1e-5)
    of_params = jit(lambda p: sv.iwsa(jax.device_put(x, jax.devices()[0]), p, **IWSA))
    np.testing.assert_allclose(of_params(p), expected, rtol=1e-5, atol=1e-5)


class Placed:
    """What `device` reads of an array on some GPU."""

    committed = True

    def __init__(self, *devices: str) -> None:
        self.held = set(devices)

    def devices(self) -> set[str]:
        return self.held


def test_devices_differ_only_where_jax_would_refuse() -> None:
    device: Any = backend.device
    anywhere = jnp.ones(3)
    here = jax.device_put(anywhere, jax.devices()[0])
    elsewhere: Any = Placed("cuda:0")
    assert not anywhere.committed
    assert here.committed
    for first, second in ((anywhere, here), (here, here), (anywhere, elsewhere), (anywhere, anywhere)):
        assert device(first) == device(second)
        assert device(second) == device(first)
    assert device(here) != device(elsewhere)
    assert device(Placed("cuda:0", "cuda:1")) != device(elsewhere)
    assert "cpu" in str(device(here)).lower()
    assert str(device(anywhere)) == "any"


def test_other_libraries_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x is a jax array but parameter '[\w.]+' is a numpy array"):
        sv.iwsa(jnp.asarray(X), P, **IWSA)
    with pytest.raises(TypeError, match=r"x is a numpy array but parameter '[\w.]+' is a jax array"):
        sv.iwsa(X, sv.to_backend(P, "jax"), **IWSA)


@pytest.mark.parametrize(("x", "dtype"), [(np.ones(2), None), (np.ones(2, np.float32), "float64"), (np.ones(2), "float64")])
def test_float64_without_x64_is_refused(x: np.ndarray, dtype: str | None) -> None:
    """JAX itself would hand out float32 in silence, or with a warning."""
    with pytest.raises(ValueError, match=r"no float64 unless .*jax_enable_x64.*dtype='float32' does without") as caught:
        sv.to_backend({"x": x}, "jax", dtype)
    assert "\n" not in str(caught.value)
    assert sv.to_backend(x, "jax", "float32").dtype == "float32"
    with jax.enable_x64(True):
        assert sv.to_backend(x, "jax", dtype).dtype == "float64"


@pytest.mark.parametrize("device", ["gpu", "cpu:9", "cpu:x", "nonsense"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=rf"JAX has no device '{device}', only cpu:0.*pip install 'jax\[cuda") as caught:
        sv.to_backend(IMAGES, "jax", device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_transfer_keeps_the_bits_and_shares_no_memory(dtype: str) -> None:
    x = sv.to_backend(np.random.default_rng(0).standard_normal(64).astype("float32"), "numpy", dtype)
    bits = x.tobytes()
    for device in (None, "cpu", jax.devices()[0]):
        moved = sv.to_backend(x, "jax", device=device)
        assert moved.dtype == x.dtype
        assert moved.committed == (device is not None)
        x[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
        x[:] = np.frombuffer(bits, x.dtype)
        sv.to_numpy(moved)[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits


def test_options_that_this_xla_does_not_have_are_left_out() -> None:
    """They come and go with its releases. What is wrong with an option that it has is said."""
    here = known(tuple(UNOPTIMISED.items()))
    assert here.items() <= UNOPTIMISED.items()
    assert known((("xla_of_tomorrow", 3), *here.items(), ("xla_of_yesterday", True))) == here
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        known((("xla_backend_optimization_level", "high"),))
