"""`scalablevit-ref inspect`, `convert` and `diff` as a user runs them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from tests.support.bit_patterns import bit_patterns
from tests.support.checkpoints import DIGITS, TINY_MMDET, assert_same, listing, numbered, zeros


def test_inspect(run: Any, official: Path) -> None:
    code, out, err = run("inspect", str(official))
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    for name, said in {
        "format": "torch zip",
        "layout": "official",
        "variant": "digits (named by args.model in the file)",
        "head": "linear, 10 classes",
        "EMA": "--no-use-ema takes the others",
        "parameters": "204,102 in 156 tensors, float32",
        "wrapper": "model_ema",
        "prefixes": "module.",
        "left out": "n_averaged",
    }.items():
        assert said in lines[name]
    code, out, _ = run("inspect", str(official), "--no-use-ema", "--json")
    document = json.loads(out)
    assert (code, document["wrapper"], document["variant"], document["dtype"]) == (0, "model", "digits", "float32")
    assert (document["parameters"], document["metadata"]["epoch"], document["problem"]) == (204102, 12, None)
    assert document["config"]["depths"] == [2, 2, 2, 2]
    assert document["tensors"]["head.weight"] == {"shape": [10, 64]}


def test_inspect_says_what_is_not_told(run: Any, tmp_path: Path) -> None:
    small = {name: x for name, x in zeros(sv.variant("small")).items() if not name.startswith("head")}
    path = tmp_path / "features.npz"
    np.savez(path, **small)
    code, out, _ = run("inspect", str(path))
    said = " ".join(out.split())
    assert code == 1
    assert "the shapes fit small and small_0 alike" in said
    assert "num_heads, window_sizes" in said
    assert "give --variant (small, small_0)" in said
    assert run("inspect", str(path), "--json")[1].count("give --variant (small, small_0)") == 1
    code, out, err = run("convert", str(path), str(tmp_path / "x.npz"))
    assert (code, out, err.endswith("c_ratios show in no shape: give --variant (small, small_0)\n")) == (2, "", True)
    code, out, _ = run("inspect", str(path), "--variant", "small", "--json")
    assert (code, json.loads(out)["config"]["head"]) == (0, "none")
    np.savez(path, **sv.init_params(DIGITS))
    code, out, _ = run("inspect", str(path), "--json")
    assert json.loads(out)["open"].startswith("num_heads")
    np.savez(path, **{"layers.0.0.layers.0.0.to_q.weight": np.zeros(3)})
    code, out, _ = run("inspect", str(path))
    assert (code, "another network than the official one" in " ".join(out.split())) == (1, True)


def test_sha256(run: Any, official: Path, tmp_path: Path) -> None:
    out = run("inspect", str(official), "--sha256", "--no-use-ema")[1]
    sums = dict(reversed(line.split("  ")) for line in out.splitlines() if len(line.split("  ")[0]) == 64)
    params = sv.init_params(DIGITS, seed=1)
    assert sums == {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in params.items()}
    manifest = tmp_path / "sums.txt"
    arguments = ("convert", str(official), str(tmp_path / "x.msgpack"), "--no-use-ema", "--sha256", str(manifest))
    assert run(*arguments)[0] == 0
    assert dict(reversed(line.split("  ")) for line in manifest.read_text().splitlines()) == sums
    assert json.loads(run("inspect", str(tmp_path / "x.msgpack"), "--sha256", "--json")[1])["sha256"] == sums


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", ".pth"])
def test_convert(run: Any, official: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"x{suffix}"
    code, out, err = run("convert", str(official), str(target), "--verify")
    assert (code, err) == (0, "")
    layout = "channels_last" if suffix == ".msgpack" else "official"
    assert f"204,102 parameters, official float32 to {layout} float32, digits, told by args.model" in out
    assert "these are the EMA's weights" in out
    assert "left out: n_averaged" in out
    assert "verify: relative error 0 in float64 at 112 x 112 agrees" in out
    checkpoint = sv.load_checkpoint(target)
    assert_same(checkpoint, sv.init_params(DIGITS, seed=2))
    assert (checkpoint.metadata["layout"], checkpoint.metadata["epoch"]) == (layout, 12)
    code, out, err = run("convert", str(official), str(target))
    assert (code, out) == (2, "")
    assert err.endswith(f"{target.name} exists; --force overwrites it\n")
    assert run("convert", str(official), str(target), "--force", "--no-use-ema")[0] == 0
    assert_same(sv.load_checkpoint(target), sv.init_params(DIGITS, seed=1))


def test_convert_layouts_dtypes_and_heads(run: Any, official: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    code, out, _ = run("convert", str(official), str(target), "--to", "split", "--dtype", "bfloat16", "--strip-head", "--verify")
    assert code == 0
    assert "head stripped: head.weight, head.bias" in out
    assert "bfloat16 is narrower than float32 agrees" in " ".join(out.split())
    checkpoint = sv.load_checkpoint(target)
    assert (checkpoint.config.head, checkpoint.metadata["dtype"], checkpoint.metadata["layout"]) == ("none", "bfloat16", "split")
    assert json.loads((tmp_path / "config.json").read_text())["num_classes"] == 0
    backbone = tmp_path / "backbone.npz"
    sv.save_checkpoint(backbone, numbered(TINY_MMDET), TINY_MMDET, layout="mmdet")
    for source, to in ((backbone, "channels_last"), (tmp_path / "0.npz", "mmdet"), (tmp_path / "1.npz", "official")):
        done = tmp_path / f"{['channels_last', 'mmdet', 'official'].index(to)}.npz"
        assert run("convert", str(source), str(done), "--to", to, "--verify")[0] == 0
        assert_same(sv.load_checkpoint(done), numbered(TINY_MMDET))


def test_verify_finds_a_difference(run: Any, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalablevit_ref.checkpoints import layouts

    right = layouts.from_canonical

    def wrong(params: Any, config: Any, layout: str) -> Any:
        state = right(params, config, layout)
        state["norm.bias"], state["norm.weight"] = state["norm.weight"], state["norm.bias"]
        return state

    monkeypatch.setattr("scalablevit_ref.checkpoints.official.from_canonical", wrong)
    code, out, _ = run("convert", str(official), str(tmp_path / "x.npz"), "--verify")
    assert (code, "DIFFERS" in out) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "none.pth"), "none.pth: there is no such file"),
        (("inspect", "checkpoint.pth", "--variant", "smal"), "unknown variant 'smal' (did you mean 'small'"),
        (("inspect", "page.pth"), "page.pth: the file is an HTML page"),
        (("diff", "checkpoint.pth", "page.pth"), "page.pth: the file is an HTML page"),
        (("convert", "page.pth", "x.npz"), "page.pth: the file is an HTML page"),
        (("convert", "checkpoint.pth", "x.tflite"), "x.tflite: unknown suffix; expected .pth, .pt, .safetensors"),
        (
            ("convert", "checkpoint.pth", "x.npz", "--to", "chanels_last"),
            "unknown layout 'chanels_last' (did you mean 'channels_last'",
        ),
        (("convert", "checkpoint.pth", "x.npz", "--to", "mmdet"), "layout 'mmdet' is the detection backbone's"),
        (("convert", "checkpoint.pth", "x.npz", "--dtype", "float23"), "unknown dtype 'float23' (did you mean 'float32'"),
        (("convert", "checkpoint.pth", "x.npz", "--dtype", "bfloat16"), "npz cannot hold bfloat16"),
        (("convert", "checkpoint.pth", "x.npz", "--variant", "smal"), "unknown variant 'smal' (did you mean 'small'"),
        (
            ("convert", "checkpoint.pth", "x.npz", "--num-classes", "1000"),
            "num_classes: number of classes; expected 1000, found 10",
        ),
        (("convert", "checkpoint.pth", "none/x.npz"), "none"),
        (("convert", "checkpoint.pth", "x.npz", "--sha256", "page.pth"), "page.pth exists; --force overwrites it"),
        (("convert", "checkpoint.pth"), "Missing argument 'DST'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, run: Any, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page.pth").write_text("<!DOCTYPE html><html>Google Drive - Virus scan warning")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    if err.startswith("scalablevit-ref:"):
        assert err.count("\n") == 1
    assert listing(tmp_path) == ["checkpoint.pth", "page.pth"]


def test_the_scale_is_folded_when_asked_for(run: Any, official: Path, tmp_path: Path) -> None:
    """Into q alone, and only where r_c is not 1; the network then scales by d^-½ and computes the same."""
    target = tmp_path / "x.safetensors"
    code, out, _ = run("convert", str(official), str(target), "--fold-scale", "--verify", "--json")
    document = json.loads(out)
    assert (code, document["scale_folded"], document["verify"]["agrees"]) == (0, True, True)
    found, params = sv.load_checkpoint(target), sv.init_params(DIGITS, seed=2)
    assert found.config == sv.variant("digits", ssa_scale="head_dim")
    for name, x in params.items():
        ratio = DIGITS.c_ratios[int(name.split(".")[1])] if ".attn.q." in name else 1
        assert np.array_equal(found.params[name], (x.astype("float64") * ratio**-0.5).astype("float32")), name
    assert {".attn.q." in name for name in params if not np.array_equal(found.params[name], params[name])} == {True}
    code, _, err = run("convert", str(target), str(tmp_path / "y.npz"), "--fold-scale")
    assert (code, "the scale of SSA is d^-½ already" in err) == (2, True)


def test_nonfinite_weights_pass_when_asked_for(run: Any, tmp_path: Path) -> None:
    params = sv.init_params(DIGITS)
    params["norm.bias"][:] = bit_patterns({"x": (64,)}, "float32")["x"]
    sv.save_checkpoint(tmp_path / "x.npz", params, DIGITS, allow_nonfinite=True)
    code, out, err = run("convert", str(tmp_path / "x.npz"), str(tmp_path / "y.npz"))
    assert (code, out, "norm.bias; --allow-nonfinite lets them pass" in err) == (2, "", True)
    assert run("convert", str(tmp_path / "x.npz"), str(tmp_path / "y.npz"), "--allow-nonfinite")[0] == 0
    assert run("diff", str(tmp_path / "x.npz"), str(tmp_path / "y.npz"))[0] == 0
    assert run("convert", str(tmp_path / "x.npz"), str(tmp_path / "z.npz"), "--allow-nonfinite", "--dtype", "float16")[0] == 0
    assert run("diff", str(tmp_path / "x.npz"), str(tmp_path / "z.npz"))[0] == 1


def test_json_of_a_conversion(run: Any, official: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.msgpack"
    document = json.loads(run("convert", str(official), str(target), "--strip-head", "--json")[1])
    assert (document["source"], document["target"], document["bytes"]) == (str(official), str(target), target.stat().st_size)
    assert (document["layout"], document["dtype"], document["head_stripped"]) == (
        "channels_last",
        "float32",
        ["head.weight", "head.bias"],
    )
    assert (document["metadata"]["ema"], document["metadata"]["ignored"], document["verify"]) == (True, ["n_averaged"], None)


def test_help_names_every_option(run: Any) -> None:
    for command, options in (
        ("inspect", ("--tensors", "--filter", "--variant", "--heads", "--window-size", "--key", "--use-ema", "--sha256", "--json")),
        (
            "convert",
            (
                *("--to", "--dtype", "--variant", "--heads", "--strip-head", "--fold-scale", "--one-way", "--num-classes"),
                *("--key", "--use-ema", "--config-json", "--allow-nonfinite", "--force", "--verify", "--sha256", "--json"),
            ),
        ),
        ("diff", ("--variant", "--key", "--use-ema", "--json")),
    ):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert all(option in out for option in options)


def test_a_folder_for_transformers(run: Any, official: Path, tmp_path: Path) -> None:
    """Said file by file, verified, compared, refused in the words of the command line; also of an EMA's weights in bfloat16."""
    folder, sums = tmp_path / "folder", tmp_path / "sums.txt"
    sha256 = ("--sha256", str(sums))
    code, out, err = run("convert", str(official), str(folder), "--to", "transformers", "--dtype", "bfloat16", "--verify", *sha256)
    assert (code, err) == (0, "")
    for said in (f"{folder / 'config.json'}: its config", f"{folder / 'preprocessor_config.json'}: how images", "agrees"):
        assert said in "".join(out.split("\n"))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(sums.read_text().splitlines()) == 156
    code, out, _ = run("convert", str(official), str(folder), "--to", "transformers", "--force", "--json")
    document = json.loads(out)
    assert document["bytes"] == (folder / "model.safetensors").stat().st_size
    assert (document["layout"], document["config_json"]) == ("official", "written")
    assert run("diff", str(official), str(folder))[0] == 0
    code, out, err = run("convert", str(official), str(folder / "model.safetensors"), "--config-json", "--force")
    assert (code, out) == (2, "")
    assert "this folder is transformers': --to transformers writes into it, or remove the file" in err
    code, out, err = run("convert", str(official), str(tmp_path / "x.onnx"), "--to", "transformers")
    assert (code, out) == (2, "")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("x")) == []
