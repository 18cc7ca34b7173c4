"""The package as it is built and installed: what lands in site-packages, what an import costs, what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from scalablevit_ref._moved import MOVED
from tests.support.waiting import slowness

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def test_wheel_holds_the_package_and_no_top_level_backends(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"scalablevit_ref"}
    sources = {f"scalablevit_ref/{path.relative_to(ROOT / 'scalablevit_ref')}" for path in (ROOT / "scalablevit_ref").rglob("*.py")}
    sources |= {f"scalablevit_ref/backends/{path.name}" for path in (ROOT / "backends").glob("*.py")}
    sources |= {"scalablevit_ref/py.typed", "scalablevit_ref/digits/digits.pth", "scalablevit_ref/digits/test.npz"}
    sources.add("scalablevit_ref/compare/html/page.css")
    assert sources <= set(names)


def test_sdist_holds_tests_and_docs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "backends/numpy.py",
        "tests/specification/test_package.py",
        "tests/data/conformance/ops.official.json",
        "LICENSE",
        ".ci/run",
    } <= names
    assert {f"docs/{path.name}" for path in (ROOT / "docs").iterdir() if path.name != "__pycache__"} <= names


def test_installed_wheel_runs(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed into an environment of its own, away from the source tree; its dependencies are lent by this one."""
    home = tmp_path / "environment"
    venv.create(home)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", built[1])
    lent = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    env = {**os.environ, "PYTHONPATH": lent}
    where = run(python, "-c", "import scalablevit_ref.backends.numpy as b; print(b.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(home)
    assert not (Path(where.strip()).parents[2] / "backends").exists()
    out = run(home / "bin" / "scalablevit-ref", "verify", "--backend", "numpy", cwd=tmp_path, env=env)
    assert "All 1 agree" in out


def test_import_pulls_in_numpy_and_einops_only() -> None:
    heavy = ["torch", "jax", "cupy", "scipy", "safetensors", "ml_dtypes", "PIL", "rich", "typer", "jaxtyping", "sklearn"]
    found = run(sys.executable, "-c", f"import sys, scalablevit_ref; print([m for m in {heavy} if m in sys.modules])")
    assert found.strip() == "[]"
    code = (
        "import sys, numpy, einops.array_api; before = set(sys.modules); import scalablevit_ref; print(*set(sys.modules) - before)"
    )
    extra = set(run(sys.executable, "-c", code).split())
    assert {name.partition(".")[0] for name in extra} - set(sys.stdlib_module_names) == {"scalablevit_ref"}
    readers = {
        f"scalablevit_ref.{name}" for name in ("formats.detect", "formats.opaque", "checkpoints.recognise", "checkpoints.search")
    }
    assert not extra & readers  # they are loaded with the first file or state dict


def test_import_costs_little_beyond_numpy_and_einops() -> None:
    """At most 100 ms of processor time on the usual machine, best of five processes: other work on the machine does not count."""
    code = "import time, numpy, einops; t = time.process_time(); import scalablevit_ref; print(time.process_time() - t)"
    assert min(float(run(sys.executable, "-c", code)) for _ in range(5)) <= 0.1 * slowness()


MOVES = """
import importlib, json, pytest, sys, traceback
import scalablevit_ref
from scalablevit_ref._moved import MOVED

problems = {}
for old, new in MOVED.items():
    try:
        there = importlib.import_module(f"scalablevit_ref.{new}")
        with pytest.warns(DeprecationWarning, match=f"has moved to scalablevit_ref.{new}"):
            module = importlib.import_module(f"scalablevit_ref.{old}")
        assert module is there and module.__name__ == module.__spec__.name == f"scalablevit_ref.{new}"
    except BaseException:
        problems[old] = traceback.format_exc()
print(json.dumps(problems))
"""


@pytest.fixture(scope="module")
def problems_of_moves() -> dict[str, str]:
    """In a process of their own: a second import of a module says nothing."""
    found: dict[str, str] = json.loads(run(sys.executable, "-c", MOVES))
    return found


@pytest.mark.parametrize("old", MOVED)
def test_a_module_that_moved_is_importable_under_its_old_name(old: str, problems_of_moves: dict[str, str]) -> None:
    assert old not in problems_of_moves, problems_of_moves[old]
