"""What PyTorch users do with the reference: compile, export, function transforms, gradients, 16-bit types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

import scalablevit_ref as sv
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2

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


def test_compile_traces_one_graph() -> None:
    """`fullgraph=True` fails at the first break; `eager` runs the traced graph without generating code for it."""
    compiled = torch.compile(lambda x, p: sv.scalable_vit(x, p, CONFIG), fullgraph=True, backend="eager")
    assert torch.equal(compiled(IMAGES, PARAMS), EXPECTED)


def test_export_with_a_dynamic_batch() -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Module(), (IMAGES,), dynamic_shapes=({0: batch},))
    five = sv.to_backend(random_images((5, 1, 112, 112), 1, "float32"), "torch")
    torch.testing.assert_close(program.module()(five), sv.scalable_vit(five, PARAMS, CONFIG))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for its CPU attention kernel
def test_vmap() -> None:
    torch.testing.assert_close(vmap(lambda image: sv.scalable_vit(image[None], PARAMS, CONFIG)[0])(IMAGES), EXPECTED)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_keep_their_dtype(dtype: str) -> None:
    params, images = (sv.to_backend(x, "torch", dtype) for x in (PARAMS, IMAGES))
    taps = sv.trace(images, params, CONFIG)
    assert {str(x.dtype) for x in taps.values()} == {f"torch.{dtype}"}
    wide = sv.trace(*(sv.to_backend(x, "torch", "float64") for x in (images, params)), CONFIG)
    for name, x in taps.items():
        error = relative_l2(sv.to_numpy(x).astype(np.float64), wide[name].numpy()) / EPS[dtype]
        assert error <= NETWORK_TOLERANCE[dtype], name


def test_parameters_are_modules_parameters_too() -> None:
    """A `torch.nn.Parameter` is of another type than a tensor, and welcome."""
    assert torch.equal(Module()(IMAGES), EXPECTED)
