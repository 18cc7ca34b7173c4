"""Mistakes whose nearest other statement is false: what is displaced, done again, or done beside another mistake."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scalablevit_ref.adapters import plain
from scalablevit_ref.compare.report import Report
from scalablevit_ref.config import ScalableViTConfig
from scalablevit_ref.testing import compare, random_images

CONFIG = ScalableViTConfig(
    embed_dims=(16, 24), depths=(2, 2), num_heads=(2, 3), mlp_ratios=(2, 3), sr_ratios=(2, 1), c_ratios=(1.25, 1.25),
    window_sizes=(7, 7), num_classes=10, head="linear",
)  # fmt: skip
IMAGES = random_images((2, 3, 56, 112))

MLP = "        return self.fc2(self.act(self.fc1(x)))\n"
ADDED = "        return x + self.mlp(self.norm2(x))\n"
LIM = "+ lim\n"
PROJ = "        return self.proj(z[:, :h, :w].reshape(b, n, c))\n"
ATTEND = "def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:\n"
NORMED = "            y = self.norm_act(y)\n"
PEG = "        return (self.proj(image) + image)"
BARE = (MLP, "        return F.linear(self.act(self.fc1(x)), self.fc2.weight)\n")
BLOCKS = "                x = block(x, h, w)\n"

WRONG: dict[str, tuple[tuple[tuple[str, str], ...], str, tuple[str, ...]]] = {
    "GELU behind fc2": (
        ((MLP, "        return self.act(self.fc2(self.fc1(x)))\n"),),
        "stages.0.0.mlp",
        ("GELU is applied after fc2, not after fc1",),
    ),
    "GELU before fc1": (
        ((MLP, "        return self.fc2(self.fc1(self.act(x)))\n"),),
        "stages.0.0.mlp",
        ("GELU is applied before fc1, not after fc1",),
    ),
    "fc1's bias behind GELU": (
        ((MLP, "        return self.fc2(self.act(F.linear(x, self.fc1.weight)) + self.fc1.bias)\n"),),
        "stages.0.0.mlp",
        ("the bias of fc1 is added after GELU, not after fc1",),
    ),
    "proj's bias before its product": (
        ((PROJ, "        return F.linear(z[:, :h, :w].reshape(b, n, c) + self.proj.bias, self.proj.weight)\n"),),
        "stages.0.0.attn",
        ("the bias of proj is added before proj, not after proj",),
    ),
    "two mistakes in one layer": (
        ((MLP, "        return F.linear(F.gelu(self.fc1(x), approximate='tanh'), self.fc2.weight)\n"),),
        "stages.0.0.mlp",
        ("tanh", "the bias is left out"),
    ),
    "the MLP twice": (
        ((ADDED, "        return x + self.mlp(self.mlp(self.norm2(x)))\n"),),
        "stages.0.0.mlp",
        ("mlp is applied again",),
    ),
    "norm2 twice": (
        ((ADDED, "        return x + self.mlp(self.norm2(self.norm2(x)))\n"),),
        "stages.0.0.norm2",
        ("it is norm2, applied twice,",),
    ),
    "LIM multiplies": (((LIM, "* lim\n"),), "stages.0.0.attn", ("it is LIM's output times the attention, number by number",)),
    "one head's keys": (
        ((ATTEND, f"{ATTEND}    k = k[..., :1, :, :].expand_as(k)\n"),),
        "stages.0.0.attn",
        ("all heads take the first head's keys",),
    ),
    "norm1 for norm2": (
        ((ADDED, "        return x + self.mlp(self.norm1(x))\n"),),
        "stages.0.0.norm2",
        ("the parameters of norm1 act in the place of those of norm2",),
    ),
    "PEG twice": (
        ((PEG, f"        image = self.proj(image) + image\n{PEG}"),),
        "pos_block.0",
        ("applied twice", "applied again"),
    ),
}
"""Edits of the plain module, the first wrong layer, and words of the causes."""

RIGHT: dict[str, tuple[tuple[str, str], ...]] = {
    "fc2's bias behind the sum": (BARE, (ADDED, f"{ADDED[:-1]} + self.mlp.fc2.bias\n")),
    "fc2's bias before the branch": (
        BARE,
        (ADDED, "        y = self.norm2(x)\n        x = x + self.mlp.fc2.bias\n        return x + self.mlp(y)\n"),
    ),
}


def compared(edits: tuple[tuple[str, str], ...], folder: Path) -> Report:
    source = Path(plain.__file__).read_text(encoding="utf-8")
    for old, new in edits:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    path = folder / "edited.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited_port", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return compare(module.ScalableViT(CONFIG), variant=CONFIG, images=IMAGES)


@pytest.mark.parametrize("name", WRONG)
def test_the_cause_is_what_was_done(name: str, tmp_path: Path) -> None:
    edits, layer, words = WRONG[name]
    report = compared(edits, tmp_path)
    assert report.first is not None
    assert report.first.layer == layer
    said = [cause.words for cause in report.causes]
    assert said, report
    assert all(any(some in cause for some in words) for cause in said), report


@pytest.mark.parametrize("name", RIGHT)
def test_a_bias_that_is_added_elsewhere_to_the_same_effect_is_right(name: str, tmp_path: Path) -> None:
    report = compared(RIGHT[name], tmp_path)
    assert report.agrees, report


def test_what_is_done_behind_another_place_is_not_said_to_be_left_out(tmp_path: Path) -> None:
    """GELU of k and of v, and not of what they are made of: two values are wrong, and the second is not explained."""
    split = "        q, k, v = (t.reshape("
    edits = ((NORMED, "            y = self.norm_act[0](y)\n"), (split, f"        k, v = F.gelu(k), F.gelu(v)\n{split}"))
    report = compared(edits, tmp_path)
    assert report.first is not None
    assert report.first.layer == "stages.0.1.attn"
    assert not [cause for cause in report.causes if "left out" in cause.words], report
    assert any("GELU does not come before k" in cause.words for cause in report.causes), report
    places = [seen.place for seen in report.insides if seen.layer == "stages.0.1.attn"]
    assert len(places) > 1, report
