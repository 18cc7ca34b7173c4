"""Every mistake that the comparator knows, in words and as an edit of the specification or another wiring of its layers.

A dialect names the edits of its own functions, and its own mistakes, in its own folder (`Network.mistakes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

from scalablevit_ref import ops
from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.blocks import peg
from scalablevit_ref.compare.mistakes.arithmetic import flipped, of_conv, replicated, same, transposed, turned, with_rounded_factors
from scalablevit_ref.edits import Edit, Mistake, Swap, has_source, reach, reordered
from scalablevit_ref.layers import Wiring, mean
from scalablevit_ref.networks import Network

Function = Callable[..., Any]

in_iwsa, in_ssa, in_peg, in_mean = (partial(Edit, function) for function in (iwsa, ssa, peg, mean))
in_gelu, in_norm = (partial(Edit, function) for function in (ops.gelu, ops.layer_norm))

# In capitals: texts of the specification's source that mistakes replace, and long ones that take their place.
ODD = "magnitude * erf(magnitude * 0.5**0.5)"


def gelu_as(term: str) -> Edit:
    """(x + |x| · erf(|x|/√2)) / 2 with another term behind the plus; `magnitude` is |x|."""
    return in_gelu(ODD, term)


def magnitude_tanh(argument: str) -> str:
    """|x| · tanh(argument ≥ 0), through exp(−2 · argument), which never overflows."""
    return f"magnitude * (lambda e: (1 - e) / (1 + e))(backend(x).exp(-2.0 * ({argument})))"


ROOT, AFFINE = "(variance + eps) ** 0.5", "* weight + bias"
VARIANCE = 'variance = reduce(x * x, "... c -> ... 1", "mean")'
CENTERED = 'x = x - reduce(x, "... c -> ... 1", "mean")'
SPLIT, MERGED = "(heads d) ->", '(heads d)"'
IWSA_SCALE = "(c / num_heads) ** -0.5"
SSA_SCALE = "width**-0.5"
ATTEND = "z = attend(q, k, v,"
MASKED = """real = rearrange(
        _pad_to_windows(x[:, :h, :w, :1] * 0.0 + 1.0, window_size),
        "b (gh ph) (gw pw) 1 -> b gh gw 1 (ph pw) 1", ph=window_size, pw=window_size)
    z = (lambda *qk, scale: attend(*qk, v * real, scale=scale) / attend(*qk, v * 0.0 + real, scale=scale))(q, k,"""
ACTIVATED = 'gelu(layer_norm(y, **p["norm_act.0"], eps=SSA_NORM_EPS))'


def regrouped(cut: str, merged: str) -> Edit:
    """Windows in the order `cut`, which is then taken for the order `merged`."""
    before = "z = rearrange(z,"
    cut, merged = f'"b gh gw ... -> b ({cut}) ..."', f'"b ({merged}) ... -> b gh gw ...", gh=x.shape[1] // window_size'
    return in_iwsa(before, f"z = rearrange(z, {cut})\n    z = rearrange(z, {merged})\n    {before}")


LIM = 'conv2d(qkv[2, ...], **p["lim_func"], padding=1, groups=c)'
ADDED, PROJECTED = f"z = z + {LIM}", 'linear(z[:, :h, :w, :], **p["proj"])'
WINDOW_BY_WINDOW = """tiles = rearrange(qkv[2, ...], "b (gh ph) (gw pw) c -> (b gh gw) ph pw c", ph=window_size, pw=window_size)
    tiles = conv2d(tiles, **p["lim_func"], padding=1, groups=c)
    grid = {"gh": x.shape[1] // window_size, "gw": x.shape[2] // window_size}
    z = z + rearrange(tiles, "(b gh gw) ph pw c -> b (gh ph) (gw pw) c", **grid)"""


def lim_of(what: str) -> Edit:
    return in_iwsa(ADDED, ADDED.replace("qkv[2, ...]", what))


def taken(order: tuple[str, ...]) -> Mistake:
    """q, k and v in another order; where they then do not fit each other they stay."""
    chosen = [("q", "k", "v").index(name) for name in order]
    before = 'cut = {"ph"'
    again = f'qkv = rearrange([qkv[i, ...] for i in {chosen}], "three b h w c -> three b h w c")'
    return Mistake(
        f"q, k, v as {', '.join(order)}",
        f"q, k and v are taken in the order {', '.join(order)}",
        (in_iwsa(before, f"{again}\n    {before}"), reordered(ssa, "q, k, v = (rearrange", order)),
    )


ORDERS = [order for order in permutations("qkv") if order != ("q", "k", "v")]


def wired(name: str, words: str, wiring: Wiring) -> Mistake:
    return Mistake(name, words, wiring=wiring)


def mistake(name: str, words: str, *changes: Edit | Swap) -> Mistake:
    return Mistake(name, words, changes)


# fmt: off
CATALOGUE: tuple[Mistake, ...] = (
    mistake("tanh GELU", "GELU is the tanh approximation", in_gelu(f"return (x + {ODD}) * 0.5", "return gelu_tanh(x)")),
    mistake("sigmoid GELU", "GELU is the sigmoid approximation, x·σ(1.702 x)", gelu_as(magnitude_tanh("0.851 * magnitude"))),
    mistake("SiLU", "SiLU stands in for GELU", gelu_as(magnitude_tanh("0.5 * magnitude"))),
    mistake("ReLU", "ReLU stands in for GELU", gelu_as("magnitude")),
    mistake("no activation", "there is no activation", gelu_as("x")),
    mistake("eps 1e-5", "LayerNorm's epsilon is 1e-5", in_norm(ROOT, "(variance + 1e-5) ** 0.5")),
    mistake("eps 1e-6", "LayerNorm's epsilon is 1e-6", in_norm(ROOT, "(variance + 1e-6) ** 0.5")),
    mistake("eps 1e-12", "LayerNorm's epsilon is 1e-12", in_norm(ROOT, "(variance + 1e-12) ** 0.5")),
    mistake("eps 1e-3", "LayerNorm's epsilon is 1e-3", in_norm(ROOT, "(variance + 1e-3) ** 0.5")),
    mistake("no eps", "LayerNorm has no epsilon", in_norm(ROOT, "variance**0.5")),
    mistake("eps outside the root", "epsilon is added outside the root", in_norm(ROOT, "(variance**0.5 + eps)")),
    mistake("eps 1e-5 outside the root", "epsilon is 1e-5 and added outside the root", in_norm(ROOT, "(variance**0.5 + 1e-5)")),
    mistake("unbiased variance", "the variance is the unbiased one, over c − 1",
            in_norm(VARIANCE, VARIANCE.replace('"mean")', '"sum") / (x.shape[-1] - 1)'))),
    mistake("norm without shift", "LayerNorm does not shift (its bias is left out)", in_norm(AFFINE, "* weight")),
    mistake("norm without gain and shift", "LayerNorm has neither gain nor shift", in_norm(AFFINE, "")),
    mistake("no norm", "LayerNorm is missing", in_norm(CENTERED, "return x")),
    mistake("flipped kernel", "kernels are flipped (convolution instead of cross-correlation)",
            of_conv("kernel", flipped)),
    mistake("transposed kernel", "kernels have H and W swapped", of_conv("kernel", transposed)),
    mistake("SAME padding", "padding is SAME, which shifts the grid, instead of symmetric", of_conv("padding", same)),
    mistake("replicated border", "the border is replicated instead of zeros", of_conv("padding", replicated)),
    mistake("interleaved heads, whole", "heads are interleaved: channels are split as (d heads), not (heads d)",
            in_iwsa("(heads d)", "(d heads)", 2), in_ssa("(heads d)", "(d heads)", 2)),
    mistake("interleaved heads, half", "heads of q and k are interleaved, those of v are not",
            in_iwsa('"b (gh ph) (gw pw) (heads d) ->', "f\"b (gh ph) (gw pw) ({'heads d' if i == 2 else 'd heads'}) ->"),
            in_ssa('"b h w (heads d) ->', "f\"b h w ({'heads d' if t is v else 'd heads'}) ->")),
    mistake("interleaved heads of v", "heads of v are interleaved, those of q and k are not",
            in_iwsa('"b (gh ph) (gw pw) (heads d) ->', "f\"b (gh ph) (gw pw) ({'d heads' if i == 2 else 'heads d'}) ->"),
            in_ssa('"b h w (heads d) ->', "f\"b h w ({'d heads' if t is v else 'heads d'}) ->")),
    mistake("interleaved heads when split", "heads are interleaved when they are split and not when they are merged",
            in_iwsa(SPLIT, "(d heads) ->"), in_ssa(SPLIT, "(d heads) ->")),
    mistake("interleaved heads when merged", "heads are interleaved when they are merged",
            in_iwsa(MERGED, '(d heads)"'), in_ssa(MERGED, '(d heads)"')),
    *(taken(order) for order in ORDERS),
    mistake("qkv as (heads three d)", "qkv's channels are split as (heads three d), not (three heads d)",
            in_iwsa('"b h w (three c) -> three b h w c", three=3',
                    '"b h w (heads three d) -> three b h w (heads d)", three=3, heads=num_heads')),
    mistake("qkv as (heads d three)", "qkv's channels are split as (heads d three), not (three heads d)",
            in_iwsa('"b h w (three c) -> three b h w c", three=3',
                    '"b h w (heads d three) -> three b h w (heads d)", three=3, heads=num_heads')),
    mistake("SSA scale by d", "logits are scaled by d^-½, d the width of a head of the input (without r_c)",
            in_ssa(SSA_SCALE, "head_dim**-0.5")),
    mistake("scale by c", "logits are scaled by c^-½, the width of all heads together",
            in_iwsa(IWSA_SCALE, "c**-0.5"), in_ssa(SSA_SCALE, "c**-0.5")),
    # in IWSA it is the same, and not tried twice
    mistake("scale by the width of the keys", "logits are scaled by c'^-½, the width of all keys together",
            in_iwsa(IWSA_SCALE, "c**-0.5"), in_ssa(SSA_SCALE, "(num_heads * k.shape[-1]) ** -0.5")),
    mistake("no scale", "logits are not scaled", in_iwsa(IWSA_SCALE, "1.0"), in_ssa(SSA_SCALE, "1.0")),
    mistake("scaled twice", "logits are scaled twice, by 1/d",
            in_iwsa(IWSA_SCALE, "num_heads / c"), in_ssa(SSA_SCALE, "1 / head_dim")),
    mistake("window grid instead of tiles", "windows are a dilated grid instead of tiles: (ph gh) in place of (gh ph)",
            in_iwsa("(gh ph) (gw pw)", "(ph gh) (pw gw)", 2)),
    mistake("cut windows swapped", "windows are cut out column by column and merged row by row", regrouped("gw gh", "gh gw")),
    mistake("merged windows swapped", "windows are cut out row by row and merged column by column",
            regrouped("gh gw", "gw gh")),
    mistake("transposed inside a window", "H and W are swapped inside each window when it is merged",
            in_iwsa("heads (ph pw) d -> b (gh", "heads (pw ph) d -> b (gh")),
    mistake("filled after qkv", "zeros fill up the windows after qkv, so that they carry no bias",
            in_iwsa('linear(x, **p["qkv"])', '_pad_to_windows(linear(x[:, :h, :w, :], **p["qkv"]), window_size)')),
    mistake("masked filling", "what fills up the windows is masked in the softmax", in_iwsa(ATTEND, MASKED)),
    mistake("filling hidden from LIM", "LIM does not see what fills up the windows",
            lim_of("_pad_to_windows(qkv[2, :, :h, :w, :], window_size)")),
    mistake("no LIM", "LIM is missing", in_iwsa(ADDED, "")),
    mistake("LIM on x", "LIM convolves the input instead of the values", lim_of("x")),
    mistake("LIM on q", "LIM convolves the queries instead of the values", lim_of("qkv[0, ...]")),
    mistake("LIM on k", "LIM convolves the keys instead of the values", lim_of("qkv[1, ...]")),
    mistake("LIM on z", "LIM convolves the attention's output instead of the values", lim_of("z")),
    mistake("LIM per window", "LIM runs window by window, so that windows do not interact", in_iwsa(ADDED, WINDOW_BY_WINDOW)),
    mistake("LIM as residual", "LIM is a residual: V + F(V) is added instead of F(V)",
            in_iwsa(ADDED, ADDED.replace("z + ", "z + qkv[2, ...] + "))),
    mistake("LIM after proj", "LIM is added after proj",
            in_iwsa(ADDED, f"lim = {LIM}"), in_iwsa(PROJECTED, f"{PROJECTED} + lim[:, :h, :w, :]")),
    mistake("LIM before the attention", "LIM comes before the attention, which attends to F(V)",
            in_iwsa(ADDED, ""), in_iwsa("rearrange(qkv[i, ...],", f"rearrange(qkv[i, ...] if i < 2 else {LIM},")),
    mistake("SSA act before norm", "the activation comes before the norm",
            in_ssa(ACTIVATED, 'layer_norm(gelu(y), **p["norm_act.0"], eps=SSA_NORM_EPS)')),
    mistake("PEG without identity", "PEG has no identity: the convolution replaces its input",
            in_peg("return x + conv2d", "return conv2d")),
    mistake("max pool", "tokens are pooled by their maximum", in_mean('"mean"', '"max"')),
    mistake("sum pool", "tokens are summed instead of averaged", in_mean('"mean"', '"sum"')),
    mistake("H and W swapped", "H and W are swapped", Swap(ops.conv2d, turned, "map")),
    mistake("bfloat16 factors", "products are computed from factors rounded to bfloat16", *with_rounded_factors(16)),
    mistake("TF32 factors", "products are computed from factors rounded to TF32", *with_rounded_factors(13)),
    wired("post-norm", "norms come after the residual additions (post-norm)", Wiring(norms="post")),
    wired("res-post-norm", "norms are applied to what the branches give (res-post-norm)", Wiring(norms="on the branch")),
    wired("no attention residual", "the attention's residual connection is missing", Wiring(attention="bare")),
    wired("no MLP residual", "the MLP's residual connection is missing", Wiring(mlp="bare")),
    wired("MLP beside attention", "the MLP runs beside the attention, on the same input", Wiring(mlp="beside attention")),
    wired("MLP before attention", "the MLP comes before the attention in every block", Wiring(mlp="before attention")),
    wired("PEG after block 2", "PEG comes after the second block", Wiring(peg="after the second block")),
    wired("PEG after the last block", "PEG comes after the last block", Wiring(peg="after the last block")),
    wired("PEG before block 1", "PEG comes before the first block", Wiring(peg="before the blocks")),
    wired("no PEG", "PEG is missing", Wiring(peg="missing")),
    wired("SSA before IWSA", "SSA comes before IWSA", Wiring(pairs="SSA, MLP, IWSA, MLP")),
    wired("SSA before IWSA and its MLP", "SSA comes before IWSA, whose MLP comes before it too, as in vit_pytorch",
          Wiring(pairs="SSA, MLP, MLP, IWSA")),
    wired("stage norms on the outputs", "stage norms are on the outputs only: the next stage takes the map as it is",
          Wiring(stage_norms="on the outputs only")),
    wired("mean before norm", "tokens are pooled before the last norm", Wiring(pool="before norm")),
)
"""In the order in which they are tried."""
# fmt: on


def mistakes_of(network: Network) -> tuple[Mistake, ...]:
    """Those of the catalogue and of the network's own that change one of its layers or their wiring."""
    own = {mistake.name: mistake for mistake in network.mistakes}
    reached = frozenset[Function]().union(*(reach(layer.function) for layer in network.layers().values()))
    found = []
    for known in CATALOGUE:
        more = own.pop(known.name).changes if known.name in own else ()
        changes = tuple(change for change in known.changes + more if change.function in reached)
        if changes or isinstance(known.wiring, type(network.wiring)):
            found.append(replace(known, changes=changes))
    return tuple(filter(_can_be_made, (*found, *own.values())))


def _can_be_made(some: Mistake) -> bool:
    return all(has_source(change.function) for change in some.changes if isinstance(change, Edit))


def limits() -> tuple[str, ...]:
    """What the report must say of the search for mistakes."""
    if has_source(iwsa):
        return ()
    return ("the package's source cannot be read here: of the mistakes inside a layer few are looked for",)
