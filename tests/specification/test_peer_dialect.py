"""PyPI's vit_pytorch itself against our specification of it, on random settings, weights and images, every module's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scalablevit_ref as sv
from scalablevit_ref.benchmark.contenders import vit_pytorch_module
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.dialects.config import is_norm_bias
from scalablevit_ref.testing import relative_l2
from tests.support.dialects import parameters
from tests.support.library import Agree
from tests.support.recipe import TOLERANCE

PEER = vit_pytorch_module()


@st.composite
def settings(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, int]]:
    """Keyword arguments of the peer, and an image size whose maps divide."""
    stages = draw(st.integers(1, 3))

    def some(numbers: Any) -> Any:
        return draw(numbers | st.tuples(*[numbers] * stages))

    size = tuple(4 * 2 ** (stages - 1) * draw(st.integers(1, 2)) * 2 for _ in range(2))
    options: dict[str, Any] = {
        "num_classes": draw(st.integers(1, 4)),
        "dim": draw(st.integers(4, 8)),
        "depth": draw(st.tuples(*[st.integers(1, 2)] * stages)),
        "heads": some(st.integers(1, 3)),
        "reduction_factor": some(st.integers(1, 2)),
        "window_size": some(st.sampled_from([1, 2, None])),
    }
    for name in ("iwsa_dim_key", "iwsa_dim_value", "ssa_dim_key", "ssa_dim_value"):
        if draw(st.booleans()):
            options[name] = some(st.integers(1, 5))
    if draw(st.booleans()):
        options |= {"ff_expansion_factor": draw(st.integers(1, 3)), "channels": draw(st.integers(1, 4)), "dropout": 0.5}
    return options, size


def run(options: dict[str, Any], size: tuple[int, int]) -> tuple[torch.nn.Module, dict[str, np.ndarray], np.ndarray]:
    network = PEER.ScalableViT(**options).double().eval()
    config = vit_pytorch.Config(**options)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(shapes.items()) == list(vit_pytorch.parameter_shapes(config).items())
    state = parameters(shapes, seed=9)
    network.load_state_dict(sv.to_backend(state, "torch"), strict=True)
    images = np.random.default_rng(2).standard_normal((2, config.channels, *size))
    return network, state, images


def hooked(network: torch.nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every module's output by its path."""
    outputs: dict[str, np.ndarray] = {}
    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: outputs.update({name: y.numpy()}))
        for name, module in network.named_modules()
    ]
    with torch.no_grad():
        network(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    return outputs


@given(case=settings())
def test_the_specification_is_what_the_peer_computes(
    case: tuple[dict[str, Any], tuple[int, int]], backend: str, agree: Agree
) -> None:
    options, size = case
    network, state, images = run(options, size)
    trace = vit_pytorch.trace(sv.to_backend(images, backend), sv.to_backend(state, backend), vit_pytorch.Config(**options))
    theirs = hooked(network, images)
    assert set(trace) <= set(theirs) | {"logits"}
    for name, value in trace.items():
        expected = theirs["" if name == "logits" else name]
        agree(value, expected, what=name, measure="l2", tolerance=4096)  # 9e-13


def test_the_order_slip_is_the_peer_s_own() -> None:
    """Its modules run 0, 1, 2, 3, 4; with its list's last two entries swapped, as their names say, it computes something else."""
    options: dict[str, Any] = {"num_classes": 3, "dim": 4, "depth": (2,), "heads": 2, "reduction_factor": 2, "window_size": 2}
    network, state, images = run(options, (16, 16))
    order = [name for name in hooked(network, images) if name.startswith("layers.0.0.layers.0.") and name.count(".") == 5]
    assert [name[-1] for name in order if name[-2] == "."] == ["0", "1", "2", "3", "4"]
    ours = vit_pytorch.scalable_vit(images, state, vit_pytorch.Config(**options))
    for layer in network.layers[0][0].layers:  # type: ignore[index, union-attr]
        layer[3], layer[4] = layer[4], layer[3]
    with torch.no_grad():
        swapped = network(torch.from_numpy(images)).numpy()
    assert relative_l2(swapped, ours) > 1e-3


def test_gradients_are_the_peer_s() -> None:
    options: dict[str, Any] = {
        "num_classes": 3,
        "dim": 4,
        "depth": (1, 2),
        "heads": 2,
        "reduction_factor": (2, 1),
        "window_size": 2,
    }
    network, state, images = run(options, (16, 16))
    (network(torch.from_numpy(images)) ** 2).sum().backward()
    params = {name: x.requires_grad_() for name, x in sv.to_backend(state, "torch").items()}
    (vit_pytorch.scalable_vit(torch.from_numpy(images), params, vit_pytorch.Config(**options)) ** 2).sum().backward()
    for name, parameter in network.named_parameters():
        assert relative_l2(params[name].grad.numpy(), parameter.grad.numpy()) <= TOLERANCE, name  # type: ignore[union-attr]


def test_defaults_are_the_peer_s() -> None:
    """An empty list of options leaves the same network."""
    needed: dict[str, Any] = {"num_classes": 2, "dim": 2, "depth": (1,), "heads": 1, "reduction_factor": 1}
    shapes = {name: tuple(x.shape) for name, x in PEER.ScalableViT(**needed).state_dict().items()}
    assert shapes == vit_pytorch.parameter_shapes(vit_pytorch.Config(**needed))
    state = {name: np.zeros(shape) for name, shape in shapes.items()}
    assert vit_pytorch.config_from_shapes(state, heads=1, window_size=None) == vit_pytorch.Config(**needed)
    assert any(is_norm_bias(name) for name in shapes)


@pytest.mark.parametrize("size", [(22, 30), (33, 17), (20, 36)])
def test_sizes_that_fill_no_whole_patch_or_tile(size: tuple[int, int], backend: str) -> None:
    options: dict[str, Any] = {"num_classes": 3, "dim": 4, "depth": (1, 1), "heads": 2, "reduction_factor": 2, "window_size": None}
    network, state, images = run(options, size)
    logits = vit_pytorch.scalable_vit(sv.to_backend(images, backend), sv.to_backend(state, backend), vit_pytorch.Config(**options))
    assert relative_l2(sv.to_numpy(logits), hooked(network, images)[""]) <= TOLERANCE
