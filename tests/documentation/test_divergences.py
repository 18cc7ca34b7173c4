"""`docs/implementations.md`: its figures, the tests that it names, and what these do not show of the ports and the backbone."""

from __future__ import annotations

import argparse
import ast
import json
import math
import pickle
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import scalablevit_ref as sv
from scalablevit_ref import ops
from scalablevit_ref.compare.mistakes.layerwise import RIGHT, computed
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.dialects.config import is_norm_bias
from scalablevit_ref.dialects.weights import vit_pytorch_to_flax
from scalablevit_ref.layers import Layer
from scalablevit_ref.parameters import iwsa_shapes
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.programs.divergences.changes import CHANGES, FLAX_PORT, OTHER_PORT_CHANGES, PORT_CHANGES, TOGETHER, VIT_PYTORCH
from tests.programs.divergences.chart import DECADES, WHO
from tests.programs.divergences.counts import counts, parameters
from tests.programs.divergences.labels import anchor
from tests.programs.divergences.measure import AS_IT_RUNS, SAMPLE, TINY, TINY_PORT, measured, port_params
from tests.programs.divergences.network import Network
from tests.programs.divergences.page import PAGE, named, written
from tests.support.mistakes import MISTAKES

ROOT = Path(__file__).resolve().parents[2]
TEXT = PAGE.read_text(encoding="utf-8")
FIGURES = json.loads(PAGE.with_name("divergences.json").read_text(encoding="utf-8"))
ROUNDING = 1e-13
"""What is the same in exact arithmetic is this near."""

CONFIG = TINY["small_0"]
PARAMS = random_params(sv.parameter_shapes(CONFIG))
IMAGES = random_images((2, 3, 56, 56))
NAMES = dict(re.findall(r'^\| <span id="([\w-]+)">\*\*(.+?)\*\*</span>', TEXT, re.MULTILINE))
"""The differences, by the ids of their rows."""

NEEDED = [(port, name) for port, names in TOGETHER.items() for name in names]


def ids_in(path: str) -> list[str]:
    """Ids of a file's tests, those in classes too, without parameters."""
    found = []
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        start = f"{path}::{node.name}::" if isinstance(node, ast.ClassDef) else f"{path}::"
        found += [start + x.name for x in inside if isinstance(x, ast.FunctionDef) and x.name.startswith("test_")]
    return found


class TestThePage:
    def test_its_tables_are_the_figures(self) -> None:
        assert written(TEXT, FIGURES) == TEXT
        assert sorted(named(TEXT)) == sorted([*CHANGES, *TOGETHER])
        assert FIGURES["changes"].keys() == FIGURES["sample"]["changes"].keys() == {"nothing", "nothing, odd", *CHANGES, *TOGETHER}

    def test_its_other_figures_are_counted(self) -> None:
        assert counts() == FIGURES["counts"]
        large = {int(count.replace(",", "")) for count in re.findall(r"\b\d{1,3}(?:,\d{3})+\b", TEXT)}
        assert large == set(FIGURES["counts"].values())
        right = {
            int(count) for count in re.findall(r"(\d+) (?:of 370 )?right|(\d+) of 370 right", TEXT) for count in count if count
        }
        assert right == {FIGURES["changes"][name]["right"] for name in ("nothing", "nothing, odd")}

    def test_its_tests_exist(self) -> None:
        ids = re.findall(r"`(tests/[\w/]+\.py::[^`]+)`", TEXT)
        assert len(set(ids)) > 50
        assert {re.sub(r"\[.*\]$", "", name) for name in ids} <= {
            test for path in {name.split("::")[0] for name in ids} for test in ids_in(path)
        }
        parametrized = {f"tests/documentation/test_divergences.py::test_each_is_needed[{port}-{name}]" for port, name in NEEDED}
        assert {name for name in ids if "[" in name} == parametrized

    def test_every_divergence_has_its_tests(self) -> None:
        """Or says why there is none."""
        shown = re.findall(r"^    - (.+?): .*(?:`tests/|no test)", TEXT, re.MULTILINE)
        assert sorted(NAMES.values()) == sorted(name for names in shown for name in names.split(", "))

    def test_every_divergence_has_one_name(self) -> None:
        """In the rows, in what is measured, and in every link. No number is left that would be one."""
        assert len(set(NAMES.values())) == len(NAMES)
        assert {anchor(name): name for name in NAMES.values()} == NAMES
        assert {change.of for changes in (CHANGES, PORT_CHANGES, OTHER_PORT_CHANGES) for change in changes.values()} <= set(
            NAMES.values()
        )
        for words, place in re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)", TEXT):
            assert place not in NAMES or words.lower() in NAMES[place].lower(), words
        claimed = re.search(r"(\d+) differences", PAGE.with_name("claims.md").read_text(encoding="utf-8"))
        assert claimed
        assert int(claimed[1]) == len(NAMES)
        assert not re.search(r"^(?:\||- |    - )? ?\d+(?:, \d+)*:? ?[|:]|\(\d+\)|see \d+", TEXT, re.MULTILINE)


def test_a_sample_is_measured_again() -> None:
    found, expected = measured(SAMPLE), FIGURES["sample"]
    for name, figures in expected["changes"].items():
        assert found["changes"][name] == pytest.approx(figures, rel=0.006), name  # half of the last of three digits
        for measure in {"digits", "small"} & figures.keys():
            assert (figures[measure] > 0) == (FIGURES["changes"][name][measure] > 0) == (name not in ("no_key_bias", "v1")), name
    assert found["ports"] == pytest.approx(expected["ports"], rel=0.006)


def as_port(params: dict[str, np.ndarray], config: sv.ScalableViTConfig) -> dict[str, np.ndarray]:
    """The official network's weights under vit_pytorch's names: depthwise kernels as diagonals, the reduction multiplied out, and
    norms of gain 1 before the downsamplings. What vit_pytorch has no place for is left out.
    """
    state: dict[str, np.ndarray] = {}

    def conv(target: str, source: str, *, bias: bool = True) -> None:
        kernel = params[f"{source}.weight"]
        state[f"{target}.weight"] = kernel[:, :, None, None] if kernel.ndim == 2 else kernel
        if bias:
            state[f"{target}.bias"] = params[f"{source}.bias"]

    def norm(target: str, gain: np.ndarray, shift: np.ndarray) -> None:
        state[f"{target}.g"], state[f"{target}.b"] = (x.reshape(1, -1, 1, 1) for x in (gain, shift))

    conv("to_patches", "patch_embeds.0.proj")
    for k, depth in enumerate(config.depths):
        for j in range(depth // 2):
            layer, iwsa, ssa = f"layers.{k}.0.layers.{j}", f"stages.{k}.{2 * j}", f"stages.{k}.{2 * j + 1}"
            for entry, block in (("0.norm", f"{ssa}.norm1"), ("4.norm", f"{iwsa}.norm1"), ("1.net.0", f"{ssa}.norm2"),
                                 ("3.net.0", f"{iwsa}.norm2")):  # fmt: skip
                norm(f"{layer}.{entry}", params[f"{block}.weight"], params[f"{block}.bias"])
            for entry, block in (("1", ssa), ("3", iwsa)):
                conv(f"{layer}.{entry}.net.1", f"{block}.mlp.fc1")
                conv(f"{layer}.{entry}.net.4", f"{block}.mlp.fc2")
            if j == 0:
                conv(f"{layer}.2.proj", f"pos_block.{k}.proj.0")
            conv(f"{layer}.0.to_out.0", f"{ssa}.attn.proj")
            conv(f"{layer}.4.to_out.0", f"{iwsa}.attn.proj")
            conv(f"{layer}.0.to_q", f"{ssa}.attn.q", bias=False)
            if config.sr_ratios[k] > 1:
                depthwise, dense = (params[f"{ssa}.attn.reduction.{i}.weight"] for i in (0, 1))
                for part in "kv":
                    full = params[f"{ssa}.attn.{part}.weight"] @ dense[:, :, 0, 0]
                    state[f"{layer}.0.to_{part}.weight"] = np.einsum("oi,ihw->oihw", full, depthwise[:, 0])
            else:
                for part, weight in zip("kv", np.split(params[f"{ssa}.attn.kv.weight"], 2), strict=True):
                    state[f"{layer}.0.to_{part}.weight"] = weight[:, :, None, None]
            for part, weight in zip("qkv", np.split(params[f"{iwsa}.attn.qkv.weight"], 3), strict=True):
                state[f"{layer}.4.to_{part}.weight"] = weight[:, :, None, None]
            lim, c = f"{layer}.4.local_interactive_module", config.embed_dims[k]
            state[f"{lim}.weight"], state[f"{lim}.bias"] = np.zeros((c, c, 3, 3)), params[f"{iwsa}.attn.lim_func.bias"]
            state[f"{lim}.weight"][np.arange(c), np.arange(c)] = params[f"{iwsa}.attn.lim_func.weight"][:, 0]
        if k + 1 < config.num_stages:
            norm(f"layers.{k}.0.norm", np.ones(config.embed_dims[k]), np.zeros(config.embed_dims[k]))
            conv(f"layers.{k}.1.conv", f"patch_embeds.{k + 1}.proj")
    for target, source in (("mlp_head.1", "norm"), ("mlp_head.2", "head")):
        state |= {f"{target}.{leaf}": params[f"{source}.{leaf}"] for leaf in ("weight", "bias")}
    return {name: state[name] for name in vit_pytorch.parameter_shapes(PORT)}


PORT = vit_pytorch.Config(  # the widths of CONFIG
    num_classes=10,
    dim=8,
    depth=(1, 2),
    heads=2,
    reduction_factor=(2, 1),
    window_size=7,
    ssa_dim_key=(5, 8),
    ssa_dim_value=(4, 8),
    iwsa_dim_key=(4, 8),
    iwsa_dim_value=(4, 8),
    ff_expansion_factor=2,
)


@cache
def port_logits(port: str, size: int = 56, **settings: Any) -> np.ndarray:
    """What the port computes, which its own conformance figures hold to 1e-12, with the official network's weights."""
    state, images, config = as_port(PARAMS, CONFIG), random_images((2, 3, size, size)), replace(PORT, **settings)
    if port == "vit_pytorch":
        return np.asarray(vit_pytorch.scalable_vit(images, state, config))
    tree = vit_pytorch_to_flax(state, config, patched=False, one_way=True)
    return np.asarray(flax_port.scalable_vit(rearrange(images, "b c h w -> b h w c"), tree, config))


def changed(*names: str, size: int = 56) -> np.ndarray:
    network = Network(CONFIG, PARAMS, size, [CHANGES[name] for name in names])
    return network.outputs(random_images((2, 3, size, size)))["logits"]


@pytest.mark.parametrize("port", TOGETHER)
def test_together_they_are_the_ports(port: str) -> None:
    """Nothing else is different; and with the dense kernels of LIM and of the reduction nothing is lost."""
    assert relative_l2(changed(*TOGETHER[port]), port_logits(port)) < ROUNDING


@pytest.mark.parametrize(("port", "name"), NEEDED)
def test_each_is_needed(port: str, name: str) -> None:
    """With one left out it is another network than the port."""
    assert relative_l2(changed(*(other for other in TOGETHER[port] if other != name)), port_logits(port)) > 1e-6


def test_the_order_that_the_ports_names_intend() -> None:
    intended = Network(PORT, as_port(PARAMS, CONFIG), 56).outputs(IMAGES)["logits"]
    swapped = ["ssa_first" if name == "order" else name for name in VIT_PYTORCH]
    assert relative_l2(changed(*swapped), intended) < ROUNDING
    assert relative_l2(intended, port_logits("vit_pytorch")) > 1e-3


def test_whole_maps_and_tiles_that_they_do_not_fill() -> None:
    """52 pixels: maps of 13 and 7 tokens, tiles of 2. Only the Flax port fills up the last ones."""
    whole = {port: [*names, "whole_map"] for port, names in TOGETHER.items()}
    assert relative_l2(changed(*whole["vit_pytorch"], size=52), port_logits("vit_pytorch", 52, window_size=None)) < ROUNDING
    published = port_logits("flax_port", 52, window_size=None)
    assert relative_l2(changed(*whole["flax_port"], "padded_tiles", size=52), published) < ROUNDING
    assert relative_l2(changed(*whole["flax_port"], size=52), published) > 1e-3


def test_the_four_places_are_the_flax_port() -> None:
    params = port_params(TINY_PORT)
    state = {name: np.zeros_like(x) if is_norm_bias(name) else x for name, x in params.items()}
    own = {name: x for name, x in state.items() if name != "layers.1.0.norm.g"}
    tree = vit_pytorch_to_flax(own, TINY_PORT, patched=False, one_way=True)
    published = flax_port.scalable_vit(rearrange(IMAGES, "b c h w -> b h w c"), tree, TINY_PORT)
    network = Network(TINY_PORT, state, 56, PORT_CHANGES.values(), AS_IT_RUNS)
    assert relative_l2(network.outputs(IMAGES)["logits"], published) < ROUNDING
    plain = Network(TINY_PORT, own, 56, wiring=AS_IT_RUNS)
    assert relative_l2(plain.outputs(IMAGES)["logits"], vit_pytorch.scalable_vit(IMAGES, own, TINY_PORT)) < ROUNDING


def test_depth_counts_pairs() -> None:
    config = replace(PORT, depth=(3, 2))
    for name in (*vit_pytorch.parameter_shapes(config), *flax_port.parameter_shapes(config)):
        assert "layers.0.0.layers.3" not in name
        assert "ScalableSelfAttention_3" not in name
    names = [name for name in vit_pytorch.parameter_shapes(config) if name.startswith("layers.0.") and name.endswith("to_q.weight")]
    assert names == [f"layers.0.0.layers.{j}.{entry}.to_q.weight" for j in range(3) for entry in (0, 4)]
    official = [name for name in sv.parameter_shapes(CONFIG) if name.startswith("stages.1.") and name.endswith("attn.proj.weight")]
    assert official == [f"stages.1.{i}.attn.proj.weight" for i in range(4)]


def test_where_the_ports_have_norms() -> None:
    """Not after the stem, but at the end of a stage: in vit_pytorch of all but the last; and one after the mean."""
    theirs = vit_pytorch.parameter_shapes(PORT)
    outside = [
        name for name in theirs if name.endswith((".g", "mlp_head.1.weight")) and ".layers." not in name.removeprefix("layers.")
    ]
    assert outside == ["layers.0.0.norm.g", "mlp_head.1.weight"]
    assert [name for name in theirs if name.startswith(("to_patches", "mlp_head"))] == [
        f"{module}.{leaf}" for module in ("to_patches", "mlp_head.1", "mlp_head.2") for leaf in ("weight", "bias")
    ]
    flax = [name for name in flax_port.parameter_shapes(PORT) if "LayerNorm" in name and "PreNorm" not in name]
    assert flax == [
        f"params.{module}.scale" for module in ("LayerNorm_0", "Transformer_0.LayerNorm_0", "Transformer_1.LayerNorm_0")
    ]
    trace = vit_pytorch.trace(IMAGES, as_port(PARAMS, CONFIG), PORT)
    assert list(trace)[-5:] == ["layers.1.0", "mlp_head.0", "mlp_head.1", "mlp_head.2", "logits"]
    assert trace["layers.0.0"].shape[1] == trace["layers.0.0.norm"].shape[1] == 8  # the norm is before the downsampling
    assert trace["layers.0.1"].shape[1] == 16
    normed = [
        trace["layers.0.0"],
        rearrange(trace["mlp_head.1"] - PARAMS["norm.bias"], "b c -> b c 1 1") / PARAMS["norm.weight"][:, None, None],
    ]
    for x in normed:
        assert abs(x.mean(axis=1)).max() < 1e-12
    assert abs(trace["layers.1.0"].mean(axis=1)).max() > 1e-3


def test_widths_can_be_the_official_ones() -> None:
    """Every kernel that has an official counterpart holds as many numbers; keys of 40 channels a head make `small`'s."""
    assert {name: x.shape for name, x in as_port(PARAMS, CONFIG).items()} == vit_pytorch.parameter_shapes(PORT)
    small = vit_pytorch.Config(num_classes=10, dim=64, depth=(1, 1), heads=(2, 4), reduction_factor=(8, 4), ssa_dim_key=40)
    theirs, official = vit_pytorch.parameter_shapes(small), sv.parameter_shapes(sv.variant("small"))
    for k in (0, 1):
        for entry, name in ((f"layers.{k}.0.layers.0.0.to_q.weight", "q"), (f"layers.{k}.0.layers.0.0.to_out.0.weight", "proj")):
            assert parameters({entry: theirs[entry]}) == parameters({name: official[f"stages.{k}.1.attn.{name}.weight"]})
    plain = replace(small, ssa_dim_key=32)
    assert vit_pytorch.parameter_shapes(plain)["layers.0.0.layers.0.0.to_q.weight"] == (64, 64, 1, 1)
    assert vit_pytorch.Config(num_classes=10, dim=64, depth=(1, 1), heads=(2, 4), reduction_factor=(8, 4)) == plain


@pytest.mark.parametrize(
    ("name", "settings"),
    [("head_dim", {"ssa_scale": "head_dim"}), ("embed_eps", {"embed_norm_eps": 1e-5}), ("whole_map", {"window_sizes": (14, 7)})],
)
def test_settings_of_the_specification(name: str, settings: dict[str, Any]) -> None:
    assert relative_l2(changed(name), sv.scalable_vit(IMAGES, PARAMS, replace(CONFIG, **settings))) < ROUNDING


def test_v3_is_a_v1_with_zeros() -> None:
    """And a v1 whose zeros are not zeros is no v3."""
    v1 = replace(CONFIG, ssa_values="scaled")
    params = CHANGES["v1"].params(PARAMS, v1)
    logits = sv.scalable_vit(IMAGES, PARAMS, CONFIG)
    assert relative_l2(sv.scalable_vit(IMAGES, params, v1), logits) < ROUNDING
    assert sum((x == 0).sum() for x in params.values()) > 0
    full = {name: np.where(x == 0, 0.5, x) for name, x in params.items()}
    assert relative_l2(sv.scalable_vit(IMAGES, full, v1), logits) > 1e-3


def test_the_normed_map_is_passed_on() -> None:
    """In the backbone: what the next stage takes is `norm_list.k`. A tap that gives it the map without the norm makes the other."""
    config = TINY["mmdet_small"]
    params, last = random_params(sv.parameter_shapes(config)), {0: "stages.0.1", 1: "stages.1.3"}
    trace = sv.trace(IMAGES, params, config)
    embed = {name.removeprefix("patch_embeds.1."): x for name, x in params.items() if name.startswith("patch_embeds.1.")}
    assert np.array_equal(sv.patch_embed(trace["norm_list.0"], embed, patch_size=2, eps=1e-5), trace["patch_embeds.1"])
    seen: dict[str, np.ndarray] = {}

    def unnormed(name: str, x: np.ndarray) -> np.ndarray:
        seen[name] = x
        return seen[last[0]] if name == "norm_list.0" else x

    other = sv.scalable_vit(IMAGES, params, config, tap=unnormed)
    network = Network(config, params, 56, [CHANGES["outputs_only"]])
    assert relative_l2(network.outputs(IMAGES)["logits"], other) < ROUNDING
    assert relative_l2(other, trace["logits"]) > 1e-3

    def normed(name: str, x: np.ndarray) -> np.ndarray:
        return ops.layer_norm(x, np.ones(8), np.zeros(8), eps=1e-6) if name == last[0] else x

    assert relative_l2(changed("normed_map"), sv.scalable_vit(IMAGES, PARAMS, CONFIG, tap=normed)) < ROUNDING


FILLINGS = {"tokens": RIGHT, **{name: MISTAKES[name] for name in ("filled after qkv", "masked filling", "filling hidden from LIM")}}


def filled_by_hand(x: np.ndarray, p: dict[str, np.ndarray], filling: str, *, heads: int, s: int) -> np.ndarray:
    """IWSA of one h w c map, window by window, with torch's attention."""
    (h, w, c), more = x.shape, ((0, -x.shape[0] % s), (0, -x.shape[1] % s), (0, 0))
    wide = np.pad(x, more) @ p["qkv.weight"].T + p["qkv.bias"]
    qkv = np.pad(wide[:h, :w], more) if filling == "filled after qkv" else wide
    real = np.pad(np.ones((h, w, 1), bool), more)
    z = np.zeros_like(qkv[..., :c])
    for i in range(0, len(qkv), s):
        for j in range(0, qkv.shape[1], s):
            at = np.s_[i : i + s, j : j + s]
            q, k, v = (
                torch.from_numpy(rearrange(t, "i j (heads d) -> heads (i j) d", heads=heads)) for t in np.split(qkv[at], 3, -1)
            )
            mask = torch.from_numpy(real[at].reshape(1, 1, -1)) if filling == "masked filling" else None
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            z[at] = rearrange(y.numpy(), "heads (i j) d -> i j (heads d)", i=s)
    values = qkv[:h, :w, 2 * c :] if filling == "filling hidden from LIM" else qkv[..., 2 * c :]
    lim = torch.nn.functional.conv2d(
        torch.from_numpy(rearrange(values, "h w c -> 1 c h w")),
        *(torch.from_numpy(p[f"lim_func.{leaf}"]) for leaf in ("weight", "bias")),
        padding=1,
        groups=c,
    )
    z = z[:h, :w] + rearrange(lim.numpy(), "1 c h w -> h w c")[:h, :w]
    return np.asarray(z @ p["proj.weight"].T + p["proj.bias"])


@pytest.mark.parametrize("filling", FILLINGS)
def test_fillings_differ_where_there_is_something_to_fill(filling: Any) -> None:
    """The backbone fills up windows with tokens; the other ways give other maps, but of 6 x 6 tokens none does."""
    p = random_params(iwsa_shapes(8))
    layer = Layer("x", sv.iwsa, (), {"num_heads": 2, "window_size": 3, "pad": True})
    for h, w in ((5, 7), (6, 6)):
        x = random_images((1, h, w, 8))
        y = computed(layer, x, {f"x.{name}": value for name, value in p.items()}, FILLINGS[filling])
        assert relative_l2(y[0], filled_by_hand(x[0], p, filling, heads=2, s=3)) < ROUNDING
        ours = sv.iwsa(x, p, num_heads=2, window_size=3, pad=True)
        assert (relative_l2(y, ours) < ROUNDING) == (filling == "tokens" or (h, w) == (6, 6))


def test_the_reduction_keeps_its_biases() -> None:
    names = [name for name in sv.parameter_shapes(replace(CONFIG, qkv_bias=False)) if name.startswith("stages.0.1.attn.")]
    assert [name.removeprefix("stages.0.1.attn.") for name in names if name.endswith("bias")] == [
        "reduction.0.bias",
        "reduction.1.bias",
        "norm_act.0.bias",
        "proj.bias",
    ]


def test_weights_only_refuses_a_training_checkpoint(tmp_path: Path) -> None:
    """For its Namespace, which this package reads and does not execute."""
    checkpoint = {"model": sv.to_backend(PARAMS, "torch"), "epoch": 3, "args": argparse.Namespace(lr=5e-4)}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    found = sv.load_checkpoint(tmp_path / "checkpoint.pth", config=CONFIG).params
    assert all(np.array_equal(found[name], x) for name, x in PARAMS.items())


def test_the_flax_port_is_vit_pytorch_and_four_places() -> None:
    """In the lists of what they need too."""
    assert set(FLAX_PORT) - set(VIT_PYTORCH) == {"no_shift", "tanh", "stem_padding", "downsampling_padding", "norm_mean_norm"}
    assert set(VIT_PYTORCH) - set(FLAX_PORT) == {"mean_first"}


def test_the_chart_has_a_bar_for_each_that_moves_the_logits() -> None:
    """As long as the logarithm of what was measured, and its label leads to the difference's row."""
    chart = TEXT.partition('<table class="bars">')[2].partition("</table>")[0]
    row = r'<tr><th scope="row"><a href="#([\w-]+)">(.+?)</a>: .+?</th><td class="(\w+)"><i style="width: ([\d.]+)%"></i></td>'
    bars = re.findall(row, chart)
    errors = {name: found.get("small") for name, found in FIGURES["changes"].items() if name in CHANGES}
    names = sorted((name for name in errors if errors[name]), key=lambda name: -errors[name])
    assert [name for _, name, _, _ in bars] == [CHANGES[name].of for name in names]
    assert [float(width) for *_, width in bars] == [round(100 * (1 + math.log10(errors[name]) / DECADES), 1) for name in names]
    assert {kind for _, _, kind, _ in bars} == set(WHO)
    for place, name, *_ in bars:
        assert f'<span id="{place}">**{name}**</span>' in TEXT
