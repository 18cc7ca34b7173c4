"""How a square weight lies cannot be told by its shape: by those beside it, or by whose module it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit_ref.testing import compare
from tests.support import channels_first as port
from tests.support.inside_runs import CONFIG

OUTER = "return self.outer(z + lim)"


class Turned(nn.Module):
    """What GPT-2 calls Conv1D: a linear layer with a weight of (in, out), over the channels of b c h w."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(c, c)), nn.Parameter(torch.randn(c))

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) @ self.weight + self.bias).movedim(-1, 1)


class Beside(port.WindowMixer):
    """Weights held by the block itself; einsum takes `square` as (out, in), or the other way."""

    way = "bchw,oc->bohw"

    def __init__(self, c: int, heads: int, p: int) -> None:
        super().__init__(c, heads, p)
        del self.inner, self.outer
        self.wide, self.shifts = nn.Parameter(torch.randn(3 * c, c)), nn.Parameter(torch.randn(3 * c, 1, 1))
        self.square, self.shift = nn.Parameter(torch.randn(c, c)), nn.Parameter(torch.randn(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q, k, v = (torch.einsum("bchw,oc->bohw", x, self.wide) + self.shifts).chunk(3, 1)
        weights = self.cut(q) @ self.cut(k).mT * (q.shape[1] // self.heads) ** -0.5
        z = self.paste(weights.softmax(-1) @ self.cut(v), h, w) + self.local(v)
        return torch.einsum(self.way, z, self.square) + self.shift


class BesideTurned(Beside):
    way = "bchw,co->bohw"


def held_beside(*, turned: bool) -> nn.Module:
    model = port.Port(CONFIG)
    for k, level in enumerate(model.levels):
        mixer = level[0].mixer
        level[0].mixer = (BesideTurned if turned else Beside)(CONFIG.embed_dims[k], mixer.heads, mixer.p)
    return model


def test_a_module_has_its_own_way() -> None:
    model = port.Port(CONFIG)
    for level in model.levels:
        level[0].mixer.outer = Turned(level[0].mixer.outer.in_channels)
    report = compare(model, variant=CONFIG)
    assert report.agrees, report


def test_a_weight_that_is_taken_out_of_its_module_and_turned_is_wrong() -> None:
    model = port.Port(CONFIG)
    port.mistaken(model, port.WindowMixer, OUTER, "return F.conv2d(z + lim, self.outer.weight.transpose(0, 1), self.outer.bias)")
    report = compare(model, variant=CONFIG)
    assert not report.agrees
    assert any("transposed" in cause.words for cause in report.causes), report


def test_weights_of_einsum_are_right_as_those_beside_them() -> None:
    report = compare(held_beside(turned=False), variant=CONFIG)
    assert report.agrees, report


def test_a_square_weight_of_einsum_that_lies_otherwise_than_those_beside_it_is_wrong() -> None:
    report = compare(held_beside(turned=True), variant=CONFIG)
    assert not report.agrees
    assert any("transposed" in cause.words for cause in report.causes), report
