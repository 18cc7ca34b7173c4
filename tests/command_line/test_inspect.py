"""`scalablevit-ref inspect`: the table of tensors, what is left out, and every command's words for files that are not there."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalablevit_ref as sv
from scalablevit_ref.checkpoints import inspect as inspection
from scalablevit_ref.checkpoints.convert import ConvertOptions
from scalablevit_ref.cli.options import MOST_TOLD, summarised
from scalablevit_ref.weights import Stated
from tests.support.checkpoints import DIGITS

PARAMS = sv.init_params(DIGITS)
INSPECT = import_module("scalablevit_ref.cli.inspect")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the digits network in three layouts, and where the commands run."""
    monkeypatch.chdir(tmp_path)
    for layout in ("official", "split", "channels_last"):
        sv.save_checkpoint(f"{layout}.npz", PARAMS, DIGITS, layout=layout)
    return tmp_path


def rows(out: str) -> list[list[str]]:
    """The table's rows, cell by cell; those that say an official name have one cell."""
    below = out.split("tensor ")[1].splitlines()[2:]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in below if line.strip()]


def test_every_tensor(run: Any, folder: Path) -> None:
    code, out, err = run("inspect", "official.npz", "--tensors")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    *listed, total = rows(out)
    assert [row[0] for row in listed] == list(PARAMS)
    assert listed[0] == ["patch_embeds.0.proj.weight", "16 x 1 x 7 x 7", "float32", "3.14 kB"]
    assert listed[1][1:] == ["16", "float32", "64 B"]
    assert total == ["156 tensors", "204,102 parameters", "816 kB"]
    assert "tensor " not in run("inspect", "official.npz")[1]


def test_tensors_that_fit_a_pattern(run: Any, folder: Path) -> None:
    expected = [name for name in PARAMS if name.startswith("stages.0.") and "attn" in name]
    *listed, total = rows(run("inspect", "official.npz", "--filter", "stages.0.*attn*")[1])
    assert [row[0] for row in listed] == expected
    size = sum(PARAMS[name].nbytes for name in expected)
    assert total == [f"{len(expected)} of 156 tensors", f"{size // 4:,} parameters", f"{size / 1e3:.1f} kB"]
    *listed, total = rows(run("inspect", "official.npz", "--filter", "head.*", "--filter", "norm.bias", "--filter", "head.bias")[1])
    assert [row[0] for row in listed] == ["norm.bias", "head.weight", "head.bias"]
    code, out, err = run("inspect", "official.npz", "--filter", "stagess.*")
    assert (code, out) == (2, "")
    assert err.startswith("scalablevit-ref: --filter 'stagess.*' fits no tensor; there are patch_embeds.0.proj.weight, ")


def test_official_names_beside_the_file_s(run: Any, folder: Path) -> None:
    *listed, _ = rows(run("inspect", "channels_last.npz", "--filter", "stages.0.0.norm1.*")[1])
    assert [row[0] for row in listed] == ["stages.0.0.norm1.scale", "= stages.0.0.norm1.weight", "stages.0.0.norm1.bias"]
    out = run("inspect", "split.npz", "--filter", "stages.0.0.attn.qkv.weight")[1]  # by the official name
    names = [name for part in "qkv" for name in (f"stages.0.0.attn.{part}.weight", "part of stages.0.0.attn.qkv.weight")]
    assert [row[0] for row in rows(out)[:-1]] == names


def test_tensors_for_a_program(run: Any, folder: Path) -> None:
    document = json.loads(run("inspect", "split.npz", "--filter", "*.attn.q.weight", "--filter", "head.bias", "--json")[1])
    expected = [name for name in sv.to_state_dict(PARAMS, DIGITS, layout="split") if name.endswith(".attn.q.weight")]
    assert list(document["tensors"]) == [*expected, "head.bias"]
    official = {"shape": [10], "dtype": "float32", "bytes": 40, "official": ["head.bias"], "is_part": False}
    assert document["tensors"]["head.bias"] == official
    part = {"shape": [16, 16], "dtype": "float32", "bytes": 1024, "official": ["stages.0.0.attn.qkv.weight"], "is_part": True}
    assert document["tensors"]["stages.0.0.attn.q.weight"] == part
    parameters = sum(np.prod(x["shape"]) for x in document["tensors"].values())
    assert document["shown"] == {"tensors": len(expected) + 1, "parameters": parameters, "bytes": 4 * parameters}
    document = json.loads(run("inspect", "split.npz", "--json")[1])
    assert (document["tensors"]["head.bias"], "shown" in document) == ({"shape": [10]}, False)


def test_several_dtypes(run: Any, folder: Path) -> None:
    half = {name: x.astype("float16") if x.ndim > 1 else x for name, x in PARAMS.items()}
    np.savez("mixed.npz", **half)
    count = sum(x.ndim > 1 for x in PARAMS.values())
    out = " ".join(run("inspect", "mixed.npz", "--filter", "head.*")[1].split())
    assert f"204,102 in 156 tensors, float32 in {156 - count}, float16 in {count}; convert --dtype makes them one" in out
    assert ("10 x 64 float16 1.28 kB" in out, "10 float32 40 B" in out) == (True, True)
    document = json.loads(run("inspect", "mixed.npz", "--json")[1])
    assert document["dtype"] == ["float32", "float16"]


def test_what_is_assumed_is_said(run: Any, folder: Path) -> None:
    np.savez("bare.npz", **PARAMS)
    out = " ".join(run("inspect", "bare.npz")[1].split())
    assert (
        "assumed num_heads, window_sizes, norm_eps, ssa_scale and, where s = 1, c_ratios show in no shape and are not told" in out
    )
    assert "assumed" not in run("inspect", "official.npz")[1]


def test_many_names_are_one_line(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [f"stages.{k}.{i}.{part}" for k in range(4) for i in range(2) for part in ("attn", "mlp")]
    counters = [f"{module}.{what}" for module in modules for what in ("total_ops", "total_params")]
    states = [f"optimizer.state.{i}.exp_avg" for i in range(312)]
    names = [*states, "criterion.weight", *counters, "neck (4 arrays)"]
    said = "optimizer.* (312), criterion.weight, *.total_ops (16), *.total_params (16), neck (4 arrays)"
    assert summarised(names, own=["stages"]) == said
    assert summarised([]) == ""
    assert summarised(["a", "b.c"]) == "a, b.c"
    assert summarised([f"k{i}" for i in range(20)]) == ", ".join(f"k{i}" for i in range(MOST_TOLD)) + ", … and 8 more"
    found = inspection.inspect_file(Path("official.npz"))
    found = replace(found, ignored=names, others=["teacher", "student.ema"], unread=["ema_shadow"])
    monkeypatch.setattr(INSPECT, "inspect_file", lambda *_, **__: found)
    out = run("inspect", "official.npz")[1]
    assert max(map(len, out.splitlines())) <= 80
    out = " ".join(out.split())
    assert f"left out {said} " in out
    assert "others teacher, student.ema; --key takes another network" in out
    assert "not read ema_shadow: an average of the weights, perhaps" in out
    document = json.loads(run("inspect", "official.npz", "--json")[1])
    assert (document["ignored"], document["others"], document["unread"]) == (names, ["teacher", "student.ema"], ["ema_shadow"])


def test_the_key_reaches_what_reads(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str | None] = []

    def reads(*given: Any, key: str | None = None, **options: Any) -> None:
        stated = next((x for x in given if isinstance(x, Stated | ConvertOptions)), None)
        keys.append(stated.key if stated else key)
        raise ValueError("enough")

    for command, name in (
        ("inspect", "inspect_file"),
        ("convert", "convert_file"),
        ("verify", "load_in_one_dtype"),
        ("diff", "open_checkpoint"),
        ("trace", "load_in_one_dtype"),
        ("attend", "load_in_one_dtype"),
        ("summary", "open_checkpoint"),
    ):
        monkeypatch.setattr(import_module(f"scalablevit_ref.cli.{command}"), name, reads)
    commands = (
        ("inspect", "official.npz"),
        ("convert", "official.npz", "x.npz"),
        ("verify", "--weights", "official.npz"),
        ("diff", "official.npz", "split.npz"),
        ("trace", "t.npz", "--weights", "official.npz"),
        ("attend", "digit:1", "--layer", "stages.0.0", "-o", "x.svg", "--weights", "official.npz"),
        ("summary", "official.npz"),
    )
    for arguments in commands:
        assert run(*arguments, "--key", "teacher.backbone")[2] == "scalablevit-ref: enough\n"
    assert keys == ["teacher.backbone"] * len(commands)


MISSING = [
    (("inspect", "oficial.npz"), "oficial.npz: there is no such file (did you mean 'official.npz'?)"),
    (("diff", "official.npz", "nothing"), "nothing: there is no such file"),
    (("verify", "--weights", "nothing.pth"), "nothing.pth: there is no such file"),
    (("summary", "split.np"), "split.np: there is no such file (did you mean 'split.npz'"),
    (("trace", "t.npz", "--weights", "none/x.pth"), "none/x.pth: there is no such file, and no folder none"),
    (("convert", "official.npz", "none/x.npz"), "no folder none"),
    (("inspect", "official.npz/x"), "official.npz/x: there is no such file: official.npz is no folder"),
    (("inspect", "link.npz"), "link.npz: a link to nowhere.npz, which is not there"),
    (("compare", "official.npz", "nothing.npz"), "nothing.npz"),
]


@pytest.mark.parametrize(("arguments", "said"), MISSING, ids=lambda x: " ".join(x) if isinstance(x, tuple) else "")
def test_files_that_are_not_there(run: Any, folder: Path, arguments: tuple[str, ...], said: str) -> None:
    Path("link.npz").symlink_to("nowhere.npz")
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not {"[Errno", "Errno"} & set(err.split())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "a/x.pth"), "a/x.pth: you have no permission to read or write it"),
        (IsADirectoryError(21, "Is a directory", Path("a")), "a: a folder, and not a file"),
        (FileExistsError(17, "File exists", b"a"), "a: it exists already"),
        (OSError(28, "No space left on device", "x.npz"), "x.npz: no space left on device"),
        (OSError("torch could not write the file"), "torch could not write the file"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_the_system_says_of_files(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(INSPECT, "inspect_file", fails)
    assert run("inspect", "official.npz") == (2, "", f"scalablevit-ref: {said}\n")


def test_a_file_that_may_not_be_read(run: Any, folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    Path("official.npz").chmod(0)
    code, out, err = run("inspect", "official.npz")
    assert (code, out, "permission" in err) == (2, "", True)
