"""JAX's primitives by NumPy: each gives what JAX gives, and what it does in another way is left to JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from scalablevit_ref.compare.capture.jax_on_host import EXACT, HOST_DTYPES, PRIMITIVES, on_host
from scalablevit_ref.compare.capture.jax_program import Flattening
from scalablevit_ref.testing import relative_l2

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 5))
Y = RNG.standard_normal((2, 3, 4, 5))
N = RNG.integers(-3, 4, (2, 3, 4, 5))


def made(
    function: Callable[..., Any], inputs: Sequence[Any], *, wide: bool = True
) -> tuple[list[Any], list[Any], set[str], set[str]]:
    """What a function gives on the host and by JAX, and the names of its primitives: those that NumPy ran, and the others."""
    with jax.enable_x64(wide):
        closed = jax.make_jaxpr(function)(*inputs)
        flat = Flattening()
        returned = flat.run(closed, [flat.value(x) for x in inputs])
        env = {**dict(enumerate(inputs)), **flat.constants}
        here, left = set(), set()
        for step in flat.steps:
            given_ = [env[v] if isinstance(v, int) else v.val for v in step.inputs]
            name, outputs = step.operation.name, step.operation.outputs
            found = on_host(name, step.params, given_, [flat.dtypes[v] for v in outputs])
            (here if found is not None else left).add(name)
            env |= dict(zip(outputs, step.call(*map(jnp.asarray, given_)) if found is None else found, strict=True))
        expected = jax.tree.leaves(function(*map(jnp.asarray, inputs)))
        return [env[v] if isinstance(v, int) else v.val for v in returned], expected, here, left


def check(function: Callable[..., Any], *inputs: Any, wide: bool = True) -> tuple[set[str], set[str]]:
    found, expected, here, left = made(function, inputs, wide=wide)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert (x.shape, str(x.dtype)) == (y.shape, str(y.dtype))
        theirs = np.asarray(y)
        if theirs.dtype.kind == "f":
            np.testing.assert_array_equal(np.isnan(x), np.isnan(theirs))
            np.testing.assert_allclose(x, theirs, rtol=2e-14 if wide else 2e-6, atol=1e-300)
        else:
            np.testing.assert_array_equal(x, theirs)
    return here, left


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "sums and products": (
        lambda x, y: [x + y, x - y, x * y, x / y, -x, jnp.abs(x), jnp.sign(x), jax.grad(lambda x: (x * x).sum())(x)],
        (X, Y),
    ),
    "whole numbers": (
        lambda n: [n + n, n - 2, n * n, -n, jnp.abs(n), n.sum(1), n.prod(1), n.max(1), n**2, n // 2, jnp.sign(n), n % 3],
        (N,),
    ),
    "remainders": (lambda x, y: [lax.rem(x, y), jnp.mod(x, y)], (X, Y)),
    "powers": (
        lambda x: [x**2, x**3, x**-2, jnp.abs(x) ** 0.3, jnp.square(x), jnp.cbrt(x), jnp.sqrt(jnp.abs(x)), lax.rsqrt(jnp.abs(x))],
        (X,),
    ),
    "roots of negative numbers": (lambda x: [jnp.sqrt(x), lax.rsqrt(x), jnp.log(x)], (X,)),
    "exponentials": (lambda x: [jnp.exp(x), jnp.exp2(x), jnp.expm1(x), jnp.log(jnp.abs(x)), jnp.log1p(jnp.abs(x))], (X,)),
    "angles": (lambda x: [jnp.sin(x), jnp.cos(x), jnp.tan(x), jnp.tanh(x)], (X,)),
    "activations": (
        lambda x: [jax.nn.sigmoid(x), lax.erf(x), lax.erfc(x), jax.nn.relu(x), jax.nn.gelu(x), jax.nn.softmax(x)],
        (X,),
    ),
    "extremes": (
        lambda x, y: [jnp.maximum(x, y), jnp.minimum(x, y), lax.clamp(-0.5, x, 0.5), lax.clamp(-jnp.abs(y), x, jnp.abs(y))],
        (X, Y),
    ),
    "rounding": (lambda x: [jnp.floor(x), jnp.ceil(x), jnp.round(x * 2) / 2], (X,)),
    "comparisons": (lambda n, m: [n == m, n != m, n < m, n <= m, n > m, n >= m, jnp.isfinite(n / 0.0)], (N, N[::-1])),
    "truth": (
        lambda n: [(n > 0) & (n < 2), (n > 0) | (n < -1), (n > 0) ^ (n < 2), ~(n > 0), (n > 0).all(1), (n > 0).any((0, 2)), ~n],
        (N,),
    ),
    "choices": (lambda x, n: [jnp.where(n > 0, x, -x), jnp.where(n > 0, x, 0)], (X, N)),
    "reductions": (
        lambda x: [x.sum((0, 2)), x.prod(-1), x.max(), x.min((1, 3)), x.argmax(2), x.argmin(-1), x.mean(0), x.var(-1)],
        (X,),
    ),
    "running sums": (
        lambda x: [
            jnp.cumsum(x, 1),
            jnp.cumprod(x, 2),
            lax.cummax(x, 1),
            lax.cummin(x, 3, reverse=True),
            lax.cumsum(x, 2, reverse=True),
        ],
        (X,),
    ),
    "dtypes": (
        lambda x, n: [
            n.astype(float),
            (n > 0).astype(int),
            x.astype("float32"),
            x.astype("float32").astype(float),
            n.astype("int32"),
        ],
        (X, N),
    ),
    "the same": (lambda x: [jnp.copy(x), lax.stop_gradient(x) + 0, lax.optimization_barrier((x, x + 1))], (X,)),
    "moves": (
        lambda x: [
            x.reshape(6, -1),
            x.transpose(3, 0, 2, 1),
            x[:, :1].squeeze(1),
            x[None],
            x[1:, ::2, :3],
            x[..., ::-1, :],
            jnp.roll(x, 2, -1),
        ],
        (X,),
    ),
    "put together": (
        lambda x, y: [jnp.concatenate([x, y], 2), jnp.stack([x, y], 1), jnp.split(x, (1, 3), 2), jnp.tile(x, (1, 2, 1, 1))],
        (X, Y),
    ),
    "broadcasts": (
        lambda x: [jnp.broadcast_to(x[:, :1], x.shape), lax.broadcast_in_dim(x, (7, 2, 3, 4, 6, 5), (1, 2, 3, 5))],
        (X,),
    ),
    "counted": (lambda x: [lax.iota("int32", 5) + 0, lax.broadcasted_iota("float64", (3, 4, 2), 1) * x[0, 0, 0, 0]], (X,)),
    "somewhere": (
        lambda x, n: [lax.dynamic_slice(x, (n, n, 9, -9), (1, 2, 2, 3)), lax.dynamic_update_slice(x, -x[:1, :2], (n, n, 9, -9))],
        (X, np.int64(1)),
    ),
    "borders": (
        lambda x: [
            jnp.pad(x, ((0, 0), (1, 2), (0, 1), (3, 0)), constant_values=7),
            lax.pad(x, 0.0, [(0, 0, 0), (1, 0, 2), (0, 0, 1), (2, 2, 3)]),
        ],
        (X,),
    ),
    "scans": (lambda x: lax.scan(lambda c, y: (c + y, c * y), x[0], x, reverse=True), (X,)),
    "on another device": (lambda x: jax.device_put(x), (X,)),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_it_gives_what_jax_gives(case: str) -> None:
    function, inputs = FUNCTIONS[case]
    check(function, *inputs)


def test_every_primitive_is_tried() -> None:
    tried: set[str] = set()
    for function, inputs in FUNCTIONS.values():
        tried |= made(function, inputs)[2]
    assert {*PRIMITIVES, *EXACT} - tried <= {"dot_general", "conv_general_dilated", "expand_dims", "copy_p"}


def test_narrow_numbers_are_moved_and_computed_by_jax() -> None:
    x = X.astype("float32").astype(jnp.bfloat16)
    here, left = check(lambda x: [x.reshape(-1)[::-1], jnp.exp(x * 3), x.astype("float32")], x, wide=False)
    assert here == {"reshape", "rev"}
    assert left == {"exp", "mul", "convert_element_type"}


def test_float32_is_computed_here() -> None:
    here, left = check(lambda x: jax.nn.softmax(x @ x.swapaxes(-1, -2)) + lax.erf(x.mean()), X.astype("float32"), wide=False)
    assert not left
    assert {"dot_general", "exp", "erf"} <= here


LEFT: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "quotients of whole numbers": (lambda n: lax.div(n, jnp.full_like(n, 2)), (N,), "div"),
    "to whole numbers": (lambda x: (x * 1e30).astype("int32"), (X,), "convert_element_type"),
    "halves away from zero": (lambda x: lax.round(jnp.round(x * 2) / 2), (X,), "round"),
    "one of three": (lambda x, n: lax.select_n(jnp.abs(n).astype("int32") % 3, x, -x, 2 * x), (X, N), "select_n"),
    "a border cut off": (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (-1, 0, 0), (0, -1, 0), (1, 1, 0)]), (X,), "pad"),
    "images with holes": (
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1), [(1, 1), (1, 1)], lhs_dilation=(2, 2)),
        (X, Y[:, :, :2, :2]),
        "conv_general_dilated",
    ),
    "a gather": (lambda x: x[:, jnp.array([0, 2])], (X,), "gather"),
    "a window's maximum": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 1, 1), "VALID"),
        (X,),
        "reduce_window_max",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_other_things_are_left_to_jax(case: str) -> None:
    function, inputs, name = LEFT[case]
    assert name in check(function, *inputs)[1]


@st.composite
def products(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Any]:
    """Two arrays with axes in any order, and their dimension numbers."""
    sizes = {letter: draw(st.integers(1, 3)) for letter in "abcdefgh"}
    batch, inner, rows, columns = (
        draw(st.sampled_from(["", *options])) for options in (("a", "ab"), ("c", "cd"), ("e", "ef"), ("g", "gh"))
    )
    left, right = ("".join(draw(st.permutations(batch + inner + free))) for free in (rows, columns))
    a, b = (RNG.standard_normal([sizes[letter] for letter in letters]) for letters in (left, right))
    axes = tuple(tuple(tuple(map(letters.index, some)) for letters in (left, right)) for some in (inner, batch))
    return a, b, axes


@given(products())
def test_products(drawn: tuple[np.ndarray, np.ndarray, Any]) -> None:
    a, b, axes = drawn
    here, left = check(lambda a, b: lax.dot_general(a, b, axes, precision="highest"), a, b)
    assert (here, left) == ({"dot_general"}, set())


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One or two dimensions, axes in any order, groups, strides, borders and dilation."""
    dims, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    wide_in, wide_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, strides, apart = (tuple(draw(st.integers(1, most)) for _ in range(dims)) for most in (3, 3, 2))
    size = [(k - 1) * d + draw(st.integers(1, 5)) for k, d in zip(kernel, apart, strict=True)]
    ends = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(dims)]
    places = "HW"[:dims]
    x, w, out = ("".join(draw(st.permutations(letters + places))) for letters in ("NC", "OI", "NC"))
    shape = dict(zip("NC" + places, (2, wide_in, *size), strict=True))
    weight = dict(zip("OI" + places, (wide_out, wide_in // groups, *kernel), strict=True))
    images, weights = (RNG.standard_normal([sizes[letter] for letter in word]) for word, sizes in ((x, shape), (w, weight)))
    settings = {"window_strides": strides, "padding": ends, "rhs_dilation": apart, "feature_group_count": groups}
    return images, weights, {**settings, "dimension_numbers": (x, w, out)}


@given(convolutions())
def test_convolutions(drawn: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
    images, weights, settings = drawn

    def convolved(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, **settings, precision="highest")

    found, expected, here, left = made(convolved, (images, weights))
    assert relative_l2(found[0], np.asarray(expected[0])) < 1e-14
    assert "conv_general_dilated" in here
    assert not left - {"transpose"}


def test_what_is_given_stays_as_it_is() -> None:
    x, y = X.copy(), X.copy()
    check(lambda x: [lax.dynamic_update_slice(x, x[:1] * 2, (1, 0, 0, 0)), jnp.cumsum(x, 1), x.at[0].set(3)], x)
    np.testing.assert_array_equal(x, y)
    assert "float64" in HOST_DTYPES
