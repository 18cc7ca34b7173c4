"""What the pictures say: a stage's sizes, and how sizes, counts and mathematics are written."""

from __future__ import annotations

import re

from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.cost import Cost
from scalablevit_ref.image_sizes import map_sizes


class Stage:
    """Stage k of a network, whose map is h x w tokens of c channels; p, s and r_c are the paper's."""

    def __init__(self, config: ScalableViTConfig, k: int, image_size: tuple[int, int]) -> None:
        self.config, self.k = config, k
        self.h, self.w = (map_sizes(config, side)[k] for side in image_size)
        self.c, self.heads = config.embed_dims[k], config.num_heads[k]
        self.p, self.s, self.r_c = config.window_sizes[k], config.sr_ratios[k], config.c_ratios[k]
        self.stride = 2 if k else config.patch_size  # of the patch embedding
        self.windows = -(-self.h // self.p), -(-self.w // self.p)  # rows and columns of IWSA's windows
        self.keys = self.h // self.s, self.w // self.s  # rows and columns of SSA's keys
        self.padded = self.windows != (self.h / self.p, self.w / self.p)

    @property
    def shape(self) -> str:
        """Of the map."""
        return figures(self.h, self.w, self.c)


def figures(*sizes: int) -> str:
    """`56 × 56 × 64`."""
    return " × ".join(map(str, sizes))


def several(count: int, noun: str) -> str:
    """`1 head`, `2 heads`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def amount(count: int) -> str:
    """Three digits and a unit: `17.7 M`; as it is below a thousand.

    Examples
    --------
    >>> amount(17_663_360), amount(650)
    ('17.7 M', '650')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.{2 - (count >= 10 * size) - (count >= 100 * size)}f} {unit}"
    return str(count)


def multiply_adds_said(total: Cost) -> str:
    """As `scalablevit-ref summary` rounds a network's: `4.265 G`, and below that `17.94 M`."""
    count = total.multiply_adds
    return f"{count / 1e9:.3f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"


_LETTERS = {r"\,": " ", r"\!": "", r"\mathrm": "", r"^{\top}": "ᵀ", "^{-1/2}": "^-½", r"\times": "×", r"\cdot": "·"}
"""Mathematics and what stands for it in plain letters, in the order in which they are replaced."""


def plain(words: str) -> str:
    r"""Letters for what stands between dollars.

    Examples
    --------
    >>> plain(r"$Z\!: n \times c$")
    'Z: n × c'
    """
    for mathematics, letters in _LETTERS.items():
        words = words.replace(mathematics, letters)
    return re.sub(r"[\\${}]", "", words)
