"""What TensorFlow users do with the reference: eager calls and graphs, variables, tapes, any batch, devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from einops import rearrange, reduce
from scalablevit_ref.backends import tensorflow as backend

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import EPS, MAX_TOLERANCE, NETWORK_TOLERANCE, max_error, random_images, random_params, relative_l2
from tests.programs.faults import killers, plant
from tests.support.graphed import Traced
from tests.support.library import Agree, Library
from tests.support.mistakes import PLANTED
from tests.support.op_calls import CALLS, WAYS_AND_16_BITS, check_gelu_at_the_extremes, check_op
from tests.support.small_network import small_network

CONFIG = small_network(depths=(2, 1), head="linear", patch_size=2, pad_windows=True)
PARAMS = random_params(sv.parameter_shapes(CONFIG))
IMAGES = random_images((2, 3, 8, 16))
IWSA: dict[str, Any] = {"num_heads": 2, "window_size": 2}
X, P = random_images((1, 4, 4, 8), dtype="float32"), random_params(iwsa_shapes(8), dtype="float32")

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks of every trace would only cost time


def here(*arrays: Any, dtype: str | None = None) -> tuple[Any, ...]:
    return tuple(sv.to_backend(x, "tensorflow", dtype) for x in arrays)


@pytest.mark.parametrize(("how", "dtype"), WAYS_AND_16_BITS)
@pytest.mark.parametrize("name", CALLS)
def test_op(name: str, how: str, dtype: str) -> None:
    check_op(name, how, dtype, "tensorflow")


@pytest.mark.parametrize("name", ["linear", "softmax", "layer_norm", "attention", "conv2d"])
def test_what_is_summed_is_summed_in_float32(name: str) -> None:
    """A thousand terms, whose sum in 16 bits would have lost some of them."""
    rng = np.random.default_rng(0)
    draw = {
        "linear": ((2, 4096), (3, 4096)),
        "softmax": ((2, 4096),),
        "layer_norm": ((2, 4096), (4096,), (4096,)),
        "attention": ((1, 1, 64), (1, 4096, 64), (1, 4096, 2)),
        "conv2d": ((1, 64, 64, 2), (2, 1, 64, 64)),
    }[name]
    options: Any = {"layer_norm": {"eps": 1e-6}, "attention": {"scale": 1e-3}, "conv2d": {"groups": 2}}.get(name, {})
    half = [sv.to_backend(1 + rng.random(shape), "tensorflow", "bfloat16") for shape in draw]
    expected = getattr(ops, name)(*sv.to_backend({str(i): x for i, x in enumerate(half)}, "numpy", "float64").values(), **options)
    found = sv.to_numpy(getattr(ops, name)(*half, **options)).astype("float64")
    assert max_error(found, expected) <= EPS["bfloat16"]


def test_gelu_at_the_extremes() -> None:
    check_gelu_at_the_extremes("tensorflow")


@pytest.mark.parametrize("axes", [1, 2, 4, 6, 7])
def test_softmax_and_attention_of_any_number_of_axes(axes: int) -> None:
    """TensorFlow's own softmax ends at five."""
    x = np.random.default_rng(0).standard_normal((*[2] * (axes - 1), 3))
    assert max_error(sv.to_numpy(ops.softmax(*here(x))), ops.softmax(x)) <= 4 * EPS["float64"]
    if axes > 1:
        assert max_error(sv.to_numpy(ops.attention(*here(x, x, x), scale=0.5)), ops.attention(x, x, x, scale=0.5)) <= 1e-14


def test_equal_shapes_are_traced_once_and_variables_are_read_when_it_runs() -> None:
    network = Traced(sv.scalable_vit)
    images, params = here(IMAGES, PARAMS)
    equal = sv.ScalableViTConfig(**vars(CONFIG))
    assert equal is not CONFIG
    first = network(images, params, CONFIG)
    second = network(2 * images, dict(reversed(params.items())), equal)
    assert network.times == 1
    assert relative_l2(first.numpy(), sv.scalable_vit(IMAGES, PARAMS, CONFIG)) < 64 * EPS["float64"]
    assert relative_l2(second.numpy(), sv.scalable_vit(2 * IMAGES, PARAMS, CONFIG)) < 64 * EPS["float64"]
    network(images[:1], params, CONFIG)
    assert network.times == 2

    variables = {name: tf.Variable(x) for name, x in params.items()}
    held = Traced(lambda x: sv.scalable_vit(x, variables, CONFIG))
    np.testing.assert_array_equal(held(images), first)
    variables["head.bias"].assign_add(tf.ones(5, "float64"))
    np.testing.assert_allclose(held(images), first + 1, rtol=1e-14)
    assert held.times == 1


def test_one_graph_takes_any_batch() -> None:
    _, params = here(IMAGES, PARAMS)
    network = Traced(lambda x: sv.trace(x, params, CONFIG), input_signature=[tf.TensorSpec((None, *IMAGES.shape[1:]), "float64")])
    expected = sv.trace(IMAGES, PARAMS, CONFIG)
    for batch in (1, 2):
        found = network(tf.constant(IMAGES[:batch]))
        for name, x in found.items():
            assert x.shape == (batch, *expected[name].shape[1:])
            assert max_error(x.numpy(), expected[name][:batch]) <= MAX_TOLERANCE * EPS["float64"], name
    assert network.times == 1


def test_autograph_that_reads_the_source_changes_nothing() -> None:
    """What `@tf.function` does by default: it says what it cannot read, and runs that as it is."""
    logger, x = tf.get_logger(), here(X)[0]
    level = logger.level
    logger.setLevel("ERROR")
    try:
        np.testing.assert_allclose(tf.function(ops.gelu)(x), ops.gelu(X), rtol=1e-5, atol=1e-5)
    finally:
        logger.setLevel(level)


def test_gradients_in_a_graph_are_the_eager_ones() -> None:
    """Of every parameter, in float64, and torch's; an optimiser's step is one graph."""
    variables = {name: tf.Variable(x) for name, x in here(PARAMS)[0].items()}

    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(sv.scalable_vit(x, variables, CONFIG) ** 2)
        return tape.gradient(loss, variables)

    graph = Traced(gradients)
    eager, compiled = gradients(*here(IMAGES)), graph(*here(IMAGES))
    expected = {name: x.requires_grad_() for name, x in sv.to_backend(PARAMS, "torch").items()}
    sv.scalable_vit(torch.from_numpy(IMAGES), expected, CONFIG).square().sum().backward()
    largest = max(x.grad.abs().max() for x in expected.values())
    for name, x in expected.items():
        assert np.abs(compiled[name] - x.grad.numpy()).max() <= 1e-12 * largest, name
        assert np.abs(compiled[name] - eager[name]).max() <= 1e-13 * largest, name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_graph_keeps_sixteen_bits_at_every_tap(dtype: str) -> None:
    images, params = here(IMAGES, PARAMS, dtype=dtype)
    taps = Traced(sv.trace)(images, params, CONFIG)
    assert {x.dtype.name for x in taps.values()} == {dtype}
    wide = [sv.to_backend(x, "numpy", "float64") for x in (images, params)]
    expected = sv.trace(*wide, CONFIG)
    for name, x in taps.items():
        assert relative_l2(x.numpy().astype("float64"), expected[name]) <= NETWORK_TOLERANCE[dtype] * EPS[dtype], name


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_killed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first of the properties that are named for it; `tests.programs.faults` runs all."""
    killer = next(iter(killers(fault).values()))
    plant(monkeypatch, fault)
    with pytest.raises(AssertionError):
        killer(xp=Library("tensorflow"), agree=Agree())


def test_other_libraries_parameters_are_refused() -> None:
    x, p = here(X, P)
    with pytest.raises(TypeError, match=r"x is a tensorflow array but parameter '[\w.]+' is a numpy array"):
        sv.iwsa(x, P, **IWSA)
    with pytest.raises(TypeError, match=r"x is a numpy array but parameter '[\w.]+' is a tensorflow array"):
        sv.iwsa(X, p, **IWSA)
    with pytest.raises(TypeError, match=r"x is float32 but parameter '[\w.]+' is float64"):
        sv.iwsa(x, sv.to_backend(P, "tensorflow", "float64"), **IWSA)


@pytest.mark.parametrize("what", ["ragged", "sparse", "a Keras input", "strings"])
def test_what_is_no_array_of_numbers_is_refused(what: str) -> None:
    given = {
        "ragged": lambda: tf.ragged.constant([[1.0], [1.0, 2.0]]),
        "sparse": lambda: tf.sparse.from_dense([[1.0]]),
        "a Keras input": lambda: tf.TensorSpec((1, 4, 4, 8)),
        "strings": lambda: tf.constant([[[["a"] * 8] * 4] * 4]),
    }[what]()
    with pytest.raises(TypeError) as caught:
        sv.iwsa(given, here(P)[0], **IWSA)
    assert "\n" not in str(caught.value)


def test_a_value_that_a_graph_does_not_have_yet_is_not_moved() -> None:
    with pytest.raises(TypeError, match=r"params_or_array, a tensorflow array, is one that gives no numbers") as caught:
        tf.function(sv.to_numpy, autograph=False)(tf.ones(3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cpu:9", "cpu:x", "nonsense", "cuda", ""])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device must be one that TensorFlow has, CPU:0, got '{device}'") as caught:
        sv.to_backend(X, "tensorflow", device=device)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="device must be one that TensorFlow has, CPU:0, got 3"):
        sv.to_backend(X, "tensorflow", device=3)


def test_what_tensorflow_does_not_have_is_named() -> None:
    with pytest.raises(TypeError, match=r"params_or_array holds \w+, which TensorFlow does not have"):
        sv.to_backend(np.ones(2, np.longdouble), "tensorflow")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_transfer_keeps_the_bits_and_shares_no_memory(dtype: str) -> None:
    x = sv.to_backend(np.random.default_rng(0).standard_normal(64), "numpy", dtype)
    bits = x.tobytes()
    for device in (None, "cpu", "CPU:0", tf.ones(1).device):
        moved = sv.to_backend(x, "tensorflow", device=device)
        assert moved.dtype.name == dtype
        assert moved.device == tf.ones(1).device
        x[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
        x[:] = np.frombuffer(bits, x.dtype)
        sv.to_numpy(moved)[:] = 0
        assert sv.to_numpy(moved).tobytes() == bits
    assert sv.to_numpy(tf.Variable(moved)).tobytes() == bits


def test_devices_differ_only_where_both_are_known() -> None:
    """What a graph has not placed yet goes with everything."""
    here, elsewhere = tf.ones(1), type("Placed", (), {"device": "/device:GPU:0"})()
    seen: list[Any] = []
    tf.function(lambda x: seen.append(backend.device(x)) or x, autograph=False)(here)
    assert backend.device(here) != backend.device(elsewhere)
    assert seen[0] == backend.device(here) == backend.device(tf.Variable(here))
    assert seen[0] == backend.device(elsewhere)
    assert str(seen[0]) == "any"


def test_einops_takes_tensors_and_variables_in_graphs_of_any_batch() -> None:
    """What the specification relies on: sizes that are unknown stay so, those that are known stay known."""
    shapes = []

    def cut(x: Any) -> Any:
        windows = rearrange(x, "b (gh ph) (gw pw) (heads d) -> b gh gw heads (ph pw) d", ph=2, pw=2, heads=2)
        shapes.append(tuple(windows.shape))
        return reduce(windows, "... d -> ... 1", "mean")

    y = tf.function(cut, autograph=False, input_signature=[tf.TensorSpec((None, 4, 4, 8), "float32")])(*here(X))
    assert shapes == [(None, 2, 2, 2, 4, 4)]
    np.testing.assert_allclose(y, cut(X), rtol=1e-6)
    np.testing.assert_allclose(cut(tf.Variable(X)), cut(X), rtol=1e-6)
