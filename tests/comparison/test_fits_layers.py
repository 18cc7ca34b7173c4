"""Settings of a convolution, a Linear and a pooling are found in their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from scalablevit_ref import ops
from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fits import fits

Array = np.ndarray
EPS = 2.0**-52


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def exact(differences: list[Difference]) -> list[str]:
    assert all(d.left <= 1e-9 for d in differences if d.exact)
    return [d.words for d in differences if d.exact]


C = 6
X, WEIGHT, BIAS = drawn(2, 14, 13, C), drawn(C, 1, 3, 3), drawn(C)


def depthwise(x: Array = X, weight: Array = WEIGHT, bias: Array | None = BIAS, padding: int = 1) -> Array:
    return np.asarray(ops.conv2d(x, weight, bias, padding=padding, groups=C))


def around(mode: Any) -> Array:
    return np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)


FLIPPED, TURNED = WEIGHT[:, :, ::-1, ::-1], WEIGHT.swapaxes(2, 3)
WIDE = np.zeros((C, 1, 5, 5))
WIDE[:, :, ::2, ::2] = WEIGHT
SHIFTED = np.pad(X, ((0, 0), (0, 2), (2, 0), (0, 0)))
CONVOLUTIONS: Mapping[str, tuple[Array, tuple[str, ...]]] = {
    "flipped": (depthwise(weight=FLIPPED), ("kernels are flipped (convolution",)),
    "transposed": (depthwise(weight=TURNED), ("kernels have H and W swapped",)),
    "no bias": (depthwise(bias=None), ("the bias is left out",)),
    "bias twice": (depthwise(bias=2 * BIAS), ("the bias is added twice",)),
    "half": (0.5 * depthwise(bias=None) + BIAS, ("the kernel is multiplied by 0.5",)),
    "replicated": (depthwise(around("edge"), padding=0), ("the border is replicated",)),
    "reflected": (depthwise(around("reflect"), padding=0), ("the border is reflected",)),
    "mirrored": (depthwise(around("symmetric"), padding=0), ("the border is mirrored",)),
    "circular": (depthwise(around("wrap"), padding=0), ("the border is circular",)),
    "shifted": (depthwise(SHIFTED, padding=0), ("padding is 0 at the top and 2 at the left",)),
    "dilated": (depthwise(weight=WIDE, padding=2), ("kernels are dilated by 2",)),
    "residual": (depthwise() + X, ("the input is added too",)),
    "largest": (
        np.stack(
            [
                np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-9e9)[:, i : i + 14, j : j + 13]
                for i in range(3)
                for j in range(3)
            ]
        ).max(0),
        ("a pooling stands in",),
    ),
    "relaid": (
        depthwise(weight=rearrange(WEIGHT.reshape(3, 3, 1, C), "kh kw i o -> o i kh kw")),
        ("reshaped from another layout",),
    ),
    "other channels": (
        depthwise(weight=np.roll(WEIGHT, 2, 0)),
        ("kernels are those of other channels: channel 0 takes that of 4",),
    ),
    "flipped and no bias": (depthwise(weight=FLIPPED, bias=None), ("kernels are flipped", "the bias is left out")),
    "flipped and replicated": (depthwise(around("edge"), FLIPPED, padding=0), ("kernels are flipped", "the border is replicated")),
    "transposed and circular": (depthwise(around("wrap"), TURNED, padding=0), ("H and W swapped", "the border is circular")),
    "residual and reflected": (depthwise(around("reflect"), padding=0) + X, ("the input is added", "the border is reflected")),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str) -> None:
    actual, words = CONVOLUTIONS[name]
    given = {"x": X, "weight": WEIGHT, "bias": BIAS}
    said = exact(fits("convolution", actual, given, {"stride": 1, "padding": 1, "groups": C}, eps=EPS))
    assert any(all(word in one for word in words) for one in said), said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, w: (x, w, (1, 1)), ""),
        (lambda x, w: (x, w, (0, 1)), "padding is 0 at the top and 0 at the left, not 1 and 1"),
        (lambda x, w: (x[..., ::-1], w, (1, 1)), "the input's channels are in reversed order"),
        (lambda x, w: (x, w[:, :, ::-1, ::-1], (0, 1)), "kernels are flipped"),
    ],
)
def test_a_dense_strided_convolution(change: Any, words: str) -> None:
    x, weight, bias = drawn(2, 12, 12, 3), drawn(5, 3, 3, 3), drawn(5)
    other, kernel, (before, after) = change(x, weight)
    padded = np.pad(other, ((0, 0), (before, after), (before, after), (0, 0)))
    actual = ops.conv2d(padded, kernel, bias, stride=2)
    said = exact(
        fits("convolution", actual, {"x": x, "weight": weight, "bias": bias}, {"stride": 2, "padding": 1, "groups": 1}, eps=EPS)
    )
    assert (said == []) == (words == "")
    assert any(words in one for one in said) or not words


STEM = drawn(2, 12, 12, 3), drawn(5, 3, 3, 3), drawn(5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:, ::-1], "the convolution is applied to its input, flipped along H"),
        (lambda x: x.swapaxes(1, 2), "the convolution is applied to its input with H and W swapped"),
        (lambda x: np.roll(x, (-1, -1), (1, 2)), "the convolution is applied to its input, rolled by -1 along H and W"),
        (lambda x: 2 * x - 1, "its input is multiplied by 2 and shifted by -1 first, as by another normalisation"),
        (lambda x: x + 0.5, "its input is shifted by 0.5 first, as by another normalisation"),
        (
            lambda x: x * np.array([1, 2, 3]) - np.array([0, 1, 2]),
            "each channel of its input is scaled (1 to 3) and shifted (-2 to 0)",
        ),
    ],
)
def test_a_convolution_of_another_input(change: Any, words: str) -> None:
    x, weight, bias = STEM
    actual = ops.conv2d(change(x), weight, bias, stride=2, padding=1)
    given = {"x": x, "weight": weight, "bias": bias}
    (said,) = exact(fits("convolution", actual, given, {"stride": 2, "padding": 1, "groups": 1}, eps=EPS))
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: np.roll(w, 1, 0), "the same numbers in other places: rolled by 1 along the batch"),
        (lambda w: w.transpose(2, 3, 0, 1).reshape(w.shape), "kernels are laid out as (kh kw o i) and read as (o i kh kw)"),
        (lambda w: w.reshape(3, 3, 5, 3).transpose(2, 3, 1, 0), "kernels are reshaped from another layout, (kw kh o i)"),
        (lambda w: w.reshape(3, 5, 3, 3).transpose(1, 0, 2, 3), "kernels are reshaped from another layout, (i o kh kw)"),
        (lambda w: drawn(*w.shape, seed=9), "a convolution of the same input with other kernels"),
    ],
)
def test_dense_kernels_are_solved(change: Any, words: str) -> None:
    x, weight, bias = drawn(2, 24, 24, 3), drawn(5, 3, 3, 3), drawn(5)
    actual = ops.conv2d(x, change(weight), bias, stride=2, padding=1)
    given = {"x": x, "weight": weight, "bias": bias}
    (said,) = exact(fits("convolution", actual, given, {"stride": 2, "padding": 1, "groups": 1}, eps=EPS))
    assert words in said
    noise = drawn(*actual.shape, seed=3)
    assert not exact(fits("convolution", noise, given, {"stride": 2, "padding": 1, "groups": 1}, eps=EPS))


def test_another_map_is_convolved() -> None:
    other = drawn(*X.shape, seed=5)
    given = {"x": X, "q": other, "weight": WEIGHT, "bias": BIAS}
    said = exact(fits("convolution", depthwise(other), given, {"stride": 1, "padding": 1, "groups": C}, eps=EPS))
    assert said == ["the convolution is applied to q"]


def test_facts_about_a_convolution_that_nothing_explains() -> None:
    given, setting = {"x": X, "weight": WEIGHT, "bias": BIAS}, {"stride": 1, "padding": 1, "groups": C}
    (other,) = fits("convolution", depthwise(weight=drawn(C, 1, 3, 3, seed=9)), given, setting, eps=EPS)
    assert not other.exact
    assert "a convolution with other kernels, which reach over 3 × 3 tokens" in other.words
    ones = depthwise(np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.37), padding=0)
    (border,) = fits("convolution", ones, given, setting, eps=EPS)
    assert (border.kind, border.exact) == ("border", False)
    assert fits("convolution", drawn(*X.shape, seed=8), given, setting, eps=EPS) == []
    assert fits("convolution", depthwise(), given, setting, eps=EPS) == []


TOKENS = drawn(2, 8, 8, 12)
W, B, SQUARE, OWN = drawn(36, 12) / 3, drawn(36), drawn(12, 12) / 3, drawn(12, seed=4)


def linear(x: Array = TOKENS, weight: Array = W, bias: Array | float = B) -> Array:
    return np.asarray(x @ weight.T + bias)


def thirds(order: str) -> Array:
    return np.concatenate([linear()[..., 12 * "qkv".index(name) :][..., :12] for name in order], -1)


LINEARS: Mapping[str, tuple[Array, str]] = {
    "no bias": (linear(bias=0.0), "the bias is left out"),
    "bias twice": (linear(bias=2 * B), "the bias is added twice"),
    "another bias": (linear(bias=drawn(36, seed=7)), "the bias is another one"),
    "scaled": (linear(weight=0.3 * W), "the weight is multiplied by 0.3"),
    "thirds": (thirds("vqk"), "q, k, v are v, q, k"),
    "heads": (
        rearrange(linear(), "b h w (three heads d) -> b h w (heads three d)", three=3, heads=2),
        "(heads three d) for (three heads d)",
    ),
    "interleaved": (rearrange(linear(), "b h w (heads d) -> b h w (d heads)", heads=2), "another order: (d heads) for (heads d)"),
    "reversed input": (linear(TOKENS[..., ::-1]), "channels are in reversed order"),
    "low rank": (linear(weight=W + drawn(36, 2) @ drawn(2, 12)), "a matrix of rank 2 is added to the weight"),
    "scaled thirds": (linear() * np.repeat([0.25, 1, 1], 12), "each output channel has a factor: 0.25 for 0–11, 1 for 12–35"),
    "gain": (linear(TOKENS * drawn(12, seed=3)), "each input channel has a factor"),
    "zero rows": (linear() * (np.arange(36) >= 5), "output channels 0–4 have no weight"),
    "zero columns": (linear(TOKENS * (np.arange(12) != 3)), "input channels 3 have no weight"),
    "GELU after": (np.asarray(ops.gelu(linear())), "GELU comes after it"),
    "GELU before": (linear(np.asarray(ops.gelu(TOKENS))), "GELU comes before it"),
    "spectral": (linear(weight=W / np.linalg.norm(W, 2)), "(spectral norm)"),
    "reshaped": (linear(weight=W.reshape(12, 36).T), "the weight is reshaped where it should be transposed"),
}


@pytest.mark.parametrize("name", LINEARS)
def test_linear(name: str) -> None:
    actual, words = LINEARS[name]
    said = exact(fits("linear", actual, {"x": TOKENS, "weight": W, "bias": B}, {"num_heads": 2}, eps=EPS))
    assert any(words in one for one in said), said


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (linear(weight=SQUARE.T, bias=OWN), "the weight is transposed"),
        (linear(linear(weight=SQUARE, bias=OWN), SQUARE, OWN), "the Linear is applied twice"),
        (linear(weight=SQUARE, bias=OWN) + TOKENS, "the input is added too (a residual)"),
        (
            linear(weight=SQUARE.T, bias=0.0) + TOKENS,
            "the weight is transposed, the bias is left out and the input is added too (a residual)",
        ),
    ],
)
def test_a_square_linear(actual: Array, words: str) -> None:
    assert exact(fits("linear", actual, {"x": TOKENS, "weight": SQUARE, "bias": OWN}, {}, eps=EPS)) == [words]


def test_facts_about_a_linear_that_nothing_explains() -> None:
    given = {"x": TOKENS, "weight": W, "bias": B}
    assert fits("linear", linear(), given, {}, eps=EPS) == []
    (other,) = fits("linear", linear(weight=np.concatenate([drawn(30, 12, seed=6), W[30:]])), given, {}, eps=EPS)
    assert not other.exact
    assert "it differs from the weight in 30 of 36 rows, by a matrix of rank 12" in other.words
    (noise,) = fits("linear", drawn(2, 8, 8, 36, seed=2), given, {}, eps=EPS)
    assert not noise.exact
    assert "not linear" in noise.words


MAP = drawn(2, 7, 5, 64) + 0.5
POOLS: Mapping[str, tuple[Array, str]] = {
    "max": (MAP.max((1, 2)), "tokens are pooled by their maximum"),
    "sum": (MAP.sum((1, 2)), "tokens are summed instead of averaged"),
    "median": (np.median(MAP, (1, 2)), "tokens are pooled by their median"),
    "first": (MAP[:, 0, 0], "only one token is taken, the first one"),
    "last": (MAP[:, -1, -1], "only one token is taken, the last one"),
    "rows": (MAP[:, :4].mean((1, 2)), "only rows 0–3 and columns 0–4 are averaged"),
    "no first": (MAP.reshape(2, 35, 64)[:, 1:].mean(1), "all tokens but the first are averaged"),
    "column": (MAP[:, :, 2].mean(1), "only rows 0–6 and column 2 are averaged"),
    "weighted": (np.einsum("bhwc,hw->bc", MAP, drawn(7, 5)), "tokens are averaged with weights from"),
}


@pytest.mark.parametrize("name", POOLS)
def test_pool(name: str) -> None:
    actual, words = POOLS[name]
    said = exact(fits("pool", actual, {"x": MAP}, {}, eps=EPS))
    assert any(words in one for one in said), said


@settings(max_examples=20, deadline=None)
@given(p=st.floats(1.5, 6.0), seed=st.integers(0, 1000))
def test_the_power_of_a_generalised_mean_is_solved(p: float, seed: int) -> None:
    x = drawn(2, 4, 4, 8, seed=seed)
    actual = (np.maximum(x, 1e-6) ** p).mean((1, 2)) ** (1 / p)
    (difference,) = fits("pool", actual, {"x": x}, {}, eps=EPS)
    assert difference.exact
    assert difference.data["p"] == pytest.approx(p, rel=1e-4)


def test_few_channels_many_tokens() -> None:
    x = drawn(1, 6, 7, 4)
    (difference,) = fits("pool", x[:, 1:4, 2:6].sum((1, 2)), {"x": x}, {}, eps=EPS)
    assert difference.words == "only rows 1–3 and columns 2–5 are summed, instead of the mean of all"
    assert fits("pool", x.mean((1, 2)), {"x": x}, {}, eps=EPS) == []
    assert fits("pool", drawn(1, 4, seed=3), {"x": x}, {}, eps=EPS) == []


def test_pooled_before_the_norm() -> None:
    before, gain, shift = drawn(2, 4, 4, 8), drawn(8), drawn(8, seed=1)
    given = {"x": np.asarray(ops.layer_norm(before, gain, shift, eps=1e-6)), "before": before, "weight": gain, "bias": shift}
    pooled = np.asarray(ops.layer_norm(before.mean((1, 2)), gain, shift, eps=1e-6))
    assert "tokens are pooled before the norm, not after it" in exact(fits("pool", pooled, given, {"eps": 1e-6}, eps=EPS))
    twice = np.asarray(ops.layer_norm(given["x"].mean((1, 2)), gain, shift, eps=1e-6))
    assert "the norm is applied once more after pooling" in exact(fits("pool", twice, given, {"eps": 1e-6}, eps=EPS))


def test_nothing_is_fitted() -> None:
    """For a step without fits, to zeros, to what is not finite, to fewer numbers than a fit has."""
    given = {"x": TOKENS, "weight": W, "bias": B}
    assert fits("activation", MAP, {"x": MAP}, {}, eps=EPS) == []
    assert fits("linear", np.zeros_like(linear()), given, {}, eps=EPS) == []
    assert fits("linear", np.full_like(linear(), np.nan), given, {}, eps=EPS) == []
    one = {name: drawn(1, 1, 1, 2, seed=i) for i, name in enumerate(("q", "k", "v", "lim", "x"))}
    assert fits("window attention", drawn(1, 1, 1, 2, seed=9), one, {"num_heads": 1, "window_size": 1}, eps=EPS) == []
    few = {"x": drawn(1, 2, 2, 1), "weight": drawn(1, 1, 1, 1), "bias": drawn(1)}
    assert fits("convolution", drawn(1, 1, 2, 1), few, {"stride": 1, "padding": 0, "groups": 1}, eps=EPS) == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_noise_of_any_shape_is_never_explained_and_nothing_fails(data: st.DataObject) -> None:
    """Shapes that fit no window, number of heads or stride too: what a candidate computes is not ours to choose."""
    size = st.integers(1, 6)
    b, h, w, heads, d = (data.draw(size, label=name) for name in ("b", "h", "w", "heads", "d"))
    c, seed = heads * d, data.draw(st.integers(0, 1000))
    x, other = drawn(b, h, w, c, seed=seed), drawn(b, h, w, c, seed=seed + 1)
    k, stride, padding, o = (data.draw(st.integers(low, 3)) for low in (1, 1, 0, 1))
    kernel = drawn(c * o, 1, k, k, seed=seed)
    steps: dict[str, tuple[Array, dict[str, Array], dict[str, Any]]] = {
        "window attention": (other, {"q": x, "k": x[::-1], "v": x[..., ::-1]}, {"num_heads": heads, "window_size": k}),
        "attention": (other, {"q": x, "k": x[:, :1], "v": -x[:, :1]}, {"num_heads": heads, "sr_ratio": 2, "c_ratio": 1.25}),
        "convolution": (
            drawn(
                b, max(1, (h + 2 * padding - k) // stride + 1), max(1, (w + 2 * padding - k) // stride + 1), c * o, seed=seed + 2
            ),
            {"x": x, "weight": kernel},
            {"stride": stride, "padding": padding, "groups": c},
        ),
        "linear": (drawn(b, h, w, o, seed=seed + 4), {"x": x, "weight": drawn(o, c, seed=seed), "bias": drawn(o)}, {}),
        "pool": (drawn(b, c, seed=seed + 3), {"x": x}, {}),
    }
    step = data.draw(st.sampled_from(sorted(steps)))
    actual, sources, setting = steps[step]
    assert not exact(fits(step, actual, sources, setting, eps=EPS, budget=150))
