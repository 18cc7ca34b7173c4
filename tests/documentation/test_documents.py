"""Every block of every page is run and prints what is shown; `tests/support/reader.py` says how a page is written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.dialects import vit_pytorch
from scalablevit_ref.dialects.config import Config, is_norm_bias
from scalablevit_ref.testing import random_params
from tests.support import torchvision_operators
from tests.support.checkpoints import DIGITS, TINY_MMDET, assert_same, listing, training_checkpoint
from tests.support.documents import ELSEWHERE, PAGES, ROOT, SHOW, TEST, Page, steps
from tests.support.flax_files import array, msgpack, nested
from tests.support.reader import Reader


def weight_files(folder: Path) -> None:
    """What a reader of converting.md brings along."""
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


def converted(reader: Reader) -> None:
    """Every conversion of converting.md kept the weights."""
    text, commands = reader.printed, "\n".join(reader.page.commands)
    assert text.count("The same: configuration and all") == commands.count("scalablevit-ref diff")
    assert text.count("agrees") == commands.count("--verify")
    assert text.count("scalablevit-ref: ") == commands.count("! scalablevit-ref")
    assert json.loads(Path("facts.json").read_text())["variant"] == json.loads(Path("done.json").read_text())["metadata"]["variant"]
    for name in (
        "model.safetensors",
        "stated.safetensors",
        "teacher.safetensors",
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
    assert not [name for name in listing(Path.cwd()) if name.startswith(".") or name == "again.pt"]


def compared(reader: Reader) -> None:
    """The report of checking.md holds the diagnosis and loads nothing."""
    report = Path("report.html").read_text(encoding="utf-8")
    assert "heads are interleaved" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "https://" not in report


def first_ten_lines(reader: Reader) -> None:
    """README's code computes what its comments say."""
    (code,) = [block.code for block in reader.page.blocks if block.language == "python"]
    assert len(code.strip().splitlines()) <= 10
    names = vars(reader.module)
    assert names["logits"].shape == (1, 1000)
    assert list(names["taps"])[-1] == "logits"


def timm_here(folder: Path) -> None:
    """timm.md's reader has timm, and a torchvision for his torch."""
    if not (find_spec("timm") and find_spec("torchvision")):
        pytest.skip("needs timm and torchvision, installed with --no-deps")
    torchvision_operators.define()


BROUGHT: dict[str, Callable[[Path], None]] = {
    "docs/converting.md": weight_files,
    "docs/timm.md": timm_here,
    "docs/api/timm.md": timm_here,
}
CHECKED_AFTER: dict[str, Callable[[Reader], None]] = {
    "README.md": first_ten_lines,
    "docs/checking.md": compared,
    "docs/converting.md": converted,
}


@pytest.mark.parametrize("page", [page for page in PAGES if page.blocks], ids=lambda page: page.path)
def test_every_block_does_what_is_shown(page: Page, tmp_path: Path, as_reader: Callable[[Page], Reader]) -> None:
    reader = as_reader(page)
    BROUGHT.get(page.path, lambda folder: None)(tmp_path)
    reader.follow(ELSEWHERE)
    CHECKED_AFTER.get(page.path, lambda reader: None)(reader)


def test_what_is_listed_is_there() -> None:
    commands = {line for page in PAGES for line in page.commands}
    assert {page.path for page in PAGES} >= {"README.md", "docs/checking.md", *BROUGHT, *CHECKED_AFTER}
    assert set(ELSEWHERE) <= commands
    assert Page("README.md").commands[:2] == [SHOW, TEST]


@pytest.mark.parametrize("page", [page for page in PAGES if page.commands], ids=lambda page: page.path)
def test_the_shell_blocks_are_shell(page: Page) -> None:
    """What is read here word by word is sound for a real one."""
    subprocess.run(["sh", "-n", "-c", "\n".join(page.commands)], check=True)


def test_the_second_command() -> None:
    """It is what CI does."""
    assert steps(TEST) == steps((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert steps(TEST) == ["python3 -m venv", "pip install -c constraints.txt -e .[test]", "python -m tests"]


@pytest.mark.usefixtures("few_digits")
def test_the_first_command(run: Any) -> None:
    """It installs as the second does; what it runs is run here, on twenty of the 370 images."""
    *installed, shown = steps(SHOW)
    assert installed == [step.replace("-e .[test]", ".[torch]") for step in steps(TEST)[:2]]
    code, out, _ = run(*shown.removeprefix("scalablevit-ref ").split())
    assert code == 0
    assert "agree with NumPy in float64 at every one of 51 taps" in out
