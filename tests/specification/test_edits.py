"""Edits of the specification: what they reach, what they leave alone, and what is said of one that no longer applies."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref import attention, blocks, edits, network, ops
from scalablevit_ref.edits import Edit, Mistake, StaleEditError, Swap, changed, has_source, reach
from scalablevit_ref.parameters import mlp_shapes
from scalablevit_ref.testing import random_images, random_params, relative_l2

X = random_images((1, 4, 4, 8))
PARAMS = random_params(mlp_shapes(8, 16))
DOUBLED = Edit(ops.linear, "y = x @", "y = 2 * x @")
NO_BIAS = Edit(ops.linear, "else y + bias", "else y")


@dataclass(frozen=True)
class Ways:
    """A network's wiring."""

    first: Literal["right", "wrong"] = "right"
    second: Literal["right", "wrong"] = "right"


def test_an_edit_reaches_the_functions_that_call_its_function() -> None:
    weight, bias = (PARAMS[f"fc1.{leaf}"] for leaf in ("weight", "bias"))
    linear = changed(ops.linear, (DOUBLED,))
    np.testing.assert_allclose(linear(X, weight, bias), 2 * X @ weight.T + bias, rtol=1e-13)
    expected = linear(ops.gelu(linear(X, weight, bias)), PARAMS["fc2.weight"], PARAMS["fc2.bias"])
    assert relative_l2(changed(blocks.mlp, (DOUBLED,))(X, PARAMS), expected) < 1e-14
    assert relative_l2(blocks.mlp(X, PARAMS), expected) > 1e-3


def test_what_an_edit_does_not_reach_stays_the_same_object() -> None:
    assert changed(ops.gelu, (DOUBLED,)) is ops.gelu
    assert changed(blocks.peg, (DOUBLED,)) is blocks.peg
    assert changed(blocks.mlp, ()) is blocks.mlp


def test_the_modules_stay_as_they_are() -> None:
    before = {module: dict(vars(module)) for module in (ops, attention, blocks, network)}
    changed(network.scalable_vit, (DOUBLED, Swap(ops.gelu, lambda gelu: np.tanh, "form")))
    assert all(vars(module)[name] is value for module, names in before.items() for name, value in names.items())


def test_a_default_that_an_edit_reaches_is_changed_too() -> None:
    """`attend=attention` of `ssa` and `iwsa`."""
    unscaled = Edit(ops.attention, "* scale", "")
    for function in (sv.ssa, sv.iwsa):
        copied = inspect.signature(changed(function, (unscaled,))).parameters["attend"].default
        assert copied is changed(ops.attention, (unscaled,))
        assert copied is not ops.attention


def test_several_changes_of_one_function() -> None:
    weight = PARAMS["fc1.weight"]
    negated = Swap(ops.linear, lambda linear: lambda *args: -linear(*args), "sign")
    both = changed(ops.linear, (negated, NO_BIAS, DOUBLED))
    np.testing.assert_allclose(both(X, weight, np.ones(16)), -2 * X @ weight.T, rtol=1e-13)


def test_a_changed_op_runs_its_definition_on_every_library(backend: str) -> None:
    weight, x = (sv.to_backend(value, backend) for value in (PARAMS["fc1.weight"], X))
    np.testing.assert_allclose(sv.to_numpy(changed(ops.linear, (DOUBLED,))(x, weight)), 2 * X @ PARAMS["fc1.weight"].T, rtol=1e-13)


def test_reach_holds_what_is_called_and_no_backend() -> None:
    assert {sv.ssa, ops.attention, ops.softmax, ops.gelu, ops.erf} <= reach(sv.ssa)
    assert not {sv.iwsa, blocks.peg} & reach(sv.ssa)
    assert {sv.ssa, sv.iwsa, blocks.peg} <= reach(network.scalable_vit)
    assert not any(".backends" in inspect.unwrap(function).__module__ for function in reach(network.scalable_vit))


@pytest.mark.parametrize(("old", "times"), [("no such text", 1), ("window_size", 1), ("(heads d)", 1)])
def test_an_edit_of_what_is_no_longer_there_is_noticed(old: str, times: int) -> None:
    edit = Edit(sv.iwsa, old, "", times)
    with pytest.raises(StaleEditError, match=r"scalablevit_ref\.attention\.iwsa has \d+ × ") as error:
        changed(sv.iwsa, (edit,))
    assert repr(old) in str(error.value)


def test_two_mistakes_at_once_or_not() -> None:
    def of(*changes: Any, **settings: Any) -> Mistake:
        return Mistake("a", "b", changes, **settings)

    doubled, no_bias = of(DOUBLED), of(NO_BIAS)
    both = doubled & no_bias
    assert (both.name, both.words, both.changes) == ("a, a", "b, and b", (DOUBLED, NO_BIAS))
    halves = [of(Swap(ops.linear, lambda linear: linear, part)) for part in ("factors", "factors", "sign")]
    params = [of(params=((name, np.zeros_like),)) for name in ("x", "x", "y")]
    wired = [of(wiring=wiring) for wiring in (Ways(first="wrong"), Ways(first="wrong", second="wrong"), Ways(second="wrong"))]
    overlapping = of(Edit(ops.linear, "x @ rearrange", "x"))
    for excluded in ((doubled, overlapping), *((some[0], some[1]) for some in (halves, params, wired))):
        assert excluded[0].excludes(excluded[1])
        with pytest.raises(ValueError, match="'b' and 'b' exclude each other"):
            excluded[0] & excluded[1]
    for together in ((doubled, halves[0]), *((some[0], some[2]) for some in (halves, params, wired)), (halves[0], wired[0])):
        assert not together[0].excludes(together[1])
    assert (wired[0] & wired[2]).wiring == Ways(first="wrong", second="wrong")
    assert (doubled & wired[0]).wiring == (wired[0] & doubled).wiring == Ways(first="wrong")


def test_without_the_source_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(function: Any) -> str:
        raise OSError("could not get source code")

    assert has_source(sv.iwsa)
    monkeypatch.setattr(edits, "_source", missing)
    assert not has_source(sv.iwsa)
