"""`python -m tests`: everything CI asks for, in order: lint, types, tests. Further arguments go to pytest."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(title: str, command: Sequence[str], cwd: Path = ROOT) -> None:
    """Run one step; end with its exit code if it fails."""
    sys.stdout.write(f"== {title}: {' '.join(command)}\n")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", *command], cwd=cwd, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the steps one after the other."""
    run("lint", ["ruff", "check", "."])
    run("format", ["ruff", "format", "--check", "."])
    with tempfile.TemporaryDirectory() as folder:  # mypy knows no package-dir mapping: show it the tree as it is installed
        package = Path(folder) / "scalablevit_ref"
        shutil.copytree(ROOT / "scalablevit_ref", package)
        shutil.copytree(ROOT / "backends", package / "backends")
        run("types", ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "scalablevit_ref"], cwd=Path(folder))
    run("tests", ["pytest", "-n", "2", *sys.argv[1:]])


if __name__ == "__main__":
    main()
