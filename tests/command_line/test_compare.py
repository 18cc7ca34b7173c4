"""`scalablevit-ref compare` and `trace`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import scalablevit_ref as sv
from scalablevit_ref.cli import app
from scalablevit_ref.testing.traces import save_trace, trace_config

PORT = """
import torch
import scalablevit_ref as sv
from scalablevit_ref.adapters.plain import ScalableViT


def right():
    return ScalableViT(sv.variant("digits"))


def broken():
    network = right()
    network.stages[1][0].mlp.act = torch.nn.GELU("tanh")
    return network


class Needy:
    def __init__(self, size):
        pass


number = 3
"""


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def port(tmp_path: Path) -> Path:
    file = tmp_path / "port.py"
    file.write_text(PORT, encoding="utf-8")
    return file


def test_a_broken_port_is_told_its_mistake(port: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run("compare", f"{port}:broken", "--variant", "digits", "--html", page)
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert "stages.1.0.mlp: matches to" in said
    assert "if GELU is the tanh approximation" in said
    assert "DIFFERS from the reference in 1 of 51 layers (isolated error), the first is stages.1.0.mlp" in said
    assert "GELU is the tanh approximation" in page.read_text(encoding="utf-8")


def test_a_right_port_passes(port: Path) -> None:
    done = run("compare", f"{port}:right", "--variant", "digits", "--all")
    assert done.exit_code == 0, done.output
    assert "agrees with the reference in 51 layers" in " ".join(done.output.split())
    assert "stages.3.1.mlp" in done.output


def test_json_says_the_same(port: Path) -> None:
    done = run("compare", f"{port}:broken", "--variant", "digits", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["first_divergent_layer"] == "stages.1.0.mlp"
    assert document["causes"][0]["words"] == "GELU is the tanh approximation"
    assert document["agrees"] is False
    assert len(document["layers"]) == 51


def test_a_trace_and_back(tmp_path: Path) -> None:
    ours, theirs, weights = tmp_path / "ours.safetensors", tmp_path / "theirs.npz", tmp_path / "weights.npz"
    done = run("trace", ours, "--variant", "digits", "--save-weights", weights)
    assert done.exit_code == 0, done.output
    assert "(2, 1, 112, 112) and 51 layers in float64" in " ".join(done.output.split())
    assert trace_config(ours) == sv.variant("digits")
    done = run("trace", theirs, "--weights", weights, "--images", ours, "--dtype", "float32")
    assert done.exit_code == 0, done.output
    assert run("compare", theirs, ours).exit_code == 0
    assert run("compare", theirs, "--weights", weights).exit_code == 0
    assert "exists" in run("trace", ours, "--variant", "digits").output


def test_names_from_a_file(tmp_path: Path) -> None:
    ours = tmp_path / "ours.npz"
    assert run("trace", ours, "--variant", "digits").exit_code == 0
    with np.load(ours) as stored:
        renamed = {"my_" + name if name == "norm" else name: stored[name] for name in stored.files if not name.startswith("__")}
    save_trace(tmp_path / "theirs.npz", {name: x for name, x in renamed.items() if name in ("images", "my_norm")})
    (tmp_path / "names.json").write_text('{"norm": "my_norm"}', encoding="utf-8")
    done = run("compare", tmp_path / "theirs.npz", ours, "--names", tmp_path / "names.json")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "agrees with the reference in 1 of 51 layers" in said
    assert "50 were not in the trace; the isolated error was not measured" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.npz"], "nothing.npz: there is no such file"),
        (["port.py:number"], "which network? --variant names it"),
        (["port.py:absent", "--variant", "digits"], "has no 'absent'"),
        (["port.py:Needy", "--variant", "digits"], "Needy needs size"),
        (["port.py:number", "--variant", "digits"], "the candidate is a int"),
        (["absent.py:right"], "absent.py: there is no such file"),
        (["no_such_package:right"], "No module named 'no_such_package'"),
        (["port.py"], "expected a file"),
        (["port.py:right", "--variant", "tiny"], "unknown variant 'tiny'"),
        (["port.py:right", "--variant", "digits", "--mode", "fast"], "unknown --mode 'fast'"),
        (["port.py:right", "--variant", "digits", "--names", "port.py"], "expected a JSON object"),
        (["port.py:right", "--variant", "digits", "--images", "port.py"], "port.py"),
    ],
)
def test_bad_input_is_one_line(port: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(port.parent)
    done = run("compare", *arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
