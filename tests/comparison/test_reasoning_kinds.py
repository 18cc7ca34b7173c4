"""Kinds of difference: each is planted, found with its words and numbers, and taken for no other kind."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalablevit_ref.compare.reasoning import affine
from scalablevit_ref.compare.reasoning.case import Case
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.kinds import LAST, STEPS, is_general, kinds_of_difference
from tests.support.differences import FLOAT32, FLOAT64, HEADS, KINDS, KNOWN, SHAPE, WINDOW, Plant, planted, random_values
from tests.support.profiles import share

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


@pytest.mark.parametrize(
    ("kind", "name"), share([(kind, name) for kind in KINDS if kind != "precision" for name in KINDS[kind]], of=4)
)
def test_it_is_found_in_float32(kind: str, name: str) -> None:
    plant = KINDS[kind][name]
    exact = [one for one in findings(plant, seed=1, eps=FLOAT32) if one.exact]
    assert exact
    assert said(plant, exact[0].words), [one.words for one in exact]


SAID_TWICE = {
    "another value reversed": {"taken_channels", "places_otherwise"},
    "missing": {"own_map", "sums"},
}
"""Differences that two detectors of one step explain, both truly."""


@pytest.mark.parametrize(("kind", "name"), share(PLANTS, of=3))
def test_only_one_detector_explains_it(kind: str, name: str) -> None:
    """Among those with as few free numbers as the right one, and fewer; a more general one is not asked any more."""
    if kind == "parts":
        pytest.skip("a part is explained for itself")
    actual, expected, known, parameters = planted(KINDS[kind][name])
    case = Case(actual, expected, known, HEADS, WINDOW, **parameters)  # type: ignore[arg-type]
    for step in (*STEPS, LAST[:1], LAST[1:]):
        with np.errstate(all="ignore"):
            explaining = {detector.__name__ for detector in step if any(one.exact for one in detector(case))}
        if explaining:
            assert len(explaining) == 1 or explaining == SAID_TWICE[name]
            return
    raise AssertionError("no detector explains it")


WRONG = {
    "random": lambda e, v, rng: rng.standard_normal(e.shape),
    "random and positive": lambda e, v, rng: abs(rng.standard_normal(e.shape)),
    "near": lambda e, v, rng: e + 1e-3 * rng.standard_normal(e.shape),
    "less near": lambda e, v, rng: e + 0.2 * rng.standard_normal(e.shape),
    "each number times another": lambda e, v, rng: e * (1 + 0.2 * rng.standard_normal(e.shape)),
    "two functions added": lambda e, v, rng: np.sin(v["x"]) + np.cos(v["q"]),
    "a sum of four": lambda e, v, rng: sum(t * v[name] for t, name in zip((0.3, 0.7, -1.1, 0.2), KNOWN, strict=False)),
    "almost a factor": lambda e, v, rng: 2 * e + 1e-4 * rng.standard_normal(e.shape),
    "almost a permutation": lambda e, v, rng: e[..., ::-1] + 1e-4 * rng.standard_normal(e.shape),
    "almost GELU": lambda e, v, rng: e / (1 + np.exp(-1.702 * e)) + 1e-4 * v["q"],
    "almost a missing residual": lambda e, v, rng: e - v["x"] + 1e-3 * v["q"] * v["v"],
}
SHAPES = ((2, 14, 14, 16), (1, 7, 7, 32), (1, 4, 4, 8), (2, 1, 1, 8), (2, 50, 12), (3, 10), (1, 10), (8, 4))


@pytest.mark.parametrize("wrong", WRONG)
@settings(max_examples=6, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**16),
    eps=st.sampled_from((FLOAT64, FLOAT32, 2.0**-10)),
    parameters=st.booleans(),
)
def test_nothing_explains_what_is_wrong_anyhow(wrong: str, shape: tuple[int, ...], seed: int, eps: float, parameters: bool) -> None:
    values = random_values(seed, shape)
    actual = WRONG[wrong](values["e"], values, np.random.default_rng(seed + 2**20))
    more = {name: values[name] for name in ("gain", "shift", "weight", "bias")} if parameters else {}
    near_rounding = eps == 2.0**-10 and "almost" in wrong  # what is not explained is less than this dtype's rounding
    known = {name: values[name] for name in KNOWN}
    found = kinds_of_difference(actual, values["e"], given=known, num_heads=2, window_size=7, eps=eps, **more)  # type: ignore[arg-type]
    assert near_rounding or not [one.words for one in found if one.exact]
    assert found or np.linalg.norm(actual - values["e"]) <= 4 * eps * np.linalg.norm(actual)


def only(found: list[Difference], kind: str) -> Difference:
    return next(one for one in found if one.kind == kind)


def marked(shape: tuple[int, ...], *where: object) -> np.ndarray:
    mark = np.zeros(shape)
    mark[where] = 1.0  # type: ignore[index]
    return mark


def ring(depth: int) -> np.ndarray:
    mark = np.ones(SHAPE)
    mark[:, depth:-depth, depth:-depth] = 0
    return mark


EVERY = slice(None)
FACTS = {
    "border": (ring(2), "border", "on all sides, 2 deep"),
    "top": (marked(SHAPE, EVERY, 0), "border", "at the top, 1 deep"),
    "bottom and right": (
        np.maximum(marked(SHAPE, EVERY, -1), marked(SHAPE, EVERY, EVERY, -1)),
        "border",
        "at the bottom and right, 1 deep",
    ),
    "windows": (marked(SHAPE, EVERY, slice(7, 14), slice(7, 14)), "some windows", "only 1 of 6 windows differ: (1, 1)"),
    "heads": (marked(SHAPE, ..., slice(8, 16)), "some heads", "only heads 1 of 3 differ"),
    "channels": (marked(SHAPE, ..., slice(12, 24)), "some channels", "only channels 12–23 of 24 differ, the second half"),
    "images": (marked(SHAPE, 1), "some images", "only the last image (1 of 2) differs"),
    "a token": (marked(SHAPE, 0, 5, 9), "some images", "only the first image (0 of 2) differs"),
}


@pytest.mark.parametrize("name", FACTS)
def test_where_it_differs_is_a_fact(name: str) -> None:
    where, kind, words = FACTS[name]
    rng = np.random.default_rng(0)
    e = rng.standard_normal(SHAPE)
    found = kinds_of_difference(e + where * rng.standard_normal(SHAPE), e, num_heads=HEADS, window_size=WINDOW)
    assert not any(one.exact for one in found)
    assert words in only(found, kind).words, [one.words for one in found]


def test_borders_of_windows() -> None:
    rng = np.random.default_rng(0)
    e = rng.standard_normal(SHAPE)
    rows, columns = (np.isin(np.arange(size) % WINDOW, (0, WINDOW - 1)) for size in SHAPE[1:3])
    where = (rows[:, None] | columns)[None, :, :, None]
    found = kinds_of_difference(e + where * rng.standard_normal(SHAPE), e, window_size=WINDOW)
    assert "at the borders of windows differ, 1 deep" in only(found, "border").words


@pytest.mark.parametrize(("size", "words"), [(2.0**-24, "float32's"), (2.0**-11, "float16 or TF32"), (2.0**-8, "bfloat16's")])
def test_what_has_no_pattern_is_told_by_its_size(size: float, words: str) -> None:
    rng = np.random.default_rng(0)
    e = rng.standard_normal(SHAPE)
    found = kinds_of_difference(e + size * rng.standard_normal(SHAPE), e)
    assert not any(one.exact for one in found)
    assert words in only(found, "precision").words
    patterns = {
        "of channels": e * (1 + size * rng.standard_normal(SHAPE[-1])) + size * e**2,
        "of tokens": e * (1 + size * rng.standard_normal((*SHAPE[:3], 1))) + size * e**2,
        "of the value": e + size * np.cos(3 * e) + 1e-3 * size * rng.standard_normal(SHAPE),
        "of few": e + 30 * size * (rng.random(SHAPE) < 1e-3),
    }
    for pattern, actual in patterns.items():
        assert not any(one.kind == "precision" for one in kinds_of_difference(actual, e)), pattern


def test_a_function_without_a_name_is_drawn() -> None:
    e = np.random.default_rng(0).standard_normal(SHAPE)
    found = kinds_of_difference(np.sin(3 * e) + e**3, e)
    drawn = only(found, "elementwise")
    assert "without a name" in drawn.words
    assert not drawn.exact
    x, y = np.array(drawn.data["x"]), np.array(drawn.data["y"])
    assert 100 < len(x) <= 200
    assert np.all(np.diff(x) >= 0)
    np.testing.assert_allclose(y, np.sin(3 * x) + x**3)


def test_images() -> None:
    mean, std = affine.IMAGENET_MEAN, affine.IMAGENET_STD
    pixels = np.random.default_rng(0).random((1, 32, 32, 3))
    expected = (pixels - mean) / std
    for actual, words in {
        "twice": ((expected - mean) / std, "the image is normalised twice"),
        "not": (pixels, "the image is not normalised (0 to 1)"),
        "bytes": (255 * pixels, "the image is not normalised (0 to 255)"),
        "large": ((255 * pixels - mean) / std, "the image is from 0 to 255, normalised by constants for 0 to 1"),
        "half": (2 * pixels - 1, "the image is normalised by 0.5 and 0.5"),
        "BGR": (expected[..., ::-1], "the 3 channels are reversed (BGR for RGB)"),
        "BGR before": ((pixels[..., ::-1] - mean) / std, "the image is BGR for RGB, normalised by constants in the order of RGB"),
        "BGR twice": ((expected[..., ::-1] - mean) / std, "the image is BGR"),
    }.values():
        found = kinds_of_difference(actual, expected)
        assert found[0].exact
        if words != "the image is BGR":
            assert words in found[0].words, [one.words for one in found]


def test_tokens_and_vectors() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((2, 50, 24))
    found = kinds_of_difference(np.roll(tokens, 1, 1), tokens, num_heads=HEADS)
    assert found[0].words == "the same numbers in other places: rolled by 1 along the tokens"
    merged = tokens.reshape(2, 50, 3, 8).transpose(0, 2, 1, 3).reshape(2, 50, 24)
    assert "heads are merged without the transposition" in kinds_of_difference(merged, tokens, num_heads=HEADS)[0].words
    found = kinds_of_difference(tokens + marked(tokens.shape, EVERY, 0) * rng.standard_normal(tokens.shape), tokens)
    assert "only the first token (0 of 50) differs" in [one.words for one in found]
    logits, bias = rng.standard_normal((1, 100)), rng.standard_normal(100)
    assert kinds_of_difference(logits - bias, logits, bias=bias)[0].words == "the bias is missing"
    probabilities = np.exp(logits) / np.exp(logits).sum()
    words = "probabilities, not logits: softmax over the channels of the reference's value"
    assert kinds_of_difference(probabilities, logits)[0].words == words


def test_nothing_is_said_of_what_is_equal_and_what_is_not_a_number_is_said() -> None:
    e = np.random.default_rng(0).standard_normal(SHAPE)
    assert kinds_of_difference(e, e) == []
    assert kinds_of_difference(e * (1 + 1e-8), e, eps=FLOAT32) == []
    actual = e.copy()
    actual[..., 3] = np.nan
    (found,) = kinds_of_difference(actual, e)
    assert (found.kind, found.exact) == ("not finite", False)
    assert found.words == "588 of 14112 numbers are NaN, in channels 3"
    assert kinds_of_difference(np.zeros(SHAPE), e)[0].words == "every number is 0"
    assert kinds_of_difference(e, np.zeros(SHAPE))
    with pytest.raises(ValueError, match="must have one shape"):
        kinds_of_difference(e, e[:1])


def test_an_explanation_explains_more_than_the_reference_itself() -> None:
    """A difference below the tolerance of an explanation is not explained by whatever leaves it as it is."""
    rng = np.random.default_rng(0)
    e = rng.standard_normal(SHAPE)
    found = kinds_of_difference(e + 3e-6 * rng.standard_normal(SHAPE), e, eps=FLOAT32)
    assert found
    assert not [one.words for one in found if one.exact]


def test_a_noisy_function_is_none_and_a_large_multiple_of_the_bias_is_not_said() -> None:
    rng = np.random.default_rng(0)
    e, bias = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE[-1])
    found = kinds_of_difference(np.sin(3 * e) + 0.3 * rng.standard_normal(SHAPE), e)
    assert not any(one.kind == "elementwise" for one in found)
    assert kinds_of_difference(e + 7 * bias, e, bias=bias)[0].words.startswith("the same vector is added at every token")


def test_vectors_of_other_steps_are_known() -> None:
    rng = np.random.default_rng(0)
    e, one, other = rng.standard_normal(SHAPE), *rng.standard_normal((2, SHAPE[-1]))
    vectors = {"fc2's bias": one, "norm1's shift": other}
    for actual, words in {
        "more": (e + one, "fc2's bias is added once more than in the reference"),
        "less": (e - other, "norm1's shift is missing, or is subtracted"),
    }.values():
        found = kinds_of_difference(actual, e, vectors=vectors)
        assert [d.words for d in found if d.exact] == [words]
    found = kinds_of_difference(e + one + 0.3 * other, e, vectors=vectors)
    assert found[0].words.startswith("the same vector is added at every token")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: x.reshape(2, 7, 4, 7, 4, 8).mean((2, 4)), "the average pooling (4 × 4) of the wide one is added"),
        (lambda x: x.reshape(2, 7, 4, 7, 4, 8).max((2, 4)), "the maximum pooling (4 × 4) of the wide one is added"),
        (lambda x: x[:, ::4, ::4], "every 4th row and 4th column of the wide one is added"),
    ],
)
def test_a_map_of_another_size_is_brought_to_the_size_at_hand(made: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    rng = np.random.default_rng(0)
    wide, e = rng.standard_normal((2, 28, 28, 8)), rng.standard_normal((2, 7, 7, 8))
    found = kinds_of_difference(e + made(wide), e, given={"the wide one": wide})
    assert found[0].exact
    assert found[0].words.startswith(words)
    found = kinds_of_difference(wide + np.repeat(np.repeat(e, 4, 1), 4, 2), wide, given={"the narrow one": e})
    assert found[0].words.startswith("the narrow one, each token repeated to the larger map, is added")


def test_sums_are_said_in_the_fewest_terms() -> None:
    values = random_values(0)
    given = {name: values[name] for name in KNOWN}
    e = values["x"] + values["the attention"]
    found = kinds_of_difference(values["q"] - values["v"], e, given=given)
    assert found[0].words == "it is q minus v"
    assert kinds_of_difference(values["q"], e, given=given)[0].words == "it is q"
    assert kinds_of_difference(values["the attention"], e, given=given)[0].words == "x is missing"


def test_what_is_general_tells_no_cause() -> None:
    rng = np.random.default_rng(0)
    e = rng.standard_normal(SHAPE)
    for actual in (e * rng.uniform(0.5, 2, (*SHAPE[:3], 1)), e + rng.standard_normal(SHAPE[1:]), e[:, rng.permutation(SHAPE[1])]):
        assert [is_general(d) for d in kinds_of_difference(actual, e, num_heads=HEADS) if d.exact] == [True]
    for actual in (2 * e, np.roll(e, 1, 1), e[[0, 0]]):
        assert [is_general(d) for d in kinds_of_difference(actual, e, num_heads=HEADS) if d.exact] == [False]


def test_few_numbers_are_no_function() -> None:
    """A value that is the same at every token is no function of another one that is."""
    rng = np.random.default_rng(0)
    few, e = rng.standard_normal((2, 2, 2, 8)), rng.standard_normal((2, 14, 14, 8))
    actual = np.broadcast_to(rng.standard_normal((2, 1, 1, 8)), e.shape)
    found = kinds_of_difference(actual, e, given={"the narrow one": few})
    assert not [one.words for one in found if one.exact]
