"""`python -m tests.lint [check|format|types]…`: ruff's lint, ruff's format, mypy; all three without arguments.

`python -m tests` starts with them, and pre-commit runs `types` (`.pre-commit-config.yaml`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(title: str, command: Sequence[str], cwd: Path = ROOT, *, at_once: bool = False) -> None:
    """Run one step, a module of this environment; end with its exit code if it fails. at_once: what it says is said at its end."""
    env = {"HYPOTHESIS_PROFILE": "ci", "NO_MKDOCS_2_WARNING": "1", **os.environ}
    env["PYTHONDONTWRITEBYTECODE"] = ""  # the tests start many processes that read the same modules
    heading = f"== {title}: {' '.join(command)}\n"
    if not at_once:
        sys.stdout.write(heading)
        sys.stdout.flush()
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if at_once else {}
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=env, text=True, check=False, **output)
    if at_once:
        sys.stdout.write(heading + done.stdout)
        sys.stdout.flush()
    if done.returncode:
        sys.exit(done.returncode)


def together(steps: Iterable[Callable[[], None]]) -> None:
    """Run these at the same time. When all have ended, ends with the first exit code that is not 0."""
    with ThreadPoolExecutor() as pool:
        ended = [pool.submit(step) for step in steps]
    for one in ended:
        one.result()


def types() -> None:
    """mypy --strict, with calls that it must refuse. It knows no package-dir mapping: it is shown the tree as it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "scalablevit_ref"
        shutil.copytree(ROOT / "scalablevit_ref", package)
        shutil.copytree(ROOT / "backends", package / "backends")
        shutil.copy(ROOT / "tests" / "support" / "typed_calls.py", folder)
        settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        run("types", ["mypy", *settings, "-p", "scalablevit_ref", "-m", "typed_calls"], cwd=Path(folder), at_once=True)


STEPS: dict[str, Callable[[], None]] = {
    "check": lambda: run("lint", ["ruff", "check", "."], at_once=True),
    "format": lambda: run("format", ["ruff", "format", "--check", "."], at_once=True),
    "types": types,
}


def main(names: Sequence[str] = tuple(STEPS)) -> None:
    """Run these steps at the same time. Ends with the first exit code that is not 0."""
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        sys.exit(f"unknown step {unknown[0]!r}; there are {', '.join(STEPS)}")
    together(STEPS[name] for name in names)


if __name__ == "__main__":
    main(sys.argv[1:] or tuple(STEPS))
