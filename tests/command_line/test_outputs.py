"""What `scalablevit-ref convert` writes beside the weights, and says of files with odd names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import scalablevit_ref as sv
from tests.support.checkpoints import DIGITS, listing


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
        (("--sha256", str(target), "--force"), f"the same file as {target}, which is to be written too"),
        (("--sha256", str(official), "--force"), "this file is read, and is not written over"),
        (("--sha256", str(tmp_path / "none" / "x")), f"there is no folder {tmp_path / 'none'}"),
        (("--config-json", "--force"), "config.json: a directory"),
    ):
        code, _, err = run("convert", str(official), str(target), *options)
        assert (code, said in err) == (2, True), err
    code, _, err = run("convert", str(official), str(tmp_path / "none" / "x.npz"))
    assert (code, err.endswith(f"there is no folder {tmp_path / 'none'}\n")) == (2, True)
    assert listing(tmp_path) == ["checkpoint.pth", "config.json"]


def test_a_config_json_that_is_not_written_is_left_and_told(run: Any, official: Path, tmp_path: Path) -> None:
    target, beside = tmp_path / "model.safetensors", tmp_path / "config.json"
    arguments, said = ("convert", str(official), str(target), "--force"), "the config.json beside it is left as it was"
    code, out, _ = run(*arguments, "--to", "split")
    assert (code, said in out) == (0, False)
    assert json.loads(beside.read_text())["layout"] == "split"
    before = beside.read_bytes()
    for options, stale in (
        (("--no-config-json", "--to", "split"), False),  # it still describes them
        (("--no-config-json", "--strip-head"), True),
        (("--no-config-json",), True),
        ((), False),
    ):
        code, out, _ = run(*arguments, *options)
        assert (code, said in out) == (0, stale)
        assert beside.read_bytes() == before or not options
    assert json.loads(beside.read_text())["layout"] == "official"
    documents = [json.loads(run(*arguments, *options, "--json")[1])["config_json"] for options in ((), ("--no-config-json",))]
    assert documents == ["written", None]
    for content in (b"", b"[1]", b"{}", b"\xff", b"[" * 100_000):
        beside.write_bytes(content)
        assert json.loads(run(*arguments, "--no-config-json", "--json")[1])["config_json"] == "stale"
        assert beside.read_bytes() == content


def test_another_tool_s_config_json_is_not_replaced_unsaid(run: Any, official: Path, tmp_path: Path) -> None:
    target, beside = tmp_path / "model.safetensors", tmp_path / "config.json"
    theirs = {"model_type": "mine", "num_classes": 1000}
    beside.write_text(json.dumps(theirs))
    target.touch()
    code, out, _ = run("convert", str(official), str(target), "--force")
    assert (code, "the config.json beside it is left as it was, and does not describe these weights\n" in out) == (0, True)
    assert json.loads(beside.read_text()) == theirs
    code, out, _ = run("convert", str(official), str(target), "--force", "--config-json")
    assert (code, "replaced in the config.json beside it: num_classes; its other entries are kept\n" in out) == (0, True)
    found = json.loads(beside.read_text())
    assert (found["model_type"], found["num_classes"], found["architecture"]) == ("mine", 10, "scalablevit_digits")
    document = json.loads(run("convert", str(official), str(target), "--force", "--strip-head", "--json")[1])
    replaced = ["architecture", "num_classes", "pretrained_cfg", "model_args", "scalablevit_ref"]
    assert (document["config_json"], document["config_json_replaced"]) == ("written", replaced)
    code, _, err = run("convert", str(official), str(target), "--force", "--no-config-json", "--fold-scale")
    said = "the config.json beside it states other settings of this file: --config-json updates it; expected ssa_scale='head_dim'"
    assert (code, said in err, err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".msgpack"])
def test_values_that_a_narrower_dtype_lacks_are_counted(run: Any, tmp_path: Path, suffix: str) -> None:
    """Those that become 0 and were not, and those that become infinite and were finite; not what was so before."""
    source, target = tmp_path / "x.safetensors", tmp_path / f"y{suffix}"
    params = {name: np.ones_like(x, ml_dtypes.bfloat16) for name, x in sv.init_params(DIGITS).items()}
    params["norm.bias"][:7] = 1e-30, -1e-30, 0, -0.0, 1e-7, 6e4, 1e-8
    params["stages.0.1.attn.q.weight"][3, :2] = 1e-20
    sv.save_checkpoint(source, params, DIGITS)
    code, out, err = run("convert", str(source), str(target), "--dtype", "float16")
    assert (code, err) == (0, "")
    assert "5 values underflow to 0 in float16\n" in out
    assert "infinity" not in out
    document = json.loads(run("convert", str(source), str(target), "--dtype", "float16", "--json", "--force")[1])
    assert (document["underflowed"], document["overflowed"]) == (5, 0)
    code, out, _ = run("convert", str(source), str(target), "--dtype", "float32", "--force")
    assert (code, "flow" in out) == (0, False)
    params["norm.bias"][7:11] = 1e30, -1e30, np.inf, np.nan
    sv.save_checkpoint(source, params, DIGITS, force=True, allow_nonfinite=True)
    code, out, _ = run("convert", str(source), str(target), "--dtype", "float16", "--force", "--allow-nonfinite")
    assert code == 0
    assert "5 values underflow to 0 in float16\n2 values overflow to infinity in float16\n" in out


def test_the_ema_that_converted_weights_were(run: Any, official: Path, tmp_path: Path) -> None:
    """Its name is kept; that another option would take other weights is said only of a file that may hold them."""
    one, two = str(tmp_path / "one.safetensors"), str(tmp_path / "two.npz")
    assert "the EMA's weights; --no-use-ema takes the others" in run("convert", str(official), one)[1]
    said = "model_ema of the file that they were converted from"
    assert f"these are the EMA's weights, {said}\n" in run("convert", one, two)[1]
    for file in (one, two):
        assert f"yes, {said}" in " ".join(run("inspect", file)[1].split())
        document = json.loads(run("inspect", file, "--json")[1])
        assert (document["metadata"]["ema"], document["metadata"]["ema_from"]) == (True, "model_ema")
    run("convert", str(official), one, "--no-use-ema", "--force")
    assert "EMA" not in run("inspect", one)[1]


def test_messages_name_options_and_not_parameters(run: Any, official: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.npz"
    torch.save({"model_ema": sv.to_backend(sv.init_params(DIGITS), "torch")}, tmp_path / "ema.pth")
    target.touch()
    for arguments, said in (
        (("convert", str(official), str(target)), f"{target} exists; --force overwrites it"),
        (
            ("convert", str(tmp_path / "ema.pth"), str(tmp_path / "y.npz"), "--no-use-ema"),
            "--no-use-ema but there are only EMA weights",
        ),
        (("inspect", str(tmp_path / "ema.pth"), "--no-use-ema"), "--no-use-ema but there are only EMA weights"),
        (("diff", str(tmp_path / "ema.pth"), str(official), "--no-use-ema"), "--no-use-ema but there are only EMA weights"),
        (("convert", str(official), str(tmp_path / "y.npz"), "--one-way"), "--one-way is for a port's weights"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, said in err, err.count("\n")) == (2, "", True, 1), err
        assert not {"force=", "use_ema", "one_way"} & set(err.split())


def test_file_names_do_not_reach_the_terminal_as_they_are(run: Any, tmp_path: Path) -> None:
    (tmp_path / "\x1b[31m.pth").write_bytes(b"x")
    assert run("inspect", str(tmp_path / "\x1b[31m.pth"))[2].rstrip("\n").isprintable()
