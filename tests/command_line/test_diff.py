"""`scalablevit-ref diff` as a user runs it, and the bar that shows how far a command is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import scalablevit_ref as sv
from scalablevit_ref.checkpoints.convert import convert_file
from tests.support.checkpoints import DIGITS


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


def test_progress_of_large_files(run: Any, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on a terminal that ends at the file's size; none for small files, and none where errors go to a file."""
    from scalablevit_ref.cli import progress

    screen = io.StringIO()
    monkeypatch.setattr(progress, "Terminal", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    assert run("convert", str(official), str(tmp_path / "a.npz"))[0] == 0
    assert "converting" not in screen.getvalue()
    monkeypatch.setattr(progress, "LARGE", 1000)
    for arguments in (("convert", str(official), str(tmp_path / "b.npz")), ("inspect", str(official), "--sha256")):
        assert run(*arguments)[0] == 0
    assert run("diff", str(official), str(tmp_path / "b.npz"))[0] == 0
    drawn = screen.getvalue()
    assert all(word in drawn for word in ("converting", "hashing", "comparing"))
    assert drawn.count("816.4/816.4 kB") >= 3


def test_numbers_that_json_lacks_are_null(run: Any, tmp_path: Path) -> None:
    """NaN and infinity, which Python's writer would put there and no other reader takes."""

    def no_json(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    params = sv.init_params(DIGITS)
    sv.save_checkpoint(tmp_path / "a.npz", params, DIGITS, metadata={"losses": [float("nan"), 0.5]})
    params["norm.bias"][1] = 1
    sv.save_checkpoint(tmp_path / "b.npz", params, DIGITS)
    document = json.loads(run("diff", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--json")[1], parse_constant=no_json)
    (row,) = document["differences"]
    assert (row["name"], row["largest"], row["relative"]) == ("norm.bias", 1.0, None)
    document = json.loads(run("inspect", str(tmp_path / "a.npz"), "--json")[1], parse_constant=no_json)
    assert document["metadata"]["losses"] == [None, 0.5]
