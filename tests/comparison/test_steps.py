"""The reference's steps of a layer: all parameters are found in them, and a layer goes on with the values that it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scalablevit_ref.compare.mistakes.layerwise import Local, computed
from scalablevit_ref.compare.steps import INPUT, OUTPUT, feeds, run_layer
from scalablevit_ref.config import variant
from scalablevit_ref.dialects.config import Config
from scalablevit_ref.networks import Network, network_of
from scalablevit_ref.testing.arrays import random_images, random_params

BACKBONE = {"pad_windows": True, "stage_norms": True, "head": "none", "ssa_values": "scaled", "embed_norm_eps": 1e-5}
DIALECT = Config(
    num_classes=10, dim=16, heads=(1, 2), depth=(1, 1), ssa_dim_key=8, ssa_dim_value=8, iwsa_dim_key=8, iwsa_dim_value=8,
    window_size=(7, 7), reduction_factor=(4, 2), ff_expansion_factor=2,
)  # fmt: skip
NETWORKS = {"classifier": (variant("digits"), 112), "backbone": (variant("digits", **BACKBONE), 96), "vit_pytorch": (DIALECT, 56)}


@pytest.fixture(params=list(NETWORKS))
def run(request: pytest.FixtureRequest) -> tuple[Network, dict[str, np.ndarray], Local, dict[str, np.ndarray]]:
    """A network, its parameters, and what each of its layers is fed."""
    config, size = NETWORKS[request.param]
    network = network_of(config)
    params = random_params(network.parameter_shapes())
    images = random_images((2, network.in_chans, size, size))
    local = Local(network, params, images, set(), lambda name: np.zeros(()))
    known = {"images": images}
    local.end_to_end(lambda name, x: known.__setitem__(name, x))
    return network, params, local, known


def test_every_parameter_is_in_one_step(run: Any) -> None:
    network, params, _, known = run
    names = []
    for name, layer in network.layers().items():
        x = sum(known[source] for source in layer.sources)
        found = run_layer(layer, x, params)
        names += [step.name for step in found.steps if step.has_parameters]
        own = {key: value for key, value in params.items() if key.startswith(f"{name}.")}
        assert np.array_equal(found.output, computed(layer, x, own))
        for step in found.steps:
            if step.has_parameters:
                assert np.array_equal(step.function(step.given), step.made)
    assert len(names) == len(set(names))
    assert set(names) == {name.rpartition(".")[0] for name in params}


def test_steps_of_the_two_attentions() -> None:
    network = network_of(variant("digits"))
    params = random_params(network.parameter_shapes())
    x = np.random.default_rng(0).standard_normal((1, 28, 28, 16))
    iwsa = feeds(network.layers()["stages.0.0.attn"], x, params)
    assert iwsa == {
        "stages.0.0.attn.qkv": (INPUT,),
        "stages.0.0.attn.attention": ("stages.0.0.attn.qkv",),
        "stages.0.0.attn.lim_func": ("stages.0.0.attn.qkv",),
        "stages.0.0.attn.proj": ("stages.0.0.attn.attention", "stages.0.0.attn.lim_func"),
        OUTPUT: ("stages.0.0.attn.proj",),
    }
    ssa = feeds(network.layers()["stages.0.1.attn"], x, params)
    assert ssa["stages.0.1.attn.k"] == ssa["stages.0.1.attn.v"] == ("stages.0.1.attn.gelu",)
    assert feeds(network.layers()["pos_block.0"], x, params)[OUTPUT] == (INPUT, "pos_block.0.proj.0")
    assert feeds(network.layers()["stages.0.0"], x, params) == {OUTPUT: (INPUT,)}


def test_settings_and_parameters_of_steps() -> None:
    network = network_of(variant("digits"))
    params = random_params(network.parameter_shapes())
    x = np.random.default_rng(0).standard_normal((1, 28, 28, 16))
    found = run_layer(network.layers()["stages.0.0.attn"], x, params)
    attention, lim = found["stages.0.0.attn.attention"], found["stages.0.0.attn.lim_func"]
    assert attention.op == "attention"
    assert set(attention.inputs) == {"q", "k", "v"}
    assert attention.settings == {"scale": 16**-0.5}
    assert not attention.has_parameters
    assert lim.settings["groups"] == 16
    assert lim.settings["padding"] == 1
    assert np.array_equal(lim.params["weight"], params["stages.0.0.attn.lim_func.weight"])


class Replacing:
    """Values of a candidate whose qkv is fed and gives something of its own."""

    def __init__(self, given: np.ndarray, made: np.ndarray) -> None:
        self._given, self._made = given, made

    def given(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        return self._given if name.endswith("qkv") else None

    def made(self, name: str, expected: np.ndarray) -> np.ndarray | None:
        return self._made if name.endswith("qkv") else None


def test_a_layer_goes_on_with_the_candidates_own_values() -> None:
    network = network_of(variant("digits"))
    params, draw = random_params(network.parameter_shapes()), np.random.default_rng(0).standard_normal
    x, given, made = draw((1, 28, 28, 16)), draw((1, 28, 28, 16)), draw((1, 28, 28, 48))
    found = run_layer(network.layers()["stages.0.0.attn"], x, params, Replacing(given, made))
    qkv, lim = found["stages.0.0.attn.qkv"], found["stages.0.0.attn.lim_func"]
    assert np.array_equal(qkv.given, x)
    assert np.array_equal(qkv.made, qkv.function(given))
    assert np.array_equal(lim.given, made[..., 32:])
    assert np.array_equal(found["stages.0.0.attn.attention"].inputs["q"][0, 0, 0, 0, 0], made[0, 0, 0, :16])
