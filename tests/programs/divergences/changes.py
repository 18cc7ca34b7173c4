"""The divergences as changes of a network: mistakes that the comparator knows, or edits of the table of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalablevit_ref.attention import iwsa, ssa
from scalablevit_ref.image_sizes import map_sizes
from scalablevit_ref.layers import POOL, Layer, norm

Params = dict[str, np.ndarray]
Table = dict[str, Layer]


@dataclass(frozen=True)
class Change:
    """A divergence as a change of a network, the official one or vit_pytorch's.

    of: the difference that it belongs to, by its name on the page. words: what is put in its place.
    wiring: a mistake of the comparator's catalogue, by its name.
    within: mistakes of the catalogue, each with a pattern of the layers that have it: of their names, or their function's name.
    config: settings of the configuration.
    params: makes the changed network's parameters; what it leaves alone stays the same object.
    edit: changes the table of layers, for images of so many pixels a side.
    network: what it is measured on beside the digits. on_digits: whether it is on these.
    odd: measured on images whose maps no whole windows and tiles fill, with `pad_windows`.
    """

    of: str
    words: str
    wiring: str = ""
    within: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    params: Callable[[Params, Any], Params] = lambda params, config: params
    edit: Callable[[Table, Any, int], Table] = lambda table, config, size: table
    network: str = "small"
    on_digits: bool = True
    odd: bool = False


def zeroed(*endings: str) -> Callable[[Params, Any], Params]:
    return lambda params, config: {name: np.zeros_like(x) if name.endswith(endings) else x for name, x in params.items()}


def without_key_biases(params: Params, config: Any) -> Params:
    """`k`'s, and the key's part of `kv` and `qkv`."""
    params = dict(params)
    for part, parts in (("attn.k.bias", 1), ("attn.kv.bias", 2), ("attn.qkv.bias", 3)):
        for name in [name for name in params if name.endswith(part)]:
            split = params[name].copy().reshape(parts, -1)
            split[parts // 2 if parts == 3 else 0] = 0
            params[name] = split.reshape(-1)
    return params


def with_unit_norms(params: Params, config: Any) -> Params:
    """Gains of one and shifts of zero for the norms `unit.k` and `unit.last`, which the official network lacks."""
    names = {**{f"unit.{k}": config.embed_dims[k - 1] for k in range(1, config.num_stages)}, "unit.last": config.embed_dims[-1]}
    units = {f"{name}.weight": np.ones(c) for name, c in names.items()} | {f"{name}.bias": np.zeros(c) for name, c in names.items()}
    return params | units


def unit_norms_between_stages(table: Table, config: Any, size: int) -> Table:
    """`unit.k`, a norm of gain one and shift zero, of what the patch embedding of stage k takes."""
    table = dict(table)
    for k in range(1, config.num_stages):
        embed = table[f"patch_embeds.{k}"]
        table[f"unit.{k}"] = Layer(f"unit.{k}", norm, embed.sources, {"eps": config.norm_eps})
        table[embed.name] = replace(embed, sources=(f"unit.{k}",))
    return table


def unit_norm_before_the_mean(table: Table, config: Any, size: int) -> Table:
    last = Layer("unit.last", norm, table[POOL].sources, {"eps": config.norm_eps})
    return table | {last.name: last, POOL: replace(table[POOL], sources=(last.name,))}


def whole_maps(table: Table, config: Any, size: int) -> Table:
    """Each stage's window is its map."""
    sides = map_sizes(config, size)
    windows = [layer for layer in table.values() if layer.function is iwsa]
    return table | {x.name: replace(x, settings={**x.settings, "window_size": sides[int(x.name.split(".")[1])]}) for x in windows}


def width_of_keys(table: Table, config: Any, size: int) -> Table:
    """The scale is dim_key^-½: with a reduction that is (d · r_c)^-½ as ever, without one d^-½."""
    unreduced = [layer for layer in table.values() if layer.function is ssa and layer.settings["sr_ratio"] == 1]
    return table | {layer.name: replace(layer, settings={**layer.settings, "scale": "head_dim"}) for layer in unreduced}


def as_v1(params: Params, config: Any) -> Params:
    """v3's values as v1's: behind the c/H channels of each head zeros up to c'/H, and zeros in `proj` for these."""
    params = dict(params)
    for attn in [name.removesuffix("reduction.0.weight") for name in params if name.endswith("reduction.0.weight")]:
        heads = config.num_heads[int(attn.split(".")[1])]
        k, v, proj = (params.pop(f"{attn}{name}.weight") for name in ("k", "v", "proj"))
        biases = [params.pop(f"{attn}{name}.bias") for name in ("k", "v")]
        more = (len(k) - len(v)) // heads

        def widened(x: np.ndarray, axis: int, more: int = more, heads: int = heads) -> np.ndarray:
            split = x.reshape(*x.shape[:axis], heads, -1, *x.shape[axis + 1 :])
            wide = np.pad(split, [(0, more if i == axis + 1 else 0) for i in range(split.ndim)])
            return wide.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])

        params[f"{attn}kv.weight"] = np.concatenate([k, widened(v, 0)])
        params[f"{attn}kv.bias"] = np.concatenate([biases[0], widened(biases[1], 0)])
        params[f"{attn}proj.weight"] = widened(proj, 1)
    return params


QKV = ("q", "k", "v", "kv", "qkv")
CHANGES = {
    "eps": Change("Norm epsilon", "1e−5 everywhere", within={"eps 1e-5": "*"}),
    "ssa_eps": Change("Norm epsilon", "1e−6 in SSA too", within={"eps 1e-6": "ssa"}),
    "no_shift": Change("Norm shift", "none", within={"norm without shift": "*"}),
    "tanh": Change("GELU", "the tanh approximation", within={"tanh GELU": "*"}),
    "ssa_first": Change("Block order", "SSA, MLP, IWSA, MLP, as the ports' names intend", wiring="SSA before IWSA"),
    "order": Change("Block order", "SSA, MLP, MLP, IWSA, as the ports run", wiring="SSA before IWSA and its MLP"),
    "stem_padding": Change("Stem padding", "SAME", within={"SAME padding": "patch_embeds.0"}),
    "downsampling_padding": Change("Downsampling padding", "SAME", within={"SAME padding": "patch_embeds.[1-9]"}),
    "no_stem_norm": Change("Stem norm", "none", within={"no norm": "patch_embeds.0"}),
    "norm_before_downsampling": Change(
        "Downsampling norm",
        "before it, without gain and shift",
        within={"no norm": "patch_embeds.[1-9]"},
        params=with_unit_norms,
        edit=unit_norms_between_stages,
    ),
    "no_key_bias": Change("QKV biases", "none of k", params=without_key_biases),
    "no_bias": Change("QKV biases", "none", params=zeroed(*(f"attn.{name}.bias" for name in QKV))),
    "no_reduction_norm": Change("Reduction", "no LayerNorm", within={"no norm": "ssa"}),
    "no_reduction_gelu": Change("Reduction", "no GELU", within={"no activation": "ssa"}),
    "no_reduction_bias": Change("Reduction", "no biases", params=zeroed("reduction.0.bias", "reduction.1.bias")),
    "dense_reduction": Change(
        "Reduction",
        "no LayerNorm, GELU or biases, as in one dense convolution",
        within={"no norm": "ssa", "no activation": "ssa"},
        params=zeroed("reduction.0.bias", "reduction.1.bias"),
    ),
    "padded_tiles": Change("Tile padding", "zeros fill up the last tiles (SAME)", within={"SAME padding": "ssa"}, odd=True),
    "scale": Change(
        "SSA scale", "that of `dim_key`, without $r_c$ where $s = 1$ (`small_0`)", edit=width_of_keys, network="small_0"
    ),
    "whole_map": Change("Window size", "the whole map", edit=whole_maps),
    "mean_first": Change("Final norm", "after the mean", wiring="mean before norm"),
    "norm_mean_norm": Change(
        "Final norm",
        "one before the mean, without gain and shift, and one after it",
        wiring="mean before norm",
        params=with_unit_norms,
        edit=unit_norm_before_the_mean,
    ),
    "v1": Change("Value channels", "v1, with zeros for what v3 lacks", config={"ssa_values": "scaled"}, params=as_v1),
    "head_dim": Change("Earlier scale", "$d^{-1/2}$", config={"ssa_scale": "head_dim"}),
    "embed_eps": Change("Embedding epsilon", "1e−5", config={"embed_norm_eps": 1e-5}),
    "masked": Change("Window padding", "masked in the softmax", within={"masked filling": "iwsa"}, odd=True),
    "after_qkv": Change("Window padding", "zeros after qkv, without its bias", within={"filled after qkv": "iwsa"}, odd=True),
    "hidden": Change("Window padding", "hidden from LIM", within={"filling hidden from LIM": "iwsa"}, odd=True),
    "normed_map": Change("Stage norms", "added, without gain and shift", params=with_unit_norms, edit=unit_norms_between_stages),
    "outputs_only": Change(
        "Stage norms",
        "of the output only, not of what the next stage takes (`mmdet_small`)",
        wiring="stage norms on the outputs",
        network="mmdet_small",
        on_digits=False,
    ),
}
VIT_PYTORCH = ("eps", "order", "no_bias", "scale", "no_stem_norm", "norm_before_downsampling", "dense_reduction", "mean_first")
FLAX_PORT = ("no_shift", "tanh", "stem_padding", "downsampling_padding", *VIT_PYTORCH[:-1], "norm_mean_norm")
"""All that the official network needs to compute what these do. Where two concern one setting the later one holds."""

TOGETHER = {"vit_pytorch": VIT_PYTORCH, "flax_port": FLAX_PORT}
PORT_CHANGES = {
    "tanh": Change("GELU", "the tanh approximation", within={"tanh GELU": "*"}),
    "stem_padding": Change("Stem padding", "SAME", within={"SAME padding": "stem"}),
    "downsampling_padding": Change("Downsampling padding", "SAME", within={"SAME padding": "downsample"}),
    "last_norm": Change("Final norm", "at the end of the last stage too", wiring="norm after the last stage"),
}
"""The four places of the Flax port that differ from vit_pytorch wherever its weights come from it."""

OTHER_PORT_CHANGES = {
    "no_shift": Change("Norm shift", "none, where the weights would shift", within={"norm without shift": "*"}),
    "padded_tiles": Change("Tile padding", "zeros fill up the last tiles (SAME)", within={"SAME padding": "ssa_layer"}, odd=True),
}
