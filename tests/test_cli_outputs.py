"""What `scalablevit-ref convert` writes beside the weights, and says of files with odd names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from tests.test_checkpoints_files import listing
from tests.test_checkpoints_recognise import DIGITS
from tests.test_cli_convert import official, run

__all__ = ["official", "run"]  # fixtures


def test_a_folded_scale_is_rounded_once(run: Any, official: Path, tmp_path: Path) -> None:
    """To the dtype that is asked for, not to the file's before."""
    target = tmp_path / "x.safetensors"
    code, out, _ = run("convert", str(official), str(target), "--fold-scale", "--dtype", "float64", "--verify", "--json")
    assert (code, json.loads(out)["verify"]["agrees"]) == (0, True)
    name = "stages.0.1.attn.q.weight"
    exact = sv.init_params(DIGITS, seed=2)[name].astype("float64") * DIGITS.c_ratios[0] ** -0.5
    assert np.array_equal(sv.load_checkpoint(target).params[name], exact)


def test_outputs_that_cannot_be_written_are_refused_before_any_is(run: Any, official: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    target = tmp_path / "x.safetensors"
    for options, said in (
        (("--sha256", str(target), "--force"), "the manifest needs a file of its own"),
        (("--sha256", str(official), "--force"), "the manifest needs a file of its own"),
        (("--sha256", str(tmp_path / "none" / "x")), "the manifest cannot be written there"),
        (("--config-json", "--force"), "config.json: a directory"),
    ):
        code, _, err = run("convert", str(official), str(target), *options)
        assert (code, said in err) == (2, True), err
    code, _, err = run("convert", str(official), str(tmp_path / "none" / "x.npz"))
    assert (code, err.endswith(f"there is no folder {tmp_path / 'none'}\n")) == (2, True)
    assert listing(tmp_path) == ["checkpoint.pth", "config.json"]


def test_file_names_do_not_reach_the_terminal_as_they_are(run: Any, tmp_path: Path) -> None:
    (tmp_path / "\x1b[31m.pth").write_bytes(b"x")
    assert run("inspect", str(tmp_path / "\x1b[31m.pth"))[2].rstrip("\n").isprintable()
