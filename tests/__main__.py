"""`python -m tests`: everything CI asks for, in order: lint, types, the site, tests. Further arguments go to pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER = "vit-pytorch==1.26.11"
"""The community port that `test_peer` holds against the specification. Its dependency torchvision is not needed and not wanted."""


def run(title: str, command: Sequence[str], cwd: Path = ROOT) -> None:
    """Run one step; end with its exit code if it fails."""
    sys.stdout.write(f"== {title}: {' '.join(command)}\n")
    sys.stdout.flush()
    env = {"HYPOTHESIS_PROFILE": "ci", "NO_MKDOCS_2_WARNING": "1", **os.environ}
    code = subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=env, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the steps one after the other."""
    if not find_spec("vit_pytorch"):
        run("peer", ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", PEER])
    run("lint", ["ruff", "check", "."])
    run("format", ["ruff", "format", "--check", "."])
    with tempfile.TemporaryDirectory() as folder:  # mypy knows no package-dir mapping: show it the tree as it is installed
        package = Path(folder) / "scalablevit_ref"
        shutil.copytree(ROOT / "scalablevit_ref", package)
        shutil.copytree(ROOT / "backends", package / "backends")
        run("types", ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "scalablevit_ref"], cwd=Path(folder))
    with tempfile.TemporaryDirectory() as site:
        run("site", ["mkdocs", "build", "--strict", "--site-dir", site])
        os.environ["SCALABLEVIT_REF_SITE"] = site  # `test_site` looks at it
        run("tests", ["pytest", "-n", "2", *sys.argv[1:]])


if __name__ == "__main__":
    main()
