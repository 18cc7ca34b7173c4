"""Balls enclose the exact result, op by op: of rational operations against fractions, of the others against more bits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from flint import arb, ctx, fmpq
from hypothesis import given
from hypothesis import strategies as st
from scalablevit_ref.backends import balls as arrays
from scalablevit_ref.backends import flint
from scalablevit_ref.backends.balls import Balls, Standard, WideBallError
from scalablevit_ref.backends.einops import reduce

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.certify import enclosures
from scalablevit_ref.certify.enclosures import enclosure
from scalablevit_ref.testing import EPS, random_images, random_params, relative_l2
from scalablevit_ref.testing.strategies import SEEDS
from tests.support import rationals
from tests.support.op_calls import CALLS, TORCH
from tests.support.rationals import check_covers, check_encloses, rational
from tests.support.small_network import small_network

pytestmark = pytest.mark.usefixtures("as_in_production")

BITS = (53, 60, 106)
CONVOLUTIONS = (
    {"stride": 1, "padding": 1, "groups": 4},
    {"stride": 2, "padding": 0, "groups": 1},
    {"stride": 2, "padding": 2, "groups": 2},
)


def numbers(seed: int, *shape: int, spread: int = 20) -> np.ndarray:
    """Float64 numbers whose sizes differ by powers of two, so that sums of them round."""
    draws = np.random.default_rng(seed)
    return np.ldexp(draws.standard_normal(shape), draws.integers(-spread, spread, shape))


def on_balls(bits: int, *values: np.ndarray) -> list[Balls]:
    return [sv.to_backend(x, "flint", device=bits) for x in values]


def check_rational_ops(seed: int, bits: int) -> None:
    """All that rational arithmetic can do: AssertionError where a ball does not contain the exact result."""
    x, weight, bias = numbers(seed, 2, 3, 5), numbers(seed + 1, 4, 5), numbers(seed + 2, 4)
    balls, w, b = on_balls(bits, x, weight, bias)
    exact, exact_w, exact_b = (rational(value) for value in (x, weight, bias))
    check_encloses(ops.linear(balls, w, b), rationals.linear(exact, exact_w, exact_b))
    check_encloses(reduce(balls, "i j k -> i j", "mean"), rationals.mean(exact))
    check_encloses(reduce(balls * balls, "i j k -> i j", "mean"), rationals.mean(exact * exact))
    check_encloses(
        (balls - 0.1) / (balls * balls + 1.0) * -3.0, (exact - fmpq(*(0.1).as_integer_ratio())) / (exact * exact + 1) * -3
    )
    check_encloses(1.0 / (abs(balls) + 7.0) - balls, 1 / (abs(exact) + 7) - exact)
    maps, kernels = numbers(seed + 3, 1, 4, 5, 4), {g: numbers(seed + g, 4, 4 // g, 2, 3) for g in (1, 2, 4)}
    settings = CONVOLUTIONS[seed % len(CONVOLUTIONS)]
    kernel = kernels[settings["groups"]]
    found = ops.conv2d(*on_balls(bits, maps, kernel, bias), **settings)
    check_encloses(found, rationals.conv2d(*map(rational, (maps, kernel, bias)), **settings))
    padded = ops.pad(on_balls(bits, maps)[0], top=1, left=2)
    check_encloses(padded, rational(np.pad(maps, ((0, 0), (1, 0), (2, 0), (0, 0)))))
    check_covers(enclosure(found), found)
    (long,) = on_balls(400, x)
    long = long * long * long * long  # exact, and longer than two float64 numbers
    check_covers(enclosure(long), long)


def check_some() -> None:
    for seed, bits in product(range(20), BITS):
        check_rational_ops(seed, bits)


@given(seed=SEEDS, bits=st.sampled_from(BITS))
def test_balls_enclose_what_is_rational(seed: int, bits: int) -> None:
    check_rational_ops(seed, bits)


def midpoints(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The fault: what an operation gives has lost its radius."""

    def faulty(*args: Any) -> Any:
        found = operation(*args)
        return np.frompyfunc(lambda ball: ball.mid(), 1, 1)(found)

    return faulty


def to_nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The fault: products in float64, rounded to nearest, with no radius for it."""
    found = np.matmul(*(np.frompyfunc(float, 1, 1)(value).astype(np.float64) for value in (x, y)))
    return np.frompyfunc(arb, 1, 1)(found)


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a product without its radius": (arrays, "_product", midpoints(arrays._product)),
    "a product rounded to nearest": (arrays, "_product", to_nearest),
    "a sum without its radius": (np.ndarray, "sum", None),
    "sums and quotients without their radius": (Balls, "_each", None),
    "an enclosure without its radius": (enclosures, "rounded_up", lambda radius: 0 * radius),
    "an enclosure whose radius is rounded to nearest": (enclosures, "rounded_up", lambda radius: radius),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_radius_that_is_too_small_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, part, fault = FAULTS[name]
    if owner is Balls:
        right = Balls._each
        monkeypatch.setattr(Balls, part, lambda x, *args: right(x, lambda *two: midpoints(args[0])(*two), args[1]))
    elif owner is np.ndarray:
        right_sum = Standard.sum

        def without(x: Balls, **options: Any) -> Balls:
            found = right_sum(x, **options)
            return Balls(midpoints(lambda y: y)(found.numbers), found.bits)

        monkeypatch.setattr(Standard, "sum", staticmethod(without))
    else:
        monkeypatch.setattr(owner, part, fault)
    with pytest.raises(AssertionError):
        check_some()


@pytest.mark.parametrize("name", CALLS)
def test_more_bits_lie_inside_of_fewer(name: str) -> None:
    """Every op with 53, 106 and 256 bits; and near PyTorch's in float64."""
    args, kwargs = CALLS[name]
    args = tuple(x[:1, :5, :6] if x.ndim == 4 and x.shape[-1] == 8 and x.shape[0] == 2 else x for x in args)
    op = getattr(ops, name.split()[0])
    few, some, many = (op(*on_balls(bits, *args), **kwargs) for bits in (53, 106, 256))
    for wide in (few, some):
        assert all(a.contains(b) for a, b in zip(wide.numbers.ravel(), many.numbers.ravel(), strict=True))
    assert 0 <= max(float(ball.rad()) for ball in many.numbers.ravel()) < 1e-60
    expected = TORCH[name.split()[0]](*(sv.to_backend(x, "torch") for x in args), **kwargs).numpy()
    assert relative_l2(sv.to_numpy(many), expected) < 16 * EPS["float64"]


def test_the_whole_network() -> None:
    """What is computed with more bits lies inside, at every tap; and the definitions are the same function, but for GELU's √2."""
    config = small_network(head="linear", patch_size=2)
    params, images = random_params(sv.parameter_shapes(config)), random_images((1, 3, 8, 16))
    few, many = (sv.trace(*(sv.to_backend(x, "flint", device=bits) for x in (images, params)), config) for bits in (160, 320))
    expected = sv.trace(images, params, config)
    for name, x in few.items():
        assert all(a.contains(b) for a, b in zip(x.numbers.ravel(), many[name].numbers.ravel(), strict=True)), name
        assert relative_l2(expected[name], sv.to_numpy(x)) < 32 * EPS["float64"]


def test_the_scale_is_the_root_that_is_meant() -> None:
    q, k, v = on_balls(106, *(random_images((1, 2, 3, 4), seed) for seed in range(3)))
    exact = flint.attention(q, k, v, scale=40**-0.5)
    for scale, same in ((40**-0.5, False), (0.3, True)):
        found = ops.attention.definition(q, k, v, scale=scale)
        shown = flint.attention(q, k, v, scale=scale)
        assert all(a.overlaps(b) for a, b in zip(found.numbers.ravel(), shown.numbers.ravel(), strict=True)) == same
    with arrays.precision(106):
        root = ops.attention.definition(q * arb(40).rsqrt(), k, v, scale=1)
    assert all(a.overlaps(b) for a, b in zip(exact.numbers.ravel(), root.numbers.ravel(), strict=True))


def test_flints_own_precision_is_left_as_it_was() -> None:
    before = ctx.prec
    (x,) = on_balls(300, np.array([0.1, 3.0]))
    y = flint.erf(x / 3.0)
    assert ctx.prec == before
    assert all(ball.rel_accuracy_bits() > 290 for ball in y.numbers)


def test_what_has_grown_is_computed_with_in_fewer_bits() -> None:
    """And still encloses the result."""
    wide = Balls(np.array([arb(1, 1e-20), arb(3, 1e-20)], object), 4000)
    assert arrays.enough(wide) < 150
    check_encloses(wide * wide, np.array([fmpq(1), fmpq(9)], object))
    assert arrays.enough(on_balls(4000, np.array([0.1]))[0]) == 4000


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: sv.to_backend(np.ones(2), "flint", device=52), "53 to 16384, got 52"),
        (lambda: sv.to_backend(np.ones(2), "flint", device="cuda"), "53 to 16384, got 'cuda'"),
        (lambda: sv.to_backend(np.array([1, np.nan]), "flint"), "NaN or infinity, which no ball encloses"),
        (lambda: sv.to_backend(np.array([2**60 + 1]), "flint"), "int64 with numbers that float64 rounds"),
        (lambda: on_balls(53, np.ones(2))[0] / Balls(np.array([arb(0, 1), arb(2)], object)), "contains zero is divided by"),
        (lambda: Balls(np.array([arb(0, 1)], object)) ** 0.5, "negative numbers is taken"),
    ],
)
def test_refusals(bad: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError, WideBallError), match=message):
        bad()


def test_mixed_precision_is_refused() -> None:
    config = small_network(head="linear", patch_size=2)
    params = sv.to_backend(random_params(sv.parameter_shapes(config)), "flint", device=212)
    with pytest.raises(ValueError, match=r"images is on device 106 bits but parameter .* is on 212 bits"):
        sv.scalable_vit(sv.to_backend(random_images((1, 3, 8, 16)), "flint"), params, config)


def test_what_einops_asks_for() -> None:
    """Of exact numbers and balls together, and over all axes."""
    x, y = numbers(0, 2, 3), numbers(1, 2, 3)
    (balls, more), exact = on_balls(53, x, y), rational(x)
    check_encloses(reduce(balls, "i j -> i", "max"), np.array([max(row) for row in exact], object))
    check_encloses(reduce(balls, "i j -> ", "sum"), np.array(sum(exact.ravel()), object))
    both = Standard.stack([balls, more / 3.0])
    check_encloses(both, np.stack([exact, rational(y) / 3]))
    check_encloses(Standard.concat([balls, more / 3.0], axis=1), np.concatenate([exact, rational(y) / 3], 1))
    check_encloses(balls[1, 2] + 0.5, np.array(exact[1, 2] + fmpq(1, 2), object))


def test_narrow_dtypes_are_rounded_first_and_then_exact() -> None:
    x = np.array([0.1, 1 / 3])
    for dtype in ("float32", "float16", "bfloat16"):
        found = sv.to_backend(x, "flint", dtype)
        np.testing.assert_array_equal(sv.to_numpy(found), sv.to_backend(x, "numpy", dtype).astype(np.float64))
