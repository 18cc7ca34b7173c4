"""`docs/converting.md` as it is written: every block is run, in order, in a folder with the files that the page names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment whose `scalablevit-ref` is this source's."""
    script = tmp_path / "bin" / "scalablevit-ref"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scalablevit_ref "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PAGE.parent.parent), "COLUMNS": "80"}


def test_every_recipe(tmp_path: Path, command: dict[str, str]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    make_files(folder)
    said = []
    for kind, code in BLOCKS:
        words = ["sh", "-eu", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=folder, env=command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), code + done.stdout + done.stderr
        said.append(done.stdout)
    assert len(BLOCKS) == 10
    assert "".join(said).count("The same: configuration and all") == 3
    assert "".join(said).count("agrees") == "".join(code for _, code in BLOCKS).count("--verify")
    assert "(3, 3, 1, 16)" in said[7]
    for name in ("model.safetensors", "weights.npz", "params.msgpack", "keras.npz", "official.pth", "copy.safetensors"):
        assert_same(sv.load_checkpoint(folder / name), sv.init_params(DIGITS, seed=1))
    stepped = sv.load_checkpoint(folder / "checkpoint_best.pth", use_ema=False).params
    assert_same(sv.load_checkpoint(folder / "raw.safetensors"), stepped)
    assert_same(sv.load_checkpoint(folder / "from_flax.safetensors"), sv.init_params(DIGITS))
    assert not [name for name in listing(folder) if name.startswith(".")]
