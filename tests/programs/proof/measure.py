"""The worst error of each property on each library, from a run of the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.library import WHOLE_ON_TINYGRAD

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = ("numpy", "torch", "array_api_strict", "jax", "cupy", "mlx", "tensorflow", "paddle", "tinygrad")


def errors(libraries: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Worst error of each property test on each library, or on these, from a run of the `ci` profile."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/properties", "--worst-errors", str(report)]
        command += ["-k", " or ".join(libraries)] if libraries else []
        environment = os.environ | {"HYPOTHESIS_PROFILE": "ci", WHOLE_ON_TINYGRAD: "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            sys.exit("the properties do not hold: no page is written")
        found: list[tuple[str, float | None]] = json.loads(report.read_text(encoding="utf-8"))
    return worst_of(found)


def worst_of(found: Iterable[tuple[str, float | None]]) -> dict[str, dict[str, float]]:
    """Of each test's worst error, those of the properties: test to library to error."""
    worst: dict[str, dict[str, float]] = defaultdict(dict)
    for node, error in found:
        match = re.fullmatch(r"tests/properties/(\w+)\.py::(test_\d+\w*)(?:\[(.*)\])?", node)
        if match is None:
            continue
        test, parameters = f"{match[1]}:{match[2]}", (match[3] or "").split("-")
        library = next((name for name in parameters if name in LIBRARIES), "torch")
        worst[test][library] = max(worst[test].get(library, 0.0), error or 0.0)
    return worst
