"""The candidate's parameters and steps are paired rightly whatever its style, and as its author meant it where it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import scalablevit_ref as sv
from scalablevit_ref.compare.capture.pairing import Pairing, paired
from scalablevit_ref.compare.capture.torch_graph import TorchRunner
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import random_images, random_params, relative_l2
from tests.support.ports import CONFIG, MISTAKES, STYLES, Port


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


MEANT = ("words", "numbers", "one dictionary, shuffled, apart", "lists of roles", "letters")
UNDECIDED = {("numbers", "norms interchanged")}  # the first is the one that acts first


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("style", MEANT)
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
        "the candidate has no pos_block.0.proj.0.weight (3 times)",
        "the candidate has no pos_block.0.proj.0.bias (3 times)",
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
