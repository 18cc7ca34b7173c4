"""`scalablevit-ref diff` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.convert import convert_file
from tests.test_checkpoints_recognise import DIGITS
from tests.test_cli_convert import official, run

__all__ = ["official", "run"]  # fixtures


def test_diff(run: Any, official: Path, tmp_path: Path) -> None:
    for name, options in (
        ("a.npz", {}),
        ("b.msgpack", {}),
        ("c.safetensors", {"dtype": "bfloat16"}),
        ("d.npz", {"use_ema": False}),
    ):
        convert_file(official, tmp_path / name, **options)  # type: ignore[arg-type]
    files = [str(tmp_path / name) for name in ("a.npz", "b.msgpack", "c.safetensors", "d.npz")]
    code, out, _ = run("diff", files[0], files[1])
    assert (code, out) == (0, "The same: configuration and all 156 tensors.\n")
    code, out, _ = run("diff", files[0], files[2])
    assert code == 1
    assert max(map(len, out.splitlines())) <= 80
    assert "A is float32, B is bfloat16" in out
    code, out, _ = run("diff", files[0], files[3], "--json")
    document = json.loads(out)
    a, b = (sv.init_params(DIGITS, seed=seed)["head.weight"].astype("float64") for seed in (2, 1))
    (row,) = (row for row in document["differences"] if row["name"] == "head.weight")
    assert (code, document["same"], row["what"], row["count"]) == (1, False, "values", a.size)
    assert row["largest"] == np.abs(a - b).max()
    assert row["relative"] == np.abs(a - b).max() / np.abs(a).max()


def test_diff_of_bits_settings_and_shapes(run: Any, tmp_path: Path) -> None:
    params, other = sv.init_params(DIGITS), sv.init_params(DIGITS)
    other["norm.bias"][1] = -0.0
    sv.save_checkpoint(tmp_path / "a.npz", params, DIGITS)
    sv.save_checkpoint(tmp_path / "b.npz", other, sv.variant("digits", ssa_scale="head_dim"))
    code, out, _ = run("diff", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"))
    assert code == 1
    assert "ssa_scale: scaled in A, head_dim in B" in out
    assert "1 of 156 tensors differ, and the configuration." in out
    assert "bits" in out
    three = sv.variant("digits", num_classes=3)
    sv.save_checkpoint(tmp_path / "c.npz", sv.init_params(three), three)
    headless = sv.variant("digits", head="none", num_classes=0)
    sv.save_checkpoint(tmp_path / "d.npz", sv.init_params(headless), headless)
    for file, what in (("c.npz", "shape"), ("d.npz", "only in A")):
        document = json.loads(run("diff", str(tmp_path / "a.npz"), str(tmp_path / file), "--json")[1])
        assert [row["what"] for row in document["differences"]] == [what] * 2
