"""Inputs in any memory layout, left as they were; wrong ones refused by name. The numbers are those of `docs/proof.md`."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref.testing.strategies import Case, block_cases, configs, iwsa_cases, network_cases, ssa_cases
from tests.support.library import Agree, Library

NETWORKS = network_cases(configs(heads=("linear",), stages=(1,)))
CASES = st.one_of(iwsa_cases(pad=None), ssa_cases(), block_cases(), NETWORKS)


def call(case: Case, x: Any, params: Any) -> Any:
    """The function that the case was drawn for."""
    if case.config is not None:
        return sv.scalable_vit(x, params, case.config)
    if "kind" in case.settings:
        return sv.block(x, params, **case.settings)
    return (sv.iwsa if "window_size" in case.settings else sv.ssa)(x, params, **case.settings)


def strided(xp: Library, x: np.ndarray, dtype: str) -> Any:
    """Every second element of a wider array."""
    return xp(np.repeat(x, 2, axis=-1), dtype)[..., ::2]


def reversed_twice(xp: Library, x: np.ndarray, dtype: str) -> Any:
    """Negative strides; torch has none, there the flip is a copy."""
    backwards = xp(np.flip(x, -1), dtype)
    return backwards.flip(-1) if xp.name == "torch" else backwards[..., ::-1]


def fortran(xp: Library, x: np.ndarray, dtype: str) -> Any:
    """The first axis varies fastest."""
    turned = xp(x.T, dtype)
    axes = tuple(range(x.ndim))[::-1]
    if hasattr(turned, "__array_namespace__") and xp.name != "numpy":
        return turned.__array_namespace__().permute_dims(turned, axes)
    return turned.permute(axes) if xp.name == "torch" else turned.transpose(axes)


def broadcast(xp: Library, x: np.ndarray, dtype: str) -> Any:
    """Stride 0 where an axis holds one value over and over; elsewhere as it comes."""
    if xp.name == "array_api_strict" or not (x == x[:1]).all():
        return xp(x, dtype)
    first = xp(x[:1], dtype)
    if xp.name == "torch":
        return first.expand(x.shape)
    return import_module({"mlx": "mlx.core"}.get(xp.name, xp.name)).broadcast_to(first, x.shape)


LAYOUTS = st.sampled_from([strided, reversed_twice, fortran, broadcast])


@given(case=CASES, dtype=st.sampled_from(["float64", "float32"]), layout=LAYOUTS)
def test_31_any_memory_layout_gives_the_same_and_is_left_as_it_was(
    case: Case, dtype: str, layout: Any, xp: Library, agree: Agree
) -> None:
    """T, in either dtype: a layout changes at most the order of a sum. NumPy's arrays are read-only in every test of this suite."""
    if xp.name == "jax":  # whose arrays have no layout of their own
        layout = Library.__call__
    if layout is broadcast:
        case.x[:] = case.x[:1]
    x, params = layout(xp, case.x, dtype), {name: layout(xp, value, dtype) for name, value in case.params.items()}
    before = {"x": sv.to_numpy(x).tobytes()} | {name: sv.to_numpy(value).tobytes() for name, value in params.items()}
    given = dict(params)
    plain_x, plain = xp(case.x, dtype), xp(case.params, dtype)
    assert before == {"x": sv.to_numpy(plain_x).tobytes()} | {name: sv.to_numpy(value).tobytes() for name, value in plain.items()}
    expected, found = call(case, plain_x, plain), call(case, x, params)
    agree(found, expected, measure="l2", tolerance=64 * conditioned(case))
    assert list(params) == list(given)
    assert all(params[name] is value for name, value in given.items())
    after = {"x": sv.to_numpy(x).tobytes()} | {name: sv.to_numpy(value).tobytes() for name, value in params.items()}
    assert after == before


def conditioned(case: Case) -> float:
    """How many eps the result moves when every input number moves by one, in float64; at least 1."""
    noise, size = np.random.default_rng(case.seed), 2.0**-26

    def shaken(value: np.ndarray) -> np.ndarray:
        return value * (1 + size * noise.standard_normal(value.shape))

    exact = sv.to_numpy(call(case, case.x, case.params))
    moved = [call(case, shaken(case.x), {name: shaken(value) for name, value in case.params.items()}) - exact for _ in range(3)]
    return max(1.0, *(float(np.linalg.norm(step) / np.linalg.norm(exact) / size) for step in moved))


@st.composite
def wrong_shapes(draw: st.DrawFn) -> tuple[Case, str, tuple[int, ...]]:
    """A case, one of its parameters or `x`, and a shape that this may not have."""
    case = draw(CASES)
    name = draw(st.sampled_from(["x", *case.shapes]))
    shape = case.shape if name == "x" else case.shapes[name]
    axis = draw(st.integers(0, len(shape) - 1))
    changed = (*shape[:axis], shape[axis] + draw(st.sampled_from([-1, 1])), *shape[axis + 1 :])
    wrong = draw(st.sampled_from([(1, *shape), shape[1:], (*shape, 1), (0, *shape[1:]), changed, shape[::-1]]))
    if name == "x":  # other sizes of the map are calls of their own
        wrong = draw(st.sampled_from([(1, *shape), shape[1:], (0, *shape[1:]), (*shape, 1)]))
    return case, name, changed if wrong == shape else wrong


@pytest.mark.usefixtures("as_in_production")
@given(drawn=wrong_shapes())
def test_32_any_wrong_shape_is_a_value_error_that_names_it(drawn: tuple[Case, str, tuple[int, ...]], xp: Library) -> None:
    """Where a weight alone tells a width (fc1's rows are the hidden width), it is the names that then do not fit it."""
    case, name, wrong = drawn
    x = xp(np.zeros(wrong) if name == "x" else case.x)
    params = case.params | ({} if name == "x" else {name: np.zeros(wrong)})
    culprit = {"x": "images" if case.config else "x"}.get(name, name)
    if name == "mlp.fc1.weight" and case.config is None and wrong and wrong[1:] == case.shapes[name][1:]:
        culprit = "mlp.fc1.bias"
    with pytest.raises(ValueError, match=rf"(^|[ ;]){re.escape(culprit)} (must have shape|expected) \(") as caught:
        call(case, x, xp(params))
    assert "\n" not in str(caught.value)
