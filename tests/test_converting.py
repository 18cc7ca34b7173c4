"""`docs/converting.md` as it is written: every block is run, in order, in a folder with the files that the page names."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.dialects.config import Config, is_norm_bias
from scalablevit_ref.testing import random_params
from tests.test_checkpoints_files import listing
from tests.test_checkpoints_msgpack import array, nested
from tests.test_checkpoints_pth import training_checkpoint
from tests.test_checkpoints_recognise import DIGITS, TINY_MMDET, assert_same
from tests.test_cli_verify import run

__all__ = ["run"]  # a fixture

PAGE = Path(__file__).parent.parent / "docs" / "converting.md"
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def make_files(folder: Path) -> None:
    """What a reader of the page brings along."""
    params = sv.init_params(DIGITS)
    ema = sv.to_backend(sv.init_params(DIGITS, seed=1), "torch")
    torch.save(training_checkpoint(params) | {"model_ema": ema}, folder / "checkpoint_best.pth")
    backbone = sv.to_state_dict(sv.init_params(TINY_MMDET), TINY_MMDET, layout="mmdet")
    sv.save_checkpoint(folder / "backbone.pth", sv.init_params(TINY_MMDET), TINY_MMDET, layout="mmdet")
    assert "blocks.0.0.attn.lepe_func.weight" in backbone
    tree = nested(sv.to_state_dict(params, DIGITS, layout="channels_last"))
    (folder / "flax.msgpack").write_bytes(msgpack.packb({"params": tree}, default=array))
    config = Config(num_classes=10, dim=16, depth=(1, 1), heads=2, reduction_factor=(2, 1))
    port = random_params(vit_pytorch.parameter_shapes(config), dtype="float32")
    port |= {name: np.zeros_like(x) for name, x in port.items() if is_norm_bias(name)}
    torch.save(sv.to_backend(port, "torch"), folder / "port.pt")


def shell(line: str, run: Any) -> str:
    """One line of a recipe, as a shell reads it: `!` before a command that must be refused, `>` before a file."""
    assert not set(line) & set("|&;$`*?<(){}~\"'\\"), "more shell than is read here"
    words = line.split()
    refused, target = words[0] == "!", None
    if ">" in words:
        words, target = words[: words.index(">")], words[-1]
    assert words[refused] == "scalablevit-ref"
    code, out, err = run(*words[refused + 1 :])
    assert (code, err.count("\n"), bool(out)) == ((2, 1, False) if refused else (0, 0, True)), line + out + err
    if target:
        Path(target).write_text(out)
    return f"refused: {err}" if refused else str(out)


def test_every_recipe(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    said: list[str] = []
    for kind, code in BLOCKS:
        if kind == "sh":
            said += [shell(line, run) for line in code.splitlines()]
        else:
            exec(compile(code, "converting.md", "exec"), {})
            said.append(capsys.readouterr().out)
    assert len(BLOCKS) == 16
    text, code = "".join(said), "".join(code for _, code in BLOCKS)
    assert text.count("The same: configuration and all") == code.count("scalablevit-ref diff")
    assert text.count("agrees") == code.count("--verify")
    assert text.count("refused: ") == code.count("! scalablevit-ref")
    assert "(3, 3, 1, 16)" in text  # the depthwise kernel, channels last
    assert "(16, 16, 3, 3)" in text  # and the dense one
    assert json.loads(Path("facts.json").read_text())["variant"] == json.loads(Path("done.json").read_text())["metadata"]["variant"]
    for name in (
        "model.safetensors",
        "told.safetensors",
        "weights.npz",
        "params.msgpack",
        "keras.npz",
        "from_keras.pth",
        "official.pth",
    ):
        assert_same(sv.load_checkpoint(name), sv.init_params(DIGITS, seed=1))
    stepped = sv.load_checkpoint("checkpoint_best.pth", use_ema=False).params
    assert_same(sv.load_checkpoint("raw.safetensors"), stepped)
    assert_same(sv.load_checkpoint("from_flax.safetensors"), sv.init_params(DIGITS))
    assert_same(sv.load_checkpoint("backbone_again.pth"), sv.init_params(TINY_MMDET))
    assert not [name for name in listing(tmp_path) if name.startswith(".") or name == "again.pt"]


def test_the_page_is_shell() -> None:
    """What is read here word by word is sound for a real one."""
    page = "".join(code for kind, code in BLOCKS if kind == "sh")
    subprocess.run(["sh", "-n", "-c", page], check=True)
