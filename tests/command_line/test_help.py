"""What a user reads first: the groups of commands, `-h`, the version, and an example that runs as it is printed."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.main import get_command

import scalablevit_ref as sv
from scalablevit_ref import cli

PROGRAM: Any = get_command(cli.app)


def test_the_groups(run: Any) -> None:
    code, out, _ = run("-h")
    assert code == 0
    groups = re.split(r"╭─ (\w+) ─+╮", out)
    found = {name: set(re.findall(r"^│ (\w+) ", text, re.MULTILINE)) for name, text in zip(groups[1::2], groups[2::2], strict=True)}
    assert found.pop("Options") == set()
    assert set(found) == {"Check", "Weights", "Pictures"}
    assert set().union(*found.values()) == set(PROGRAM.commands)


def test_the_version(run: Any) -> None:
    assert run("--version") == (0, f"scalablevit-ref {sv.__version__}\n", "")


@pytest.mark.parametrize("columns", ["60", "100"])
@pytest.mark.parametrize("command", PROGRAM.commands)
def test_the_help_of_a_command(run: Any, monkeypatch: pytest.MonkeyPatch, command: str, columns: str) -> None:
    """No line is cut, no value is called by a type of Python's, and the example has options that there are."""
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(command, "-h")
    assert code == 0
    assert max(map(len, out.splitlines())) <= int(columns)
    assert not re.search(r"<\w+>|list\[|TEXT|INTEGER", out)
    words = shlex.split(" ".join(out.split()).partition("Example: ")[2])
    assert words[:2] == ["scalablevit-ref", command]
    with PROGRAM.commands[command].make_context(command, words[2:]) as context:  # raises for what it does not know
        assert context.params


@pytest.mark.parametrize(
    ("word", "name"), [("S", "small"), ("ScalableViT-B", "base"), ("scalablevit_large", "large"), ("L", "large")]
)
def test_the_papers_names(run: Any, word: str, name: str) -> None:
    assert sv.variant(word) == sv.variant(name)
    assert run("summary", word) == run("summary", name)
