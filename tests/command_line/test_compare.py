"""`scalablevit-ref compare` and `trace`, as a user runs them."""

from __future__ import annotations

import json
from itertools import dropwhile, takewhile
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


def unknown():
    network = right()  # a function for GELU that no list knows
    for stage in network.stages:
        for block in stage:
            block.mlp.act = Own()
    return network


class Own(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.mish(x)  # here


def without_bias():
    network = right()
    for stage in network.stages:
        for block in stage:
            block.mlp.fc2.bias = None
    return network


def unsteady():
    network = right()
    network.stages[0][0].mlp.act = torch.nn.Sequential(torch.nn.GELU(), Always())
    return network


class Always(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5)


def failing():
    network = right()
    network.stages[0][0].mlp.act = Failing()
    return network


class Failing(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("no such thing")


def scaled():
    network = right().eval()
    params = dict(sv.load_checkpoint("weights.npz").params)
    network.load_state_dict(sv.to_backend(params, "torch"))
    with torch.no_grad():
        network.stages[0][0].mlp.fc1.weight.mul_(2)
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


def lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.splitlines()]


def test_a_mistake_that_no_list_knows_is_a_row_and_what_to_do(port: Path) -> None:
    """Place, difference and line on rows of their own; and what is wrapped stays indented."""
    done = run("compare", f"{port}:unknown", "--variant", "digits")
    assert done.exit_code == 1, done.output
    table, _, said = done.output.partition("DIFFERS from the reference in 8 of 51 layers (isolated error), the first is")
    assert [line.split()[0] for line in lines(table) if line.startswith("stages")] == ["stages.0.0.mlp"]
    assert "and 7 more" in table
    assert "relative" in table
    rows = lines(said)
    start = next(i for i, line in enumerate(rows) if line.startswith("stages.0.0.mlp and 2 more layers: fc1 is right; what enters"))
    indented = [*takewhile(lambda line: line.startswith("  "), dropwhile(lambda line: line[:2] != "  ", rows[start:]))]
    assert indented[0].startswith("  it is Mish of what fc1 gives, where the reference has GELU (this explains it")
    here = PORT.splitlines().index("        return torch.nn.functional.mish(x)  # here") + 1
    assert indented[-2:] == [
        f"  in port.py, line {here}, in forward",
        "  5 more layers of this kind differ and were not looked into",
    ]
    assert "right in every layer: patch_embeds.k" in done.output
    assert rows[-1] == f"next: look at port.py, line {here}, in forward"


def test_one_mistake_in_every_block_is_one_line(port: Path) -> None:
    done = run("compare", f"{port}:without_bias", "--variant", "digits", "--weights", "random")
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert "stages.0.0.mlp and 7 more layers: match to" in said
    assert "if stages.k.i.mlp.fc2.bias is left out" in said
    assert said.count("is left out") == 1


def test_what_gives_other_numbers_each_time_does_not_agree(port: Path) -> None:
    done = run("compare", f"{port}:unsteady", "--variant", "digits")
    assert done.exit_code == 1, done.output
    assert done.output.startswith("gives something else each time")
    assert "next: make it give the same twice" in done.output


def test_own_code_s_traceback_is_asked_for(port: Path) -> None:
    done = run("compare", f"{port}:failing", "--variant", "digits")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "RuntimeError: no such thing" in done.stderr
    shown = run("compare", f"{port}:failing", "--variant", "digits", "--traceback")
    assert shown.exit_code == 2
    first, *rest = shown.stderr.splitlines()
    assert first == done.stderr.strip()
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1].startswith("RuntimeError: no such thing")
    assert any("raise RuntimeError" in line for line in rest)
    bad = run("compare", "absent.py:right", "--traceback")
    assert len(bad.stderr.strip().splitlines()) == 1


def test_a_module_is_compared_as_it_is(port: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(port.parent)
    assert run("trace", "ours.npz", "--variant", "digits", "--save-weights", "weights.npz").exit_code == 0
    replaced = run("compare", "port.py:scaled", "--weights", "weights.npz")
    assert replaced.exit_code == 1
    assert "DIFFERS by its own weights; with the file's it agrees" in " ".join(replaced.output.split())
    assert "stages.0.0.mlp.fc1.weight: they are 2 times the file's" in " ".join(replaced.output.split())
    kept = run("compare", "port.py:scaled", "--weights", "weights.npz", "--as-it-is", "--json")
    assert kept.exit_code == 1
    document = json.loads(kept.stdout)
    assert document["dtype"] == "float32"
    assert document["first_divergent_layer"] == "stages.0.0.mlp"


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
