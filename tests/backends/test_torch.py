"""What PyTorch users do with the reference: transforms, gradients, modules. `properties/test_gradients.py` has the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scalablevit_ref.backends import torch as torch_backend
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

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
    with torch.no_grad():
        assert torch.equal(Module()(IMAGES), sv.scalable_vit(IMAGES, PARAMS, CONFIG))
    torch.testing.assert_close(
        Module()(IMAGES).detach(), EXPECTED, rtol=1e-5, atol=1e-5
    )  # MKL's products, where gradients are kept


class Counted(TorchDispatchMode):
    """Keeps the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def one_dnn(calls: list[int]) -> Callable[..., Any]:
    """oneDNN's linear layer, counted."""
    own = torch.ops.mkldnn._linear_pointwise

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return own(*arguments)

    return counted


needs_one_dnn = pytest.mark.skipif(not torch_backend.ONEDNN, reason="this build of PyTorch has no oneDNN")


@needs_one_dnn
def test_products_in_float32_are_one_dnns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same numbers, whatever the layout; float64 and bfloat16 are PyTorch's own."""
    calls: list[int] = []
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", one_dnn(calls))
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((2, 3, 5, 8), (7, 8), (7,)))
    for given in (x, x.transpose(0, 1), x[:, :, ::2], x[:0], torch.full_like(x, float("nan"))):
        for w, b in ((weight, bias), (weight, None), (weight.T.contiguous().T, torch.stack([bias, 0 * bias], 1)[:, 0])):
            actual, expected = torch_backend.linear(given, w, b), torch.nn.functional.linear(given, w, b)
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=2e-6, equal_nan=True)
    assert len(calls) == 15
    for dtype in (torch.float64, torch.bfloat16):
        torch_backend.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))
    assert len(calls) == 15


@needs_one_dnn
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_is_watched_is_a_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gradients, transformations, compilers, modes and subclasses must know what runs."""
    calls: list[int] = []
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", one_dnn(calls))
    x, weight, bias = torch.randn(4, 8), torch.randn(7, 8), torch.randn(7)
    linear = torch_backend.linear
    for needing in ((x, weight.clone().requires_grad_(), bias), (x, weight, bias.clone().requires_grad_())):
        linear(*needing).sum().backward()
    assert linear(x.clone().requires_grad_(), weight).requires_grad
    torch.vmap(linear, in_dims=(0, None, None))(x, weight, bias)
    with torch.autograd.forward_ad.dual_level():
        linear(torch.autograd.forward_ad.make_dual(x, x), weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    with Counted() as mode:
        linear(x, weight, bias)
    assert any("addmm" in name for name in mode.names)
    exported = torch.export.export(Linear(weight, bias), (x,))
    assert "mkldnn" not in str(exported.graph)
    traced = torch.jit.trace(lambda y: linear(y, weight, bias), x, check_trace=False)
    assert "mkldnn" not in str(traced.graph)
    assert torch.fx.symbolic_trace(Linear(weight, bias))(x).shape == (4, 7)
    assert not calls
    with torch.no_grad():
        linear(x.clone().requires_grad_(), torch.nn.Parameter(weight), bias)
    assert len(calls) == 1


class Linear(torch.nn.Module):
    """The backend's linear layer with constant parameters."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch_backend.linear(x, self.weight, self.bias)
