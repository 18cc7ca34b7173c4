"""Properties of interactive window self-attention. The numbers are those of the table in `docs/proof.md`."""

from __future__ import annotations

import numpy as np
from hypothesis import given

import scalablevit_ref as sv
from scalablevit_ref.testing.strategies import Case, iwsa_cases
from tests.conftest import Agree, Library


def run(xp: Library, case: Case, **changes: np.ndarray) -> np.ndarray:
    """`iwsa` on this library, with some parameters (dots as underscores) or `x` changed, as a NumPy array."""
    x = changes.pop("x", case.x)
    params = case.params | {name.replace("__", "."): value for name, value in changes.items()}
    return sv.to_numpy(sv.iwsa(xp(x), xp(params), **case.settings))


@given(case=iwsa_cases(pad=None))
def test_05_a_row_of_a_batch_is_that_image_alone(case: Case, xp: Library, agree: Agree) -> None:
    whole = run(xp, case)
    for i in range(case.shape[0]):
        agree(run(xp, case, x=case.x[i : i + 1]), whole[i : i + 1])
    order = np.random.default_rng(case.seed).permutation(case.shape[0])
    agree(run(xp, case, x=case.x[order]), whole[order])
