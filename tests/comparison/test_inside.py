"""Inside a wrong layer: the first wrong step is found, its line, and how its value differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scalablevit_ref.adapters import plain
from scalablevit_ref.compare.inside import Inside
from scalablevit_ref.config import ScalableViTConfig
from tests.support import channels_first as port
from tests.support.inside_runs import CONFIG, run, wrong


def words(found: Inside) -> dict[str, str]:
    return {row.step.removeprefix(f"{found.layer}."): row.words for row in found.rows}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model", [port.Port, plain.ScalableViT])
def test_every_step_of_a_right_port_is_right(model: Callable[[Any], nn.Module], dtype: str) -> None:
    found = run(model(CONFIG), dtype=dtype)
    assert found.wrong == ""
    seen = set()
    for name in found.taps:
        one = found.inside(name)
        assert not one.differences, one
        assert all(row.words == "right" for row in one.rows), (name, one.rows)
        seen |= {row.step for row in one.rows if row.made is not None}
    assert seen == {name.rpartition(".")[0] for name in found.local.params}


class Backbone(plain.ScalableViT):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images)[-1]


def test_steps_of_padded_windows_are_right() -> None:
    backbone = {"pad_windows": True, "stage_norms": True, "head": "none", "ssa_values": "scaled", "embed_norm_eps": 1e-5}
    config = ScalableViTConfig(**{**vars(CONFIG), **backbone, "num_classes": 0})
    found = run(Backbone(config), config, (40, 72))
    for name in ("stages.0.0.attn", "stages.1.0.attn", "stages.0.1.attn"):
        one = found.inside(name)
        assert all(row.words == "right" for row in one.rows), one


ATTENTION = "qkv and LIM are right; what enters proj, the attention between them, is not"
MISTAKES: dict[str, tuple[tuple[Any, ...], str, str, str, str]] = {
    "softmax over queries": (
        (port.WindowMixer, "softmax(-1)", "softmax(-2)"), "stages.0.0.attn", ATTENTION, "softmax runs over the queries", "line 5",
    ),
    "LIM of q": (
        (port.WindowMixer, "self.local(v)", "self.local(q)"), "stages.0.0.attn",
        "qkv and the attention are right; what enters LIM is not made of qkv as in the reference", "LIM takes q, not v", "",
    ),
    "map rolled": (
        (port.WindowMixer, "self.inner(x)", "self.inner(x.roll(-3, 2))"), "stages.0.0.attn",
        "what enters qkv is not what norm1 gives", "rolled by -3 along H", "line 3",
    ),
    "attention flipped": (
        (port.WindowMixer, "return self.outer(z + lim)", "return self.outer(z.flip(3) + lim)"), "stages.0.0.attn", ATTENTION,
        "of the sum only the attention is wrong: the same numbers in other places: flipped along W", "",
    ),
    "no GELU on keys": (
        (port.FewKeysMixer, "F.gelu(self.norm(y))", "self.norm(y)"), "stages.0.1.attn",
        "q, reduction.0, reduction.1 and norm_act.0 are right; what enters k, GELU between them, is not",
        "GELU is left out: it is what norm_act.0 gives", "",
    ),
    "k and v interchanged": (
        (port.FewKeysMixer, "k, v = self.both(x)", "v, k = self.both(x)"), "stages.1.1.attn",
        "q and kv are right; what enters proj, the attention between them, is not", "k and v are exchanged", "line 9",
    ),
    "no proj": (
        (port.WindowMixer, "self.outer(z + lim)", "z + lim"), "stages.0.0.attn",
        "qkv and LIM are right (the attention cannot be followed, nothing runs at the place of proj); what the layer gives is not",
        "proj is left out: it is what proj should be given", "line 7",
    ),
    "another GELU": (
        (port.Mlp, "F.gelu(self.up(x))", "F.silu(self.up(x))"), "stages.0.0.mlp",
        "fc1 is right; what enters fc2, GELU between them, is not", "SiLU", "line 2",
    ),
    "MLP without its norm": (
        (port.Unit, "self.mlp(y)", "self.mlp(x)"), "stages.0.0.mlp", "what enters fc1 is not what norm2 gives",
        "norm2 is left out: it is x after the attention", "line 3",
    ),
    "residual of the norm": (
        (port.Unit, "x + self.mlp(y)", "y + self.mlp(y)"), "stages.0.0", "what it is made of is right, their sum is not",
        "what norm2 gives", "line 5",
    ),
    "unbiased variance": (
        (port.ChannelNorm, "mean(1, keepdim=True)\n    x =", "mean(1, keepdim=True) * x.shape[1] / (x.shape[1] - 1)\n    x ="),
        "patch_embeds.0", "proj is right; what enters norm is right, what norm makes of it is not", "unbiased", "line 5",
    ),
    "another GELU behind": (
        (port.Unit, "x + self.mlp(y)", "x + F.gelu(self.mlp(y))"), "stages.0.0", "what it is made of is right, their sum is not",
        "of the sum only the MLP's output is wrong: GELU of it", "line 5",
    ),
    "bias twice": (
        (port.Unit, "x + self.mlp(y)", "x + self.mlp(y) + self.mlp.down.bias[:, None, None]"), "stages.0.0",
        "what it is made of is right, their sum is not", "fc2's bias is added once more than in the reference", "line 5",
    ),
    "no residual": (
        (port.Unit, "x + self.mlp(y)", "self.mlp(y)"), "stages.0.0", "what it is made of is right, their sum is not",
        "the MLP's output alone: the residual is missing", "",
    ),
    "pooling beside": (
        (port.FewKeysMixer, "self.widen(self.squeeze(x))", "self.widen(self.squeeze(x) + F.avg_pool2d(x, self.s))"),
        "stages.0.1.attn", "q and reduction.0 are right; what enters reduction.1 is not what reduction.0 gives",
        "the average pooling (2 × 2) of what norm1 gives is added", "line 3",
    ),
    "LIM of one image": (
        (port.WindowMixer, "self.local(v)", "self.local(v[:1])"), "stages.0.0.attn",
        "qkv is right; what enters proj, the attention and LIM between them, is not", "the last image is missing; all else", "",
    ),
    "last row lost": (
        (port.FewKeysMixer, "self.widen(self.squeeze(x))", "self.widen(self.squeeze(x[:, :, :-1]))"), "stages.0.1.attn",
        "q is right; what enters proj, the attention between them, is not", "the last row is missing; all else", "",
    ),
    "softmax plus one": (
        (port.WindowMixer, "weights.softmax(-1)", "(weights.exp() / (1 + weights.exp().sum(-1, True)))"), "stages.0.0.attn",
        ATTENTION, "softmax has 1 added to its denominator", "",
    ),
    "map turned": (
        (port.Stem, "self.conv(x)", "self.conv(x.mT)"), "patch_embeds.0", "what enters proj is not the images",
        "H and W are swapped in what enters proj", "",
    ),
    "position without its sum": (
        (port.Position, "x + self.conv(x)", "self.conv(x)"), "pos_block.0", "proj.0 is right; what the layer gives is not",
        "what stages.0.0 gives is missing", "line 2",
    ),
    "position twice": (
        (port.Position, "self.conv(x)", "self.conv(self.conv(x))"), "pos_block.0", "proj.0 is right; what the layer gives is not",
        "proj.0, applied twice, is added instead of what proj.0 gives", "line 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_placed_and_explained(name: str) -> None:
    change, layer, place, difference, line = MISTAKES[name]
    found = wrong(*change).inside()
    assert found.layer == layer
    assert found.place == place
    assert found.exact
    assert difference in found.differences[0].words, found.differences
    assert found.line.startswith(f"mistake.py, {line}" if line else ""), found.line
    json.dumps(found.data())


def test_what_is_said_of_each_step() -> None:
    found = wrong(port.WindowMixer, "softmax(-1)", "softmax(-2)").inside()
    assert words(found) == {"qkv": "right", "attention": "it is wrong", "lim_func": "right", "proj": "its input is wrong"}
    assert [row.given is None for row in found.rows] == [False, True, False, False]
    assert all(row.made is not None and row.made.error < 32 for row in found.rows if row.step.endswith(("qkv", "lim_func", "proj")))
    found = wrong(port.WindowMixer, "self.outer(z + lim)", "self.outer(z)").inside()
    assert words(found) == {"qkv": "right", "attention": "not followed", "lim_func": "right", "proj": "its input is wrong"}
    assert found.place == "qkv and LIM are right; what enters proj is made without what LIM gives"
    assert found.differences[0].words.startswith("LIM's output is")


def test_the_right_value_is_found_where_it_is_not_used() -> None:
    found = wrong(port.FewKeysMixer, "(weights @ self.split(v)).mT", "(weights @ self.split(v)).mT.cumsum(2).tanh()").inside()
    assert "it is tanh of cumsum over " in found.differences[0].words
    assert found.notes[0].startswith("the right value is computed (mistake.py, line 9")


def test_lines_between_right_values_and_the_wrong_one() -> None:
    found = wrong(port.WindowMixer, "softmax(-1)", "softmax(-2)").inside()
    assert found.lines[-1].startswith("mistake.py, line 7")
    assert any(line.startswith("mistake.py, line 4") for line in found.lines)
    assert not any("channels_first" in line for line in found.lines)


TAPS = {
    "softmax over queries": "softmax runs over the queries",
    "no GELU on keys": "GELU is left out",
    "another GELU": "SiLU instead of GELU",
    "MLP without its norm": "its input is x after the attention",
    "residual of the norm": "what norm2 gives",
    "unbiased variance": "unbiased",
    "position twice": "proj.0 is applied twice",
}


@pytest.mark.parametrize("name", TAPS)
def test_a_layer_without_a_graph(name: str) -> None:
    found = wrong(*MISTAKES[name][0]).inside_tap()
    assert found.exact
    assert TAPS[name] in found.differences[0].words, found.differences
    assert {row.words for row in found.rows} <= {"not followed"}


def test_a_value_is_not_made_of_later_ones() -> None:
    """The block's output less its MLP's would also give what enters norm2."""
    found = wrong(port.Unit, "x = x + self.mixer(y)", "x = y + self.mixer(y)").inside()
    assert found.layer == "stages.0.0.norm2"
    assert found.place == "what enters norm2 is not the sum of x before the block and the attention's output"
    assert [one.words for one in found.differences if one.exact] == ["what norm1 gives is added instead of x before the block"]
