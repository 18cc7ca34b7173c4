"""Values of a candidate, however they lie, as the specification lays them out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from einops import rearrange

from scalablevit_ref.compare.canonical import Layouts, layouts, settled

SIZES = {"b": 2, "gh": 2, "gw": 3, "ph": 7, "pw": 7}
MAP = np.random.default_rng(0).standard_normal((2, 14, 21, 12))


def laid_out(pattern: str) -> np.ndarray:
    sizes = SIZES | ({"heads": 3} if "heads" in pattern else {})
    windows, heads = "gh" in pattern, "(heads d)" if "heads" in pattern else "c"
    own = f"b (gh ph) (gw pw) {heads}" if windows else f"b h w {heads}"
    used = {name: size for name, size in sizes.items() if name in own}
    return np.ascontiguousarray(rearrange(MAP, f"{own} -> {pattern}", **used))


@pytest.mark.parametrize(
    "pattern",
    [
        *("b h w c", "b (h w) c", "b c h w", "b c (h w)", "h w b c", "(h w) b c", "(b h w) c", "c (b h w)", "b h w heads d"),
        *("b w h c", "b (w h) c", "b c w h", "b c (w h)"),
    ],
)
def test_whole_maps(pattern: str) -> None:
    x = laid_out(pattern)
    found = settled(x, MAP)
    assert found is not None
    assert found.sure
    assert found.layout.words == pattern
    assert found.layout.turned == (pattern.index("w") < pattern.index("h"))
    assert np.array_equal(found.layout(x), MAP)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(b gh gw) (ph pw) c", "b gh gw ph pw c", "b gh ph gw pw c", "(gh gw b) (ph pw) c", "b (gh gw) c ph pw"),
        *("(b gh gw) c (ph pw)", "b (gw gh) (pw ph) c", "b (gh gw ph pw) c", "(b gh gw ph pw) c", "(b gh gw) heads d (ph pw)"),
    ],
)
def test_windows(pattern: str) -> None:
    x = laid_out(pattern)
    found = settled(x, MAP, windows=[7])
    assert found is not None
    assert found.sure
    assert found.layout.words == pattern
    assert np.array_equal(found.layout(x), MAP)


def test_the_axis_of_the_channels_is_told() -> None:
    square = np.random.default_rng(0).standard_normal((2, 7, 7, 7))
    assert [found.words for found in layouts((2, 7, 7, 7), square.shape)[:2]] == ["b h w c", "b c h w"]
    assert layouts((2, 7, 7, 7), square.shape, axis=1)[0].words == "b c h w"
    found = settled(rearrange(square, "b h w c -> b c h w"), square, axis=1)
    assert found is not None
    assert found.sure


def test_a_map_padded_to_windows_is_cut() -> None:
    padded = np.pad(MAP, ((0, 0), (0, 0), (0, 7), (0, 0)))[:, :, :28]
    small = MAP[:, :12, :20]
    for whole, inside in ((padded, padded[:, :, :25]), (np.pad(small, ((0, 0), (0, 2), (0, 1), (0, 0))), small)):
        cut = rearrange(whole, "b (gh p) (gw q) c -> (b gh gw) (p q) c", p=7, q=7)
        for x in (whole, cut):
            found = settled(x, inside, axis=x.ndim - 1, windows=[7])
            assert found is not None
            assert np.array_equal(found.layout(x), inside)


def test_any_order_will_do_where_there_is_no_map() -> None:
    grid = rearrange(MAP, "b (ph gh) (pw gw) c -> (b gh gw) (ph pw) c", ph=7, pw=7)  # windows of tokens that lie apart
    found = settled(grid, MAP, windows=[7], strange=True)
    assert found is not None
    assert found.layout.words == "its own order of tokens"
    assert np.array_equal(found.layout(grid), MAP)
    rolled = np.roll(MAP, -3, axis=1)
    found = settled(rolled, MAP, windows=[7], strange=True)
    assert found is not None
    assert found.layout.words == "b h w c"  # rolled tokens of a map are a mistake, not a layout


def test_a_wrong_value_lies_as_another_of_its_shape_does() -> None:
    square = np.random.default_rng(1).standard_normal((2, 14, 14, 12))
    laid = Layouts([7])
    turned = rearrange(square, "b h w c -> b (w h) c")
    assert np.array_equal(laid(turned, square, 2), square)
    assert laid.turned
    wrong = np.random.default_rng(2).standard_normal(turned.shape)
    assert np.array_equal(laid(wrong, square, 2), rearrange(wrong, "b (w h) c -> b h w c", h=14))
    fresh = Layouts([7])
    assert np.array_equal(fresh(wrong, square, 2), rearrange(wrong, "b (h w) c -> b h w c", h=14))
    assert fresh(wrong[:, :5], square, 2) is None


@pytest.mark.parametrize("change", [lambda x: 3 * x, lambda x: -x, lambda x: x + 2, lambda x: x * np.linspace(0.5, 1.5, 12)])
def test_a_factor_or_a_shift_does_not_hide_the_layout(change: Callable[[np.ndarray], np.ndarray]) -> None:
    square = np.random.default_rng(1).standard_normal((2, 14, 14, 12))
    x = change(rearrange(square, "b h w c -> b (w h) c"))
    found = settled(x, square)
    assert found is not None
    assert found.layout.words == "b (w h) c"


def test_vectors() -> None:
    x = np.random.default_rng(0).standard_normal((2, 12))
    for shape in ((2, 12), (2, 12, 1, 1), (2, 1, 12)):
        found = settled(x.reshape(shape), x)
        assert found is not None
        assert np.array_equal(found.layout(x.reshape(shape)), x)
    assert settled(x.T, x) is None
