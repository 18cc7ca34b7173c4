"""What a user reads first: the groups of commands, `-h`, the version, and an example that runs as it is printed."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import scalablevit_ref as sv
from scalablevit_ref import cli, digits

PROGRAM: Any = get_command(cli.app)


def test_the_groups(run: Any) -> None:
    code, out, _ = run("-h")
    assert code == 0
    groups = re.split(r"╭─ (\w+) ─+╮", out)
    found = {name: set(re.findall(r"^│ (\w+) ", text, re.MULTILINE)) for name, text in zip(groups[1::2], groups[2::2], strict=True)}
    assert found.pop("Options") == set()
    assert set(found) == {"Check", "Weights", "Pictures"}
    assert set().union(*found.values()) == set(PROGRAM.commands)


def test_a_command_loads_no_other() -> None:
    """Nor what only the others need, which would be most of the time of a start."""
    program = (
        "import sys; sys.argv = ['scalablevit-ref', 'summary', '--help']\n"
        "from scalablevit_ref.cli import COMMANDS, main\n"
        "try: main()\n"
        "finally: print([name for name in COMMANDS if f'scalablevit_ref.cli.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['summary']"


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


def test_sizes_are_written_alike_in_all_commands() -> None:
    """Every option of that name takes a number; each that takes two numbers, or one twice, says so."""
    values = {
        name: option.metavar
        for name, command in PROGRAM.commands.items()
        for option in command.params
        if option.name == "image_size"
    }
    assert set(values) == {"attend", "bench", "convert", "draw", "evaluate", "summary"}
    assert {value.split("|")[0] for value in values.values()} == {"N"}
    assert {value.split("|")[1] for value in values.values()} == {"HxW", "NxN"}


@pytest.mark.parametrize(
    "command",
    [
        ["attend", "x.png", "--layer", "stages.0.0", "--variant", "small", "-o", "x.svg"],
        ["bench", "--variants", "digits"],
        ["evaluate", "images", "--weights", "x.pth"],
    ],
    ids=lambda command: command[0],
)
def test_squares(run: Any, command: list[str]) -> None:
    if command[0] == "evaluate":
        command = [word if word != "x.pth" else str(digits.CHECKPOINT) for word in command]
    for size, message in (("112x224", "takes squares, got '112x224'"), ("0x0", "must be at least 1"), ("big", "HEIGHTxWIDTH")):
        code, out, err = run(*command, "--image-size", size)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert message in err


@pytest.mark.parametrize(
    ("command", "of"),
    [
        (["draw", "digits", "--idea", "-o", "x.svg"], "One query"),
        (["attend", "digit:75", "--layer", "stages.2.1", "-o", "x.svg"], "stages.2.1: SSA"),
        (["trace", "x.npz", "--variant", "digits"], None),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_what_writes_a_file_names_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], of: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command)
    assert (code, err, out.count("\n")) == (0, "", 1)
    (file,) = [word for word in command if word.startswith("x.")]
    assert out.startswith(f"{file}: ")
    code, out, err = run(*command, "--json", "--force")
    document = json.loads(out)
    assert (code, err, document["file"]) == (0, "", file)
    if of is not None:
        assert document["alt"].startswith(of)
        assert f"<desc>{html.escape(document['alt'])}</desc>" in Path(file).read_text(encoding="utf-8")
    else:
        assert {name: tuple(shape) for name, shape in document["shapes"].items()} == {
            name: tap.shape for name, tap in np.load(file).items()
        }


def test_a_page_to_point_at(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("attend", "digit:75", "--layer", "stages.2.1")
    assert run(*command, "--html", "x.html") == (0, "x.html: a page of stages.2.1: SSA, s = 1, 3 heads\n", "")
    assert "digit:75, a 4" in Path("x.html").read_text(encoding="utf-8")
    assert run(*command, "--html", "x.html")[0] == 0  # its own page is made anew
    Path("x.html").write_text("somebody's", encoding="utf-8")
    code, out, err = run(*command, "--html", "x.html")
    assert (code, out) == (2, "")
    assert "x.html" in err
    assert run(*command)[0] == 2
    assert run(*command, "--html", "x.html", "-o", "x.svg", "--force")[0] == 0
    assert Path("x.svg").exists()
