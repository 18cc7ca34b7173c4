"""How a candidate lays out its arrays, told from their shapes, and the same values as the specification has them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from einops import rearrange

LAYOUTS = ("b h w c", "b (h w) c", "b c h w", "b c (h w)", "h w b c", "(h w) b c")
"""Of a map; the first that fits is taken, unless values tell otherwise."""

TURNED = ("b w h c", "b (w h) c", "b c w h", "b c (w h)")
"""The same with rows for columns, which no right port has."""


def fitting(shape: Sequence[int], canonical: Sequence[int]) -> list[str]:
    """The layouts in which an array of `shape` can hold a map of shape `canonical`, b h w c, or a b c array; the likeliest first.

    >>> fitting((2, 49, 64), (2, 7, 7, 64))
    ['b (h w) c', 'b (w h) c']
    """
    shape, canonical = tuple(shape), tuple(canonical)
    if len(canonical) == 2:
        singletons = tuple(size for size in shape[1:] if size > 1 or canonical[1] == 1)
        return ["b c"] if shape[:1] == canonical[:1] and prod(shape) == prod(canonical) and len(singletons) == 1 else []
    sizes = dict(zip("bhwc", canonical, strict=True))
    return [layout for layout in (*LAYOUTS, *TURNED) if _shape(layout, sizes) == shape]


def _shape(layout: str, sizes: dict[str, int]) -> tuple[int, ...]:
    groups = layout.replace("(h w)", "hw").replace("(w h)", "hw").split()
    return tuple(prod(sizes[axis] for axis in group) for group in groups)


def canonical_map(x: np.ndarray, layout: str, canonical: Sequence[int]) -> np.ndarray:
    """The values of `x`, laid out so, as b h w c, or b c."""
    if layout == "b c":
        return x.reshape(tuple(canonical))
    b, h, w, _ = canonical
    return np.asarray(rearrange(x, f"{layout} -> b h w c", b=b, h=h, w=w))
