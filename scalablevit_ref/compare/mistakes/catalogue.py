"""Likely mistakes, each in words and as the one change of a layer or of the wiring that makes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from scalablevit_ref.compare.mistakes.slips import NONE, Variation
from scalablevit_ref.layers import OFFICIAL, Kind, Wiring


@dataclass(frozen=True)
class Hypothesis:
    """`words` complete "it matches if …". kinds: the layers that the change concerns; none for a change of the wiring."""

    words: str
    kinds: frozenset[Kind] = frozenset()
    variation: Variation = NONE
    wiring: Wiring = OFFICIAL

    def __and__(self, other: Hypothesis) -> Hypothesis:
        """Both at once. Raises ValueError where they change the same setting."""
        changes = [_changes(h.variation, NONE) | _changes(h.wiring, OFFICIAL) for h in (self, other)]
        if changes[0].keys() & changes[1].keys():
            raise ValueError(f"{self.words!r} and {other.words!r} exclude each other")
        variation = replace(self.variation, **_changes(other.variation, NONE))
        wiring = replace(self.wiring, **_changes(other.wiring, OFFICIAL))
        return Hypothesis(f"{self.words}, and {other.words}", self.kinds | other.kinds, variation, wiring)


def _changes(settings: Any, usual: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if value != getattr(usual, name)}


def _layer(kinds: str, words: str, **change: Any) -> Hypothesis:
    return Hypothesis(words, frozenset(kinds.split()), variation=Variation(**change))  # type: ignore[arg-type]


def _wired(words: str, **change: Any) -> Hypothesis:
    return Hypothesis(words, wiring=Wiring(**change))


GELU, NORMS = "mlp ssa gelu feed_forward", "patch_embed layer_norm ssa channel_norm head_norm feed_forward port_ssa port_iwsa"
ATTENTION, IWSA, PEG = "iwsa ssa port_iwsa port_ssa", "iwsa port_iwsa", "peg port_peg"
KERNELS = f"patch_embed stem downsample {PEG} {ATTENTION}"
PRODUCTS = f"{KERNELS} mlp feed_forward linear"

HYPOTHESES = (
    _layer(GELU, "GELU is the tanh approximation", gelu="tanh"),
    _layer(GELU, "GELU is the sigmoid approximation, x·σ(1.702 x)", gelu="sigmoid"),
    _layer(GELU, "SiLU stands in for GELU", gelu="silu"),
    _layer(GELU, "ReLU stands in for GELU", gelu="relu"),
    _layer(GELU, "there is no activation", gelu="none"),
    _layer(NORMS, "LayerNorm's epsilon is 1e-5", eps=1e-5),
    _layer(NORMS, "LayerNorm's epsilon is 1e-6", eps=1e-6),
    _layer(NORMS, "LayerNorm's epsilon is 1e-12", eps=1e-12),
    _layer(NORMS, "LayerNorm's epsilon is 1e-3", eps=1e-3),
    _layer(NORMS, "LayerNorm has no epsilon", eps=0.0),
    _layer(NORMS, "epsilon is added outside the root", eps_place="outside the root"),
    _layer(NORMS, "epsilon is 1e-5 and added outside the root", eps=1e-5, eps_place="outside the root"),
    _layer(NORMS, "the variance is the unbiased one, over c − 1", variance="unbiased"),
    _layer(NORMS, "LayerNorm does not shift (its bias is left out)", norm="without shift"),
    _layer(NORMS, "LayerNorm has neither gain nor shift", norm="without either"),
    _layer(NORMS, "LayerNorm is missing", norm="missing"),
    _layer(KERNELS, "kernels are flipped (convolution instead of cross-correlation)", kernels="flipped"),
    _layer(KERNELS, "kernels have H and W swapped", kernels="transposed"),
    _layer(KERNELS, "padding is SAME, which shifts the grid, instead of symmetric", padding="same"),
    _layer(f"{PEG} {IWSA}", "the border is replicated instead of zeros", padding="replicated"),
    _layer(ATTENTION, "heads are interleaved: channels are split as (d heads), not (heads d)", interleaved="all"),
    _layer(ATTENTION, "heads of q and k are interleaved, those of v are not", interleaved="q and k"),
    _layer(ATTENTION, "heads of v are interleaved, those of q and k are not", interleaved="v"),
    _layer(ATTENTION, "heads are interleaved when they are split and not when they are merged", interleaved="q, k and v"),
    _layer(ATTENTION, "heads are interleaved when they are merged", interleaved="merge"),
    *(
        _layer(ATTENTION, f"q, k and v are taken in the order {', '.join(order)}", order=" ".join(order))
        for order in permutations("qkv")
        if order != ("q", "k", "v")
    ),
    _layer("iwsa", "qkv's channels are split as (heads three d), not (three heads d)", thirds="(heads three d)"),
    _layer("iwsa", "qkv's channels are split as (heads d three), not (three heads d)", thirds="(heads d three)"),
    _layer(ATTENTION, "logits are scaled by d^-½, d the width of a head of the input (without r_c)", scale="d"),
    _layer("ssa port_ssa port_iwsa", "logits are scaled by c'^-½, the width of all keys together", scale="c'"),
    _layer(ATTENTION, "logits are scaled by c^-½, the width of all heads together", scale="c"),
    _layer(ATTENTION, "logits are not scaled", scale="none"),
    _layer(ATTENTION, "logits are scaled twice, by 1/d", scale="1/d"),
    _layer("iwsa", "windows are a dilated grid instead of tiles: (ph gh) in place of (gh ph)", windows="grid"),
    _layer("iwsa", "windows are cut out column by column and merged row by row", windows="columns first when cut"),
    _layer("iwsa", "windows are cut out row by row and merged column by column", windows="columns first when merged"),
    _layer("iwsa", "H and W are swapped inside each window when it is merged", windows="transposed inside when merged"),
    _layer("iwsa", "zeros fill up the windows after qkv, so that they carry no bias", filling="after qkv"),
    _layer("iwsa", "what fills up the windows is masked in the softmax", filling="masked"),
    _layer("iwsa", "LIM does not see what fills up the windows", filling="hidden from LIM"),
    _layer(IWSA, "LIM is missing", lim="missing"),
    _layer(IWSA, "LIM convolves the input instead of the values", lim="of x"),
    _layer(IWSA, "LIM convolves the queries instead of the values", lim="of q"),
    _layer(IWSA, "LIM convolves the keys instead of the values", lim="of k"),
    _layer(IWSA, "LIM convolves the attention's output instead of the values", lim="of z"),
    _layer(IWSA, "LIM runs window by window, so that windows do not interact", lim="per window"),
    _layer(IWSA, "LIM is a residual: V + F(V) is added instead of F(V)", lim="residual"),
    _layer(IWSA, "LIM is added after proj", lim="after proj"),
    _layer(IWSA, "LIM comes before the attention, which attends to F(V)", lim="before the attention"),
    _layer("ssa", "the activation comes before the norm", activation="before the norm"),
    _layer(PEG, "PEG has no identity: the convolution replaces its input", identity="missing"),
    _layer("mean", "tokens are pooled by their maximum", pool="max"),
    _layer("mean", "tokens are summed instead of averaged", pool="sum"),
    _layer(KERNELS, "H and W are swapped", map="w h"),
    _layer(PRODUCTS, "products are computed from factors rounded to bfloat16", factors="bfloat16"),
    _layer(PRODUCTS, "products are computed from factors rounded to TF32", factors="tf32"),
    _wired("norms come after the residual additions (post-norm)", norms="post"),
    _wired("norms are applied to what the branches give (res-post-norm)", norms="on the branch"),
    _wired("the attention's residual connection is missing", attention="bare"),
    _wired("the MLP's residual connection is missing", mlp="bare"),
    _wired("the MLP runs beside the attention, on the same input", mlp="beside attention"),
    _wired("PEG comes after the second block", peg="after the second block"),
    _wired("PEG comes after the last block", peg="after the last block"),
    _wired("PEG comes before the first block", peg="before the blocks"),
    _wired("PEG is missing", peg="missing"),
    _wired("SSA comes before IWSA", pairs="SSA, MLP, IWSA, MLP"),
    _wired("SSA comes before IWSA, whose MLP comes before it too, as in vit_pytorch", pairs="SSA, MLP, MLP, IWSA"),
    _wired("stage norms are on the outputs only: the next stage takes the map as it is", stage_norms="on the outputs only"),
    _wired("tokens are pooled before the last norm", pool="before norm"),
    _wired("the second feed-forward runs before IWSA", second_feed_forward="before IWSA"),
    _wired("the last stage ends in a norm too", last_norm="there"),
)  # fmt: skip
"""In the order in which they are tried."""


def hypotheses(kinds: frozenset[Kind], params: Mapping[str, Any]) -> Iterator[Hypothesis]:
    """All that concern layers of these kinds, and for each of their own parameters its transposition or its lack.

    params: those of the layers, by their names in the whole network.
    """
    for hypothesis in HYPOTHESES:
        if not hypothesis.kinds or hypothesis.kinds & kinds:
            yield hypothesis
    for name, value in params.items():
        if value.ndim >= 2 and value.shape[0] == value.shape[1] > 1:
            yield Hypothesis(f"{name} is transposed", kinds, Variation(transposed=name))
        if name.endswith("bias") and value.any():
            yield Hypothesis(f"{name} is left out", kinds, Variation(without_bias=name))
