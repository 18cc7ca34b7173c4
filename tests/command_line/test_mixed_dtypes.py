"""Files of several dtypes, given to commands whose `--dtype` is the computation's: the remedy works, whatever the file's name."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from scalablevit_ref.compare.run import compare
from tests.support.checkpoints import DIGITS
from tests.support.remedies import commands

HALF: Any = {name: x.astype("f2") if x.ndim > 1 else x for name, x in sv.init_params(DIGITS).items()}


@pytest.mark.parametrize("widest", ["float32", "float64"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--backend", "numpy", "--dtype", "float32", "--weights"),
        ("attend", "digit:3", "--layer", "stages.0.0", "-o", "x.svg", "--weights"),
        ("trace", "x.npz", "--weights"),
    ],
)
def test_the_remedy_for_mixed_dtypes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, arguments: tuple[str, ...], widest: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("it's mixed.npz", **{name: x.astype(widest) if x.dtype == "f4" else x for name, x in HALF.items()})
    code, _, said = run(*arguments, "it's mixed.npz")
    assert (code, "--dtype to have one" in said, "mixed dtypes: make them one first, `" in said) == (2, False, True)
    (command,) = commands(said.strip())
    program, *words = shlex.split(command)
    assert program == "scalablevit-ref"
    assert run(*words)[0] == 0
    made = sv.load_checkpoint(words[2])
    assert made.metadata["dtype"] == widest
    assert all(np.array_equal(made.params[name], x) for name, x in HALF.items())
    assert run(*arguments, words[2])[0] == 0


def test_a_comparison(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **HALF)
    with pytest.raises(sv.CheckpointError, match=r"x\.npz: mixed dtypes: make them one first, `scalablevit-ref convert "):
        compare(torch.nn.Identity(), weights=path)


def test_the_network_that_is_meant(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound = {f"student.{name}": x for name, x in sv.init_params(DIGITS, seed=1).items()}
    np.savez("two.npz", **{f"teacher.{name}": x for name, x in HALF.items()}, **sound)
    code, _, said = run("trace", "x.npz", "--weights", "two.npz", "--key", "teacher")
    assert code == 2
    (command,) = commands(said.strip())
    assert command == "scalablevit-ref convert two.npz two-float32.safetensors --dtype float32 --key teacher"
    assert run(*shlex.split(command)[1:])[0] == 0
    assert run("trace", "x.npz", "--weights", "two-float32.safetensors")[0] == 0
