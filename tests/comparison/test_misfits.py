"""Values of another shape than the reference's: what is missing is said, and exact where all else is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from scalablevit_ref.compare.followed import Misfit
from scalablevit_ref.compare.misfits import misfit

B, H, W, C = 3, 7, 6, 8
EXPECTED = np.random.default_rng(0).standard_normal((B, H, W, C))
TOKENS = EXPECTED.reshape(B, H * W, C)
EPS = 2.0**-52

MISFITS: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "last row": (lambda: EXPECTED[:, :-1].transpose(0, 3, 1, 2), "the last row is missing"),
    "first columns": (lambda: EXPECTED[:, :, 2:], "the first 2 columns are missing"),
    "row of tokens": (lambda: TOKENS[:, :-W], "the last row is missing"),
    "one image": (lambda: EXPECTED[:1], "the last 2 images are missing"),
    "row and column": (lambda: EXPECTED[:, 1:, :-1], "the first row is missing, the last column is missing"),
    "class token": (lambda: np.concatenate([TOKENS[:, :1] * 2, TOKENS], 1), "one token more, before the others (a class token?)"),
    "padded": (lambda: np.pad(EXPECTED, ((0, 0), (0, 1), (0, 0), (0, 0))), "it is padded by 1 row at the bottom"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_is_missing_is_said(name: str) -> None:
    made, words = MISFITS[name]
    found = misfit("LIM", Misfit(made(), EXPECTED), EPS)
    assert found.exact
    assert words in found.words
    assert found.words.startswith(f"at LIM there is an array of shape {made().shape}")
    assert found.left <= 1e-13


@pytest.mark.parametrize("name", MISFITS)
def test_it_is_only_a_fact_where_the_rest_is_wrong_too(name: str) -> None:
    wrong = MISFITS[name][0]() + 1e-6
    found = misfit("LIM", Misfit(wrong, EXPECTED), EPS)
    assert not found.exact
    assert MISFITS[name][1] not in found.words


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((B, 2 * H, 2 * W, C), ": the map is resized by a factor 2"),
        ((B, H - 1, W, C), ": 1 row fewer"),
        ((1, H, W, C), ": 2 images fewer"),
        ((B, 5, C), "the reference's is b h w c = (3, 7, 6, 8)"),
        ((B, C + 1, 5), "the reference's is b h w c = (3, 7, 6, 8)"),
    ],
)
def test_sizes_are_said(shape: tuple[int, ...], words: str) -> None:
    found = misfit("LIM", Misfit(np.random.default_rng(1).standard_normal(shape), EXPECTED), EPS)
    assert not found.exact
    assert found.words.endswith(words)
