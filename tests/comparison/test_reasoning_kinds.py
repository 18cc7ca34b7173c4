"""Kinds of difference: each is planted, found with its words and numbers, and taken for no other kind."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.kinds import kinds_of_difference
from tests.support.differences import FLOAT64, HEADS, KINDS, WINDOW, Plant, planted

PLANTS = [pytest.param(kind, name, id=f"{kind}: {name}") for kind, plants in KINDS.items() for name in plants]


def findings(plant: Plant, *, seed: int = 0, eps: float = FLOAT64) -> list[Difference]:
    actual, expected, given, parameters = planted(plant, seed)
    if eps > FLOAT64:
        actual = actual.astype(np.float32).astype(float)
    copies = [t.copy() for t in (actual, expected)]
    found = kinds_of_difference(actual, expected, given=given, num_heads=HEADS, window_size=WINDOW, eps=eps, **parameters)  # type: ignore[arg-type]
    np.testing.assert_array_equal(actual, copies[0])
    np.testing.assert_array_equal(expected, copies[1])
    return found


def said(plant: Plant, words: str) -> bool:
    return any(part in words for part in plant.words.split("|"))


@pytest.mark.parametrize(("kind", "name"), PLANTS)
def test_a_planted_difference_is_the_first_that_is_said(kind: str, name: str) -> None:
    plant = KINDS[kind][name]
    found = findings(plant)
    exact = [one for one in found if one.exact]
    assert exact, [one.words for one in found]
    assert said(plant, exact[0].words), [one.words for one in exact]
    assert exact[0].kind == plant.kind
    for key, value in plant.data.items():
        assert exact[0].data[key] == (pytest.approx(value) if isinstance(value, float) else value)
    assert len(found) <= 6
    json.dumps([dict(one.data) for one in found], allow_nan=False)
