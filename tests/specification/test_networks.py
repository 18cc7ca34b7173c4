"""What `scalablevit_ref.networks.Network` promises is kept by the official network and by each dialect; a new one needs no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT
from scalablevit_ref.dialects import flax_port, vit_pytorch
from scalablevit_ref.layers import POOL
from scalablevit_ref.networks import Network, Official, network_of
from scalablevit_ref.testing import compare, random_images, random_params

TINY = sv.variant(
    "small",
    embed_dims=(4, 8),
    depths=(3, 2),
    num_heads=(1, 2),
    mlp_ratios=(2, 2),
    sr_ratios=(2, 3),
    c_ratios=(1.5, 1),
    window_sizes=(2, 3),
    num_classes=5,
)
CONFIGS: dict[str, Any] = {
    "mlp head": TINY,
    "linear head, first SSA": replace(TINY, head="linear", ssa_values="scaled", ssa_scale="head_dim", in_chans=1),
    "features": replace(TINY, num_classes=0),
    "backbone": replace(TINY, head="none", num_classes=0, stage_norms=True, pad_windows=True, embed_norm_eps=1e-5),
    "dialect": vit_pytorch.Config(num_classes=5, dim=4, depth=(2, 1), heads=2, reduction_factor=(2, 3), window_size=(2, None)),
}
NO_TAPS = {POOL, "logits"}
"""Layers that no module gives: the mean over tokens, and the logits of a network without a classifier."""


@pytest.fixture(params=CONFIGS)
def network(request: pytest.FixtureRequest) -> Network:
    return network_of(CONFIGS[request.param])


def ran(network: Network, h: int, w: int) -> dict[str, np.ndarray]:
    """The taps of a forward pass on random images of this size, in the order in which they are shown."""
    taps: dict[str, np.ndarray] = {}

    def keep(name: str, x: np.ndarray) -> np.ndarray:
        assert name not in taps
        taps[name] = x
        return x

    network.forward(random_images((2, network.in_chans, h, w)), random_params(network.parameter_shapes()), keep)
    return taps


def test_its_settings_lead_back_to_it(network: Network) -> None:
    assert network_of(network.config) == network
    with pytest.raises(TypeError, match="config must be a ScalableViTConfig or a dialect's Config, got 3"):
        network_of(3)


def test_every_tap_is_a_layer_of_the_shape_that_is_promised(network: Network) -> None:
    size = network.usual_image_size()
    network.check_image_size(size, size)
    taps, layers = ran(network, size, size), list(network.layers())
    shapes = network.layer_shapes((2, network.in_chans, size, size))
    assert set(layers) - NO_TAPS <= set(taps) <= set(layers) <= set(shapes)
    assert {name: x.shape for name, x in taps.items()} == {name: shapes[name] for name in taps}
    in_order = [name for name in layers if name in taps]
    assert (list(taps) == in_order) == network.runs_as_named
    assert sorted(taps) == sorted(in_order)


def test_layers_come_after_what_they_are_computed_from(network: Network) -> None:
    known = {"images"}
    for name, layer in network.layers().items():
        assert layer.name == name
        assert set(layer.sources) <= known, name
        known.add(name)


def test_the_parameters_are_those_that_it_names(network: Network) -> None:
    params = random_params(network.parameter_shapes())
    assert network.checked_params(params).keys() == params.keys()
    size = network.usual_image_size()
    images, name = random_images((1, network.in_chans, size, size)), next(iter(params))
    less = {key: value for key, value in params.items() if key != name}
    for wrong in (less, params | {name: params[name][:1]}, params | {"surplus": np.zeros(1)}):
        for refuse in (network.checked_params, lambda some: network.forward(images, some)):
            with pytest.raises(ValueError, match="surplus" if "surplus" in wrong else name):
                refuse(wrong)
    with pytest.raises(TypeError, match="params must be a mapping"):
        network.checked_params(3)  # type: ignore[arg-type]


def test_images_are_refused_where_the_network_refuses_them(network: Network) -> None:
    params = random_params(network.parameter_shapes())

    def refused(call: Any) -> bool:
        try:
            call()
        except ValueError:
            return True
        return False

    verdicts = set()
    for h in range(1, 50):
        for w in {h, 24, 3}:
            images = random_images((1, network.in_chans, h, w))
            verdict = refused(lambda h=h, w=w: network.check_image_size(h, w))
            assert verdict == refused(lambda images=images: network.forward(images, params)), (h, w)
            verdicts.add(verdict)
    assert verdicts == {True, False}
    with pytest.raises(ValueError, match="channels"):
        network.forward(random_images((1, network.in_chans + 1, 24, 24)), params)


def test_a_published_form_is_brought_under_the_networks_names() -> None:
    """The Flax port's tree has no norm biases and one norm more; for the rest it is vit_pytorch's network."""
    config = CONFIGS["dialect"]
    network, tree = network_of(config), random_params(flax_port.parameter_shapes(config))
    params = network.checked_params(tree)
    shapes = network.parameter_shapes()
    assert {name: x.shape for name, x in params.items() if name in shapes}.items() <= shapes.items()
    assert {name for name in shapes if name not in params} == {name for name in shapes if name.endswith((".b", "mlp_head.1.bias"))}
    first = next(iter(flax_port.parameter_shapes(config)))
    with pytest.raises(ValueError, match="missing"):
        network.checked_params({name: x for name, x in tree.items() if name != first})


@dataclass(frozen=True)
class Foreign:
    """Settings of a type that no tool knows."""

    inner: sv.ScalableViTConfig


@dataclass(frozen=True)
class ForeignNetwork:
    """The official network behind them."""

    config: Foreign

    def __getattr__(self, name: str) -> Any:
        return getattr(Official(self.config.inner), name)


def test_another_network_needs_no_line_elsewhere() -> None:
    import torch

    network_of.register(Foreign, ForeignNetwork)  # type: ignore[arg-type]
    module = ScalableViT(TINY)
    module.stages[1][0].mlp.act = torch.nn.GELU("tanh")
    report = compare(module, variant=Foreign(TINY), images=random_images((2, 3, 24, 24)))
    assert report.config == Foreign(TINY)
    assert [cause.words for cause in report.causes] == ["GELU is the tanh approximation"]
    assert report.to_json()["config"]["inner"]["embed_dims"] == TINY.embed_dims
