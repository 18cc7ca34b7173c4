"""Known values of another size of the map, brought to the size at hand as networks do it: pooled, subsampled, repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from einops import rearrange, repeat

MOST = 3
"""Values of another size that are resampled."""


def resampled(given: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Maps b h w c of this shape, by words, made of those that have another h and w."""
    b, h, w, c = shape
    others = [
        (name, x) for name, x in given.items() if x.ndim == 4 and (x.shape[0], x.shape[-1]) == (b, c) and x.shape[1:3] != (h, w)
    ]
    return {words: y for name, x in others[:MOST] for words, y in _resampled(name, x, h, w)}


def _resampled(name: str, x: np.ndarray, h: int, w: int) -> Iterator[tuple[str, np.ndarray]]:
    rows, columns = x.shape[1:3]
    if min(h, w) < 2:
        return
    if rows % h == columns % w == 0 and min(rows // h, columns // w) > 0:
        r, s = rows // h, columns // w
        tiles = rearrange(x, "b (h r) (w s) c -> b h w (r s) c", r=r, s=s)
        yield f"the average pooling ({r} × {s}) of {name}", tiles.mean(3)
        yield f"the maximum pooling ({r} × {s}) of {name}", tiles.max(3)
        yield f"every {r}th row and {s}th column of {name}", x[:, ::r, ::s]
    elif h % rows == w % columns == 0:
        yield (
            f"{name}, each token repeated to the larger map,",
            repeat(x, "b h w c -> b (h r) (w s) c", r=h // rows, s=w // columns),
        )
