"""File to file in bounded memory; a process that is killed, or a disk that is full, leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from scalablevit_ref import init_params, to_state_dict, variant
from scalablevit_ref.benchmark.processes import conversion
from scalablevit_ref.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from scalablevit_ref.checkpoints.convert import convert_file
from scalablevit_ref.checkpoints.hub import hub_config
from scalablevit_ref.checkpoints.inspect import differences, manifest
from scalablevit_ref.checkpoints.load import open_checkpoint
from tests.support.checkpoints import DIGITS, SUFFIXES, TINY_MMDET, assert_same, listing, numbered


def test_conversion_in_bounded_memory(tmp_path: Path) -> None:
    """`small`, 128 MB: most of a tensor at a time, so less than a quarter of it. (`large` is the benchmark's.)"""
    figures = conversion("small", tmp_path, repeats=1)
    assert figures["megabytes"] > 120
    assert 10 < figures["megabytes_of_memory"] < 100
    assert figures["inspect_seconds"] > 0
    assert figures["ratio"] > 0
    assert listing(tmp_path) == []


FORKS = """
    import json, os, resource, signal, sys
    import torch  # once, for all the processes that are forked from here
    import scalablevit_ref as sv
    from pathlib import Path
    config = sv.variant("digits")
    params = sv.init_params(config)

    def stop():
        os.write(told, b"!")
        signal.pause()

    def killed(path, how, when):
        "Stops at the first tensor, when all is written but not yet named, or when one of two files has its name."
        if when == "first tensor":
            sv.save_checkpoint(path, params, config, progress=lambda size: stop())
        elif when == "all written":
            os.fsync = lambda descriptor: stop()
            sv.save_checkpoint(path, params, config, config_json=True)
        else:
            os.link = lambda *args, **kwargs: stop()
            sv.save_checkpoint(path, params, config, force=True)

    def full(path, unnamed):
        "As the system tells it: a write beyond the limit on a file's size fails."
        if not unnamed:
            del os.O_TMPFILE
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            sv.save_checkpoint(path, params, config, force=True)
        except Exception as error:
            os.write(told, type(error).__name__.encode())

    for case in json.loads(sys.argv[1]):
        heard, told = os.pipe()
        process = os.fork()
        if not process:
            os.close(heard)
            try:
                killed(*case[1:]) if case[0] == "killed" else full(*case[1:])
            finally:
                os._exit(0)
        os.close(told)
        said = os.read(heard, 100).decode()
        if case[0] == "killed":
            os.kill(process, case[2])
        status = os.waitpid(process, 0)[1]
        print(json.dumps([said, os.waitstatus_to_exitcode(status)]))
"""


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], tuple[str, int]]:
    """Each case, and what it said and how its process ended. In a folder of its own is, or is not, a file of that name before."""
    cases: list[tuple[Any, ...]] = []
    moments = product(SUFFIXES, (int(signal.SIGKILL), int(signal.SIGTERM)), ("first tensor", "all written", "naming"))
    for suffix, how, when in moments:
        cases.append(("killed", str(tmp_path_factory.mktemp("killed") / f"x{suffix}"), how, when))
    for suffix, unnamed in product(SUFFIXES, (True, False)):
        cases.append(("full", str(tmp_path_factory.mktemp("full") / f"x{suffix}"), unnamed))
    for case in cases:
        if case[0] == "full" or case[3] == "naming":
            Path(case[1]).write_bytes(b"precious")
    command = [sys.executable, "-c", textwrap.dedent(FORKS), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {case: tuple(json.loads(line)) for case, line in zip(cases, done.stdout.splitlines(), strict=True)}


def test_killed_while_writing(forked: Any) -> None:
    """Every format, by two signals, at three moments: no file is there that was not before, and that one is as it was."""
    cases = [case for case in forked if case[0] == "killed"]
    assert len(cases) == 24
    for case in cases:
        path = Path(case[1])
        assert forked[case] == ("!", -case[2]), case
        assert listing(path.parent) == ([path.name] if case[3] == "naming" else []), case
        assert case[3] != "naming" or path.read_bytes() == b"precious", case


def test_a_full_disk(forked: Any) -> None:
    """Every format, with unnamed files and without: what was there stays, and nothing else is there."""
    cases = [case for case in forked if case[0] == "full"]
    assert len(cases) == 8
    for case in cases:
        path = Path(case[1])
        assert forked[case] == ("OSError", 0), case
        assert (listing(path.parent), path.read_bytes()) == ([path.name], b"precious"), case


def test_safetensors_bytes_are_the_library_s(tmp_path: Path) -> None:
    """Loaded by the library, whatever the layout; and its own files by this package."""
    params = numbered(TINY_MMDET)
    for layout in ("official", "mmdet", "split", "channels_last"):
        path = tmp_path / f"{layout}.safetensors"
        save_checkpoint(path, params, TINY_MMDET, layout=layout, metadata={"ü": "ä"})
        theirs = safetensors.numpy.load_file(path)
        expected = to_state_dict(params, TINY_MMDET, layout=layout)
        assert theirs.keys() == expected.keys()
        assert all(np.array_equal(theirs[name], x) for name, x in expected.items())
        safetensors.numpy.save_file({name: np.asarray(x, order="C") for name, x in expected.items()}, tmp_path / "theirs")
        assert_same(load_checkpoint(tmp_path / "theirs", config=TINY_MMDET), params)


def test_damage_in_the_source_leaves_no_target(tmp_path: Path) -> None:
    source = tmp_path / "x.pth"
    save_checkpoint(source, init_params(DIGITS), DIGITS)
    whole = source.read_bytes()
    weight = init_params(DIGITS)["stages.3.1.mlp.fc1.weight"].tobytes()
    at = whole.index(weight) + 10
    source.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"x\.pth: .*damaged: wrong checksum"):
        convert_file(source, tmp_path / "y.safetensors")
    assert listing(tmp_path) == ["x.pth"]


def test_non_finite_weights_leave_no_target(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    params["norm.bias"][3] = np.nan
    save_checkpoint(tmp_path / "x.npz", params, DIGITS, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights .*norm\.bias"):
        convert_file(tmp_path / "x.npz", tmp_path / "y.safetensors")
    params["norm.bias"][3] = 1e6
    save_checkpoint(tmp_path / "x.npz", params, DIGITS, force=True)
    with pytest.raises(CheckpointError, match=r"norm\.bias: values too large for float16; found up to 1e\+06"):
        convert_file(tmp_path / "x.npz", tmp_path / "y.safetensors", dtype="float16")
    convert_file(tmp_path / "x.npz", tmp_path / "y.safetensors", dtype="bfloat16")
    assert listing(tmp_path) == ["x.npz", "y.safetensors"]


def test_manifest_is_the_same_for_every_layout_and_format(tmp_path: Path) -> None:
    params = init_params(DIGITS)
    expected = manifest(params)
    for suffix in SUFFIXES:
        for layout in ("official", "split", "channels_last"):
            path = tmp_path / f"{layout}{suffix}"
            save_checkpoint(path, params, DIGITS, layout=layout)
            with open_checkpoint(path) as opened:
                assert manifest(opened.params) == expected
                assert differences(opened.params, params) == []


def test_tensors_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.npz", init_params(DIGITS), DIGITS)
    with open_checkpoint(tmp_path / "x.npz") as opened:
        weight = opened.params["norm.weight"]
    with pytest.raises(ValueError, match="closed file"):
        weight.read()  # type: ignore[union-attr]


def test_config_json(tmp_path: Path) -> None:
    config = variant("small")
    document = hub_config(config)
    assert (document["architecture"], document["num_classes"], document["num_features"]) == ("scalablevit_small", 1000, 512)
    pretrained = document["pretrained_cfg"]
    assert (pretrained["input_size"], pretrained["interpolation"], pretrained["crop_pct"]) == ([3, 224, 224], "bicubic", 0.875)
    assert (pretrained["mean"][0], pretrained["std"][2]) == (0.485, 0.225)
    path, beside, began = tmp_path / "model.safetensors", tmp_path / "config.json", time.time()
    params = init_params(DIGITS)
    save_checkpoint(path, params, DIGITS, config_json=True)
    assert json.loads(beside.read_text()) == json.loads(json.dumps(hub_config(DIGITS)))
    assert json.loads(beside.read_text())["layout"] == "official"
    path.unlink()
    with pytest.raises(FileExistsError, match=r"config\.json exists"):
        save_checkpoint(path, params, DIGITS, config_json=True)
    assert listing(tmp_path) == ["config.json"]
    save_checkpoint(path, params, DIGITS, config_json=True, force=True)
    assert listing(tmp_path) == ["config.json", "model.safetensors"]
    assert os.access(beside, os.R_OK)
    assert beside.stat().st_mtime > began - 1  # a file's clock may be behind by a tick
