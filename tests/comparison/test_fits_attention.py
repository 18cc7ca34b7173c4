"""Settings of an attention are found in what enters proj: planted by an implementation of its own, drawn by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from scalablevit_ref.compare.reasoning.difference import Difference
from scalablevit_ref.compare.reasoning.fits import fits
from tests.support.profiles import share

Array = np.ndarray
EPS = 2.0**-52
HEADS, WINDOW, CHANNELS, SIDE = 2, 4, 16, 8


def softmax(x: Array, axis: Any = -1) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


@dataclass(frozen=True)
class Port:
    """Somebody's window attention, with the settings that people get wrong."""

    heads: int = HEADS
    window: tuple[int, int] = (WINDOW, WINDOW)
    shift: int = 0
    masked: bool = False
    rolled_back: bool = True
    scale: float | None = None
    split: str = "(heads d)"
    merge: str = "transposed"
    weights: Callable[[Array], Array] = softmax
    lim: float = 1.0
    residual: float = 0.0

    def __call__(self, q: Array, k: Array, v: Array, lim: Array) -> Array:
        c, (h, w), (ph, pw), s = q.shape[-1], q.shape[1:3], self.window, self.shift
        cut = {"ph": ph, "pw": pw}
        pattern = f"b (gh ph) (gw pw) {self.split} -> b gh gw heads (ph pw) d"
        rolled = (np.roll(t, (-s, -s), (1, 2)) for t in (q, k, v))
        q, k, values = (rearrange(t, pattern, heads=self.heads, **cut) for t in rolled)
        logits = q @ k.swapaxes(-1, -2) * (self.scale or (c / self.heads) ** -0.5)
        if self.masked:
            rows, columns = ((np.arange(n) >= n - p).astype(int) + (np.arange(n) >= n - s) for n, p in ((h, ph), (w, pw)))
            region = rearrange(rows[:, None] * 3 + columns, "(gh ph) (gw pw) -> gh gw 1 (ph pw)", **cut)
            logits = np.where(region[..., :, None] == region[..., None, :], logits, -1e9)
        z = self.weights(logits) @ values
        if self.merge == "view":
            z = z.reshape(*z.shape[:3], ph * pw, c)
        else:
            z = rearrange(z, "b gh gw heads n d -> b gh gw n (heads d)")
        z = rearrange(z, "b gh gw (ph pw) c -> b (gh ph) (gw pw) c", **cut)
        z = np.roll(z, (s, s), (1, 2)) if self.rolled_back else z
        return np.asarray(z + self.lim * lim + self.residual * v)


def sources(seed: int, shape: tuple[int, ...] = (2, SIDE, SIDE, CHANNELS)) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: 1.5 * rng.standard_normal(shape) for name in ("q", "k", "v", "lim")}


def found(port: Port, seed: int = 0, eps: float = EPS, shape: tuple[int, ...] = (2, SIDE, SIDE, CHANNELS)) -> list[Difference]:
    given = sources(seed, shape)
    actual = port(**given)
    if eps != EPS:
        actual = actual.astype(np.float32).astype(np.float64)
    return fits("window attention", actual, given, {"num_heads": HEADS, "window_size": WINDOW}, eps=eps)


def exact(differences: list[Difference]) -> list[str]:
    assert all(d.left <= 1e-9 for d in differences if d.exact)
    return [d.words for d in differences if d.exact]


def causal(x: Array) -> Array:
    return softmax(np.where(np.tri(x.shape[-1], dtype=bool), x, -np.inf))


def plus_one(x: Array) -> Array:
    return np.asarray(np.exp(x) / (np.exp(x).sum(-1, keepdims=True) + 1))


def shifted_plus_one(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / (e.sum(-1, keepdims=True) + 1))


def top_three(x: Array) -> Array:
    return softmax(np.where(x >= np.sort(x, -1)[..., -3, None], x, -np.inf))


PLANTED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "heads": ({"heads": 4}, "4 heads instead of 2"),
    "one head": ({"heads": 1}, "1 head instead of 2"),
    "window": ({"window": (2, 2)}, "windows are 2 × 2, not 4 × 4"),
    "whole map": ({"window": (8, 8)}, "the whole map"),
    "stripes": ({"window": (1, 8)}, "windows are 1 × 8, not 4 × 4"),
    "shift": ({"shift": 3}, "windows are shifted by 3, without a mask"),
    "masked shift": ({"shift": 1, "masked": True}, "windows are shifted by 1, with a mask"),
    "not rolled back": ({"shift": 2, "rolled_back": False}, "windows are not rolled back"),
    "interleaved": ({"split": "(d heads)"}, "heads are interleaved"),
    "view": ({"merge": "view"}, "heads are reshaped without the transposition when they are merged"),
    "scale": ({"scale": 0.125}, "logits are scaled by 0.125 = d^-1; in the reference by 0.354"),
    "no scale": ({"scale": 1.0}, "logits are not scaled"),
    "odd scale": ({"scale": 0.777}, "logits are scaled by 0.777; in the reference by 0.354"),
    "queries": ({"weights": lambda x: softmax(x, -2)}, "softmax runs over the queries, not over the keys"),
    "softmax over heads": ({"weights": lambda x: softmax(x, -3)}, "softmax runs over the heads, not over the keys"),
    "causal": ({"weights": causal}, "keys after the query are masked (a causal mask)"),
    "plus one": ({"weights": plus_one}, "1 added to its denominator"),
    "plus one, shifted": ({"weights": shifted_plus_one}, "1 added to its denominator, after the largest logit is subtracted"),
    "clamped": ({"weights": lambda x: softmax(np.clip(x, -1.5, 1.5))}, "logits are clamped to [−1.5, 1.5] before the softmax"),
    "clamped above": ({"weights": lambda x: softmax(np.minimum(x, 0.7))}, "logits are clamped to at most 0.7 before the softmax"),
    "capped": ({"weights": lambda x: softmax(2 * np.tanh(x / 2))}, "logits are 2·tanh(logits/2), a soft cap before the softmax"),
    "no softmax": ({"weights": lambda x: x}, "there is no softmax"),
    "sigmoid": ({"weights": lambda x: 1 / (1 + np.exp(-x))}, "sigmoid stands in for softmax"),
    "top": ({"weights": top_three}, "only the 3 largest logits"),
    "no lim": ({"lim": 0.0}, "LIM's output is not added"),
    "lim twice": ({"lim": 2.0}, "LIM's output is added twice"),
    "lim subtracted": ({"lim": -1.0}, "LIM's output is subtracted"),
    "lim by a third": ({"lim": 0.3}, "LIM's output is added times 0.3"),
    "residual": ({"residual": 1.0}, "the values are added too"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_one_setting(name: str) -> None:
    fields, words = PLANTED[name]
    said = exact(found(Port(**fields)))
    assert said, "nothing explains it"
    assert len(said) == 1, said
    assert words in said[0]


PAIRED = (
    "heads",
    "window",
    "shift",
    "masked shift",
    "interleaved",
    "view",
    "scale",
    "queries",
    "causal",
    "no lim",
    "lim by a third",
)


@pytest.mark.parametrize(
    ("one", "other"),
    share([(a, b) for a, b in combinations(PAIRED, 2) if not PLANTED[a][0].keys() & PLANTED[b][0].keys()], of=3),
)
def test_two_settings(one: str, other: str) -> None:
    (first, words), (second, more) = PLANTED[one], PLANTED[other]
    if one == "heads" and other == "scale":
        more = "logits are scaled by 0.125"
    if one == "window" and "shift" in second:
        second, more = {**second, "shift": 1}, "windows are shifted by 1"
    said = exact(found(Port(**{**first, **second})))
    assert said, "nothing explains it"
    assert any(words in clause and more in clause for clause in said), said


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    heads=st.sampled_from([1, 2, 4, 8]),
    window=st.sampled_from([2, 4, 8]),
    scale=st.one_of(st.none(), st.floats(0.05, 2.0)),
    lim=st.sampled_from([0.0, 1.0, 2.0, -0.7]),
)
def test_drawn_settings_are_found(seed: int, heads: int, window: int, scale: float | None, lim: float) -> None:
    port = Port(heads=heads, window=(window, window), scale=scale, lim=lim)
    differences = found(port, seed)
    if (heads, window, scale, lim) == (HEADS, WINDOW, None, 1.0):
        assert differences == []
        return
    assert differences
    assert all(d.exact for d in differences)
    numbers = differences[0].data
    assert numbers["heads"] == heads
    assert numbers["scale"] == pytest.approx(scale or (CHANNELS / heads) ** -0.5, rel=1e-6)
    assert numbers["factors"].get("lim", 0.0) == pytest.approx(lim, abs=1e-6)
    assert ("LIM" in differences[0].words) == (lim != 1.0)
    if window != 8:
        assert numbers["window"] == [window, window]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_right_output_has_no_difference_and_noise_no_explanation(seed: int) -> None:
    given = sources(seed)
    setting = {"num_heads": HEADS, "window_size": WINDOW}
    assert fits("window attention", Port()(**given), given, setting, eps=EPS) == []
    noise = np.random.default_rng(seed + 1).standard_normal(given["q"].shape)
    assert not exact(fits("window attention", noise, given, setting, eps=EPS, budget=600))


@pytest.mark.parametrize("name", ["heads", "shift", "scale", "no lim", "queries", "view"])
def test_in_float32_too(name: str) -> None:
    fields, words = PLANTED[name]
    differences = [d for d in found(Port(**fields), eps=2.0**-23) if d.exact]
    assert any(words in d.words for d in differences), differences
    assert all(1e-9 < d.left <= 64 * 2.0**-23 for d in differences)


POSITION = np.arange(WINDOW * WINDOW)
ROW, COLUMN = np.divmod(POSITION, WINDOW)


@pytest.mark.parametrize("shift", [0, 2])
def test_a_relative_position_bias(shift: int) -> None:
    table = np.random.default_rng(5).standard_normal((HEADS, 7, 7))
    bias = table[:, ROW[:, None] - ROW + 3, COLUMN[:, None] - COLUMN + 3]
    (difference,) = found(Port(shift=shift, masked=shift > 0, weights=lambda x: softmax(x + bias)), shape=(4, 16, 16, CHANNELS))
    assert difference.exact
    assert "relative position bias" in difference.words
    assert ("shifted by 2, with a mask" in difference.words) == (shift > 0)


def test_a_bias_for_each_pair_of_positions() -> None:
    bias = np.random.default_rng(5).standard_normal((HEADS, 16, 16))
    (difference,) = found(Port(weights=lambda x: softmax(x + bias)), shape=(4, 16, 16, CHANNELS))
    assert difference.exact
    assert "a bias for each pair of positions in a window" in difference.words
    assert "relative" not in difference.words


def test_a_temperature_of_each_head() -> None:
    (difference,) = found(Port(weights=lambda x: softmax(x * np.array([0.5, 1.7])[:, None, None])))
    assert difference.exact
    assert difference.data["scales"] == pytest.approx([0.5 * 8**-0.5, 1.7 * 8**-0.5])
    assert "0.177, 0.601" in difference.words


def test_keys_and_queries_in_other_roles() -> None:
    given = sources(3)
    port = Port()
    setting = {"num_heads": HEADS, "window_size": WINDOW}
    swapped = fits("window attention", port(given["k"], given["q"], given["v"], given["lim"]), given, setting, eps=EPS)
    assert any("q and k are exchanged" in words for words in exact(swapped))
    turned = fits("window attention", port(given["v"], given["q"], given["k"], given["lim"]), given, setting, eps=EPS)
    assert any("q, k and v are taken in the order v, q, k" in words for words in exact(turned))


def test_what_fills_up_windows_may_be_masked() -> None:
    given = sources(4)
    real = np.zeros((SIDE, SIDE), bool)
    real[:7, :6] = True
    cut = rearrange(real, "(gh ph) (gw pw) -> gh gw 1 1 (ph pw)", ph=WINDOW, pw=WINDOW)
    port = Port(weights=lambda x: softmax(np.where(cut, x, -np.inf)))
    given["lim"] = given["lim"][:, :7, :6]
    actual = port(given["q"], given["k"], given["v"], np.zeros_like(given["q"]))[:, :7, :6] + given["lim"]
    differences = fits("window attention", actual, given, {"num_heads": HEADS, "window_size": WINDOW, "pad": True}, eps=EPS)
    assert any("what fills up the windows is masked" in words for words in exact(differences))


def ssa_port(q: Array, k: Array, v: Array, *, heads: int, scale: float, merge: str = "transposed", axis: int = -1) -> Array:
    (b, h, w, _), c = q.shape, v.shape[-1]
    q, k, v = (rearrange(t, "b h w (heads d) -> b heads (h w) d", heads=heads) for t in (q, k, v))
    z = softmax(q @ k.swapaxes(-1, -2) * scale, axis) @ v
    return z.reshape(b, h, w, c) if merge == "view" else np.asarray(rearrange(z, "b heads (h w) d -> b h w (heads d)", h=h))


SSA = {"num_heads": 2, "sr_ratio": 2, "c_ratio": 1.25}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        (
            {"scale": 8**-0.5},
            "logits are scaled by 0.354 = d^-½, as for heads of 8 channels; in the reference by 0.316, for heads of 10",
        ),
        ({"scale": 10**-1.0}, "logits are scaled by 0.1 = (q's head width)^-1"),
        ({"heads": 4, "scale": 5**-0.5}, "4 heads instead of 2"),
        ({"merge": "view"}, "heads are reshaped without the transposition when they are merged"),
        ({"axis": -2}, "softmax runs over the queries"),
        ({"axis": -2, "merge": "view"}, "softmax runs over the queries"),
    ],
)
def test_ssa(fields: Mapping[str, Any], words: str) -> None:
    rng = np.random.default_rng(0)
    given = {
        "q": rng.standard_normal((2, 8, 8, 20)),
        "k": rng.standard_normal((2, 4, 4, 20)),
        "v": rng.standard_normal((2, 4, 4, 16)),
    }
    own: dict[str, Any] = {"heads": 2, "scale": 10**-0.5, **fields}
    differences = fits("attention", ssa_port(**given, **own), given, SSA, eps=EPS)
    assert (exact(differences) == []) == (words == "")
    assert any(words in one for one in exact(differences)) or not words


def test_windows_are_merged_to_a_map_of_w_by_h() -> None:
    given = sources(2, (2, 8, 12, CHANNELS))
    z = Port(lim=0.0)(**given)
    windows = rearrange(z, "b (gh ph) (gw pw) c -> b (gh gw) ph pw c", ph=WINDOW, pw=WINDOW)
    turned = rearrange(windows, "b (gw gh) ph pw c -> b (gw ph) (gh pw) c", gw=3).reshape(z.shape)
    said = exact(fits("window attention", turned + given["lim"], given, {"num_heads": HEADS, "window_size": WINDOW}, eps=EPS))
    assert said == ["windows are merged to a map of W × H, not H × W"]


@pytest.mark.parametrize("shift", [(0, 1), (3, 0)])
def test_rolled_along_one_axis_and_not_back(shift: tuple[int, int]) -> None:
    given = sources(2)
    rolled = {name: np.roll(x, (-shift[0], -shift[1]), (1, 2)) if name != "lim" else x for name, x in given.items()}
    said = exact(fits("window attention", Port()(**rolled), given, {"num_heads": HEADS, "window_size": WINDOW}, eps=EPS))
    assert len(said) == 1
    assert said[0].startswith(f"windows are shifted by {shift[0]} rows and {shift[1]} columns, without a mask")
    assert "windows are not rolled back" in said[0]


def test_keys_and_values_lie_otherwise_in_one_linear() -> None:
    rng = np.random.default_rng(0)
    q, kv = rng.standard_normal((2, 8, 8, 16)), rng.standard_normal((2, 8, 8, 32))
    given = {"q": q, "k": kv[..., :16], "v": kv[..., 16:]}
    actual = ssa_port(q, kv[..., ::2], kv[..., 1::2], heads=2, scale=8**-0.5)
    said = exact(fits("attention", actual, given, {"num_heads": 2, "sr_ratio": 1, "c_ratio": 1.0}, eps=EPS))
    assert "kv's channels are split as (heads d two), not (two heads d)" in said


def test_single_changes_are_bounded_by_the_budget() -> None:
    given = sources(2)
    settings_ = {"num_heads": HEADS, "window_size": WINDOW}
    late = Port(weights=lambda x: softmax(np.where(x >= np.sort(x, -1)[..., -3, None], x, -np.inf)))(**given)
    assert exact(fits("window attention", late, given, settings_, eps=EPS))
    assert not exact(fits("window attention", late, given, settings_, eps=EPS, budget=5))
