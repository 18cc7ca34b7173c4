"""`python -m tests.programs.attention_ink`: what the digits model's attention has to do with the ink, over its 370 test images.

A token or key is inked if the mean grey of its tile is more than half of the largest. Of SSA: the share of the attention that goes
to inked keys, beside their share of all keys, and beside what goes to the keys that are inked in another image. Of IWSA, in windows
that hold ink and blank: what inked and what blank tokens give to the inked ones; and LIM's share of the lengths that are added.
Spread is the entropy of the weights, as a share of that of even weights. `untrained` is the network before training.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange, reduce

import scalablevit_ref as sv
from scalablevit_ref import digits
from scalablevit_ref.config import BlockKind
from scalablevit_ref.drawing.attention_weights import LayerAttention, attention_layers, layer_attention
from scalablevit_ref.parameters import block_kind

CONFIG = sv.variant("digits")
INKED = 0.5 + 1e-4
"""Many tiles have a mean of exactly a half. They are not inked, in whatever order their sum is rounded."""


class SSAInk(NamedTuple):
    """Of one head, means over the images. `more`: in how many of them the inked keys get more than their share of the keys.

    `correlation`: of what a key receives with its grey, the median over the images.
    """

    to_ink: float
    inked: float
    to_others_ink: float
    more: int
    correlation: float
    spread: float


class IWSAInk(NamedTuple):
    """Of one head, means over the windows that hold ink and blank, in each over its tokens; `lim` is the median over all tokens.

    `lim_at_borders`: over those at their window's edge.
    """

    ink_to_ink: float
    blank_to_ink: float
    inked: float
    lim: float
    lim_at_borders: float
    spread: float


def attentions(layer: str, params: Mapping[str, np.ndarray] | None = None) -> LayerAttention:
    """Of all test images, with the trained weights or others."""
    images, _ = digits.test_images()
    params = sv.load_checkpoint(digits.CHECKPOINT).params if params is None else params
    return layer_attention(digits.preprocess(images), params, CONFIG, layer)


def ssa_ink(found: LayerAttention) -> list[SSAInk]:
    """A row for each head."""
    side = found.stride * found.key_tokens
    grey = tiles(side, found.keys[0])
    inked = (grey > INKED)[:, None]
    got, even = found.received, inked.mean(axis=(2, 3))
    to_ink, to_others = ((got * ink).sum(axis=(2, 3)) for ink in (inked, np.roll(inked, 1, axis=0)))
    r = correlation(got, grey[:, None])
    return [
        SSAInk(to_ink[:, i].mean(), even.mean(), to_others[:, i].mean(), (to_ink > even)[:, i].sum(), np.median(r[:, i]), spread)
        for i, spread in enumerate(spreads(found))
    ]


def iwsa_ink(found: LayerAttention) -> list[IWSAInk]:
    """A row for each head."""
    assert found.lim is not None
    assert found.values is not None
    p, (h, _) = found.span, found.tokens
    inked = rearrange(tiles(found.stride, h) > INKED, "b (gh ph) (gw pw) -> (b gh gw) (ph pw)", ph=p, pw=p)
    even = inked.mean(axis=1)
    mixed = (even > 0) & (even < 1)
    weights = rearrange(found.weights, "b heads (gh ph) (gw pw) kh kw -> heads (b gh gw) (ph pw) (kh kw)", ph=p, pw=p)
    inked, even, weights = inked[mixed], even[mixed], weights[:, mixed]
    to_ink = (weights * inked[:, None]).sum(-1)  # heads window token
    by_ink, by_blank = ((to_ink * asks).sum(-1) / asks.sum(-1) for asks in (inked, ~inked))
    share = found.lim / (found.lim + found.values)
    edge = np.isin(np.arange(h) % p, (0, p - 1))
    lim, at_borders = float(np.median(share)), float(np.median(share[:, edge[:, None] | edge]))
    rows = zip(by_ink.mean(1), by_blank.mean(1), spreads(found), strict=True)
    return [IWSAInk(ink, blank, even.mean(), lim, at_borders, spread) for ink, blank, spread in rows]


def tiles(side: int, count: int) -> np.ndarray:
    """The mean grey, from 0 to 1, of each test image's tiles of `side` pixels, "b count count"; beyond the image is blank."""
    images, _ = digits.test_images()
    grey = digits.preprocess(images)[:, 0] * digits.STD + digits.MEAN
    beyond = max(0, side * count - digits.IMAGE_SIZE)
    grey = np.pad(grey, ((0, 0), (0, beyond), (0, beyond)))
    return np.asarray(reduce(grey, "b (h s) (w t) -> b h w", "mean", s=side, t=side))


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's, over the last two axes."""
    a, b = (x - x.mean(axis=(-2, -1), keepdims=True) for x in (a, b))
    return np.asarray((a * b).sum(axis=(-2, -1)) / np.sqrt((a * a).sum(axis=(-2, -1)) * (b * b).sum(axis=(-2, -1))))


def spreads(found: LayerAttention) -> list[float]:
    """Of each head: the mean entropy of a query's weights over the logarithm of how many keys there are."""
    weights = found.weights.reshape(*found.weights.shape[:4], -1)
    entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(-1)
    return [float(x) for x in entropy.mean(axis=(0, 2, 3)) / np.log(weights.shape[-1])]


def table(kind: BlockKind, params: Mapping[str, np.ndarray] | None = None) -> str:
    """Lines of figures, one for each head of each layer of this kind."""
    measure: Any = ssa_ink if kind == "ssa" else iwsa_ink
    fields = (SSAInk if kind == "ssa" else IWSAInk)._fields
    lines = ["  ".join([f"{'layer':<10}", "head", *(field.replace("_", " ") for field in fields)])]
    for layer in [layer for layer in attention_layers(CONFIG) if block_kind(int(layer[-1])) == kind]:
        for head, row in enumerate(measure(attentions(layer, params))):
            figures = [f"{x:.2f}" if field != "more" else str(x) for field, x in zip(fields, row, strict=True)]
            cells = [f"{x:>{len(field)}}" for x, field in zip(figures, fields, strict=True)]
            lines.append("  ".join([layer, f"{head:>4}", *cells]))
    return "\n".join(lines)


def main() -> None:
    """Print a table for each kind of attention, and for the trained and the untrained network."""
    for name, params in (("trained", None), ("untrained", sv.init_params(CONFIG))):
        for kind in ("ssa", "iwsa"):
            sys.stdout.write(f"{kind.upper()}, {name}\n{table(kind, params)}\n\n")


if __name__ == "__main__":
    main()
