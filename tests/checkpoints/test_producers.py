"""Files of other libraries: those installed here are made and read again; the record and its tables hold nothing bad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.programs.producers import families, outcome, page
from tests.programs.producers.__main__ import RECORD
from tests.programs.producers.made import Made, Reading, file, weights

RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))
IN_CI = (
    ("torch_saves", ""),
    ("torch_modules", ""),
    ("several_networks", ""),
    ("averages", ""),
    ("around_a_file", ""),
    ("jax_files", ""),
    ("onnx_files", "legacy"),  # torch's other exporter takes ten seconds, and has tests of its own
    ("consumers", "load"),
    ("consumers", "flax"),
)


def test_the_record_has_many_files_of_many_libraries() -> None:
    rows = RECORDED["rows"]
    assert len(rows) >= 70
    assert len({row["library"] for row in rows}) >= 18
    assert {row["family"] for row in [*rows, *RECORDED["consumers"]]} == set(families.FAMILY_NAMES)
    assert [(row["family"], row["name"]) for row in [*rows, *RECORDED["consumers"]]] == families.known()


def test_nothing_is_read_wrongly_or_refused_without_a_remedy() -> None:
    bad = [row for row in [*RECORDED["rows"], *RECORDED["consumers"]] if row["result"] in outcome.BAD]
    assert not bad, bad


def test_the_tables_are_the_records() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.written(text, RECORDED) == text


@pytest.mark.parametrize(("family", "only"), IN_CI)
def test_files_made_here_give_what_was_recorded(family: str, only: str) -> None:
    held = {row["name"]: row for row in [*RECORDED["rows"], *RECORDED["consumers"]] if row["family"] == family}
    command = [sys.executable, "-m", "tests.programs.producers", "--family", family, "--only", only]
    done = subprocess.run(command, env=os.environ | families.QUIET, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    for row in rows:
        assert row["result"] == held[row["name"]]["result"], row


def _outcome(made: Made) -> str:
    return outcome.outcome(made, made.path.parent)["result"]


def test_a_result_is_what_it_says(tmp_path: Path) -> None:
    """Each verdict can be reached, so that none is given for nothing."""
    path = tmp_path / "x.pth"
    torch.save(dict(weights()), path)
    other = {name: x.clone() for name, x in weights().items()}
    other["head.bias"].view(torch.int32)[0] ^= 1
    assert _outcome(file(path)) == outcome.READ
    assert _outcome(Made(path, (Reading(weights(), {"variant": "digits"}),))) == outcome.ASKED
    assert _outcome(file(path, other)) == outcome.WRONG
    assert _outcome(file(path, {name: x.double() for name, x in weights().items()})) == outcome.WRONG
    assert _outcome(file(path, {name: x for name, x in weights().items() if name != "head.bias"})) == outcome.WRONG
    assert _outcome(Made(path, (Reading(weights(), said="an EMA"),))) == outcome.WRONG
    assert _outcome(Made(path, (Reading(other, instead=((weights(), "digits"),)),))) == outcome.READ
    assert _outcome(file(path, tell=("sparse",))) == outcome.WRONG
    assert _outcome(Made(path, (Reading(weights(), {"variant": 3}),))) in {outcome.CRASHED, outcome.HELPLESS}
    path.write_bytes(b"nothing")
    assert _outcome(file(path)) == outcome.HELPLESS
    assert _outcome(file(path, tell=("not a checkpoint",))) == outcome.NAMED
    assert _outcome(file(path, tell=("sparse",))) == outcome.HELPLESS


def test_a_remedy_counts_if_running_it_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "x.pth", torch.nn.Module()
    path.write_bytes(b"nothing")
    torch.save(dict(weights()), tmp_path / "good.pth")

    def refuses(says: str) -> Any:
        read = outcome.sv.load_checkpoint

        def load(where: Path, **options: Any) -> Any:
            if Path(where) == path:
                raise outcome.sv.CheckpointError(f"{path}: {says}", file=str(path))
            return read(where, **options)

        return load

    made = file(path, model=model, state=dict(weights()))
    monkeypatch.chdir(tmp_path)
    for says, result in (
        ("no state dict: `torch.save(state, 'y.pth')`", outcome.REMEDY),
        ("no state dict: `torch.save({}, 'z.pth')`", outcome.HELPLESS),
        ("no state dict: save it first", outcome.HELPLESS),
        ("no state dict: `torch.save(stat, 'w.pth')`", outcome.HELPLESS),
        ("_Mapping: `torch.save(state, 'u.pth')`", outcome.HELPLESS),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(outcome.sv, "load_checkpoint", refuses(says))
            assert _outcome(made) == result, says


def test_libraries_that_are_not_there_are_left_out() -> None:
    row = families.FAMILIES["torch_saves"][0]
    assert outcome.installed(row)
    assert not outcome.installed(replace(row, needs=("torch", "no_such_module_anywhere")))
    assert not outcome.installed(replace(row, needs=("no_such_package.inside",)))


def test_bits_are_compared() -> None:
    zero = {"x": np.zeros(2, "float32")}
    assert not outcome.differs(zero, zero)
    assert outcome.differs({"x": np.array([0.0, -0.0], "float32")}, zero)
    assert outcome.differs({"x": np.zeros(2, "float64")}, zero)
    assert outcome.differs({"x": np.zeros((2, 1), "float32")}, zero)
    nan = {"x": np.array([np.nan], "float32")}
    assert not outcome.differs(nan, nan)
