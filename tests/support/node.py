"""Node.js, which runs the reference from JavaScript. CI has one (`.ci/run` installs it); elsewhere these tests wait until there is.

`python -m tests` fetches what `docs/examples/package-lock.json` names, once for each of its versions, into a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FILES = ("package.json", "package-lock.json")

LOCKED = hashlib.sha256((EXAMPLES / "package-lock.json").read_bytes()).hexdigest()[:16]
FOLDER = ROOT / ".node_cache" / LOCKED
"""Where the packages are, and `installed` when they are whole."""

INSTALLED = FOLDER / "installed"

WHY = "`python -m tests` fetches onnxruntime-node" if shutil.which("npm") else "node and npm are not installed"

node = pytest.mark.skipif(not INSTALLED.exists() and "CI" not in os.environ, reason=WHY)


def install() -> None:
    """Fetch the packages, where npm is installed and they are not there yet; their own scripts are not run."""
    npm = shutil.which("npm")
    if npm is None or INSTALLED.exists():
        return
    sys.stdout.write(f"== node: npm ci, of docs/examples/package-lock.json, in {FOLDER.relative_to(ROOT)}\n")
    sys.stdout.flush()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(EXAMPLES / name, FOLDER / name)
    subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"], cwd=FOLDER, check=True)
    INSTALLED.touch()
