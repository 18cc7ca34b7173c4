"""A small share of each row of the endurance table; what the rows would see; and the page's table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endurance import load, page, writing
from tests.endurance.__main__ import in_a_process
from tests.endurance.commands import OLD, Ended, forked, sources
from tests.endurance.rows import ROWS
from tests.support.documents import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists() or not hasattr(os, "fork"), reason="needs Linux")

QUICK = {
    "threads": 0.05,
    "loads": 0.02,
    "kills": 0.05,
    "full": 0.02,
    "full_commands": 0.05,
    "writers": 0.02,
    "sources": 0.02,
}
"""How much of each row. Starting processes after use takes too long (`tests.support.forked` is a test of its own), and a few
passes do not tell growth from warming up."""


@pytest.mark.parametrize("name", QUICK)
def test_a_share_of_a_row(name: str) -> None:
    outcome = in_a_process(name, QUICK[name])
    assert outcome.wrong == []
    assert outcome.done


def test_what_is_torn_is_seen(tmp_path: Path) -> None:
    """A file that is cut off, changed or gone; not one that is old or whole."""
    sources(tmp_path)
    whole = (tmp_path / "a.npz").read_bytes()
    for name, content in (
        ("t.npz", whole),
        ("old.npz", OLD),
        ("cut.npz", whole[:-9]),
        ("empty.npz", b""),
        ("cut.svg", b"<svg><g>"),
    ):
        (tmp_path / name).write_bytes(content)
    found = list(writing.torn(tmp_path, ["t.npz", "old.npz", "cut.npz", "empty.npz", "cut.svg", "gone.npz"], old=True))
    assert [line.split()[0] for line in found] == ["cut.npz", "empty.npz", "cut.svg", "gone.npz"]
    assert [line.split()[0] for line in writing.torn(tmp_path, ["old.npz", "gone.npz"], old=False)] == ["old.npz"]


def test_what_grows_is_seen(tmp_path: Path) -> None:
    kept: list[object] = []
    grows = "kept = []; print(load.grown('x', [lambda: kept.append(bytearray(os.urandom(40_000)))], 400)[0])"
    program = f"import os; from tests.endurance import load; {grows}"  # in a process that has no freed memory to use again
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "bytes more" in done.stdout
    opened = tmp_path / "x"
    assert any("descriptors" in line for line in load.grown("x", [lambda: kept.append(opened.open("w"))], 8)[0])
    assert load.held("x", [lambda: kept.append(bytearray(1000))]) != []
    assert load.held("x", [lambda: bytearray(1000)]) == []
    for file in kept:
        if hasattr(file, "close"):
            file.close()


@pytest.mark.filterwarnings("ignore:os.fork")  # JAX's, if another test has loaded it
def test_how_a_fork_ends_is_told() -> None:
    assert forked(lambda: 3).code == 3
    assert forked(lambda: os.kill(os.getpid(), 9)).code == -9
    ended = forked(lambda: 1 / 0)
    assert ended.code == 121
    assert "ZeroDivisionError" in ended.said
    assert not writing._one_line(ended)
    assert writing._one_line(Ended(2, "scalablevit-ref: no\n"))


def test_the_page_has_the_rows_of_the_program() -> None:
    assert list(page.rows((ROOT / "docs" / "security.md").read_text(encoding="utf-8"))) == [row.what for row in ROWS.values()]
    assert "not run yet" not in (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
