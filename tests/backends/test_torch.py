"""What PyTorch users do with the reference: transforms, gradients, modules. `properties/test_gradients.py` has the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, vmap

import scalablevit_ref as sv
from scalablevit_ref.testing import random_images, random_params

CONFIG = sv.variant("digits", embed_dims=(8, 8, 8, 8), num_heads=(2, 2, 2, 2), patch_size=4)
SHAPES = sv.parameter_shapes(CONFIG)
PARAMS = sv.to_backend(random_params(SHAPES, dtype="float32"), "torch")
IMAGES = sv.to_backend(random_images((2, 1, 112, 112), dtype="float32"), "torch")
EXPECTED = sv.scalable_vit(IMAGES, PARAMS, CONFIG)

pytestmark = pytest.mark.usefixtures("as_in_production")  # the run-time shape checks are not for a compiler to trace


class Module(torch.nn.Module):
    """The function with its parameters, as `torch.export` wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.params = torch.nn.ParameterDict({name.replace(".", "/"): value.clone() for name, value in PARAMS.items()})

    def forward(self, images: torch.Tensor) -> Any:
        return sv.scalable_vit(images, {name.replace("/", "."): value for name, value in self.params.items()}, CONFIG)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for its CPU attention kernel
def test_gradients_of_each_sample() -> None:
    def loss(params: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return sv.scalable_vit(image[None], params, CONFIG).square().sum()

    together = grad(lambda p: sv.scalable_vit(IMAGES, p, CONFIG).square().sum())(PARAMS)
    each = vmap(grad(loss), in_dims=(None, 0))(PARAMS, IMAGES)
    for name in PARAMS:
        torch.testing.assert_close(each[name].sum(0), together[name], rtol=1e-3, atol=1e-4)


def test_functional_call() -> None:
    module = Module()
    doubled = {name: 2 * value for name, value in module.named_parameters()}
    assert not torch.equal(functional_call(module, doubled, (IMAGES,)), module(IMAGES))


def test_autograd_reaches_every_parameter_and_the_images() -> None:
    params = {name: value.clone().requires_grad_() for name, value in PARAMS.items()}
    images = IMAGES.clone().requires_grad_()
    sv.scalable_vit(images, params, CONFIG).square().sum().backward()
    for name, tensor in {"images": images, **params}.items():
        assert tensor.grad is not None, name
        if not name.endswith("attn.k.bias"):
            assert float(tensor.grad.abs().max()) > 0, name


def test_parameters_are_modules_parameters_too() -> None:
    """A `torch.nn.Parameter` is of another type than a tensor, and welcome."""
    assert torch.equal(Module()(IMAGES), EXPECTED)
