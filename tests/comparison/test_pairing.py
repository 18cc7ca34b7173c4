"""The candidate's parameters and steps are paired rightly whatever its style, and as its author meant it where it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.benchmark.contenders import vit_pytorch_module
from scalablevit_ref.compare.capture.pairing import Pairing, paired
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.support.ports import CONFIG, MISTAKES, STYLES, Port
from tests.support.profiles import share


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pairing_of(
    module: nn.Module, config: Any = CONFIG, size: tuple[int, int] = (32, 64), names: Mapping[str, str] | None = None
) -> tuple[Pairing, dict[str, np.ndarray]]:
    """The pairing of a module that was run with random weights, and these."""
    runner, draw = TorchRunner(module, "float64"), np.random.default_rng(0)
    own = {name: draw.standard_normal(value.shape) for name, value in runner.parameters.items()}
    network = network_of(config)
    shape = (2, network.in_chans, *size)
    return paired(runner.record(draw.standard_normal(shape), own), own, network, shape, names=names), own


def found(pairing: Pairing, name: str) -> set[tuple[Any, ...]]:
    return {(part.own, part.official_rows, part.own_rows, part.turned) for part in pairing.parts[name]}


def assert_meant(pairing: Pairing, port: Port) -> None:
    """Every parameter lies where the port's style has put it."""
    wrong = {
        name: (sorted(map(str, found(pairing, name))), places)
        for name, places in port.truth.items()
        if found(pairing, name) != {(place.own, place.official_rows, place.own_rows, place.turned) for place in places}
    }
    assert not wrong, dict(list(wrong.items())[:3])


def loaded(module: nn.Module, weights: Mapping[str, np.ndarray]) -> nn.Module:
    module = module.double().eval()
    state = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(torch.from_numpy(value))
    return module


def logits(module: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("style", STYLES)
def test_a_right_port_gets_the_right_weights(style: str) -> None:
    """It then computes what the reference does; nothing is to be said of it, and every step is at its place."""
    port = Port(STYLES[style])
    pairing, own = pairing_of(port)
    assert_meant(pairing, port)
    assert pairing.notes == ()
    assert not pairing.facts.wired
    params, images = random_params(sv.parameter_shapes(CONFIG)), random_images((2, 3, 32, 64))
    weights = pairing.own_weights(params, own)
    assert relative_l2(logits(loaded(port, weights), images), sv.scalable_vit(images, params, CONFIG)) < 1e-13
    back = pairing.official_weights(weights)
    assert all(np.array_equal(back[name], value) for name, value in params.items())
    assert {name.rpartition(".")[0] for name in params} == set(pairing.steps)


SQUARE = replace(
    CONFIG,
    embed_dims=(16, 16, 16),
    num_heads=(2, 2, 2),
    mlp_ratios=(1, 1, 1),
    c_ratios=(1.0, 1.0, 1.0),
    sr_ratios=(2, 2, 1),
)
"""Every weight in every stage is of one size but those that are fused."""


@pytest.mark.parametrize("style", ["nameless, shuffled", "nameless, shuffled, apart", "numbers", "fused", "words, shuffled"])
def test_sizes_that_tell_nothing(style: str) -> None:
    port = Port(STYLES[style], config=SQUARE)
    pairing, _ = pairing_of(port, SQUARE)
    assert_meant(pairing, port)
    assert pairing.notes == ()


MEANT = ("words", "numbers", "one dictionary, shuffled, apart", "lists of roles", "letters")
UNDECIDED = {("numbers", "norms interchanged")}  # the first is the one that acts first


@pytest.mark.parametrize(("style", "mistake"), share([(style, mistake) for style in MEANT for mistake in MISTAKES], of=4))
def test_a_wrong_port_is_paired_as_it_is_meant(style: str, mistake: str) -> None:
    if (style, mistake) in UNDECIDED:
        return
    port = Port(STYLES[style], mistake)
    assert_meant(pairing_of(port)[0], port)


NOTES = {
    "post-norm": [
        "stages.0.0.norm1 runs after stages.0.0.attn, in the reference after patch_embeds.0 (10 times)",
        "stages.0.0.norm2 runs after stages.0.0.mlp, in the reference after stages.0.0.attn (10 times)",
    ],
    "norm1 twice": [
        (
            "stages.0.0.norm2's parameters (levels.0.0.pre2.gamma) act nowhere; those of stages.0.0.norm1 (levels.0.0.pre1.gamma) "
            "act in its place (10 times)"
        )
    ],
    "norm2 twice": [
        (
            "stages.0.0.norm1's parameters (levels.0.0.pre1.gamma) act, and the result is dropped; those of stages.0.0.norm2 "
            "(levels.0.0.pre2.gamma) act in its place (10 times)"
        )
    ],
    "no LIM": ["stages.0.0.attn.lim_func's parameters (levels.0.0.mixer.local.weight) act nowhere (5 times)"],
    "no proj": ["stages.0.0.attn.proj's parameters (levels.0.0.mixer.out_proj.weight) act nowhere (5 times)"],
    "PEG dropped": ["pos_block.0.proj.0's parameters (pegs.0.conv.weight) act, and the result is dropped (3 times)"],
    "PEG after 2": ["pos_block.0 runs after stages.0.1.mlp, in the reference after stages.0.0.mlp (3 times)"],
    "PEG before": ["pos_block.0 runs after patch_embeds.0, in the reference after stages.0.0.mlp (3 times)"],
    "PEG missing": ["pos_block.0.proj.0's parameters (pegs.0.conv.weight) act nowhere (3 times)"],
    "without PEG": [
        "the candidate has no pos_block.0.proj.0 (3 times)",
    ],
    "mean before norm": ["norm acts on 1 tokens, in the reference on 8"],
    "a block twice": ["stages.2.2's parameters act nowhere; those of stages.2.0 act in their place"],
    "k and v interchanged": [
        "stages.1.1.attn.k (levels.1.1.mixer.to_k.weight), by its name, makes values, by what is done with it",
        "stages.1.1.attn.v (levels.1.1.mixer.to_v.weight), by its name, makes keys, by what is done with it",
    ],
}


@pytest.mark.parametrize("mistake", NOTES)
def test_what_is_unusual_is_said_once(mistake: str) -> None:
    assert list(pairing_of(Port(STYLES["words"], mistake))[0].notes) == NOTES[mistake]


def test_what_stands_before_a_step_shows_what_is_wired_otherwise() -> None:
    wired = pairing_of(Port(STYLES["words"], "LIM of the input"))[0].facts.wired
    assert set(wired) == {f"stages.{k}.{i}.attn.lim_func" for k, i in ((0, 0), (1, 0), (2, 0), (2, 2), (2, 4))}
    assert wired["stages.0.0.attn.lim_func"] == (("stages.0.0.norm1",), ("stages.0.0.attn.qkv",))


def test_a_parameter_that_acts_twice_stands_at_both_places() -> None:
    pairing, _ = pairing_of(Port(STYLES["words"], "norm1 twice"))
    one, two = (pairing.steps[f"stages.0.0.norm{i}"] for i in (1, 2))
    assert one[0].weight == two[0].weight == "levels.0.0.pre1.gamma"
    assert one[0].operation < two[0].operation
    assert pairing.facts.twice["stages.0.0.norm1"] == ("stages.0.0.norm1", "stages.0.0.norm2")
    assert "stages.0.0.norm2" in pairing.facts.never_used


# The plain network, changed

DIGITS = sv.variant("digits")


def plain_pairing(module: nn.Module, config: Any = DIGITS, size: int = 112, **options: Any) -> Pairing:
    return pairing_of(module, config, (size, size), **options)[0]


def owners(pairing: Pairing) -> dict[str, list[str]]:
    return {name: [part.own for part in parts] for name, parts in pairing.parts.items()}


class Pair(nn.Module):
    """Two networks of which one gives the output."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.student, self.teacher, self.both = plain.ScalableViT(DIGITS), plain.ScalableViT(DIGITS), both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.both:
            self.student(x)
        return self.teacher(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("both", [False, True])
def test_of_two_networks_the_one_that_gives_the_output_is_meant(both: bool) -> None:
    pairing = plain_pairing(Pair(both=both))
    assert owners(pairing) == {name: [f"teacher.{name}"] for name in pairing.shapes}
    assert pairing.notes == ()


def test_parameters_that_the_network_does_not_need_are_left_alone() -> None:
    port = plain.ScalableViT(DIGITS)
    port.mask_token, port.position = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 784, 16))
    port.auxiliary = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))
    pairing = plain_pairing(port)
    assert owners(pairing) == {name: [name] for name in pairing.shapes}
    assert pairing.notes == ()


def test_one_norm_in_both_places() -> None:
    port: Any = plain.ScalableViT(DIGITS)
    for stage in port.stages:
        for block in stage:
            block.norm2 = block.norm1
    pairing = plain_pairing(port)
    assert pairing.notes == (
        "stages.0.0.norm1's parameters (stages.0.0.norm1.weight) act at stages.0.0.norm1 and at stages.0.0.norm2 (8 times)",
        "the candidate has no stages.0.0.norm2 (8 times)",
    )
    assert pairing.steps["stages.0.0.norm2"][0].weight == "stages.0.0.norm1.weight"


def test_biases_that_only_one_of_the_two_has() -> None:
    without = sv.variant("digits", qkv_bias=False)
    pairing = plain_pairing(plain.ScalableViT(without))
    assert "the candidate has no stages.0.0.attn.qkv.bias (4 times)" in pairing.notes
    assert pairing.parts["stages.0.0.attn.qkv.bias"] == ()
    pairing, own = pairing_of(plain.ScalableViT(DIGITS), without, (112, 112))
    assert "stages.0.0.attn.qkv.bias" in pairing.facts.silent
    weights = pairing.own_weights(random_params(sv.parameter_shapes(without)), own)
    assert not weights["stages.0.0.attn.qkv.bias"].any()


class Turned(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def test_the_references_name_and_shape_are_believed_and_its_use_is_said() -> None:
    port: Any = plain.ScalableViT(DIGITS)
    for k, stage in enumerate(port.stages):
        stage[0].attn.proj = Turned(DIGITS.embed_dims[k], DIGITS.embed_dims[k])
    pairing = plain_pairing(port)
    assert not any(part.turned for parts in pairing.parts.values() for part in parts)
    assert pairing.notes == ("stages.0.0.attn.proj.weight, out, in by its name and shape, is used as in, out (4 times)",)


class MultiheadSSA(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: torch.Tensor, h: int, w: int) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def test_multihead_attention_holds_q_k_and_v() -> None:
    port: Any = plain.ScalableViT(DIGITS)
    port.stages[3][1].attn = MultiheadSSA(64, 4)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        pairing = plain_pairing(port)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert found(pairing, "stages.3.1.attn.q.weight") == {("stages.3.1.attn.attention.in_proj_weight", None, (0, 64), False)}
    assert found(pairing, "stages.3.1.attn.kv.bias") == {("stages.3.1.attn.attention.in_proj_bias", None, (64, 192), False)}
    assert found(pairing, "stages.3.1.attn.proj.weight") == {("stages.3.1.attn.attention.out_proj.weight", None, None, False)}
    assert pairing.steps["stages.3.1.attn.q"][0].made_rows == (0, 64)
    assert pairing.steps["stages.3.1.attn.kv"][0].made_rows == (64, 192)


def test_a_users_mapping_comes_first() -> None:
    names = {"stages.{k}.{i}.norm1": "levels.{k}.{i}.pre2", "stages.{k}.{i}.norm2": "levels.{k}.{i}.pre1"}
    pairing, _ = pairing_of(Port(STYLES["words"]), names=names)
    assert owners(pairing)["stages.1.1.norm1.weight"] == ["levels.1.1.pre2.gamma"]
    assert owners(pairing)["stages.1.1.norm2.bias"] == ["levels.1.1.pre1.beta"]
    names = {"stages.0.1.attn.q": "levels.0.1.mixer.expand", "stages.0.1.attn.reduction.1": "levels.0.1.mixer.to_q"}
    pairing, _ = pairing_of(Port(STYLES["words"]), names=names)
    assert owners(pairing)["stages.0.1.attn.q.weight"] == ["levels.0.1.mixer.expand.weight"]


def test_the_names_of_the_detection_backbone() -> None:
    (mmdet,) = network_of(DIGITS).aliases()
    port = Renamed(plain.ScalableViT(DIGITS), mmdet)
    assert port.names["stages.0.0.attn.lim_func.weight"] == "blocks/0/0/attn/lepe_func/weight"
    pairing = plain_pairing(port)
    assert owners(pairing) == {name: [theirs] for name, theirs in port.names.items()}
    assert pairing.notes == ()


REFUSED = {
    "other classes": (
        sv.variant("digits", num_classes=5),
        DIGITS,
        r"no parameter of 640 values for head\.weight \(10, 64\); the candidate's head\.weight has \(5, 64\)\. variant= says",
    ),
    "more blocks": (sv.variant("digits", depths=(2, 2, 4, 2)), DIGITS, r"the candidate has more blocks than the reference"),
    "fewer blocks": (DIGITS, sv.variant("digits", depths=(2, 2, 4, 2)), r"has nothing of the sizes of stages\.2\.2 and 1 other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_network_is_refused_with_what_is_there_instead(case: str) -> None:
    theirs, ours, message = REFUSED[case]
    with pytest.raises(CaptureError, match=message):
        plain_pairing(plain.ScalableViT(theirs), ours)


def test_a_parameter_of_another_width_stands_in_its_place() -> None:
    pairing = plain_pairing(plain.ScalableViT(DIGITS), sv.variant("digits", mlp_ratios=(4, 4, 4, 4)))
    names = [f"stages.{k}.{i}.mlp.{fc}" for k in (0, 1, 2, 3) for i in (0, 1) for fc in ("fc1", "fc2")]
    resized = {name: (some.own, some.sizes[0], some.usual[0]) for name, some in pairing.facts.resized.items()}
    wide = dict(zip(range(4), DIGITS.embed_dims, strict=True))
    ratios = dict(zip(range(4), DIGITS.mlp_ratios, strict=True))
    expected = {
        name: (
            f"{name}.weight",
            *((int(wide[k] * ratios[k]), 4 * wide[k]) if name.endswith("fc1") else (wide[k], wide[k])),
        )
        for name in names
        if ratios[k := int(name.split(".")[1])] != 4
    }
    assert resized == expected != {}
    assert {name for name, parts in pairing.parts.items() if not parts} == {
        name for step in expected for name in [f"{step}.weight", f"{step}.bias"] if not name.endswith("fc2.bias")
    }


def test_a_backbone_and_a_network_without_a_last_linear() -> None:
    features = sv.variant("digits", num_classes=0)
    pairing = plain_pairing(plain.ScalableViT(features), features)
    assert owners(pairing) == {name: [name] for name in pairing.shapes}
    backbone = sv.variant("digits", head="none", num_classes=0, stage_norms=True)
    pairing = plain_pairing(plain.ScalableViT(backbone), backbone)
    assert owners(pairing) == {name: [name] for name in pairing.shapes}
    assert pairing.notes == ()


def test_a_dialect_under_its_own_and_its_flax_ports_names() -> None:
    options: Any = {"num_classes": 5, "dim": 8, "depth": (2, 1), "heads": 2, "reduction_factor": (2, 1), "window_size": (7, None)}
    config = vit_pytorch.Config(**options)
    port = vit_pytorch_module().ScalableViT(**options)
    pairing = plain_pairing(port, config, 56)
    assert owners(pairing) == {name: [name] for name in pairing.shapes}
    assert pairing.notes == (
        "layers.0.0.layers.0.4 runs after layers.0.0.layers.0.3, in the reference after layers.0.0.layers.0.2 (3 times)",
    )
    (flax,) = network_of(config).aliases()
    renamed = Renamed(port, flax)
    assert owners(plain_pairing(renamed, config, 56)) == {name: [theirs.replace(".", "/")] for name, theirs in flax.items()}


class Renamed(nn.Module):
    """A module under other names, its parameters declared in random order."""

    def __init__(self, inner: nn.Module, names: Mapping[str, str]) -> None:
        super().__init__()
        self.inner, self.names = [inner], {name: theirs.replace(".", "/") for name, theirs in names.items()}
        parameters = dict(inner.named_parameters())
        order = list(parameters)
        np.random.default_rng(0).shuffle(order)
        for name in order:
            self.register_parameter(self.names[name], parameters[name])

    def forward(self, x: torch.Tensor) -> Any:
        own = dict(self.named_parameters())
        return torch.func.functional_call(self.inner[0].eval(), {name: own[theirs] for name, theirs in self.names.items()}, (x,))
