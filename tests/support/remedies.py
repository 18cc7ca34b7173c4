"""What an error says to do, done: the commands between its backquotes, as they are."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path


def commands(said: str) -> list[str]:
    """The commands that an error shows; in front of them there may be a file whose name has backquotes."""
    assert said.isprintable()
    return said.split("`")[-2::-2][::-1]


def run_command(command: str, folder: Path) -> list[Path]:
    """Runs one as it is, a line of Python by Python and any other by a shell; the files that it made or changed."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    if command.startswith("import "):
        with contextlib.chdir(folder):
            exec(command, {})
        return _made(before, folder)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    words = ["bash", "-c", command]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return _made(before, folder)


def _made(before: dict[Path, int], folder: Path) -> list[Path]:
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time, f"{path} was overwritten"
    return [path for path in folder.rglob("*") if path.is_file() and path not in before]


def remedied(said: str, folder: Path, *, number: int = 0) -> Path:
    """The one file that a command of an error makes. folder: where the error was raised, or where the command is to run."""
    (made,) = run_command(commands(said)[number], folder)
    return made
