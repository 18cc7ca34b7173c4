"""Which parameters act on which values, in whatever style a port is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scalablevit_ref.compare.capture.flow import Flow
from scalablevit_ref.compare.capture.graph import Graph
from scalablevit_ref.compare.capture.torch_runner import TorchRunner
from scalablevit_ref.compare.capture.units import units_of
from scalablevit_ref.compare.capture.uses import Use, uses_of

C, N = 6, 10


class Port(nn.Module):
    """Parameters by name, and a function of them and of an image."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def seen(forward: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> tuple[Graph, list[Use]]:
    images = np.random.default_rng(0).standard_normal((2, C, 4, 5)).astype("float32")
    graph = TorchRunner(Port(forward, **shapes), None).record(images, {})
    return graph, list(uses_of(graph))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


LINEARS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, tuple[int, ...]]]] = {
    "F.linear": (lambda m, x: F.linear(tokens(x), m.w, m.b), {"w": (N, C), "b": (N,)}),
    "of a map": (lambda m, x: F.linear(x.permute(0, 2, 3, 1), m.w, m.b), {"w": (N, C), "b": (N,)}),
    "bias added later": (lambda m, x: F.linear(tokens(x), m.w).reshape(2, 4, 5, N) + m.b, {"w": (N, C), "b": (N,)}),
    "in, out": (lambda m, x: tokens(x) @ m.w + m.b, {"w": (C, N), "b": (N,)}),
    "from the left": (lambda m, x: m.w @ x.flatten(2) + m.b[:, None], {"w": (N, C), "b": (N,)}),
    "einsum": (lambda m, x: torch.einsum("bchw,oc->bohw", x, m.w) + m.b[:, None, None], {"w": (N, C), "b": (N,)}),
    "heads apart": (lambda m, x: torch.einsum("bnc,chd->bnhd", tokens(x), m.w) + m.b.view(2, 5), {"w": (C, 2, 5), "b": (N,)}),
}


@pytest.mark.parametrize("style", LINEARS)
def test_a_linear_is_one_however_it_is_written(style: str) -> None:
    forward, shapes = LINEARS[style]
    graph, (use,) = seen(forward, **shapes)
    assert (use.kind, use.weight, use.bias, use.sizes, use.live) == ("linear", "w", "b", (N, C), True)
    assert graph.shapes[use.given][use.given_axis] == C
    if style != "heads apart":
        assert graph.shapes[use.made][use.made_axis] == N
    assert graph.shapes[use.given][0] == graph.shapes[use.made][0] == 2  # and not tokens of the whole batch on one axis


def test_a_convolution_and_a_depthwise_one() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, m.w, m.b), m.d, None, 1, 1, groups=N) + m.e[:, None, None]

    graph, (first, second) = seen(forward, w=(N, C, 1, 1), b=(N,), d=(N, 1, 3, 3), e=(N,))
    assert (first.kind, first.weight, first.bias, first.sizes) == ("convolution", "w", "b", (N, C, 1, 1))
    assert (second.kind, second.weight, second.bias, second.sizes) == ("convolution", "d", "e", (N, 1, 3, 3))
    assert second.given == first.made
    assert (second.given_axis, second.made_axis) == (1, 1)
    assert second.made == graph.outputs["logits"]


def two_pass(x: Tensor, axis: int, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(axis, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(axis, keepdim=True) + eps)


def one_pass(x: Tensor, axis: int) -> Tensor:
    mean = x.mean(axis, keepdim=True)
    return (x - mean) * torch.rsqrt((x * x).mean(axis, keepdim=True) - mean**2 + 1e-6)


def by_var_mean(x: Tensor, axis: int) -> Tensor:
    var, mean = torch.var_mean(x, dim=axis, keepdim=True, correction=0)
    return (x - mean) * (var + 1e-6).rsqrt()


def flax_style(m: Any, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    rate = torch.rsqrt((x * x).mean(1, keepdim=True) - mean**2 + 1e-6) * m.g[:, None, None]
    return (x - mean) * rate + m.s[:, None, None]


def rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)


NORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "fused": lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (C,), m.g, m.s),
    "bare and scaled": lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (C,)) * m.g + m.s,
    "two passes": lambda m, x: two_pass(x, 1) * m.g[:, None, None] + m.s[:, None, None],
    "one pass": lambda m, x: m.g.view(-1, 1, 1) * one_pass(x, 1) + m.s.view(-1, 1, 1),
    "var_mean": lambda m, x: by_var_mean(x, 1) * m.g[:, None, None] + m.s[:, None, None],
    "in float32": lambda m, x: two_pass(x.double(), 1).float() * m.g[:, None, None] + m.s[:, None, None],
    "gain on the rate": flax_style,
    "addcmul": lambda m, x: torch.addcmul(m.s[:, None, None], two_pass(x, 1), m.g[:, None, None]),
    "RMS": lambda m, x: rms(x) * m.g[:, None, None] + m.s[:, None, None],
}


@pytest.mark.parametrize("style", NORMS)
def test_a_norm_is_one_however_it_is_written(style: str) -> None:
    """Its input is what is normalised: the product before it is made elsewhere, and the residual sum is not gone through."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return NORMS[style](m, x + torch.einsum("bchw,oc->bohw", x, m.w))

    graph, (linear, use) = seen(forward, w=(C, C), g=(C,), s=(C,))
    assert linear.weight == "w"
    assert (use.kind, use.weight, use.bias, use.sizes) == ("norm", "g", "s", (C,))
    assert graph.shapes[use.given][use.given_axis] == graph.shapes[use.made][use.made_axis] == C
    before = use.given
    while graph.operations[made_by(graph, before)].kind == "move":
        before = graph.operations[made_by(graph, before)].inputs[0]
    assert graph.operations[made_by(graph, before)].name.startswith("aten.add")  # the residual sum
    assert use.made == graph.outputs["logits"]


def made_by(graph: Graph, value: int) -> int:
    return next(i for i, operation in enumerate(graph.operations) if value in operation.outputs)


def test_a_norm_of_the_mean_over_tokens_is_given_that_mean() -> None:
    graph, (use,) = seen(lambda m, x: two_pass(x.mean((2, 3)), 1) * m.g + m.s, g=(C,), s=(C,))
    assert use.kind == "norm"
    assert graph.shapes[use.given] == (2, C)


def test_gains_and_shifts_that_are_no_norms() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x + m.position
        x = x + m.gamma[:, None, None] * F.conv2d(x, m.w)
        return x * m.temperature

    _, uses = seen(forward, position=(1, C, 4, 5), gamma=(C,), w=(C, C, 1, 1), temperature=(1,))
    assert [(use.kind, use.weight) for use in uses] == [
        ("shift", "position"),
        ("convolution", "w"),
        ("gain", "gamma"),
        ("gain", "temperature"),
    ]


def test_weights_put_together_in_the_run_are_one_use_each() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.linear(tokens(x), torch.cat([m.q, m.k, m.v]), torch.cat([m.qb, torch.zeros(2), m.vb]))

    _, uses = seen(forward, q=(3, C), k=(2, C), v=(4, C), qb=(3,), vb=(4,))
    assert [(u.weight, u.bias, u.made_rows, u.sizes) for u in uses] == [
        ("q", "qb", (0, 3), (3, C)),
        ("k", "", (3, 5), (2, C)),
        ("v", "vb", (5, 9), (4, C)),
    ]
    assert len({use.made for use in uses}) == 1


def test_what_no_output_depends_on_is_not_live() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        F.conv2d(x, m.dropped)
        return F.conv2d(x, m.used)

    _, uses = seen(forward, dropped=(C, C, 1, 1), used=(C, C, 1, 1), never=(C, C, 1, 1))
    assert [(use.weight, use.live) for use in uses] == [("dropped", False), ("used", True)]


def test_a_parameter_that_acts_twice_is_there_twice() -> None:
    _, uses = seen(lambda m, x: F.conv2d(F.conv2d(x, m.w, m.b), m.w, m.b), w=(C, C, 1, 1), b=(C,))
    assert [use.weight for use in uses] == ["w", "w"]
    assert uses[1].given == uses[0].made


WITH_AXES = ("c 1 kh kw", "kh kw 1 c", "kh kw c 1", "1 c kh kw", "c kh kw", "kh kw c")
DEPTHWISE = [(lies, kh, kw) for lies in WITH_AXES for kh, kw in ((3, 2), (C, 2), (2, C), (3, 3))]
DEPTHWISE += [(lies, 3, 3) for lies in ("(kh kw) c", "c (kh kw)")]


@pytest.mark.parametrize(("lies", "kh", "kw"), DEPTHWISE)
def test_a_depthwise_kernel_whose_numbers_multiply_shifted_maps_is_one_however_it_lies(lies: str, kh: int, kw: int) -> None:
    """Where it has as many rows or columns as channels, its shape does not tell which axis is theirs."""
    kernel = rearrange(np.zeros((C, 1, kh, kw)), f"c 1 kh kw -> {lies}")

    def forward(m: Any, x: Tensor) -> Tensor:
        w = rearrange(m.w, f"{lies} -> c 1 kh kw", kh=kh, kw=kw)
        x = F.pad(x, (kw // 2, (kw - 1) // 2, kh // 2, (kh - 1) // 2))
        taps = [x[..., i : i + 4, j : j + 5] * w[:, :, i, j, None] for i in range(kh) for j in range(kw)]
        return sum(taps[1:], start=taps[0]) + m.b[:, None, None]

    port = Port(forward, w=kernel.shape, b=(C,))
    own = {name: x.detach().numpy() for name, x in port.named_parameters()}
    graph = TorchRunner(port, None).record(np.random.default_rng(0).standard_normal((2, C, 4, 5)).astype("float32"), {})
    (use,) = uses_of(graph, own)
    assert (use.kind, use.weight, use.bias, use.sizes) == ("convolution", "w", "b", (C, 1, kh, kw))
    (unit,) = units_of(Flow(graph), [use], own)
    assert unit.layout is not None
    found = unit.layout.view(own["w"], use.sizes)
    np.testing.assert_array_equal(found, rearrange(own["w"], f"{lies} -> c 1 kh kw", kh=kh, kw=kw))
