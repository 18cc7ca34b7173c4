"""The tests marked `gpu`: the properties with CuPy's, PyTorch's and JAX's arrays on the GPU, and the tests of the CuPy backend."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scalablevit_ref.backends.threads import cores

from tests.gpu.processes import QUICKLY, python
from tests.gpu.record import VARIABLE

PATHS = ("tests/backends/test_cupy.py", "tests/properties", "tests/specification/test_dialects.py")
LIBRARIES = ("torch", "jax", "cupy")

ORACLES = "::test_01_"
"""In the names of the tests that compare with the oracle: others allow what a drawn case makes of an error."""


def run(until: float, folder: Path, *, device: str = "cuda", paths: Iterable[str] = PATHS) -> dict[str, Any]:
    """What `summary` makes of the tests that end before that moment."""
    record, log = folder / "properties.jsonl", folder / "properties.log"
    record.unlink(missing_ok=True)
    arguments = ["-m", "pytest", "-n", str(len(cores())), "--dist", "worksteal", "-m", "gpu", "-p", "tests.gpu.record"]
    arguments += ["-p", "no:cacheprovider", "-W", "default", *paths]
    environment = {
        "SCALABLEVIT_REF_TEST_DEVICE": device,
        "HYPOTHESIS_PROFILE": "quick",
        VARIABLE: str(record),
        **QUICKLY[device],
    }
    start = time.time()
    with python(arguments, until, log, **environment) as process:
        said, _ = process.communicate()
    log.write_text(said + log.read_text(encoding="utf-8"), encoding="utf-8")
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    found = summary([json.loads(line) for line in lines])
    complete = process.returncode in (0, 1) and bool(lines)
    return found | {"complete": complete, "seconds": round(time.time() - start, 1), "ended": _ended(process)}


def _ended(process: subprocess.Popen[str]) -> str:
    code = process.returncode
    return "killed: no time left" if code < 0 else f"exit code {code}"


def summary(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """By library how many passed, failed and were skipped, and the worst error in eps beside the oracle; and which failed."""
    found: dict[str, Any] = {}
    for name in LIBRARIES:
        own = [test for test in tests if library(test["test"]) == name]
        counts = {outcome: sum(test["outcome"] == outcome for test in own) for outcome in ("passed", "failed", "skipped")}
        measured = [test for test in own if test["outcome"] == "passed" and "worst_eps" in test and ORACLES in test["test"]]
        worst = max(measured, key=lambda test: test["worst_eps"], default={})
        found[name] = counts | {"worst_eps": worst.get("worst_eps"), "worst_test": worst.get("test")}
    failed = [{key: test[key] for key in ("test", "said")} for test in tests if test["outcome"] == "failed"]
    return {"libraries": found, "failed": failed}


def library(test: str) -> str | None:
    """The library that a test's name says it ran on.

    Examples
    --------
    >>> library("tests/properties/test_block.py::test_01_ssa_is_the_oracles[jax]")
    'jax'
    >>> library("tests/backends/test_cupy.py::test_op[gpu-gelu-float32]")
    'cupy'
    """
    words = re.split(r"[-\[\]]", test.partition("::")[2])[1:]
    return next((word for word in words if word in LIBRARIES), "cupy" if "test_cupy.py" in test else None)
