"""`python -m tests.lint [check|format|types]…`: ruff's lint, ruff's format, mypy; all three without arguments.

`python -m tests` starts with them, and pre-commit runs `types` (`.pre-commit-config.yaml`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(title: str, command: Sequence[str], cwd: Path = ROOT) -> None:
    """Run one step, a module of this environment; end with its exit code if it fails."""
    sys.stdout.write(f"== {title}: {' '.join(command)}\n")
    sys.stdout.flush()
    env = {"HYPOTHESIS_PROFILE": "ci", "NO_MKDOCS_2_WARNING": "1", **os.environ}
    code = subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=env, check=False).returncode
    if code:
        sys.exit(code)


def types() -> None:
    """mypy --strict, with calls that it must refuse. It knows no package-dir mapping: it is shown the tree as it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "scalablevit_ref"
        shutil.copytree(ROOT / "scalablevit_ref", package)
        shutil.copytree(ROOT / "backends", package / "backends")
        shutil.copy(ROOT / "tests" / "support" / "typed_calls.py", folder)
        settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        run("types", ["mypy", *settings, "-p", "scalablevit_ref", "-m", "typed_calls"], cwd=Path(folder))


STEPS: dict[str, Callable[[], None]] = {
    "check": lambda: run("lint", ["ruff", "check", "."]),
    "format": lambda: run("format", ["ruff", "format", "--check", "."]),
    "types": types,
}


def main(names: Sequence[str] = tuple(STEPS)) -> None:
    """Run these steps one after the other. Ends with the first exit code that is not 0."""
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        sys.exit(f"unknown step {unknown[0]!r}; there are {', '.join(STEPS)}")
    for name in names:
        STEPS[name]()


if __name__ == "__main__":
    main(sys.argv[1:] or tuple(STEPS))
