"""Ports of which parameters have other sizes than the reference's: the layer is named, both sizes are, and all else is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import scalablevit_ref as sv
from scalablevit_ref.adapters import plain
from scalablevit_ref.compare.report import Report
from scalablevit_ref.errors import CaptureError
from scalablevit_ref.testing import compare

DIGITS = sv.variant("digits")


class NormedBefore(plain.PatchEmbed):
    """A downsampling whose norm comes first."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__(channels, dim, 2, 1e-6)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.norm(x.movedim(1, -1)).movedim(-1, 1)).movedim(1, -1)


def wide_stem(port: Any) -> None:
    port.patch_embeds[0].proj = nn.Conv2d(1, 16, 8, 4, 3)


def dense_lim(port: Any) -> None:
    for stage, dim in zip(port.stages, DIGITS.embed_dims, strict=True):
        stage[0].attn.lim_func = nn.Conv2d(dim, dim, 3, padding=1)


def narrow_mlp(port: Any) -> None:
    for block in port.stages[1]:
        block.mlp = plain.Mlp(32, 48)


def narrow_mlp_without_its_activation(port: Any) -> None:
    narrow_mlp(port)
    for block in port.stages[1]:
        block.mlp.act = nn.Identity()


def norms_before(port: Any) -> None:
    for k in (1, 2, 3):
        port.patch_embeds[k] = NormedBefore(*DIGITS.embed_dims[k - 1 : k + 1])


def wide_keys(port: Any) -> None:
    attn = port.stages[0][1].attn
    attn.q, attn.k, attn.v = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 16)
    attn.reduction[1], attn.norm_act[0] = nn.Conv2d(16, 24, 1), nn.LayerNorm(24, eps=1e-5)


CASES: dict[str, tuple[Callable[[Any], None], str, int, str, str]] = {
    "a stem of 8 × 8": (
        wide_stem,
        "patch_embeds.0",
        1,
        "proj has a kernel of 8 × 8, not 7 × 7",
        "the candidate's patch_embeds.0.proj.weight has a kernel of 8 × 8, the reference's patch_embeds.0.proj.weight one of 7 × 7",
    ),
    "LIM is dense": (
        dense_lim,
        "stages.0.0.attn",
        4,
        "lim_func is a dense convolution, not a depthwise one",
        "a depthwise one, (16, 1, 3, 3) (4 times)",
    ),
    "a narrow MLP": (
        narrow_mlp,
        "stages.1.0.mlp",
        2,
        "fc1.weight is 48 × 32, not 96 × 32: 48 channels lie between fc1 and fc2, not 96, as with another ratio",
        "the candidate's stages.1.0.mlp.fc1.weight is 48 × 32 (channels out × in)",
    ),
    "wide keys": (
        wide_keys,
        "stages.0.1.attn",
        1,
        ".weight is 24 × 16, not 20 × 16, and 4 more of its parameters have other sizes too",
        "the candidate's stages.0.1.attn.norm_act.0.weight normalises 24 channels",
    ),
    "norms before the convolutions": (
        norms_before,
        "patch_embeds.1",
        3,
        "norm acts before proj, not after it",
        "normalises 16 channels, the reference's patch_embeds.1.norm.weight 32, and acts before patch_embeds.1.proj, not after",
    ),
    "another mistake beside the size": (
        narrow_mlp_without_its_activation,
        "stages.1.0.mlp",
        2,
        "GELU is left out",
        "the candidate's stages.1.0.mlp.fc1.weight is 48 × 32",
    ),
}


def compared(change: Callable[[Any], None], **options: Any) -> Report:
    torch.manual_seed(0)
    port = plain.ScalableViT(DIGITS)
    change(port)
    return compare(port, **{"variant": DIGITS} | options)


@pytest.mark.parametrize("case", CASES)
def test_another_size_is_a_difference_of_its_layer(case: str) -> None:
    change, layer, layers, cause, note = CASES[case]
    report = compared(change)
    assert report.first is not None
    assert report.first.layer == layer
    assert len(report.diverging) == layers
    assert [c.words for c in report.causes if cause in c.words] == [c.words for c in report.causes] != [], report
    assert sum(len((*c.layers, *c.also)) for c in report.causes) == layers
    assert any(note in line for line in report.notes), report
    assert report.to_json()["first_divergent_layer"] == layer


def test_own_weights_of_another_size_cannot_be_the_reference_s() -> None:
    with pytest.raises(CaptureError, match=r"patch_embeds\.0\.proj\.weight has a kernel of 8 × 8"):
        compared(wide_stem, weights="own")


def test_another_number_of_classes_is_another_network() -> None:
    with pytest.raises(CaptureError, match=r"head\.weight has \(7, 64\)"):
        compared(lambda port: setattr(port, "head", nn.Linear(64, 7)))
