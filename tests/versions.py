"""`python -m tests --versions [lowest] [newest]`: the package beside the versions that pyproject.toml promises.

*lowest*: the lowest Python with the lowest version of every direct dependency; *newest*: the newest Python with the newest of all.
Each gets an environment of its own, made by uv; in it run `verify` and the tests that find most soonest.
An environment takes some gigabytes, most of them torch's. `SCALABLEVIT_REF_ENVIRONMENTS=FOLDER` keeps them there for the next run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lint import ROOT

LOWEST, NEWEST = "lowest", "newest"

PYTHONS = {LOWEST: "3.11", NEWEST: "3.13"}

EXTRAS = ("torch", "flax", "onnx", "openvino", "keras", "plot", "train")
"""What users install. What the tests themselves need has its newest version in both."""

TOOLS = ("array-api-strict", "beartype", "hypothesis", "jaxtyping", "msgpack", "onnxscript", "pytest", "pytest-xdist", "pyyaml")

PEER = "vit-pytorch==1.26.11"
"""The community port that tests hold against the specification. Its dependency torchvision is not needed and not wanted."""

TESTS = (
    "tests/specification/test_conformance.py",
    "tests/properties",
    "tests/backends/test_numpy.py",
    "tests/backends/test_torch.py",
    "tests/backends/test_jax.py",
    "tests/adapters",
    "tests/checkpoints/test_files.py",
    "tests/checkpoints/test_hdf5.py",
    "tests/comparison/test_comparison.py",
    "tests/comparison/test_capture_flax.py",
    "tests/comparison/test_capture_onnx.py",
    "tests/command_line/test_convert.py",
    "tests/command_line/test_endings.py",
    "tests/command_line/test_summary.py",
    "tests/drawing",
)

LEFT_OUT = "not cupy and not readme and not memory and not no_time and not committed_pictures"
"""Cases that measure the machine, need what is not in these environments, or compare the bytes of CI's own matplotlib."""


def main(which: Sequence[str]) -> None:
    """Make the environments and run all in them; end with exit code 1 if anything failed, after all has run."""
    unknown = set(which) - set(PYTHONS)
    if unknown:
        sys.exit(f"--versions takes {' and '.join(PYTHONS)}, not {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("SCALABLEVIT_REF_ENVIRONMENTS", scratch))
        failed = [f"{name}: {step}" for name in which or PYTHONS for step in _failed_in(name, folder / name)]
    if failed:
        sys.exit("\n".join(["FAILED", *failed]))


def _failed_in(name: str, environment: Path) -> list[str]:
    """The steps that failed in this environment, which is made first."""
    python = environment / "bin" / "python"
    if not python.exists():
        _uv("venv", "--quiet", "--python", PYTHONS[name], str(environment))
    install = ("pip", "install", "--quiet", "--python", str(python))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write(_resolved(name))
        pins.flush()
        _uv(*install, "--no-build", "--requirement", pins.name, *TOOLS)  # a promise of a version without wheels is too low
    _uv(*install, "--no-deps", PEER, "--editable", str(ROOT))
    steps = {
        "verify": ["-m", "scalablevit_ref", "verify"],
        "tests": ["-m", "pytest", "-W", "default", "-n", "2", "--dist", "loadfile", "-k", LEFT_OUT, *TESTS],
    }
    return [step for step, arguments in steps.items() if not _passes(f"{name}: {step}", [str(python), *arguments])]


def _resolved(name: str) -> str:
    """The versions of this environment: pip's constraints."""
    resolution = "lowest-direct" if name == LOWEST else "highest"
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    project = str(ROOT / "pyproject.toml")
    return _uv("pip", "compile", "--quiet", "--python-version", PYTHONS[name], "--resolution", resolution, *extras, project)


def _uv(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"uv {' '.join(arguments)}: exit code {done.returncode}")
    return done.stdout


def _passes(title: str, command: Sequence[str]) -> bool:
    sys.stdout.write(f"== {title}\n")
    sys.stdout.flush()
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "quick"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
